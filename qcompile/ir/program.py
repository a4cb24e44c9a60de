"""A lowered model: which compiled kernels run, in which order, on which bytes.

`qcompile.lower` makes a Program, `qcompile.bundle` writes it out, the bundle's C runtime executes it. Every
kernel is one C function of one type:

    int32_t k(uint8_t *p0, ..., uint8_t *p7, uint8_t *scratch, int32_t begin, int32_t end)

with eight pointers (NULL where a step has fewer), scratch memory of the calling thread, and a range of tiles
of its outermost parallel loop. It allocates nothing, has no globals, returns 0, and its results do not depend
on how [0, tiles) is cut into ranges. Every pointer it gets is 64-byte aligned, but one to a tensor that lies within
another; 64 bytes past the arena and past the weights can be read, none past inputs and outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from qcompile.ir.counted import CountedAxis
from qcompile.ir.symbol import Extent, Symbol
from qcompile.targets import Target

Space = Literal["none", "input", "output", "arena", "weights", "state", "next", "extents"]

MAX_ARGS = 8
"""Pointers that a kernel takes."""

ALIGNMENT = 64
"""Alignment of every buffer, bytes."""


@dataclass(frozen=True)
class BufferRef:
    """Where a kernel's pointer points to.

    Args:
        space: "none" for NULL; "input" or "output" for one of the caller's tensors; "arena" for the working
            memory; "weights" for the constants; "state" for a kept tensor as the last run left it, "next" for what
            this run makes of it; "extents" for the actual extents of this run, int32.
        offset: index of the tensor for "input", "output", "state" and "next", byte offset (a multiple of 64) for
            "arena" and "weights", 0 for "none".
    """

    space: Space
    offset: int = 0


@dataclass(frozen=True)
class Live:
    """Which tiles of a step make elements before the end of an open axis: so many first ones of each segment.

    Formula:
        live = min(segment, ceil(extents[extent] · rows / span) · unit)

    Args:
        extent: number of the actual extent.
        rows: rows of the result for one index of the axis.
        span: rows that a group of tiles makes.
        unit: tiles of such a group.
        segment: tiles for all indices of the axis; the step's tiles are a multiple of it.
    """

    extent: int
    rows: int
    span: int
    unit: int
    segment: int


@dataclass(frozen=True)
class Only:
    """From which size on a step is run: extents[extent] ≥ least.

    Args:
        extent: number of the actual extent.
        least: its smallest value at which something reads what the step makes.
    """

    extent: int
    least: int


@dataclass(frozen=True)
class OpenAxis:
    """An open axis of one of the caller's tensors.

    Args:
        tensor: number of the tensor.
        axis: of the tensor.
        extent: number of its actual extent.
    """

    tensor: int
    axis: int
    extent: int


@dataclass(frozen=True)
class Step:
    """One call of one kernel.

    Args:
        kernel: symbol of the kernel in one of the objects.
        args: where its pointers point to, at most 8.
        tiles: trip count of the kernel's parallel loop.
        grain: fewest tiles worth a thread of their own.
        loc: name of the ONNX node it came from.
        op: name of the IR operator.
        precision: "int8", "float32", ...: what it computes in.
        macs: multiply-accumulates, count; in a loop those of all its trips.
        bytes: memory it reads and writes, bytes; in a loop likewise.
        live: the tiles that count at smaller sizes, None where all do.
        only: the sizes at which it is run, None for all.
        makes: name of the first tensor that its node makes, which tells nodes of one ONNX node apart.
    """

    kernel: str
    args: tuple[BufferRef, ...]
    tiles: int
    grain: int
    loc: str
    op: str
    precision: str
    macs: int
    bytes: int
    live: Live | None = None
    only: Only | None = None
    makes: str = ""


@dataclass(frozen=True)
class TensorInfo:
    """One input or output of the model, as its user sees it.

    Args:
        name: the ONNX graph's name.
        dtype: NumPy's name of the element type.
        shape: extents, elements; all known.
        scale: real = scale · (q − zero_point) for a quantized tensor, None for a real-valued one.
        zero_point: see `scale`.
        layout: what the axes mean where that is known ("NCHW"), else "" (always the ONNX model's own order).
        first_run: whether nothing but the run that starts a growing sequence reads it.
        missing: whether NaN stands for a value that is not known.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    scale: float | None = None
    zero_point: int | None = None
    layout: str = ""
    first_run: bool = False
    missing: bool = False


@dataclass(frozen=True)
class StateInfo:
    """A tensor that the runtime keeps from one run to the next.

    Args:
        tensor: name of the input that reads it, and its type.
        output: name of the output that makes it.
        initial: its bytes before the first run; one byte stands for all of them.
        in_place: whether a run changes it where it lies; else each run writes the next one beside it.
    """

    tensor: TensorInfo
    output: str
    initial: bytes = b"\0"
    in_place: bool = False


@dataclass(frozen=True)
class Loop:
    """Steps that are run again and again.

    Args:
        first: number of the first of them.
        last: number of the last of them.
        trips: how often they are run at most.
        condition: after each time, zero in its first byte ends the loop; "none" where all trips run.
    """

    first: int
    last: int
    trips: int
    condition: BufferRef = BufferRef("none")


@dataclass(frozen=True)
class Single:
    """What runs instead where a run adds one place to a growing sequence.

    Args:
        steps: kernel calls, in order.
        extents: what kernels read in the space "extents", and the steps' `live` refer to.
    """

    steps: tuple[Step, ...]
    extents: tuple[Extent, ...]


@dataclass(frozen=True)
class Program:
    """All that a bundle runs.

    Args:
        name: the model's name; exported C symbols start with it.
        inputs: the caller's input tensors, in the ONNX model's order.
        outputs: the caller's output tensors, in the ONNX model's order.
        steps: kernel calls, in order; each sees the results of those before it.
        arena_bytes: working memory shared by all steps, bytes.
        scratch_bytes: largest scratch memory that one kernel asks for one thread, bytes.
        weights: constants, each at a 64-byte aligned offset.
        objects: relocatable ELF files (position independent) that define the kernels.
        target: what the objects were compiled for.
        states: tensors kept between runs; they are neither among the inputs nor among the outputs.
        symbols: open extents, first those that the caller gives, then the length of a growing sequence; all shapes have
            the largest ones.
        extents: extents that follow from them; the first ones are what kernels read in the space "extents".
        open_inputs: open axes of inputs.
        open_outputs: open axes of outputs.
        counted: axes of outputs whose actual extents other outputs tell.
        single: the steps for one new place of a growing sequence, None where `steps` serve that, too.
        loops: those of `steps` that run more than once, in order; none is within another.
    """

    name: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    steps: tuple[Step, ...]
    arena_bytes: int
    scratch_bytes: int
    weights: bytes
    objects: tuple[bytes, ...]
    target: Target
    states: tuple[StateInfo, ...] = ()
    symbols: tuple[Symbol, ...] = ()
    extents: tuple[Extent, ...] = ()
    open_inputs: tuple[OpenAxis, ...] = ()
    open_outputs: tuple[OpenAxis, ...] = ()
    counted: tuple[CountedAxis, ...] = ()
    single: Single | None = None
    loops: tuple[Loop, ...] = ()

    @property
    def given(self) -> tuple[Symbol, ...]:
        """Symbols whose values the caller gives."""
        return tuple(symbol for symbol in self.symbols if not symbol.past)

    @property
    def length(self) -> Symbol | None:
        """The symbol that is the length of a growing sequence, None where nothing grows."""
        return next((symbol for symbol in self.symbols if symbol.past), None)
