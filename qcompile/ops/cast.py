"""Another element type."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from qcompile.ir.graph import Node, Value
from qcompile.ir.opdef import Array, OpDef
from qcompile.ir.types import SHORT_DTYPE, TensorType
from qcompile.ops.onnx_node import OnnxNode
from qcompile.ops.round_float import SMALL, SMALL_TYPES, rounded

_ONNX_DTYPE = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float32",
    11: "float32",
    12: "uint32",
    13: "uint64",
    16: "float32",
}
"""IR element type of each ONNX type number; float16, float64 and bfloat16 are computed in float32."""

_BITS = {21: ("uint8", 4), 22: ("int8", 4), 25: ("uint8", 2), 26: ("int8", 2)}
"""IR element type and width of ONNX's integers of less than a byte, by type number."""

_NARROWED = {10: "float16", 11: "float64", 16: "bfloat16"}


@dataclass(frozen=True)
class CastAttrs:
    """Attributes of cast.

    Args:
        dtype: element type of the result, NumPy's name.
    """

    dtype: str

    def __post_init__(self) -> None:
        if self.dtype not in SHORT_DTYPE:
            raise ValueError(f"unknown element type '{self.dtype}'")


def dtype_of(number: int) -> str | None:
    """Return the IR element type of an ONNX type number, None where there is none."""
    return _ONNX_DTYPE.get(number)


def _cast(node: OnnxNode) -> Value:
    number = int(node.attr("to"))
    if number in _BITS:
        return _to_bits(node, *_BITS[number])
    if number in SMALL_TYPES:
        return rounded(node, node.value(0), SMALL_TYPES[number])
    if number not in _ONNX_DTYPE:
        node.fail(f"a cast to ONNX element type {number}")
    if number in _NARROWED:
        note = f"casts to {_NARROWED[number]} are left out: the model is computed in float32"
        node.graph.notes += [] if note in node.graph.notes else [note]
    return _to_dtype(node, _ONNX_DTYPE[number])


def _cast_like(node: OnnxNode) -> Value:
    narrow = node.narrow_type(1)
    if narrow in SMALL:
        return rounded(node, node.value(0), narrow)
    if narrow:
        return _to_bits(node, "uint8" if narrow.startswith("U") else "int8", int(narrow[-1]))
    return _to_dtype(node, node.type(1).dtype)


def _to_bits(node: OnnxNode, dtype: str, bits: int) -> Value:
    """Import a cast to an integer of less than a byte: its lowest bits, in a byte."""
    x, base = node.value(0), node.outputs[0]
    whole = x if x.dtype == "int32" else node.add("cast", [x], name=f"{base}.whole", dtype="int32")
    mask = node.constant("mask", (1 << bits) - 1, "int32")
    y = node.add("bitwise_and", [whole, mask], name=f"{base}.bits")
    if dtype == "int8":
        # Flipping the sign bit and taking its weight away extends the sign.
        half = node.constant("half", 1 << (bits - 1), "int32")
        y = node.add("sub", [node.add("bitwise_xor", [y, half], name=f"{base}.flipped"), half], name=f"{base}.signed")
    return node.add("cast", [y], dtype=dtype)


def _to_dtype(node: OnnxNode, dtype: str) -> Value:
    x = node.value(0)
    return x if x.dtype == dtype else node.add("cast", [x], dtype=dtype)


class Cast(OpDef):
    """y = x in another element type.

    Fractions are cut off; what the new type cannot hold becomes its nearest value, NaN becomes 0; a bool is
    whether x differs from 0. Wider integers go into narrower ones by their lowest bits.

    Source:
        ONNX Cast, which leaves the overflow of floats open.
    """

    name = "cast"
    Attrs = CastAttrs
    onnx: ClassVar[dict[str, Any]] = {"Cast": _cast, "CastLike": _cast_like}

    def infer(self, attrs: CastAttrs, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the operand's type with the new element type."""
        return (inputs[0].with_dtype(attrs.dtype),)

    def evaluate(self, attrs: CastAttrs, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Convert the elements."""
        x = inputs[0]
        if x.dtype.kind == "f" and attrs.dtype.startswith(("int", "uint")):
            low, high = _float_bounds(attrs.dtype, x.dtype.name)
            x = np.clip(np.where(np.isnan(x), x.dtype.type(0), x), low, high)
        return (x.astype(attrs.dtype),)

    def lower(self, node: Node, context: Any) -> None:
        """Emit a conversion per element."""
        source, dtype = node.inputs[0].dtype, node.attrs.dtype

        def element(e: Any, i: Any) -> Any:
            x = e.load(0, *i)
            if source == "float32" and dtype.startswith(("int", "uint")):
                low, high = _float_bounds(dtype, source)
                # NaN is not equal to itself.
                number = e.select(e.equal(x, x), x, e.f32(0.0))
                return e.cast(e.min(e.max(number, e.f32(low)), e.f32(high)), dtype)
            if dtype == "bool":
                return e.not_(e.equal(x, e.cast(e.i32(0), source)))
            return e.cast(x, dtype)

        context.map(node, element)


def _float_bounds(integer: str, floating: str) -> tuple[float, float]:
    """Return the smallest and largest float that an integer type can hold."""
    info, kind = np.iinfo(integer), np.dtype(floating).type
    high = kind(info.max)
    if int(high) > info.max:
        high = np.nextafter(high, kind(0))
    return float(kind(info.min)), float(high)
