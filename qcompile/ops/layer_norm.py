"""Layer normalization over the last axes."""

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
class LayerNormAttrs:
    """Attributes of layer_norm.

    Args:
        axis: first of the normalized axes, which go to the end; negative counts from the end.
        epsilon: added to the variance, squared real units.
    """

    axis: int = -1
    epsilon: float = 1e-5


def _from_onnx(node: OnnxNode) -> Value:
    x = node.value(0)
    axis = int(node.attr("axis", -1))
    if not -len(x.shape) <= axis < len(x.shape):
        node.fail(f"axis {axis} of {x.type}")
    normalized = x.shape[axis % len(x.shape) :]
    scale = _stretched(node, 1, normalized, "scale")
    bias = (
        _stretched(node, 2, normalized, "bias") if node.has(2) else node.constant("bias", np.zeros(normalized, x.dtype))
    )
    epsilon = float(node.attr("epsilon", 1e-5))
    return node.add("layer_norm", [x, scale, bias], axis=axis, epsilon=epsilon)


def _stretched(node: OnnxNode, index: int, shape: tuple[int, ...], what: str) -> Value:
    """Return a parameter in the full shape of the normalized axes."""
    value = node.value(index)
    if value.shape == shape:
        return value
    try:
        return node.constant(what, np.ascontiguousarray(np.broadcast_to(node.array(index, what), shape)))
    except ValueError:
        node.fail(f"{what} {value.type} does not fit the normalized shape {list(shape)}")


class LayerNorm(OpDef):
    """y = (x − mean) / √(variance + epsilon) · scale + bias, over the axes from `axis` on.

    Operands: x, scale and bias, the latter two of the shape of the normalized axes.

    Source:
        ONNX LayerNormalization; Ba, Kiros and Hinton 2016.
    """

    name = "layer_norm"
    Attrs = LayerNormAttrs
    activations = (0,)
    onnx: ClassVar[dict[str, Any]] = {"LayerNormalization": _from_onnx}

    def infer(self, attrs: LayerNormAttrs, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the type of x."""
        if len(inputs) != 3:
            raise ValueError(f"layer_norm takes x, scale and bias, got {len(inputs)} operands")
        x = inputs[0]
        if not -x.rank <= attrs.axis < x.rank:
            raise ValueError(f"axis {attrs.axis} of {x}")
        normalized = x.shape[attrs.axis % x.rank :]
        for parameter in inputs[1:]:
            if parameter.shape != normalized:
                raise ValueError(f"parameter {parameter} does not fit the normalized shape {normalized}")
        return (x,)

    def evaluate(self, attrs: LayerNormAttrs, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Compute in the precision of x."""
        x, scale, bias = inputs
        axes = tuple(range(attrs.axis % x.ndim, x.ndim))
        centred = x - x.mean(axis=axes, keepdims=True)
        variance = np.mean(centred * centred, axis=axes, keepdims=True)
        y = centred / np.sqrt(variance + x.dtype.type(attrs.epsilon)) * scale + bias
        return (y.astype(x.dtype, copy=False),)

    def lower(self, node: Node, context: Any) -> None:
        """Emit a layer normalization kernel."""
        context.layer_norm(node)
