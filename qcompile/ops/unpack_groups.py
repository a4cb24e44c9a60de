"""Weights kept as small integers: groups of a row share a scale, and several integers share a byte."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qcompile.ir.graph import Node
from qcompile.ir.opdef import Array, OpDef
from qcompile.ir.types import TensorType
from qcompile.ops.packed_weights import reads_packed

BITS = (1, 2, 4, 8)
"""Widths of an integer."""

LEAST_GROUP = 16
"""Smallest group, elements."""


@dataclass(frozen=True)
class UnpackGroupsAttrs:
    """Attributes of unpack_groups.

    Args:
        shape: of the result; the first axis counts the rows, the others make up a row.
        bits: of one integer: 1, 2, 4 or 8.
        group: elements of a row that share a scale, a power of two from 16; the last group may be shorter.
        zero_point: of all groups, where they have none of their own; may lie between two integers.
    """

    shape: tuple[int, ...]
    bits: int = 8
    group: int = 32
    zero_point: float = 0.0

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise ValueError(f"{self.bits} bits; integers of 1, 2, 4 or 8 bits can be packed")
        if self.group < LEAST_GROUP or self.group & (self.group - 1) or self.group * self.bits < 32:
            raise ValueError(f"groups of {self.group} elements of {self.bits} bits")
        if len(self.shape) < 2:
            raise ValueError(f"packed weights of shape {self.shape} have no rows")

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.shape[0]

    @property
    def inner(self) -> int:
        """Elements of a row."""
        return math.prod(self.shape[1:])

    @property
    def groups(self) -> int:
        """Groups of a row."""
        return -(-self.inner // self.group)


class UnpackGroups(OpDef):
    """w[n, k] = scale[n, k // group] · (q[n, k] − zero_point[n, k // group]).

    Operands: packed uint8 [N, ⌈K · bits / 8⌉], q in two's complement from the lowest bits of a byte upwards; scale
    float32 or float16 [N, G]; and, where the zero point is not the same everywhere, zero_point int8 [N, G].
    The readers in `qcompile.ops.packed_weights` unpack in registers; for others the result is written out.
    """

    name = "unpack_groups"
    Attrs = UnpackGroupsAttrs
    activations = ()

    def infer(self, attrs: UnpackGroupsAttrs, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the type of the result."""
        packed, scale = inputs[:2]
        wanted = (attrs.rows, -(-attrs.inner * attrs.bits // 8))
        if packed.dtype != "uint8" or packed.shape != wanted:
            raise ValueError(f"packed weights {packed} do not hold {attrs.shape} in {attrs.bits} bits")
        per_group = (attrs.rows, attrs.groups)
        if scale.dtype not in ("float32", "float16") or scale.shape != per_group:
            raise ValueError(f"scale {scale} does not fit {per_group} groups")
        if len(inputs) > 3 or (len(inputs) == 3 and (inputs[2].dtype, inputs[2].shape) != ("int8", per_group)):
            raise ValueError(f"zero point {inputs[-1]} does not fit {per_group} groups")
        return (TensorType("float32", attrs.shape),)

    def evaluate(self, attrs: UnpackGroupsAttrs, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Unpack exactly, then one float32 product for each element."""
        codes = unpacked(inputs[0], attrs.bits, attrs.inner)
        scale = _spread(inputs[1].astype(np.float32), attrs)
        zero: Any = np.float32(attrs.zero_point)
        if len(inputs) == 3:
            zero = _spread(inputs[2].astype(np.float32), attrs)
        return (((codes.astype(np.float32) - zero) * scale).reshape(attrs.shape),)

    def lower(self, node: Node, context: Any) -> None:
        """Emit nothing where all readers unpack for themselves, else one expression for each element."""
        if all(reads_packed(user, operand) for user, operand in node.output.uses):
            return
        context.map(node, lambda e, i: self.element(e, context, node, i))

    def element(self, e: Any, context: Any, node: Node, position: Sequence[Any]) -> Any:
        """Return the expression of one element.

        Args:
            e: builder of expressions.
            context: of the lowering.
            node: the packed weights.
            position: one index per axis.
        """
        attrs, operands = node.attrs, [value.constant() for value in node.inputs]
        k = _flat(e, attrs.shape[1:], position[1:])
        byte = e.at(context.constant(operands[0]), position[0], k // (8 // attrs.bits))
        code = e.cast(byte, "int32")
        if attrs.bits < 8:
            code = code >> e.cast((k % (8 // attrs.bits)) * attrs.bits, "int32")
        spare = 32 - attrs.bits
        code = e.shift_left(code, e.i32(spare)) >> e.i32(spare)
        group = (position[0], k // attrs.group)
        real = e.cast(code, "float32")
        if len(operands) == 3:
            real = real - e.cast(e.at(context.constant(operands[2]), *group), "float32")
        elif attrs.zero_point:
            real = real - e.f32(attrs.zero_point)
        return real * e.real(context.constant(as_bits(operands[1])), *group)


def _flat(e: Any, extents: Sequence[int], position: Sequence[Any]) -> Any:
    flat = position[0]
    for extent, at in zip(extents[1:], position[1:], strict=True):
        flat = flat * extent + at
    return flat


def _spread(values: Array, attrs: UnpackGroupsAttrs) -> Array:
    """Return one value per element from one per group."""
    return np.repeat(values, attrs.group, axis=1)[:, : attrs.inner]


def as_bits(data: Array) -> Array:
    """Return float16 numbers as their bits, uint16; others as they are."""
    return data.view(np.uint16) if data.dtype == np.float16 else data


def packed(codes: Array, bits: int) -> Array:
    """Pack integers [N, K] of −2^(bits−1) … 2^(bits−1)−1 into bytes, uint8 [N, ⌈K · bits / 8⌉]."""
    per_byte = 8 // bits
    padded = np.pad(codes, ((0, 0), (0, -codes.shape[1] % per_byte))).astype(np.uint8) & np.uint8((1 << bits) - 1)
    parts = padded.reshape(len(codes), -1, per_byte)
    total = np.zeros(parts.shape[:2], np.uint8)
    for place in range(per_byte):
        total |= parts[:, :, place] << np.uint8(place * bits)
    return total


def unpacked(data: Array, bits: int, inner: int) -> Array:
    """Return the integers that `packed` packed, int8 [N, inner]."""
    spare = np.uint8(8 - bits)
    parts = [(data << np.uint8(8 - bits - place)).view(np.int8) >> spare.view(np.int8) for place in range(0, 8, bits)]
    return np.stack(parts, axis=-1).reshape(len(data), -1)[:, :inner]
