"""The C sources of one model: its tables, its header, its example program, its weights.

Templates are in `csrc/`; a name between at signs is replaced. Everything that comes from the model (names of
nodes and tensors are arbitrary text) is escaped here, so that it can neither end a string nor a comment.
"""

from __future__ import annotations

import hashlib
import math
import re
import struct
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from qcompile.bundle import open_axes
from qcompile.bundle.squeeze import squeezed
from qcompile.errors import BundleError, InternalError
from qcompile.ir.counted import CountedAxis
from qcompile.ir.program import ALIGNMENT, MAX_ARGS, BufferRef, Loop, Program, StateInfo, Step, TensorInfo

CSRC = Path(__file__).parent / "csrc"
RUNTIME = ("qc_cpu.c", "qc_model.c", "qc_pool.c", "qc_sizes.c", "qc_runtime.h", "qc_types.h")
MAX_WEIGHTS_BYTES = (1 << 31) - (1 << 26)
"""Code reaches constants by signed 32-bit displacements, and takes some room itself."""

_DTYPES = {
    "float32": ("QC_FLOAT32", 4), "float64": ("QC_FLOAT64", 8), "float16": ("QC_FLOAT16", 2),
    "int8": ("QC_INT8", 1), "int16": ("QC_INT16", 2), "int32": ("QC_INT32", 4), "int64": ("QC_INT64", 8),
    "uint8": ("QC_UINT8", 1), "uint16": ("QC_UINT16", 2), "uint32": ("QC_UINT32", 4),
    "uint64": ("QC_UINT64", 8), "bool": ("QC_BOOL", 1),
}  # fmt: skip
_SPACES = {"none": 0, "input": 1, "output": 2, "arena": 3, "weights": 4, "state": 5, "next": 6, "extents": 7}


def identifier(name: str) -> str:
    """Return the model's name as it stands in the exported C symbols: `qc_<identifier>_run`.

    Letters, digits and underscores are kept, anything else becomes an underscore; at most 48 characters.
    """
    return re.sub(r"[^0-9A-Za-z]+", "_", name).strip("_")[:48].strip("_") or "model"


def sources(program: Program, self_test: Mapping[str, Any] | None = None) -> dict[str, bytes]:
    """Return the files to compile, by name, runtime included; "weights.S" embeds the weights.

    Args:
        program: what `qcompile.lower` made.
        self_test: what the manifest records of the foreseen answer, see `qcompile.runtime.self_test`; None for
            nothing.

    Raises:
        BundleError: the weights are too large for one library.
        InternalError: the program is inconsistent.
    """
    check(program)
    # The name carries the digest: zig's cache knows the assembly file, not the file that it embeds.
    unit, stored = squeezed(program.weights)
    blob = f"weights-{hashlib.sha256(stored).hexdigest()[:16]}.bin"
    files = {name: (CSRC / name).read_bytes() for name in RUNTIME}
    files["model.c"] = _model(program, unit).encode()
    files["model.h"] = header(program).encode()
    files["main.c"] = example(program, self_test).encode()
    files["weights.S"] = _assembly(blob).encode()
    files[blob] = stored
    files["exports.map"] = f"{{ global: qc_{identifier(program.name)}_*; local: *; }};\n".encode()
    for index, code in enumerate(program.objects):
        files[f"kernels{index}.o"] = code
    return files


def header(program: Program) -> str:
    """Return the text of model.h."""
    name = identifier(program.name)
    counted = {axis.output: f", as many on axis {axis.axis} as '{axis.count}' says" for axis in program.counted}
    rows = [f" *   {kind} {i}: {_comment(t.name)} {_comment(_type_text(t) + counted.get(t.name, ''))}"
            for kind, tensors in (("input ", program.inputs), ("output", program.outputs), ("kept  ", _kept(program)))
            for i, t in enumerate(tensors)]  # fmt: skip
    return _fill("model.h.in", ID=name, GUARD=name.upper(), NAME=_comment(program.name),
                 TARGET=_comment(program.target.name), TENSORS="\n".join(rows),
                 TYPES=(CSRC / "qc_types.h").read_text(encoding="utf-8"))  # fmt: skip


def _kept(program: Program) -> list[TensorInfo]:
    return [state.tensor for state in program.states]


def example(program: Program, self_test: Mapping[str, Any] | None = None) -> str:
    """Return the text of example/main.c; arguments as for `sources`."""
    kept = dict((self_test or {}).get("outputs", {}))
    foreseen = [kept.get(tensor.name, {}).get("crc32") for tensor in program.outputs]
    known = [number for number in foreseen if number is not None]
    test = {"seed": 0, "runs": 1, **(self_test or {})}
    return _fill("main.c.in", ID=identifier(program.name), NAME=_comment(program.name),
                 N_SYMBOLS=str(len(program.given)), N_TENSORS=str(len(program.inputs) + len(program.outputs)),
                 COUNTED=_rows(_counted_row(program, axis) for axis in program.counted),
                 N_COUNTED=str(len(program.counted)),
                 SEED=str(test["seed"]), N_RUNS=str(test["runs"]), N_FORESEEN=str(len(known)),
                 FORESEEN=", ".join(f"0x{number:08x}u" for number in known) or "0")  # fmt: skip


