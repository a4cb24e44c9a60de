"""Recognizes how an expression ends in codes: rounded or whole numbers, clamped, moved by the zero point, cast.

Where an instruction set narrows with saturation, the clamp to the ends of the code's type is free, and that to other
ends is done on bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qcompile.kernels import expression as ex
from qcompile.kernels.builder import Builder, Expr, const, shuffle
from qcompile.kernels.isa import Isa

_LARGEST_ZERO = 255
_MOST_SHIFT = 16
"""Bits by which the narrowing of 32-bit lanes to 16 bits may divide."""


@dataclass(frozen=True)
class Codes:
    """min(max(value, low), high) + zero, as int8.

    Args:
        value: int32; or float32 that is never NaN, to be rounded.
        zero: what is added after the clamp.
        ends: least and largest code.
        shift: the value is divided by 2^shift first, half up.
    """

    value: ex.Expr
    zero: int
    ends: tuple[int, int]
    shift: int = 0


def codes_of(node: ex.Expr) -> Codes | None:
    """Return what an int8 expression narrows, or None where it has another form."""
    if node.op != "cast" or node.dtype != "int8":
        return None
    moved, zero = _moved(node.args[0])
    bounds = _rounded(moved) or _clamped(moved)
    if bounds is None or abs(zero) > _LARGEST_ZERO:
        return None
    value, low, high = bounds
    ends = (int(low) + zero, int(high) + zero)
    if not -128 <= ends[0] <= ends[1] <= 127:
        return None
    inner, shift = _halved(value)
    return Codes(inner, zero, ends, shift)


def narrowed(b: Builder, isa: Isa, codes: Codes, value: Expr, lanes: int) -> Expr:
    """Emit the codes of a vector of values.

    Args:
        b: builder.
        isa: instruction set, with `map_lanes`.
        codes: what to do.
        value: the value, `lanes` of it.
        lanes: two or four times those of an int32 vector.
    """
    assert isa.narrow is not None
    assert isa.round_saturating is not None
    own = isa.int8.lanes
    parts = [b.let(shuffle([value], range(first, first + own))) for first in range(0, lanes, own)]
    if codes.value.dtype == "float32":
        parts = [b.let(isa.round_saturating(part)) for part in parts]
    whole = codes.ends == (-128, 127)
    low, high = (None if whole else const(end, "int8") for end in codes.ends)
    shift = {"shift": codes.shift} if codes.shift else {}
    return isa.narrow(parts, const(codes.zero, "int16"), low, high, **shift)


def _constant(node: ex.Expr) -> float | None:
    return node.data[0] if node.op == "const" else None


def _moved(node: ex.Expr) -> tuple[ex.Expr, int]:
    zero = _constant(node.args[1]) if node.op == "add" else None
    return (node, 0) if zero is None else (node.args[0], int(zero))


def _rounded(node: ex.Expr) -> tuple[ex.Expr, float, float] | None:
    if node.op != "round_clamp" or not _is_number(node.args[0]):
        return None
    return _bounded(node.args[0], [node.args[1], node.args[2]])


def _clamped(node: ex.Expr) -> tuple[ex.Expr, float, float] | None:
    if node.op != "min" or node.dtype != "int32" or node.args[0].op != "max":
        return None
    return _bounded(node.args[0].args[0], [node.args[0].args[1], node.args[1]])


def _bounded(value: ex.Expr, bounds: Sequence[ex.Expr]) -> tuple[ex.Expr, float, float] | None:
    low, high = (_constant(bound) for bound in bounds)
    return None if low is None or high is None else (value, low, high)


def _is_number(node: ex.Expr) -> bool:
    """Return whether a float is never NaN: a whole number times a constant."""
    if node.op == "cast":
        return node.args[0].dtype in ("int8", "int16", "int32")
    factor = _constant(node.args[1]) if node.op == "mul" else None
    return factor is not None and bool(np.isfinite(np.float32(factor))) and _is_number(node.args[0])


def _halved(node: ex.Expr) -> tuple[ex.Expr, int]:
    """Return x and k of (x + 2^(k−1)) >> k."""
    if node.op != "shr" or node.args[0].op != "add":
        return node, 0
    places, half = _constant(node.args[1]), _constant(node.args[0].args[1])
    if places is None or half is None or not 1 <= places <= _MOST_SHIFT or half != 1 << (int(places) - 1):
        return node, 0
    return node.args[0].args[0], int(places)
