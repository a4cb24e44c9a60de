"""Batch normalization with fixed statistics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from qcompile.errors import LoweringError
from qcompile.ir.graph import Node, Value
from qcompile.ir.opdef import Array, OpDef
from qcompile.ir.types import TensorType
from qcompile.ops.computed_weights import is_computed
from qcompile.ops.onnx_node import OnnxNode
from qcompile.ops.reshape import reshaped


@dataclass(frozen=True)
class BatchNormAttrs:
    """Attributes of batch_norm.

    Args:
        epsilon: added to the variance, squared real units.
        layout: "NCHW" (channels on axis 1) or "NHWC" (channels last).
    """

    epsilon: float = 1e-5
    layout: str = "NCHW"

    def __post_init__(self) -> None:
        if self.layout not in ("NCHW", "NHWC"):
            raise ValueError(f"layout '{self.layout}' is neither NCHW nor NHWC")


def _from_onnx(node: OnnxNode) -> Value:
    # Before opset 14 further outputs are what says that the statistics are those of the batch.
    if node.attr("training_mode", 0) or (node.opset < 14 and len(node.outputs) > 1):
        node.fail("training mode", hint="export the model for inference (eval mode)")
    if not node.attr("spatial", 1):
        node.fail("statistics per position (spatial=0)")
    operands, epsilon = [node.value(k) for k in range(5)], float(node.attr("epsilon", 1e-5))
    if any(is_computed(parameter) for parameter in operands[1:]):
        return _computed(node, operands, epsilon)
    return node.add("batch_norm", operands, epsilon=epsilon)


def _computed(node: OnnxNode, operands: Sequence[Value], epsilon: float) -> Value:
    """Return x · factor + offset with both computed at run time; see `folded`."""
    x, scale, bias, mean, variance = operands
    base, channels = node.outputs[0], (x.shape[1], *(1 for _ in x.shape[2:]))
    least = node.add("add", [variance, node.constant("epsilon", np.array(epsilon, x.dtype))], f"{base}.variance")
    factor = node.add("div", [scale, node.add("sqrt", [least], f"{base}.deviation")], f"{base}.factor")
    offset = node.add("sub", [bias, node.add("mul", [mean, factor], f"{base}.mean")], f"{base}.offset")
    across, added = (reshaped(node, v, channels, f"{v.name}.channels") for v in (factor, offset))
    return node.add("add", [node.add("mul", [x, across], f"{base}.scaled"), added])


class BatchNorm(OpDef):
    """y = (x − mean[c]) / √(variance[c] + epsilon) · scale[c] + bias[c].

    Operands: x, scale, bias, mean, variance, the last four of shape [C]. A pass turns it into a convolution's
    weights or into one multiplication and one addition, so it has no integer form of its own.

    Source:
        ONNX BatchNormalization, inference form; Ioffe and Szegedy 2015.
    """

    name = "batch_norm"
    Attrs = BatchNormAttrs
    activations = (0,)
    onnx: ClassVar[dict[str, Any]] = {"BatchNormalization": _from_onnx}

    def infer(self, attrs: BatchNormAttrs, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the type of x."""
        x = inputs[0]
        if len(inputs) != 5 or x.rank < 2:
            raise ValueError(f"batch_norm of {x} with {len(inputs) - 1} parameters")
        channels = x.shape[channel_axis(x.rank, attrs.layout)]
        for parameter in inputs[1:]:
            if parameter.shape != (channels,):
                raise ValueError(f"parameter {parameter} does not fit {channels} channels")
        return (x,)

    def evaluate(self, attrs: BatchNormAttrs, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Compute x · factor[c] + offset[c]."""
        x = inputs[0]
        shape = [1] * x.ndim
        shape[channel_axis(x.ndim, attrs.layout)] = -1
        factor, offset = folded(inputs[1], inputs[2], inputs[3], inputs[4], attrs.epsilon)
        y = x * factor.astype(x.dtype).reshape(shape) + offset.astype(x.dtype).reshape(shape)
        return (y.astype(x.dtype, copy=False),)

    def lower(self, node: Node, context: Any) -> None:
        """Emit one multiplication and one addition per element."""
        scale, bias, mean, variance = (v.data for v in node.inputs[1:])
        if scale is None or bias is None or mean is None or variance is None:
            raise LoweringError(f"node {node}: statistics computed at run time have no code")
        factor, offset = folded(scale, bias, mean, variance, node.attrs.epsilon)
        factors = context.constant(factor.astype(np.float32))
        offsets = context.constant(offset.astype(np.float32))
        axis = channel_axis(len(node.output.shape), node.attrs.layout)
        context.map(node, lambda e, i: e.load(0, *i) * e.at(factors, i[axis]) + e.at(offsets, i[axis]))


def folded(scale: Array, bias: Array, mean: Array, variance: Array, epsilon: float) -> tuple[Array, Array]:
    """Return the factor and offset per channel that batch normalization amounts to.

    Formula:
        factor = scale / √(variance + epsilon), offset = bias − mean · factor

    Args:
        scale: [C], dimensionless.
        bias: [C], real units of the result.
        mean: [C], real units of the operand.
        variance: [C], squared real units of the operand.
        epsilon: added to the variance.

    Returns:
        Two float64 arrays [C].
    """
    factor = scale.astype(np.float64) / np.sqrt(variance.astype(np.float64) + epsilon)
    return factor, bias.astype(np.float64) - mean.astype(np.float64) * factor


def channel_axis(rank: int, layout: str) -> int:
    """Return the position of the channels."""
    return 1 if layout == "NCHW" else rank - 1