def _counted_row(program: Program, axis: CountedAxis) -> str:
    names = [tensor.name for tensor in program.outputs]
    return _braces((names.index(axis.output), axis.axis, names.index(axis.count)))


def tensor_bytes(tensor: TensorInfo) -> int:
    """Return the size of a tensor, bytes."""
    return math.prod(tensor.shape) * _DTYPES[tensor.dtype][1]


def check(program: Program) -> None:
    """Check what the C runtime relies on.

    Raises:
        BundleError: the weights are too large for one library.
        InternalError: a step or a tensor is inconsistent.
    """
    if len(program.weights) > MAX_WEIGHTS_BYTES:
        found = f"{len(program.weights)} bytes of weights"
        raise BundleError(f"{found} do not fit one bundle, at most {MAX_WEIGHTS_BYTES} do")
    for tensor in (*program.inputs, *program.outputs, *_kept(program)):
        if tensor.dtype not in _DTYPES or any(extent < 0 for extent in tensor.shape):
            raise InternalError(f"tensor {tensor.name} has type {tensor.dtype}{list(tensor.shape)}")
        if (tensor.scale is None) != (tensor.zero_point is None):
            raise InternalError(f"tensor {tensor.name} has one of scale and zero_point")
    for state in program.states:
        if len(state.initial) not in (1, tensor_bytes(state.tensor)):
            raise InternalError(f"kept tensor {state.tensor.name} starts with {len(state.initial)} bytes")
    if program.arena_bytes < 0 or program.scratch_bytes < 0:
        raise InternalError("negative amount of memory")
    for step in _all_steps(program):
        _check_step(program, step)
    _check_loops(program)


def _all_steps(program: Program) -> tuple[Step, ...]:
    return (*program.steps, *(program.single.steps if program.single is not None else ()))


def _check_step(program: Program, step: Step) -> None:
    where = f"step {step.kernel} ({step.loc})"
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", step.kernel):
        raise InternalError(f"{where}: not a C symbol")
    if len(step.args) > MAX_ARGS:
        raise InternalError(f"{where}: {len(step.args)} arguments, at most {MAX_ARGS}")
    if step.tiles < 0 or step.grain < 1 or step.tiles >= 1 << 31 or step.grain >= 1 << 31:
        raise InternalError(f"{where}: tiles={step.tiles}, grain={step.grain}")
    limits = {"none": 1, "input": len(program.inputs), "output": len(program.outputs),
              "arena": program.arena_bytes + 1, "weights": len(program.weights) + 1,
              "state": len(program.states), "next": len(program.states), "extents": 1}  # fmt: skip
    for ref in step.args:
        if not 0 <= ref.offset < limits[ref.space]:
            raise InternalError(f"{where}: {ref.space}+{ref.offset} is not below {limits[ref.space]}")
        if ref.space == "weights" and ref.offset % ALIGNMENT:
            raise InternalError(f"{where}: {ref.space}+{ref.offset} is not {ALIGNMENT}-byte aligned")


def _check_loops(program: Program) -> None:
    behind = 0
    for loop in program.loops:
        if not behind <= loop.first <= loop.last < len(program.steps) or not 1 <= loop.trips < 1 << 31:
            raise InternalError(f"{loop} does not fit {len(program.steps)} steps")
        behind = loop.last + 1


def _model(program: Program, unit: int) -> str:
    kernels = sorted({step.kernel for step in _all_steps(program)})
    eight = "uint8_t *, " * MAX_ARGS
    shapes = [f"static const int64_t {kind}_SHAPE_{i}[] = {_braces(tensor.shape)};"
              for kind, tensors in (("INPUT", program.inputs), ("OUTPUT", program.outputs), ("STATE", _kept(program)))
              for i, tensor in enumerate(tensors)]  # fmt: skip
    return _fill(
        "model.c.in",
        ID=identifier(program.name),
        NAME=_comment(program.name),
        KERNELS="\n".join(f"int32_t {name}({eight}uint8_t *, int32_t, int32_t);" for name in kernels),
        CALLS=_rows(map(_call_row, program.steps)),
        SINGLE=_rows(map(_call_row, _all_steps(program)[len(program.steps) :])),
        LOOPS=_rows(map(_loop_row, program.loops)),
        N_LOOPS=str(len(program.loops)),
        STEPS=_rows(map(_step_row, program.steps)),
        SHAPES="\n".join(shapes),
        INPUTS=_rows(_tensor_row(t, f"INPUT_SHAPE_{i}") for i, t in enumerate(program.inputs)),
        OUTPUTS=_rows(_tensor_row(t, f"OUTPUT_SHAPE_{i}") for i, t in enumerate(program.outputs)),
        STATES=_rows(_tensor_row(t, f"STATE_SHAPE_{i}") for i, t in enumerate(_kept(program))),
        **open_axes.tables(program),
        N_STATES=str(len(program.states)),
        INITIAL_BYTES="\n".join(_initial_bytes(program)),
        INITIAL=_rows(_initial_row(i, state) for i, state in enumerate(program.states)),
        FEATURES=", ".join([*map(_string, program.target.requires), "NULL"]),
        COUNTS=f"{len(program.inputs)}, {len(program.outputs)}, {len(program.steps)}",
        QUOTED_NAME=_string(program.name),
        QUOTED_TARGET=_string(program.target.name),
        SIZES=f"{program.arena_bytes}u, {program.scratch_bytes}u, {len(program.weights)}u",
        UNIT=f"{unit}u",
        CRC=f"0x{zlib.crc32(program.weights):08x}u",
    )


