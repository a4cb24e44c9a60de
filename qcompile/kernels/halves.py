"""Numbers of 16 bits in memory as float32 in registers."""

from __future__ import annotations

from tvm import tirx

from qcompile.kernels.builder import Builder, Expr, bitcast, cast, const, lanes_of

_HIDDEN = 0x38000000
"""112 in the exponent of a float32: the difference of the two biases."""


def from_float16(b: Builder, bits: Expr, *, native: bool = False) -> Expr:
    """Return the float32 numbers of IEEE 754 half-precision bits; infinities and NaN are not supported.

    Formula:
        normal: sign, (exponent + 112), mantissa; subnormal: 2^−14 · (1 + mantissa / 2^10) − 2^−14, which is exact

    Args:
        b: builder.
        bits: uint16.
        native: whether the machine has an instruction for it; else it takes some integer arithmetic.
    """
    lanes = lanes_of(bits)
    floats, integers = (f"{kind}x{lanes}" if lanes > 1 else kind for kind in ("float32", "int32"))
    if native:
        return cast(floats, bitcast(f"float16x{lanes}" if lanes > 1 else "float16", bits))
    wide = b.let(cast(integers, bits))
    magnitude = b.let((wide & const(0x7FFF, integers)) << const(13, integers))
    normal = bitcast(floats, magnitude + const(_HIDDEN, integers))
    small = bitcast(floats, magnitude + const(_HIDDEN + (1 << 23), integers)) - const(2.0**-14, floats)
    value = tirx.Select(magnitude < const(1 << 23, integers), small, normal)
    sign = (wide >> const(15, integers)) << const(31, integers)
    return bitcast(floats, bitcast(integers, value) | sign)


def from_bfloat16(bits: Expr) -> Expr:
    """Return the float32 numbers whose upper 16 bits these are."""
    lanes = lanes_of(bits)
    floats, integers = (f"{kind}x{lanes}" if lanes > 1 else kind for kind in ("float32", "int32"))
    return bitcast(floats, cast(integers, bits) << const(16, integers))
