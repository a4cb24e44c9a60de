"""Transcendental functions as short vector polynomials, since a call to libm would be scalar.

Each takes the builder and a float32 vector (or scalar) and is accurate to about 1e-6 relative; `power` computes in
float64 in between. Polynomials without a formula are Chebyshev interpolants of the function, made in float64.
"""

from __future__ import annotations

import math as _math
from collections.abc import Sequence

from tvm import tirx

from qcompile.kernels.builder import Builder, Expr, bitcast, call_pure, cast, const

ROUND, ROUND_BITS = 12582912.0, 0x4B400000
"""1.5 · 2^23, and its bits: added to a small float32 it leaves that, rounded to nearest even, in the low bits."""

_ROUND = {"float32": ROUND, "float64": 6755399441055744.0}
"""The same for both types; of a float64 it is 1.5 · 2^52."""

_BITS = {"float32": ("int32", 23, 127), "float64": ("int64", 52, 1023)}
"""Integer type of the same width, position of the exponent, its bias."""

_LN2_HIGH = {"float32": 0.693145751953125, "float64": 0.6931471803691238}
_LN2 = 0.69314718055994530942
_LEAST_POWER = -80.0


def dtype_of(x: Expr) -> str:
    """Return the type of an expression, with its lanes."""
    return str(x.ty.dtype)


def base(x: Expr) -> str:
    """Return the element type of an expression."""
    return dtype_of(x).partition("x")[0]


def like(x: Expr, kind: str) -> str:
    """Return another element type with the lanes of x."""
    _, separator, lanes = dtype_of(x).partition("x")
    return kind + separator + lanes


def let(b: Builder, x: Expr) -> Expr:
    """Name a value, so that it is computed once.

    A float is kept in a register: TVM's simplifier puts the definitions of names in place wherever it looks at a
    condition, which takes exponential time when long formulas follow one another, but it does not look into
    registers.
    """
    return b.register(dtype_of(x), x).get() if base(x).startswith("float") else b.let(x)


def polynomial(b: Builder, x: Expr, coefficients: Sequence[float]) -> Expr:
    """Σ coefficients[k]·x^k by Horner's rule."""
    dtype = dtype_of(x)
    total = const(coefficients[-1], dtype)
    for coefficient in reversed(coefficients[:-1]):
        total = let(b, total * x + const(coefficient, dtype))
    return total


def vanishing_exp(b: Builder, x: Expr) -> Expr:
    """e^x of float32 x ≤ 0; 0 below −80.

    Beside 1, such numbers are nothing, but a processor takes a hundred cycles for each that is subnormal, as those
    behind a mask of −10,000 are, or that becomes so when it is divided by a sum.

    Formula:
        as `exp`, with one factor 2^n
    """
    dtype = dtype_of(x)
    kept = let(b, tirx.Max(x, const(_LEAST_POWER, dtype)))
    scaled = tirx.Max(kept * const(1.0 / _LN2, dtype), const(2 * _LEAST_POWER, dtype))
    magic = const(_ROUND["float32"], dtype)
    n = let(b, (scaled + magic) - magic)
    r = let(b, kept - n * const(_LN2_HIGH["float32"], dtype) - n * const(_LN2 - _LN2_HIGH["float32"], dtype))
    series = polynomial(b, r, [1.0 / _math.factorial(k) for k in range(8)])
    integers = like(x, "int32")
    factor = bitcast(dtype, (let(b, cast(integers, n)) + const(127, integers)) << const(23, integers))
    return tirx.Select(x < const(_LEAST_POWER, dtype), const(0.0, dtype), series * factor)


def exp(b: Builder, x: Expr) -> Expr:
    """e^x.

    Formula:
        e^x = 2^n · e^r, n = rne(x / ln 2), |r| ≤ ln(2)/2; Taylor series of e^r; 2^n in two factors, so that
        results from the smallest subnormal number to infinity come out right

    Source:
        Cody and Waite, Software Manual for the Elementary Functions: the two-part reduction.
    """
    dtype, kind = dtype_of(x), base(x)
    integer, position, bias = _BITS[kind]
    top = 89.0 if kind == "float32" else 710.0
    x = let(b, tirx.Min(tirx.Max(x, const(-top * 1.17, dtype)), const(top, dtype)))
    magic = const(_ROUND[kind], dtype)
    # A product that is clamped first cannot be contracted with the addition; the rounding stays exact.
    scaled = tirx.Max(x * const(1.0 / _LN2, dtype), const(-top * 2.0, dtype))
    n = let(b, (scaled + magic) - magic)
    r = let(b, x - n * const(_LN2_HIGH[kind], dtype) - n * const(_LN2 - _LN2_HIGH[kind], dtype))
    order = 7 if kind == "float32" else 10
    series = polynomial(b, r, [1.0 / _math.factorial(k) for k in range(order + 1)])
    exponent = let(b, cast(like(x, integer), n))
    half = let(b, exponent >> const(1, like(x, integer)))
    rest = let(b, exponent - half)

    def power_of_two(of: Expr) -> Expr:
        return bitcast(dtype, (of + const(bias, like(x, integer))) << const(position, like(x, integer)))

    return series * power_of_two(half) * power_of_two(rest)


