"""Depthwise kernels which several instruction sets share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from qcompile.kernels.builder import Builder, Expr, call_pure, cast
from qcompile.kernels.depthwise_kernel import DepthwiseKernel, DepthwiseTile


@dataclass(frozen=True, kw_only=True)
class FixedTile(DepthwiseKernel):
    """Kernels that compute as many output columns at once whatever the filter.

    Args:
        tile: output columns at once.
    """

    tile: int = 4

    def columns(self, kernel: tuple[int, int], stride: int) -> int:
        """Output columns at once."""
        return self.tile


@dataclass(frozen=True, kw_only=True)
class FmaDepthwise(FixedTile):
    """float32: one vector of channels against each tap's weights; the sums and a row of pixels share the registers.

    Args:
        fused: the machine has a fused multiply-add (else LLVM would call fmaf).
    """

    vectors: int = 2
    fused: bool = True
    a_dtype: str = "float32"
    b_dtype: str = "float32"

    def sums(self, b: Builder, tile: DepthwiseTile, bias: Sequence[Expr]) -> Iterator[list[Expr]]:
        """Every sum is taken in the order of the taps, so that it does not depend on the tile."""
        totals = [list(bias) for _ in range(tile.columns)]
        for n, (i, j) in enumerate(tile.taps):
            for v in range(self.vectors):
                weight = b.let(tile.weights.load(tile.at + (n * self.channels + v * self.lanes), self.lanes))
                for x, total in enumerate(totals):
                    pixel = tile.rows.load(x, i, j, self.lanes, v * self.lanes)
                    total[v] = b.let(self._multiply_add(pixel, weight, total[v]))
        yield from totals

    def _multiply_add(self, x: Expr, y: Expr, z: Expr) -> Expr:
        if not self.fused:
            return x * y + z
        return call_pure(f"float32x{self.lanes}", f"llvm.fma.v{self.lanes}f32", x, y, z)


@dataclass(frozen=True, kw_only=True)
class WideningDepthwise(FixedTile):
    """int8 by plain 32-bit arithmetic, for machines nothing is known of."""

    lanes: int = 4
    vectors: int = 1
    a_dtype: str = "int8"
    b_dtype: str = "int8"

    def sums(self, b: Builder, tile: DepthwiseTile, bias: Sequence[Expr]) -> Iterator[list[Expr]]:
        """One tap after another."""
        totals = [bias[0]] * tile.columns
        wide = f"int32x{self.lanes}"
        for n, (i, j) in enumerate(tile.taps):
            weight = b.let(cast(wide, tile.weights.load(tile.at + n * self.lanes, self.lanes)))
            for x, total in enumerate(totals):
                pixel = cast(wide, tile.rows.load(x, i, j, self.lanes))
                totals[x] = b.let(total + pixel * weight)
        yield from ([total] for total in totals)
