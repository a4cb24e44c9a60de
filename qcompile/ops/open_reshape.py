"""Another shape for the same elements in the same order, where inner axes are open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qcompile.ir.graph import Node
from qcompile.ir.opdef import Array, OpDef, Quantization
from qcompile.ir.types import TensorType
from qcompile.shapes.regroup import groups

Entries = tuple[int | None, ...]


@dataclass(frozen=True)
class OpenReshapeAttrs:
    """Attributes of open_reshape.

    Args:
        shape: largest extents of the result, elements.
        before: which number of operand 1 is the actual extent of each axis of operand 0; None where it is fixed.
        after: the same for the axes of the result.
    """

    shape: tuple[int, ...]
    before: Entries
    after: Entries


class OpenReshape(OpDef):
    """y[k] = x[k], with k the number of the element counted in the actual extents.

    Operands: x, and the actual extents (int32). What lies past the actual end of the result is of no meaning.
    """

    name = "open_reshape"
    Attrs = OpenReshapeAttrs
    activations = (0,)
    integer = Quantization.SHARED

    def infer(self, attrs: OpenReshapeAttrs, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the type of the result."""
        x, extents = inputs
        result = x.with_shape(attrs.shape)
        entries = [e for e in (*attrs.before, *attrs.after) if e is not None]
        wrong = len(attrs.before) != x.rank or len(attrs.after) != result.rank or x.size != result.size
        if wrong or extents.dtype != "int32" or any(not 0 <= e < extents.size for e in entries):
            raise ValueError(f"{x} to {result} by {extents}")
        return (result,)

    def evaluate(self, attrs: OpenReshapeAttrs, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Number the elements anew."""
        x, extents = inputs[0], inputs[1].reshape(-1)
        before, after = (
            [int(n if e is None else extents[e]) for n, e in zip(shape, entries, strict=True)]
            for shape, entries in ((x.shape, attrs.before), (attrs.shape, attrs.after))
        )
        result = np.zeros(attrs.shape, x.dtype)
        result[tuple(map(slice, after))] = x[tuple(map(slice, before))].reshape(after)
        return (result,)

    def lower(self, node: Node, context: Any) -> None:
        """Emit a copy that counts the elements of each group of axes."""
        attrs, x = node.attrs, node.inputs[0].shape

        def extent(e: Any, size: int, entry: int | None) -> Any:
            # An axis without elements must not end in a division by zero.
            return size if entry is None else e.max(e.cast(e.load(1, entry), "int64"), 1)

        def element(e: Any, i: Any) -> Any:
            index: list[Any] = []
            for left, right in groups(x, attrs.shape):
                number: Any = 0
                for axis in right:
                    number = number * extent(e, attrs.shape[axis], attrs.after[axis]) + i[axis]
                index += _places(e, number, [(x[a], extent(e, x[a], attrs.before[a])) for a in left])
            return e.load(0, *index)

        context.map(node, element)


def _places(e: Any, number: Any, extents: list[tuple[int, Any]]) -> list[Any]:
    """Return the indices of an element of a group of axes, from its number.

    Args:
        e: the expression builder.
        number: of the element; what is past the end is brought to the last index.
        extents: largest and actual ones.
    """
    found = []
    for position, (most, actual) in reversed(list(enumerate(extents))):
        if most == 1:
            found.append(0)
        elif position == 0:
            found.append(e.min(number, most - 1))
        else:
            found.append(number % actual)
            number = number // actual
    return found[::-1]