def log(b: Builder, x: Expr) -> Expr:
    """Ln x; −infinity at 0, NaN below.

    Formula:
        x = 2^n · m, √½ ≤ m < √2; ln m = 2·atanh(s), s = (m − 1)/(m + 1), by its odd series
    """
    dtype, kind = dtype_of(x), base(x)
    integer, position, _ = _BITS[kind]
    integers = like(x, integer)
    tiny = 1.1754943508222875e-38 if kind == "float32" else 2.2250738585072014e-308
    lift = 2.0**position
    small = x < const(tiny, dtype)
    normal = let(b, tirx.Select(small, x * const(lift, dtype), x))
    half_bits = 0x3F3504F3 if kind == "float32" else 0x3FE6A09E667F3BCD
    offset = let(b, bitcast(integers, normal) - const(half_bits, integers))
    n = let(b, offset >> const(position, integers))
    mantissa = bitcast(dtype, bitcast(integers, normal) - (n << const(position, integers)))
    mantissa = let(b, mantissa)
    lifted = tirx.Select(small, const(float(position), dtype), const(0.0, dtype))
    exponent = let(b, cast(dtype, n) - lifted)
    s = let(b, (mantissa - const(1.0, dtype)) / (mantissa + const(1.0, dtype)))
    terms = 5 if kind == "float32" else 8
    series = polynomial(b, let(b, s * s), [2.0 / (2 * k + 1) for k in range(terms)])
    y = let(b, exponent * const(_LN2, dtype) + s * series)
    y = let(b, tirx.Select(x < const(float("inf"), dtype), y, x))
    y = let(b, tirx.Select(const(0.0, dtype) < x, y, const(float("nan"), dtype)))
    return tirx.Select(tirx.EQ(x, const(0.0, dtype)), const(float("-inf"), dtype), y)


_TANH = (1.0, -0.33333253860473633, 0.13330984115600586, -0.05370957404375076, 0.020553970709443092,
         -0.005618668626993895)  # fmt: skip
"""tanh(x)/x in x², for |x| ≤ 0.63."""

_ERF_NEAR = (1.1283791065216064, -0.37612342834472656, 0.11280316859483719, -0.026715055108070374,
             0.004921761807054281, -0.0005648059886880219)  # fmt: skip
"""erf(x)/x in x², for |x| ≤ 1."""

_ERF_FAR = (-7.8068156242370605, -5.352680683135986, -0.9438890218734741, -0.010858343914151192,
            0.002154903020709753, -0.0004202935378998518, 8.467068983009085e-05, -1.3272361684357747e-05)  # fmt: skip
"""ln(1 − erf(x)) in x − 2.5, for 1 ≤ x ≤ 4."""


def tanh(b: Builder, x: Expr) -> Expr:
    """Hyperbolic tangent.

    Formula:
        x·P(x²) for |x| < 0.625, else sign(x)·(1 − 2/(e^{2|x|} + 1))
    """
    dtype = dtype_of(x)
    magnitude = let(b, absolute(x))
    near = let(b, x * polynomial(b, let(b, x * x), _TANH))
    far = const(1.0, dtype) - const(2.0, dtype) / (exp(b, magnitude * const(2.0, dtype)) + const(1.0, dtype))
    return tirx.Select(magnitude < const(0.625, dtype), near, copy_sign(let(b, far), x))


def erf(b: Builder, x: Expr) -> Expr:
    """Error function.

    Formula:
        x·P(x²) for |x| < 1, else sign(x)·(1 − e^{Q(|x| − 2.5)}), and ±1 beyond 4
    """
    dtype = dtype_of(x)
    magnitude = let(b, tirx.Min(absolute(x), const(4.0, dtype)))
    near = let(b, x * polynomial(b, let(b, x * x), _ERF_NEAR))
    tail = exp(b, polynomial(b, let(b, magnitude - const(2.5, dtype)), _ERF_FAR))
    far = let(b, const(1.0, dtype) - tail)
    return tirx.Select(magnitude < const(1.0, dtype), near, copy_sign(far, x))


