"""The manifest: what a bundle is, what it was made from, and what belongs to it.

`manifest.schema.json` is its format. Nothing in it depends on the time or the place it was written.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from qcompile.bundle.source import identifier, tensor_bytes
from qcompile.bundle.squeeze import squeezed
from qcompile.errors import BundleError, InternalError
from qcompile.ir.program import Loop, Program, Step, TensorInfo

FORMAT = "qcompile-bundle"
SCHEMA_VERSION = 1
ABI_VERSION = 1
NAME = "manifest.json"
_MAX_BYTES = 256 << 20
_TOOLS = ("apache-tvm", "apache-tvm-ffi", "numpy", "onnx", "ziglang")


@dataclass(frozen=True)
class Provenance:
    """Where a program came from: the parts of the manifest that the program itself does not know.

    All values are plain JSON (text, finite numbers, lists, mappings with text keys).

    Args:
        model: the model file: `file` (its name, no folder), `sha256`, `bytes`, and more if useful.
        calibration: `source`, `samples`, `sha256` of the samples; None if there were none.
        recipe: the effective configuration.
        notes: sentences for the user ("accuracy is unverified: ...").
        labels: class names in the order of the output, or None.
        preprocess: how an image becomes the input, or None.
    """

    model: Mapping[str, Any] = field(default_factory=dict)
    calibration: Mapping[str, Any] | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()
    labels: Sequence[str] | None = None
    preprocess: Mapping[str, Any] | None = None


def build(program: Program, provenance: Provenance, files: Mapping[str, bytes]) -> dict[str, Any]:
    """Return the manifest of a bundle.

    Args:
        program: what the bundle runs.
        provenance: what it was made from.
        files: all other files of the bundle, by path.

    Raises:
        InternalError: the result does not satisfy the schema.
    """
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        "name": program.name,
        "abi": {"version": ABI_VERSION, "prefix": f"qc_{identifier(program.name)}_", "library": "libmodel.so",
                "header": "model.h"},
        "target": dataclasses.asdict(program.target),
        "inputs": [_tensor(tensor) for tensor in program.inputs],
        "outputs": [_tensor(tensor) for tensor in program.outputs],
        "states": [{**_tensor(state.tensor), "output": state.output} for state in program.states],
        "symbols": [{"name": s.name, "least": s.least, "most": s.most, "step": s.step,
                     "places": [list(place) for place in s.places], **({"kept": s.kept} if s.kept else {})}
                    for s in program.given],
        **_length(program),
        **({"counted": [dataclasses.asdict(axis) for axis in program.counted]} if program.counted else {}),
        "memory": {"weights": len(program.weights), **_stored(program), "arena": program.arena_bytes,
                   "scratch_per_thread": program.scratch_bytes,
                   "states": sum(tensor_bytes(state.tensor) for state in program.states)},
        "model": provenance.model,
        "calibration": provenance.calibration,
        "recipe": provenance.recipe,
        "tools": _tools(),
        "notes": list(provenance.notes),
    }  # fmt: skip
    if provenance.labels is not None:
        manifest["labels"] = list(provenance.labels)
    if provenance.preprocess is not None:
        manifest["preprocess"] = provenance.preprocess
    manifest["steps"] = [_step(step) for step in program.steps]
    if program.loops:
        manifest["loops"] = [_loop(loop) for loop in program.loops]
    manifest["files"] = describe_files(files)
    plain: dict[str, Any] = json.loads(encode(manifest))
    _validate(plain, lambda message: InternalError(f"the manifest is not valid: {message}"))
    return plain


def _length(program: Program) -> dict[str, Any]:
    """Return how long a growing sequence may be, nothing where nothing grows."""
    length = program.length
    return {} if length is None else {"length": {"state": length.past, "new": length.new, "most": length.most}}


def _stored(program: Program) -> dict[str, int]:
    """Return what the weights take in the library, where zeros are left out of it."""
    unit, stored = squeezed(program.weights)
    return {"weights_stored": len(stored)} if unit else {}


def encode(manifest: Mapping[str, Any]) -> bytes:
    """Return the bytes of manifest.json.

    Raises:
        InternalError: a value is not plain JSON.
    """
    try:
        text = json.dumps(manifest, indent=1, ensure_ascii=False, allow_nan=False)
        return (text + "\n").encode()
    except (TypeError, ValueError) as error:
        raise InternalError(f"the manifest holds something that is not plain JSON: {error}") from None


def read(folder: Path) -> dict[str, Any]:
    """Read and check the manifest of the bundle in a folder.

    Raises:
        BundleError: there is none, it is not ours, it is newer than this qcompile, or it is damaged.
    """
    path = folder / NAME
    hint = "give the directory that qcompile wrote with -o"
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise BundleError(f"{path} is too large for a manifest", hint=hint)
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BundleError(f"{folder} is not a bundle: {NAME}: {error.strerror}", hint=hint) from None
    except (ValueError, RecursionError):
        raise BundleError(f"{path} is damaged: not valid JSON", hint="compile the model again") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise BundleError(f"{folder} is not a bundle: its {NAME} is not qcompile's", hint=hint)
    version = content.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        found = f"manifest version {version}, known: {SCHEMA_VERSION}"
        raise BundleError(f"{folder} was written by a newer qcompile ({found})", hint="update qcompile")
    again = "compile the model again"
    _validate(content, lambda message: BundleError(f"{path} is damaged: {message}", hint=again))
    return content


def describe_files(files: Mapping[str, bytes]) -> dict[str, Any]:
    """Return the manifest's table of files, sorted by path."""
    return {name: {"sha256": hashlib.sha256(files[name]).hexdigest(), "bytes": len(files[name])}
            for name in sorted(files)}  # fmt: skip


def _validate(content: dict[str, Any], error: Callable[[str], Exception]) -> None:
    import jsonschema

    validator = jsonschema.Draft202012Validator(_schema())
    faults = sorted(validator.iter_errors(content), key=lambda fault: str(list(fault.path)))
    if faults:
        where = "/".join(str(part) for part in faults[0].path) or "top level"
        raise error(f"{where}: {faults[0].message[:300]}")


@cache
def _schema() -> dict[str, Any]:
    text = (Path(__file__).parent / "manifest.schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def _tensor(tensor: TensorInfo) -> dict[str, Any]:
    known = {**dataclasses.asdict(tensor), "shape": list(tensor.shape)}
    return {name: fact for name, fact in known.items() if fact or name not in ("first_run", "missing")}


def _step(step: Step) -> dict[str, Any]:
    return {"node": step.loc, "op": step.op, "precision": step.precision, "kernel": step.kernel,
            "tiles": step.tiles, "grain": step.grain, "macs": step.macs, "bytes": step.bytes}  # fmt: skip


def _loop(loop: Loop) -> dict[str, Any]:
    return {"first": loop.first, "last": loop.last, "trips": loop.trips,
            "conditional": loop.condition.space != "none"}  # fmt: skip


def _tools() -> dict[str, str]:
    """Return the versions of all that has a say in the bundle's bytes."""
    import qcompile

    versions = {"qcompile": qcompile.__version__}
    for name in _TOOLS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