def _call_row(step: Step) -> str:
    refs = [*step.args, *[BufferRef("none")] * (MAX_ARGS - len(step.args))]
    spaces, offsets = _braces(_SPACES[ref.space] for ref in refs), _braces(f"{ref.offset}u" for ref in refs)
    live, only = step.live, step.only
    counting = _braces((live.extent, live.rows, live.span, live.unit, live.segment) if live else (-1, 0, 1, 0, 0))
    needed = _braces((only.extent, only.least) if only else (-1, 0))
    return f"{{{step.kernel}, {step.tiles}, {step.grain}, {counting}, {needed}, {spaces}, {offsets}}}"


def _loop_row(loop: Loop) -> str:
    where = f"{_SPACES[loop.condition.space]}, {loop.condition.offset}u"
    return f"{{{loop.first}, {loop.last}, {loop.trips}, {where}}}"


def _step_row(step: Step) -> str:
    words = ", ".join(map(_string, (step.loc, step.op, step.precision)))
    return f"{{{words}, {step.macs}, {step.bytes}}}"


def _tensor_row(tensor: TensorInfo, shape: str) -> str:
    # As the float32 that it is, in hexadecimal: no digit is lost on the way through the C compiler.
    scale = struct.unpack("f", struct.pack("f", tensor.scale or 0.0))[0].hex() + "f"
    quantized = int(tensor.scale is not None)
    return (f"{{{_string(tensor.name)}, {_DTYPES[tensor.dtype][0]}, {len(tensor.shape)}, {shape}, "
            f"{tensor_bytes(tensor)}u, {quantized}, {scale}, {tensor.zero_point or 0}}}")  # fmt: skip


def _initial_bytes(program: Program) -> list[str]:
    return [f"static const uint8_t INITIAL_{i}[] = {_braces(state.initial)};"
            for i, state in enumerate(program.states) if len(state.initial) > 1]  # fmt: skip


def _initial_row(number: int, state: StateInfo) -> str:
    kept = int(state.in_place)
    return f"{{INITIAL_{number}, 0, {kept}}}" if len(state.initial) > 1 else f"{{NULL, {state.initial[0]}, {kept}}}"


def _assembly(blob: str) -> str:
    """Return the weights as a read-only section, with 64 readable bytes behind them."""
    lines = (
        '.section .rodata.qc_weights,"a",%progbits', f".balign {ALIGNMENT}", ".global qc_weights",
        ".hidden qc_weights", ".type qc_weights,%object", "qc_weights:", f'.incbin "{blob}"',
        f".zero {ALIGNMENT}", '.section .note.GNU-stack,"",%progbits', "",
    )  # fmt: skip
    return "\n".join(lines)


def _fill(template: str, **values: str) -> str:
    text = (CSRC / template).read_text(encoding="utf-8")
    return re.sub(r"@([A-Z_]+)@", lambda match: values[match[1]], text)


def _rows(rows: Iterable[str]) -> str:
    """Return the elements of an array, one a line; C has no empty arrays, so there is always one."""
    return "\n".join(f"    {row}," for row in rows) or "    {0},"


def _braces(values: Iterable[object]) -> str:
    return "{" + (", ".join(map(str, values)) or "0") + "}"


def _string(text: str) -> str:
    """Return a C string literal; all but plain ASCII letters, digits and harmless signs as octal escapes."""
    plain = re.compile(rb"[A-Za-z0-9 _./:,;<>=+*()\[\]{}#$&|^~!@'-]")
    parts = (chr(b) if plain.match(bytes([b])) else f"\\{b:03o}" for b in text.encode("utf-8", "replace"))
    return '"' + "".join(parts) + '"'


def _comment(text: str) -> str:
    """Return text that can stand in a C comment, one line of printable ASCII."""
    return re.sub(r"[^ -~]|\\|(?<=\*)/|(?<=/)\*|\?(?=\?)", "_", text)


def _type_text(tensor: TensorInfo) -> str:
    quantized = "" if tensor.scale is None else f", scale {tensor.scale:.9g}, zero point {tensor.zero_point}"
    layout = f" {tensor.layout}" if tensor.layout else ""
    return f"{tensor.dtype}{list(tensor.shape)}{layout}{quantized}"
