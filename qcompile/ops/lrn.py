"""Local response normalization."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from qcompile.ir.graph import Node, Value
from qcompile.ir.opdef import Array, OpDef
from qcompile.ir.types import TensorType
from qcompile.ops.onnx_node import OnnxNode


@dataclass(frozen=True)
class LrnAttrs:
    """Attributes of lrn.

    Args:
        size: channels that one channel is normalized by.
        alpha: factor of the mean square, per square real unit.
        beta: exponent.
        bias: added to the scaled mean square.
        axis: the channel axis.
    """

    size: int
    alpha: float = 1e-4
    beta: float = 0.75
    bias: float = 1.0
    axis: int = 1


def _from_onnx(node: OnnxNode) -> Value:
    numbers: dict[str, Any] = {name: float(node.attr(name, default)) for name, default in _DEFAULTS.items()}
    return node.add("lrn", [node.value(0)], size=int(node.attr("size")), **numbers)


_DEFAULTS = {"alpha": 1e-4, "beta": 0.75, "bias": 1.0}


class Lrn(OpDef):
    """y[c] = x[c] / (bias + alpha/size · Σ x[k]²)^beta, over k from c − ⌊(size − 1)/2⌋ to c + ⌈(size − 1)/2⌉.

    Source:
        ONNX LRN; Krizhevsky, Sutskever and Hinton 2012.
    """

    name = "lrn"
    Attrs = LrnAttrs
    onnx: ClassVar[dict[str, Any]] = {"LRN": _from_onnx}

    def infer(self, attrs: LrnAttrs, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the operand's type."""
        (x,) = inputs
        if attrs.size < 1 or not 0 <= attrs.axis < x.rank:
            raise ValueError(f"{attrs.size} neighbours along axis {attrs.axis} of {x}")
        return (x,)

    def evaluate(self, attrs: LrnAttrs, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Compute in the precision of the operand."""
        x = np.moveaxis(inputs[0], attrs.axis, -1)
        before = (attrs.size - 1) // 2
        padded = np.pad(x * x, [(0, 0)] * (x.ndim - 1) + [(before, attrs.size - 1 - before)])
        total = np.lib.stride_tricks.sliding_window_view(padded, attrs.size, -1).sum(axis=-1, dtype=x.dtype)
        kind = x.dtype.type
        y = x / (kind(attrs.bias) + kind(attrs.alpha / attrs.size) * total) ** kind(attrs.beta)
        return (np.ascontiguousarray(np.moveaxis(y, -1, attrs.axis)),)

    def lower(self, node: Node, context: Any) -> None:
        """Emit a sum over the neighbours and a division by its power."""
        attrs = node.attrs
        axis, before = attrs.axis, (attrs.size - 1) // 2
        channels = node.inputs[0].shape[axis]

        def body(e: Any, i: Any, r: Any) -> Any:
            c = i[axis] + r[0] - before
            inside = e.and_(c >= 0, c < channels)
            x = e.load_or(0, (*i[:axis], c, *i[axis + 1 :]), inside, 0.0)
            return x * x

        def finish(e: Any, acc: Any, i: Any) -> Any:
            base = acc * e.f32(attrs.alpha / attrs.size) + e.f32(attrs.bias)
            return e.load(0, *i) / e.pow(base, e.f32(attrs.beta))

        context.reduce(node, (attrs.size,), body, "sum", (0.0, "float32"), finish)
