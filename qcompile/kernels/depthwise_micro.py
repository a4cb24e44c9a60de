"""Depthwise kernels which several instruction sets share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.kernels.builder import Builder, Expr, Index, Memory, call_pure, cast
from qcompile.kernels.isa import DepthwiseRows


@dataclass(frozen=True)
class FmaDepthwise:
    """float32: one vector of channels against each tap's weights, several columns at once.

    Attributes:
        lanes: floats in a vector.
        vectors: vectors in a block of channels.
        tile: output columns at once; its sums and one filter row of pixels share the registers.
        fused: the machine has a fused multiply-add (else LLVM would call fmaf).
    """

    lanes: int
    vectors: int = 2
    tile: int = 4
    fused: bool = True
    a_dtype: str = "float32"
    b_dtype: str = "float32"

    @property
    def channels(self) -> int:
        """Channels of a block."""
        return self.lanes * self.vectors

    def columns(self, kernel: tuple[int, int], stride: int) -> int:
        """Output columns at once."""
        return self.tile

    def pack(self, weights: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """[row][column][channel]."""
        return np.ascontiguousarray(weights.transpose(1, 2, 0))

    def sums(
        self,
        b: Builder,
        rows: DepthwiseRows,
        w: Memory,
        at: Index,
        kernel: tuple[int, int],
        bias: Sequence[Expr],
        columns: int,
    ) -> Iterator[list[Expr]]:
        """Every sum is taken in the order of the taps, so that it does not depend on the tile."""
        totals = [list(bias) for _ in range(columns)]
        for i in range(kernel[0]):
            for j in range(kernel[1]):
                for v in range(self.vectors):
                    tap = (i * kernel[1] + j) * self.channels + v * self.lanes
                    weight = b.let(w.load(at + tap, self.lanes))
                    for x, total in enumerate(totals):
                        pixel = rows.load(x, i, j, self.lanes, v * self.lanes)
                        total[v] = b.let(self._multiply_add(pixel, weight, total[v]))
        yield from totals

    def _multiply_add(self, x: Expr, y: Expr, z: Expr) -> Expr:
        if not self.fused:
            return x * y + z
        return call_pure(f"float32x{self.lanes}", f"llvm.fma.v{self.lanes}f32", x, y, z)


@dataclass(frozen=True)
class WideningDepthwise:
    """int8 by plain 32-bit arithmetic, for machines nothing is known of.

    Attributes:
        lanes: int32 lanes of a vector; a block is one vector.
        tile: output columns at once.
    """

    lanes: int = 4
    tile: int = 4
    a_dtype: str = "int8"
    b_dtype: str = "int8"

    @property
    def channels(self) -> int:
        """Channels of a block."""
        return self.lanes

    def columns(self, kernel: tuple[int, int], stride: int) -> int:
        """Output columns at once."""
        return self.tile

    def pack(self, weights: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """[row][column][channel]."""
        return np.ascontiguousarray(weights.transpose(1, 2, 0))

    def sums(
        self,
        b: Builder,
        rows: DepthwiseRows,
        w: Memory,
        at: Index,
        kernel: tuple[int, int],
        bias: Sequence[Expr],
        columns: int,
    ) -> Iterator[list[Expr]]:
        """One tap after another."""
        totals = [bias[0]] * columns
        wide = f"int32x{self.lanes}"
        for i in range(kernel[0]):
            for j in range(kernel[1]):
                weight = b.let(cast(wide, w.load(at + (i * kernel[1] + j) * self.lanes, self.lanes)))
                for x, total in enumerate(totals):
                    pixel = cast(wide, rows.load(x, i, j, self.lanes))
                    totals[x] = b.let(total + pixel * weight)
        yield from ([total] for total in totals)
