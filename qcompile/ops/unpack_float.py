"""Weights kept as floating point numbers of 16 bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qcompile.ir.graph import Node
from qcompile.ir.opdef import Array, OpDef
from qcompile.ir.types import TensorType
from qcompile.ops.packed_weights import reads_packed

KINDS = ("float16", "bfloat16")
"""Types of 16 bits."""


@dataclass(frozen=True)
class UnpackFloatAttrs:
    """Attributes of unpack_float.

    Args:
        kind: what the bits are: "float16" (IEEE 754 binary16) or "bfloat16" (the upper half of a float32).
    """

    kind: str = "float16"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"'{self.kind}' is neither float16 nor bfloat16")


class UnpackFloat(OpDef):
    """y = the number that 16 bits stand for, exactly.

    Operands: bits uint16; of float16 no infinities and no NaN.
    """

    name = "unpack_float"
    Attrs = UnpackFloatAttrs
    activations = ()

    def infer(self, attrs: UnpackFloatAttrs, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the operand's shape in float32."""
        if len(inputs) != 1 or inputs[0].dtype != "uint16":
            raise ValueError(f"unpack_float of {', '.join(map(str, inputs))}")
        return (inputs[0].with_dtype("float32"),)

    def evaluate(self, attrs: UnpackFloatAttrs, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Widen every number."""
        if attrs.kind == "float16":
            return (inputs[0].view(np.float16).astype(np.float32),)
        return ((inputs[0].astype(np.uint32) << np.uint32(16)).view(np.float32),)

    def lower(self, node: Node, context: Any) -> None:
        """Emit nothing where all readers widen for themselves, else one conversion for each element."""
        if not all(reads_packed(user, operand) for user, operand in node.output.uses):
            context.map(node, lambda e, i: self.element(e, context, node, i))

    def element(self, e: Any, context: Any, node: Node, position: Sequence[Any]) -> Any:
        """Return the expression of one element; arguments as for `UnpackGroups.element`."""
        return e.real(context.constant(node.inputs[0].constant()), *position, kind=node.attrs.kind)


def to_bits(data: Array, kind: str) -> Array:
    """Round float32 numbers to 16 bits, ties to even; uint16 of the same shape."""
    if kind == "float16":
        with np.errstate(over="ignore"):
            return np.ascontiguousarray(data).astype(np.float16).view(np.uint16)
    bits = np.ascontiguousarray(data).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
