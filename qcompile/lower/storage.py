"""The memory of a program under construction: buffers, the constants' blob, steps."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from qcompile.ir.program import ALIGNMENT, BufferRef, Live, Only
from qcompile.kernels.kernel import Kernel

Array = npt.NDArray[np.generic]


def aligned(size: int) -> int:
    """Round a size up to a multiple of 64 bytes."""
    return -(-size // ALIGNMENT) * ALIGNMENT


@dataclass(eq=False)
class Buffer:
    """Memory of one tensor; identity is equality.

    Args:
        nbytes: what the tensor takes.
        space: "arena", or where it is given: "input", "output", "weights".
        offset: number of the caller's tensor, or byte offset in the weights; the arena's is planned at the end.
        overread: whether a kernel reads past its end, which the caller's memory does not allow.
        inside: the memory that this is a part of.
        start: first byte in that.
    """

    nbytes: int
    space: str = "arena"
    offset: int = 0
    overread: bool = False
    inside: Buffer | None = None
    start: int = 0

    @property
    def whole(self) -> Buffer:
        """The memory that it is, or is a part of."""
        return self.inside or self

    def part(self, start: int, nbytes: int) -> Buffer:
        """Return some bytes of it, which the caller's memory is not: a reference there has no offset."""
        self.overread = True
        return Buffer(nbytes, self.space, inside=self, start=start)

    def ref(self) -> BufferRef:
        """Return a reference to memory whose place is already known."""
        return BufferRef(self.space, self.offset)  # type: ignore[arg-type]


@dataclass
class DraftStep:
    """A step whose arena buffers have no place yet.

    Args:
        kernel: what runs.
        args: a buffer per pointer, None for NULL.
        output: which of `args` it writes.
        may_share: buffers that the output may overwrite, if this step is their last reader.
        loc: ONNX node name.
        op: IR operator.
        precision: "int8", or the element type of the result.
        macs: multiply-accumulates.
        live: the tiles that count at smaller sizes, None where all do.
        only: the sizes at which it is run, None for all.
        makes: name of the first tensor that its node makes.
        touched: bytes of each argument that it reads or writes at most, whatever else lies there; () for all.
    """

    kernel: Kernel
    args: tuple[Buffer | None, ...]
    output: int
    may_share: tuple[Buffer, ...]
    loc: str
    op: str
    precision: str
    macs: int
    live: Live | None = None
    only: Only | None = None
    makes: str = ""
    touched: tuple[int, ...] = ()

    @property
    def bytes(self) -> int:
        """Memory that it reads and writes."""
        return self.bytes_of(1)

    def bytes_of(self, times: int) -> int:
        """Return what it reads and writes when it runs several times, each of which makes a part of what is larger."""
        sizes: dict[Buffer, int] = {}
        for place, buffer in enumerate(self.args):
            if buffer is not None:
                size = self.touched[place] if self.touched else buffer.nbytes
                sizes[buffer] = min(buffer.nbytes, sizes.get(buffer, 0) + size)
        written = self.args[self.output]
        most = max(min(sizes.values(), default=0), sizes[written] if written is not None else 0)
        # What reads a row of a table reads one each time.
        return sum(n * times if n <= most or n < buffer.nbytes else n for buffer, n in sizes.items())

    @property
    def grain(self) -> int:
        """Fewest tiles worth a thread of their own: one or two microseconds of work."""
        macs_per_cycle = {"int8": 64, "int16": 32, "float16": 32, "bfloat16": 32}.get(self.precision, 16)
        cycles = self.macs / macs_per_cycle + self.bytes / 8
        per_tile = max(1.0, cycles / max(1, self.kernel.tiles))
        return max(1, min(self.kernel.tiles, round(_GRAIN_CYCLES / per_tile)))


_GRAIN_CYCLES = 5_000.0
"""By the estimate above, of parts of a step: to hand one to another thread and to wait for it takes some thousand."""


@dataclass(frozen=True)
class DraftLoop:
    """Steps that run again and again, before memory is planned.

    Args:
        first: number of the first of them.
        last: number of the last of them.
        trips: how often they run at most.
        condition: whose first byte says whether there is another iteration; None where all run.
    """

    first: int
    last: int
    trips: int
    condition: Buffer | None


@dataclass
class Weights:
    """The constants of a program: one blob, every array at a multiple of 64 bytes, equal ones once."""

    _parts: list[bytes] = field(default_factory=list)
    _known: dict[str, Buffer] = field(default_factory=dict)
    _size: int = 0

    def add(self, array: Array) -> Buffer:
        """Return the place of an array's bytes; the first with these bytes appends them."""
        data = np.ascontiguousarray(array).tobytes()
        key = hashlib.sha256(data).hexdigest()
        if key not in self._known:
            padded = data + bytes(aligned(len(data)) - len(data))
            self._known[key] = Buffer(len(data), "weights", self._size)
            self._parts.append(padded)
            self._size += len(padded)
        return self._known[key]

    def blob(self) -> bytes:
        """Return all constants."""
        return b"".join(self._parts)
