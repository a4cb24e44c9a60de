"""Float activations as short vector expressions, fused before the store.

Each takes the vector, and two parameters of the workload's parameter block (``alpha``, ``beta``).
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx

from qcompile.kernels.builder import Builder, Expr, bitcast, const
from qcompile.kernels.math import ROUND, ROUND_BITS
from qcompile.kernels.micro import clamp

Activation = Callable[[Builder, Expr, Expr, Expr], Expr]


def _none(b: Builder, x: Expr, alpha: Expr, beta: Expr) -> Expr:
    return x


def _relu(b: Builder, x: Expr, alpha: Expr, beta: Expr) -> Expr:
    return tirx.Max(x, const(0.0, str(x.ty.dtype)))


def _clip(b: Builder, x: Expr, alpha: Expr, beta: Expr) -> Expr:
    return clamp(x, alpha, beta)


def _leaky_relu(b: Builder, x: Expr, alpha: Expr, beta: Expr) -> Expr:
    x = b.let(x)
    return tirx.Select(x < const(0.0, str(x.ty.dtype)), x * alpha, x)


def _hard_sigmoid(b: Builder, x: Expr, alpha: Expr, beta: Expr) -> Expr:
    dtype = str(x.ty.dtype)
    return clamp(x * alpha + beta, const(0.0, dtype), const(1.0, dtype))


def _hard_swish(b: Builder, x: Expr, alpha: Expr, beta: Expr) -> Expr:
    x = b.let(x)
    dtype = str(x.ty.dtype)
    return x * clamp(x * const(1.0 / 6.0, dtype) + const(0.5, dtype), const(0.0, dtype), const(1.0, dtype))


def exp(b: Builder, x: Expr) -> Expr:
    """e^x to about 2 units in the last place: e^x = 2^n * e^r, |r| <= ln(2)/2, by a polynomial.

    Source: Cody and Waite's two-part reduction; Taylor coefficients (the remainder is below 1e-8).
    """
    dtype = str(x.ty.dtype)
    x = b.let(clamp(x, const(-87.0, dtype), const(88.0, dtype)))
    magic = const(ROUND, dtype)
    shifted = b.let(tirx.Max(x * const(1.4426950408889634, dtype), const(-127.0, dtype)) + magic)
    n = b.let(shifted - magic)
    r = b.let(x - n * const(0.693145751953125, dtype) - n * const(1.42860677e-06, dtype))
    series = const(1.0 / 5040.0, dtype)
    for factorial in (720.0, 120.0, 24.0, 6.0, 2.0, 1.0, 1.0):
        series = b.let(series * r + const(1.0 / factorial, dtype))
    integers = dtype.replace("float32", "int32")
    power = (bitcast(integers, shifted) - const(ROUND_BITS - 127, integers)) << const(23, integers)
    return series * bitcast(dtype, power)


def _sigmoid(b: Builder, x: Expr, alpha: Expr, beta: Expr) -> Expr:
    one = const(1.0, str(x.ty.dtype))
    return one / (one + exp(b, const(0.0, str(x.ty.dtype)) - x))


def _silu(b: Builder, x: Expr, alpha: Expr, beta: Expr) -> Expr:
    x = b.let(x)
    return x * _sigmoid(b, x, alpha, beta)


def _tanh(b: Builder, x: Expr, alpha: Expr, beta: Expr) -> Expr:
    """(1 - e) / (1 + e), e = exp(-2x), where |x| is large; a polynomial where the difference would cancel."""
    dtype = str(x.ty.dtype)
    one, x = const(1.0, dtype), b.let(x)
    decay = b.let(exp(b, x * const(-2.0, dtype)))
    large = (one - decay) / (one + decay)
    square = b.let(x * x)
    series = const(_TANH_SERIES[-1], dtype)
    for coefficient in reversed(_TANH_SERIES[:-1]):
        series = b.let(series * square + const(coefficient, dtype))
    small = square < const(0.1, dtype)
    return tirx.Select(small, x * series, large)


_TANH_SERIES = (1.0, -1 / 3, 2 / 15, -17 / 315, 62 / 2835, -1382 / 155925)
"""Taylor coefficients of tanh(x) / x in x^2."""

ACTIVATIONS: dict[str, Activation] = {
    "none": _none,
    "relu": _relu,
    "clip": _clip,
    "leaky_relu": _leaky_relu,
    "hard_sigmoid": _hard_sigmoid,
    "hard_swish": _hard_swish,
    "sigmoid": _sigmoid,
    "silu": _silu,
    "tanh": _tanh,
}
"""clip: alpha = lo, beta = hi; leaky_relu: alpha = slope; hard_sigmoid: alpha * x + beta."""


def _scaled_leaky_relu(b: Builder, x: Expr, parameter: Expr) -> Expr:
    return tirx.Max(x, x * parameter)


def _scaled_hard_swish(b: Builder, x: Expr, parameter: Expr) -> Expr:
    half = const(0.5, str(x.ty.dtype))
    # The clamp stands between the product and the sum, so that they cannot become one rounding.
    return x * (clamp(x * parameter, const(-0.5, str(x.ty.dtype)), half) + half)


def _scaled_clip(b: Builder, x: Expr, parameter: Expr) -> Expr:
    return tirx.Min(x, parameter)


SCALED: dict[str, Callable[[Builder, Expr, Expr], Expr]] = {
    "leaky_relu": _scaled_leaky_relu,
    "hard_swish": _scaled_hard_swish,
    "prelu": _scaled_leaky_relu,
    "channel_clip": _scaled_clip,
    "channel_hard_swish": _scaled_hard_swish,
}
"""On scaled integer sums, x a variable, to the bit as ``qcompile.quant.scaled`` has them, with their one parameter."""
