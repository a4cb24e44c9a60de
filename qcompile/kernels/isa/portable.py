"""Any machine: four-lane vectors of plain arithmetic, which LLVM lowers to what it finds.

A product of two 16-bit numbers in a 32-bit lane becomes ``pmaddwd`` on x86 and ``smlal`` on ARM.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx

from qcompile.kernels.builder import Builder, Expr, Index, Memory, bitcast, cast, const, lanes_of, splat
from qcompile.kernels.depthwise_micro import FmaDepthwise, WideningDepthwise
from qcompile.kernels.isa import Isa
from qcompile.kernels.micro import FmaMicroKernel, clamp
from qcompile.kernels.micro_kernel import MicroKernel

_TILES = ((6, 2), (4, 2), (12, 1), (3, 2), (2, 4))
_TWO_23_BITS = 0x4B000000  # 2^23: a float sum with it has its unit in the last place


@dataclass(frozen=True)
class _WideningMicroKernel(MicroKernel):
    """One K at a time: a broadcast int16 against nv vectors of four int16 weights."""

    a_dtype: str = "int16"
    b_dtype: str = "int16"
    lanes: int = 4
    group: int = 1
    unroll: int = 1
    tiles: Sequence[tuple[int, int]] = _TILES

    def cycles(self, mr: int, nv: int) -> float:
        """Estimated cycles of one K: a multiply and an add per accumulator on two ports."""
        return max(mr * nv + nv / 2, 4.0)

    def step(self, b: Builder, state: Any, a: Memory, rows: Sequence[Index], w: Memory, at: Index, groups: int) -> None:
        """Emit ``groups`` values of K."""
        nv = len(state[0])
        for g in range(groups):
            weights = [b.let(cast("int32x4", w.load(at + (g * nv + j) * 4, 4))) for j in range(nv)]
            for row, sums in zip(rows, state, strict=True):
                value = b.let(splat(cast("int32", a.load(row + g)), 4))
                for total, weight in zip(sums, weights, strict=True):
                    total.set(total.get() + value * weight)


def _round_clamp(value: Expr, lo: Expr, hi: Expr) -> Expr:
    """Round by adding 2^23 of the value's sign and taking it away; from 2^23 on floats are integers.

    The clamp stands between the caller's multiplication and the addition, so they cannot become one
    fused operation with a different rounding.
    """
    integers, floats = f"int32x{lanes_of(value)}", f"float32x{lanes_of(value)}"
    value = clamp(value, lo, hi)
    bits = bitcast(integers, value)
    sign = bits & const(-(1 << 31), integers)
    unit = bitcast(floats, sign | const(_TWO_23_BITS, integers))
    small = bits & const((1 << 31) - 1, integers)
    rounded = tirx.Select(small < const(_TWO_23_BITS, integers), (value + unit) - unit, value)
    return cast(integers, rounded)


PORTABLE = Isa(
    name="portable",
    activation_dtype="int8",
    vector_bytes=16,
    int8=_WideningMicroKernel(),
    float32=FmaMicroKernel(lanes=4, tiles=_TILES, fused=False),
    round_clamp=_round_clamp,
    depthwise_int8=WideningDepthwise(),
    depthwise_float32=FmaDepthwise(lanes=4, fused=False),
    least_weight=-128,
)
