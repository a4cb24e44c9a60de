"""Where along an axis a known value stands: the second half of ArgMax and ArgMin."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from qcompile.ir.graph import Node, Value
from qcompile.ir.opdef import Array, OpDef
from qcompile.ir.types import TensorType
from qcompile.ops.onnx_node import OnnxNode


@dataclass(frozen=True)
class FirstIndexAttrs:
    """Attributes of first_index.

    Args:
        axis: the axis to look along, not negative.
        keepdims: whether it stays, with extent 1.
        last: whether the last place counts instead of the first.
    """

    axis: int = 0
    keepdims: bool = True
    last: bool = False


def _converter(selection: str) -> Callable[[OnnxNode], Value]:
    """Return a converter of ArgMax or ArgMin: the extreme value, then its place.

    Args:
        selection: the IR reduction that finds the extreme value.
    """

    def convert(node: OnnxNode) -> Value:
        x = node.value(0)
        rank, axis = len(x.shape), int(node.attr("axis", 0))
        if not -rank <= axis < rank:
            node.fail(f"axis {axis} of {x.type}")
        axis %= rank
        best = node.add(selection, [x], name=f"{node.outputs[0]}.value", axes=(axis,), keepdims=True)
        return node.add(
            "first_index",
            [x, best],
            axis=axis,
            keepdims=bool(node.attr("keepdims", 1)),
            last=bool(node.attr("select_last_index", 0)),
        )

    return convert


class FirstIndex(OpDef):
    """y = min {k : x[k] = value} along the axis, or the maximum with `last`.

    Operands: x, and the value, of x's shape with extent 1 on the axis. Where the value does not occur (it is NaN)
    the result is the end of the axis that the search runs to.

    Source:
        ONNX ArgMax and ArgMin, as reduce_max or reduce_min followed by this search.
    """

    name = "first_index"
    Attrs = FirstIndexAttrs
    onnx: ClassVar[dict[str, Any]] = {"ArgMax": _converter("reduce_max"), "ArgMin": _converter("reduce_min")}

    def infer(self, attrs: FirstIndexAttrs, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the operand's shape without the axis, or with extent 1 there, in int64."""
        x, value = inputs
        if not 0 <= attrs.axis < x.rank or not x.shape[attrs.axis]:
            raise ValueError(f"axis {attrs.axis} of {x}")
        single = tuple(1 if a == attrs.axis else d for a, d in enumerate(x.shape))
        if value != x.with_shape(single):
            raise ValueError(f"values {value} do not fit {x} along axis {attrs.axis}")
        kept = single if attrs.keepdims else x.shape[: attrs.axis] + x.shape[attrs.axis + 1 :]
        return (TensorType("int64", kept),)

    def evaluate(self, attrs: FirstIndexAttrs, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Search with comparisons."""
        found = inputs[0] == inputs[1]
        extent = found.shape[attrs.axis]
        if attrs.last:
            backward = np.flip(found, attrs.axis).argmax(axis=attrs.axis, keepdims=attrs.keepdims)
            present = found.any(axis=attrs.axis, keepdims=attrs.keepdims)
            index = np.where(present, extent - 1 - backward, 0)
        else:
            forward = found.argmax(axis=attrs.axis, keepdims=attrs.keepdims)
            index = np.where(found.any(axis=attrs.axis, keepdims=attrs.keepdims), forward, extent - 1)
        return (np.asarray(index, np.int64),)

    def lower(self, node: Node, context: Any) -> None:
        """Emit a reduction over the places where the value stands."""
        attrs = node.attrs
        extent = node.inputs[0].shape[attrs.axis]
        end = 0 if attrs.last else extent - 1

        def body(e: Any, i: Any, r: Any) -> Any:
            before = tuple(i[: attrs.axis])
            after = tuple(i[attrs.axis + 1 :] if attrs.keepdims else i[attrs.axis :])
            seen, wanted = e.load(0, *before, r[0], *after), e.load(1, *before, 0, *after)
            return e.select(e.equal(seen, wanted), r[0], end)

        combine = "max" if attrs.last else "min"
        context.reduce(node, (extent,), body, combine, (end, "int64"), lambda e, acc, i: acc)
