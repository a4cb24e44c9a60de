"""A tensor cut into parts along one axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from qcompile.ir.graph import Node, Value
from qcompile.ir.opdef import Array, OpDef, Quantization
from qcompile.ir.types import TensorType
from qcompile.ops.layout import axis_index, replace_axis
from qcompile.ops.onnx_node import OnnxNode
from qcompile.ops.open_part import open_split


@dataclass(frozen=True)
class SplitAttrs:
    """Attributes of split.

    Args:
        axis: the axis that is cut, counted from the front.
        sizes: extents of the parts, elements.
    """

    axis: int
    sizes: tuple[int, ...]


def _from_onnx(node: OnnxNode) -> tuple[Value, ...]:
    x = node.value(0)
    axis = axis_index(int(node.attr("axis", 0)), len(x.shape))
    given = node.attr("split")
    if given is None and node.has(1):
        given = node.array(1, "split").tolist()
    if given is None:
        # Equal parts; since version 18 the last one may be smaller.
        count = int(node.attr("num_outputs", len(node.outputs)))
        size = -(-x.shape[axis] // count)
        given = [min(size, x.shape[axis] - k * size) for k in range(count)]
        if given[-1] <= 0 or (given[-1] != size and "num_outputs" not in node.attributes):
            node.fail(f"{x.shape[axis]} elements do not split into {count} parts")
    if len(given) == 1:
        return (x,)
    names = [name or f"{node.name}.part{k}" for k, name in enumerate(node.outputs)]
    if len(names) > len(given):
        node.fail(f"{len(names)} outputs for {len(given)} parts")
    names += [f"{node.name}.part{k}" for k in range(len(names), len(given))]
    if node.open is not None and node.attr("split") is None:
        vector = node.value(1) if node.has(1) else None
        opened = open_split(node, x, axis, vector, len(given), names)
        if opened is not None:
            return opened
    sizes = [int(s) for s in given]
    if min(sizes) > 0 or not any(sizes) or sum(sizes) != x.shape[axis]:
        return node.add_many("split", [x], names, axis=axis, sizes=tuple(sizes))
    filled = [k for k, size in enumerate(sizes) if size]
    attrs = {"axis": axis, "sizes": tuple(sizes[k] for k in filled)}
    parts = (x,) if len(filled) == 1 else node.add_many("split", [x], [names[k] for k in filled], **attrs)
    shape = (*x.shape[:axis], 0, *x.shape[axis + 1 :])
    empty = node.constant("empty", np.zeros(shape, x.dtype))
    found = dict(zip(filled, parts, strict=True))
    return tuple(found.get(k, empty) for k in range(len(sizes)))


class Split(OpDef):
    """Result k is x[…, offset_k : offset_k + size_k, …] along an axis.

    Source:
        ONNX Split.
    """

    name = "split"
    Attrs = SplitAttrs
    integer = Quantization.SHARED
    onnx: ClassVar[dict[str, Any]] = {"Split": _from_onnx}

    def infer(self, attrs: SplitAttrs, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the types of the parts."""
        x = inputs[0]
        if not 0 <= attrs.axis < x.rank or sum(attrs.sizes) != x.shape[attrs.axis] or min(attrs.sizes) < 0:
            raise ValueError(f"{x} does not split into {list(attrs.sizes)} on axis {attrs.axis}")
        return tuple(x.with_shape(replace_axis(x.shape, attrs.axis, size)) for size in attrs.sizes)

    def evaluate(self, attrs: SplitAttrs, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Return the parts."""
        cuts = np.cumsum(attrs.sizes)[:-1]
        return tuple(np.ascontiguousarray(p) for p in np.split(inputs[0], cuts, attrs.axis))

    def lower(self, node: Node, context: Any) -> None:
        """Emit one copy per part."""
        axis, offset = node.attrs.axis, 0
        for k, size in enumerate(node.attrs.sizes):

            def part(e: Any, i: Any, offset: int = offset) -> Any:
                return e.load(0, *(i[:axis]), i[axis] + offset, *(i[axis + 1 :]))

            if size and not context.window(node, k):
                context.map(node, part, out=k)
            offset += size
