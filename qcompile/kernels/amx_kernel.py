"""Which layers AMX tiles fit, and in which sizes; ``amx`` emits them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qcompile.kernels.conv_workload import ConvWorkload

ROWS, LANES, BYTES = 16, 16, 64
"""Rows of a tile, sums in a row of them, bytes in a row."""

_LEAST_PIXELS = 8
_FEW_PIXELS = 64


@dataclass(frozen=True)
class AmxKernel:
    """What the generator and the packing of weights need to know; the tiles are emitted by ``amx.AmxTiles``.

    The packed weights are those of the dot instructions: 4 bytes of K together.

    Attributes:
        precision: of the layers that it computes.
        product: the instruction.
        sums: element type of the sums.
        exact: what lies past a run of K must not be read, even if its weights are zero: it may be no number.
        least: products of an output that pay for the way of its sums through memory.
    """

    a_dtype: str = "uint8"
    b_dtype: str = "int8"
    lanes: int = LANES
    group: int = 4
    precision: str = "int8"
    product: str = "llvm.x86.tdpbusd"
    sums: str = "int32"
    exact: bool = False
    least: int = 32
    unroll: int = 1
    tiles: Sequence[tuple[int, int]] = ((32, 2),)

    def fits(self, work: ConvWorkload) -> bool:
        """Return whether a layer is worth tiles: pixels to fill half of one, and products to pay for the stores."""
        if work.precision != self.precision or work.groups > 1 or work.reduction < self.least:
            return False
        joined = work.dilations[1] == 1 or work.kernel[1] == 1
        run = work.channels * (work.kernel[1] if joined else 1)
        if self.gathers(run) and (work.kernel[0] == 1 or not joined):
            return False
        return work.batch * work.out_height * work.out_width >= _LEAST_PIXELS

    @property
    def element_bytes(self) -> int:
        """Bytes of a value of K; those of a dot are 4."""
        return 4 // self.group

    def padded(self, run: int) -> int:
        """Return the length of a run of K that was cut into equal chunks of at most 64 bytes."""
        return self.chunk(run) * self._chunks(run)

    def chunk(self, run: int) -> int:
        """Return K values of one tile, a multiple of the group."""
        return -(-run // (self._chunks(run) * self.group)) * self.group

    def _chunks(self, run: int) -> int:
        """Return how many tiles a run takes: the fewest, or not many more that it fills exactly."""
        fewest = -(-run * self.element_bytes // BYTES)
        exact = [count for count in range(fewest, 2 * fewest + 1) if run % (count * self.group) == 0]
        return exact[0] if self.exact and exact else fewest

    def gathers(self, run: int) -> bool:
        """Return whether pixels are to be laid side by side, with zeros behind them: their runs fill no tiles."""
        return self.exact and self.padded(run) != run

    def tile(self, work: ConvWorkload) -> tuple[int, int, int]:
        """Return rows, columns and vectors of the register tile.

        Two tiles of pixels by two of filters; four by one for the few pixels of deep layers, whose
        weights come from far away and are so read once.
        """
        count, nv = 2, min(2, -(-work.filters // LANES))
        if work.out_height * work.out_width <= _FEW_PIXELS:
            count, nv = 4, 1
        width = pixels_of_tile(work.out_width)
        if work.out_height > 1 and work.out_width <= ROWS:
            return min(count, work.out_height), width, nv
        return 1, min(count * width, work.out_width), nv


BFLOAT16 = AmxKernel(
    a_dtype="bfloat16",
    b_dtype="bfloat16",
    group=2,
    precision="bfloat16",
    product="llvm.x86.tdpbf16ps",
    sums="float32",
    exact=True,
    least=8,  # the dot product that would do it else is far slower than that of bytes
)
"""The form for bfloat16."""


def pixels_of_tile(width: int) -> int:
    """Pixels of each tile when a row is cut evenly."""
    return -(-width // -(-width // ROWS))