def sigmoid(b: Builder, x: Expr) -> Expr:
    """1 / (1 + e^−x)."""
    one = const(1.0, dtype_of(x))
    return one / (one + exp(b, const(0.0, dtype_of(x)) - x))


_PI_4 = 0.78539816339744831
_QUARTERS = 2.0**40


def sine(b: Builder, x: Expr, quarters: int) -> Expr:
    """Sine of an angle plus a number of quarter turns; computed in float64, so that large angles come out right.

    Formula:
        x = n·π/2 + r, |r| ≤ π/4; ±sin r or ±cos r by their Taylor series, as n + quarters says

    Args:
        b: builder.
        x: radians, float32; right up to some 10^6, NaN for infinity.
        quarters: 0 for the sine, 1 for the cosine.
    """
    single, double = dtype_of(x), like(x, "float64")
    wide = let(b, cast(double, x))
    magic = const(_ROUND["float64"], double)
    reach = const(_QUARTERS, double)
    turns = tirx.Min(tirx.Max(wide * const(0.5 / _PI_4, double), const(0.0, double) - reach), reach)
    n = let(b, (turns + magic) - magic)
    r = let(b, wide - n * const(2.0 * _PI_4, double))
    square = let(b, r * r)
    odd_terms = [(-1.0) ** k / _math.factorial(2 * k + 1) for k in range(6)]
    even_terms = [(-1.0) ** k / _math.factorial(2 * k) for k in range(7)]
    near_zero = let(b, r * polynomial(b, square, odd_terms))
    near_one = polynomial(b, square, even_terms)
    integers = like(x, "int64")
    quadrant = let(b, cast(integers, n) + const(quarters, integers))
    zero = const(0, integers)
    turned = tirx.EQ(tirx.bitwise_and(quadrant, const(1, integers)), zero)
    y = let(b, tirx.Select(turned, near_zero, near_one))
    upper = tirx.EQ(tirx.bitwise_and(quadrant, const(2, integers)), zero)
    return cast(single, tirx.Select(upper, y, const(0.0, double) - y))


def arctangent(b: Builder, x: Expr) -> Expr:
    """Inverse tangent, in radians.

    Formula:
        t = |x|, or 1/|x| above 1, where the result is π/2 − arctan t; z = t, or (t − 1)/(t + 1) above tan(π/8), where
        arctan t = π/4 + arctan z; arctan z = z − z³/3 + z⁵/5 − …
    """
    dtype = dtype_of(x)
    one, size = const(1.0, dtype), let(b, absolute(x))
    large = one < size
    t = let(b, tirx.Select(large, one / size, size))
    middle = const(0.41421356237309503, dtype) < t
    z = let(b, tirx.Select(middle, (t - one) / (t + one), t))
    series = polynomial(b, let(b, z * z), [(-1.0) ** k / (2 * k + 1) for k in range(9)])
    y = let(b, z * series)
    y = let(b, tirx.Select(middle, y + const(_PI_4, dtype), y))
    y = let(b, tirx.Select(large, const(2.0 * _PI_4, dtype) - y, y))
    return copy_sign(y, x)


def power(b: Builder, x: Expr, y: Expr) -> Expr:
    """x^y in float64: e^{y·ln|x|}, negative for a negative x and an odd y, NaN for one and a fraction.

    Args:
        b: builder.
        x: base, float32.
        y: exponent, float32.
    """
    single = dtype_of(x)
    double = like(x, "float64")
    logarithm = log(b, let(b, cast(double, absolute(x))))
    size = let(b, cast(single, exp(b, let(b, cast(double, y) * logarithm))))
    size = let(b, tirx.Select(tirx.EQ(y, const(0.0, single)), const(1.0, single), size))
    whole = tirx.EQ(call_pure(single, "llvm.floor", y), y)
    half = let(b, y * const(0.5, single))
    odd = tirx.And(whole, tirx.NE(call_pure(single, "llvm.floor", half), half))
    signed = let(b, tirx.Select(odd, const(0.0, single) - size, size))
    below = let(b, tirx.Select(tirx.Or(whole, tirx.EQ(size, const(0.0, single))), signed, const(float("nan"), single)))
    return tirx.Select(x < const(0.0, single), below, size)


def absolute(x: Expr) -> Expr:
    """|x| of a float or signed integer."""
    if base(x).startswith("float"):
        return call_pure(dtype_of(x), "llvm.fabs", x)
    zero = const(0, dtype_of(x))
    return tirx.Select(x < zero, zero - x, x)


def copy_sign(size: Expr, sign: Expr) -> Expr:
    """`size` with the sign of `sign`."""
    return tirx.Select(sign < const(0.0, dtype_of(sign)), const(0.0, dtype_of(size)) - size, size)
