"""Rounding to the numbers that a floating point type of a byte or less has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from qcompile.ir.graph import Value
from qcompile.ir.opdef import Array, Quantization
from qcompile.ops.elementwise import Unary
from qcompile.ops.onnx_node import OnnxNode

BEYOND = ("largest", "infinity", "nan")


@dataclass(frozen=True)
class RoundFloatAttrs:
    """Attributes of round_float.

    Args:
        mantissa: bits behind the point of a number in [1, 2).
        least: exponent of the smallest normal number.
        largest: largest number.
        beyond: what larger ones become: "largest", "infinity" or "nan".
        infinite: what infinity becomes, likewise.
        has_nan: whether NaN stays; else it becomes 0.
    """

    mantissa: int = 3
    least: int = -6
    largest: float = 448.0
    beyond: str = "largest"
    infinite: str = "largest"
    has_nan: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.mantissa <= 10 or not self.largest > 0:
            raise ValueError(f"no type has {self.mantissa} bits of mantissa and numbers up to {self.largest}")
        if self.beyond not in BEYOND or self.infinite not in BEYOND:
            raise ValueError(f"'{self.beyond}' or '{self.infinite}' is none of {', '.join(BEYOND)}")


class RoundFloat(Unary):
    """y = the nearest number of a small floating point type, ties to even.

    Formula:
        u = 2^(max(floor(log2 |x|), least) − mantissa);  y = sign(x) · rne(|x| / u) · u

    Source:
        ONNX Cast and QuantizeLinear to FLOAT8 and FLOAT4 types.
    """

    name = "round_float"
    Attrs = RoundFloatAttrs
    integer = Quantization.FLOAT_ONLY

    def function(self, attrs: RoundFloatAttrs, x: Array) -> Array:
        """Return the nearest numbers."""
        kind = x.dtype.type
        size = np.minimum(np.abs(x), kind(4 * attrs.largest))
        binade = np.ldexp(kind(1), np.frexp(np.where(size > 0, size, kind(1)))[1] - 1)
        unit = np.maximum(binade, kind(2.0**attrs.least)) * kind(2.0**-attrs.mantissa)
        y = np.rint(size / unit) * unit
        y = np.where(y > kind(attrs.largest), kind(_number(attrs, attrs.beyond)), y)
        y = np.where(np.isinf(x), kind(_number(attrs, attrs.infinite)), y)
        return np.asarray(np.where(np.isnan(x), x if attrs.has_nan else kind(0), np.where(x < 0, -y, y)), x.dtype)

    def expression(self, e: Any, attrs: RoundFloatAttrs, x: Any) -> Any:
        """Return the nearest number."""
        size = e.min(e.abs(x), e.f32(4 * attrs.largest))
        unit = e.max(e.binade(size), e.f32(2.0**attrs.least)) * e.f32(2.0**-attrs.mantissa)
        steps = e.round_clamp(size / unit, e.f32(0.0), e.f32(2.0 ** (attrs.mantissa + 1)))
        y = e.cast(steps, "float32") * unit
        y = e.select(y > e.f32(attrs.largest), e.f32(_number(attrs, attrs.beyond)), y)
        y = e.select(e.equal(e.abs(x), e.f32(np.inf)), e.f32(_number(attrs, attrs.infinite)), y)
        signed = e.select(x < e.f32(0.0), e.f32(0.0) - y, y)
        return e.select(e.equal(x, x), signed, x if attrs.has_nan else e.f32(0.0))


def _number(attrs: RoundFloatAttrs, name: str) -> float:
    return {"largest": attrs.largest, "infinity": float("inf"), "nan": float("nan")}[name]


_TYPES: dict[str, tuple[int, int, float, str]] = {
    "FLOAT8E4M3FN": (3, -6, 448.0, "nan"),
    "FLOAT8E4M3FNUZ": (3, -7, 240.0, "nan"),
    "FLOAT8E5M2": (2, -14, 57344.0, "infinity"),
    "FLOAT8E5M2FNUZ": (2, -15, 57344.0, "nan"),
    "FLOAT4E2M1": (1, 0, 6.0, "largest"),
}
"""Bits of mantissa, exponent of the smallest normal number, largest number, what is beyond it without saturation."""

_POWERS = "FLOAT8E8M0"
"""ONNX's name of the type of 2^−127, 2^−126, … 2^127 and NaN: scales of blocks."""

SMALL = (*_TYPES, _POWERS)
"""ONNX's names of the types; the IR has their numbers as float32."""

SMALL_TYPES = {
    17: "FLOAT8E4M3FN",
    18: "FLOAT8E4M3FNUZ",
    19: "FLOAT8E5M2",
    20: "FLOAT8E5M2FNUZ",
    23: "FLOAT4E2M1",
    24: _POWERS,
}
"""The same by ONNX's type number."""

_TO_POWER = {"up": 0x7FFFFF, "nearest": 0x400000, "down": 0}
"""What is added to the bits of a float32 before its fraction is cut off, by ONNX's `round_mode`."""


def rounded(node: OnnxNode, x: Value, kind: str, name: str | None = None) -> Value:
    """Return a value rounded to a small type, as the node's attributes `saturate` and `round_mode` say.

    Args:
        node: the ONNX node that asks for it.
        x: float32.
        kind: one of `SMALL`.
        name: of the result; None for the node's own.
    """
    real = x if x.dtype == "float32" else node.add("cast", [x], name=f"{node.outputs[0]}.real", dtype="float32")
    if kind == _POWERS:
        return _rounded_to_power(node, real, name)
    mantissa, least, largest, above = _TYPES[kind]
    beyond = "largest" if int(node.attr("saturate", 1)) else above
    infinite = "infinity" if kind == "FLOAT8E5M2" and beyond != "largest" else beyond
    attrs: dict[str, Any] = {"mantissa": mantissa, "least": least, "largest": largest, "beyond": beyond}
    attrs.update(infinite=infinite, has_nan=kind.startswith("FLOAT8"))
    return node.add("round_float", [real], name=name, **attrs)


def _rounded_to_power(node: OnnxNode, x: Value, name: str | None) -> Value:
    """Return a power of two beside each number: its bits without a fraction, moved up before as the mode says."""
    mode, base = str(node.attr("round_mode", "up")), node.outputs[0]
    if mode not in _TO_POWER:
        node.fail(f"round_mode '{mode}'")

    def step(op: str, value: Value, suffix: str, constant: int | float, dtype: str) -> Value:
        return node.add(op, [value, node.constant(suffix, constant, dtype)], name=f"{base}.{suffix}.{op}")

    bits = node.add("bit_cast", [x], name=f"{base}.bits", dtype="int32")
    bits = step("minimum", bits, "infinity", 0x7F800000, "int32")  # NaN is above
    bits = step("bitwise_and", step("add", bits, "half", _TO_POWER[mode], "int32"), "exponent", 0x7F800000, "int32")
    if int(node.attr("saturate", 1)):
        bits = step("minimum", bits, "largest", 0x7F000000, "int32")
    power = step("maximum", node.add("bit_cast", [bits], name=f"{base}.power", dtype="float32"), "least", 2.0**-127,
                 "float32")  # fmt: skip
    inside = step("less_or_equal", power, "limit", 2.0**127, "float32")
    inside = node.add("logical_and", [inside, node.add("equal", [x, x], name=f"{base}.known")], name=f"{base}.inside")
    return node.add("where", [inside, power, node.constant("nan", np.nan, "float32")], name=name)
