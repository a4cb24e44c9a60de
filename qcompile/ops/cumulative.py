"""Running sums and products."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from qcompile.ir.graph import Node, Value
from qcompile.ir.opdef import Array, OpDef
from qcompile.ir.types import TensorType
from qcompile.ops.layout import axis_index
from qcompile.ops.onnx_node import OnnxNode


@dataclass(frozen=True)
class CumulativeAttrs:
    """Attributes of cumulative.

    Args:
        axis: the axis to run along, not negative.
        combine: "sum" or "prod".
        exclusive: whether an element itself is left out.
        reverse: whether to run from the end.
    """

    axis: int = 0
    combine: str = "sum"
    exclusive: bool = False
    reverse: bool = False

    def __post_init__(self) -> None:
        if self.combine not in ("sum", "prod"):
            raise ValueError(f"combine '{self.combine}' is neither sum nor prod")


def _converter(combine: str) -> Callable[[OnnxNode], Value]:
    def convert(node: OnnxNode) -> Value:
        x = node.value(0)
        axis = axis_index(int(node.array(1, "axis").reshape(-1)[0]), len(x.shape))
        exclusive, reverse = bool(node.attr("exclusive", 0)), bool(node.attr("reverse", 0))
        return node.add("cumulative", [x], axis=axis, combine=combine, exclusive=exclusive, reverse=reverse)

    return convert


class Cumulative(OpDef):
    """y[i] = Σ x[j] (or Π) for j ≤ i; j < i with `exclusive`; from the end with `reverse`.

    The loops add up every prefix anew: the square of the axis in additions, all of them in vectors.

    Source:
        ONNX CumSum, CumProd.
    """

    name = "cumulative"
    Attrs = CumulativeAttrs
    onnx: ClassVar[dict[str, Any]] = {"CumSum": _converter("sum"), "CumProd": _converter("prod")}

    def infer(self, attrs: CumulativeAttrs, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the operand's type."""
        (x,) = inputs
        if not 0 <= attrs.axis < x.rank or x.dtype == "bool":
            raise ValueError(f"a running {attrs.combine} along axis {attrs.axis} of {x}")
        return (x,)

    def evaluate(self, attrs: CumulativeAttrs, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Run in the precision of the operand."""
        x = np.flip(inputs[0], attrs.axis) if attrs.reverse else inputs[0]
        run = np.cumsum if attrs.combine == "sum" else np.cumprod
        y = run(x, axis=attrs.axis, dtype=x.dtype)
        if attrs.exclusive:
            y = np.roll(y, 1, attrs.axis)
            first = tuple(slice(0, 1) if a == attrs.axis else slice(None) for a in range(y.ndim))
            y[first] = 0 if attrs.combine == "sum" else 1
        return (np.ascontiguousarray(np.flip(y, attrs.axis) if attrs.reverse else y),)

    def lower(self, node: Node, context: Any) -> None:
        """Emit a reduction over the part of the axis that counts."""
        attrs, dtype = node.attrs, node.output.dtype
        neutral = 0 if attrs.combine == "sum" else 1

        def body(e: Any, i: Any, r: Any) -> Any:
            here, there = i[attrs.axis], r[0]
            if attrs.reverse:
                here, there = there, here
            counts = there < here if attrs.exclusive else there <= here
            x = e.load(0, *i[: attrs.axis], r[0], *i[attrs.axis + 1 :])
            return e.select(counts, x, e.cast(e.i32(neutral), dtype))

        extent = node.inputs[0].shape[attrs.axis]
        context.reduce(node, (extent,), body, attrs.combine, (neutral, dtype), lambda e, acc, i: acc)
