"""2-D convolution: dense, grouped or depthwise, with a fused residual add and activation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from qcompile.ir.graph import Node, Value
from qcompile.ir.opdef import Array, OpDef, Quantization
from qcompile.ir.types import TensorType
from qcompile.ops.arithmetic import (
    activate_layer,
    check_accumulator,
    check_divisor_count,
    check_epilogue,
    check_layer_activation,
    finish_accumulator,
    finish_planes,
)
from qcompile.ops.computed_weights import biased, convolved, has_computed, is_computed
from qcompile.ops.convolution import convolve, integer_convolve
from qcompile.ops.onnx_node import OnnxNode
from qcompile.ops.spatial import (
    Pads,
    from_nhwc,
    plane,
    spatial_axes,
    to_nhwc,
    window_attribute,
    window_extent,
    window_pads,
    windowed,
    with_spatial,
)
from qcompile.quant import int16
from qcompile.quant.qparams import QParams


@dataclass(frozen=True)
class Conv2dAttrs:
    """Attributes of conv2d.

    Args:
        strides: vertical and horizontal step, elements.
        pads: elements added at top, left, bottom, right.
        dilations: distance of taps, elements.
        groups: channel groups; C_in for a depthwise convolution.
        layout: "NCHW" (weight OIHW) or "NHWC" (weight OHWI).
        activation: applied last, one of ACTIVATIONS or DIVIDED; in integer form prelu too.
        alpha: first parameter of the activation.
        beta: second parameter of the activation.
        residual: whether the last operand is added before the activation.
        pre_activation: integer form: QParams before an activation that is a table.
        slopes: of prelu, one for each output channel, at most 1.
        divisors: of channel_clip and channel_hard_swish, one positive number for each output channel: what the
            activation gives is divided by it.
    """

    strides: tuple[int, int] = (1, 1)
    pads: Pads = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)
    groups: int = 1
    layout: str = "NCHW"
    activation: str = "none"
    alpha: float = 0.0
    beta: float = 0.0
    residual: bool = False
    pre_activation: QParams | None = None
    slopes: tuple[float, ...] = ()
    divisors: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.layout not in ("NCHW", "NHWC"):
            raise ValueError(f"layout '{self.layout}' is neither NCHW nor NHWC")
        check_layer_activation(self)
        if min(*self.strides, *self.dilations, self.groups) < 1 or min(self.pads) < 0:
            raise ValueError(
                f"strides {self.strides}, dilations {self.dilations}, groups {self.groups}, pads {self.pads}"
            )


def _from_onnx(node: OnnxNode) -> Value:
    if node.has(2) and has_computed(node):
        return biased(node, _from_onnx)
    x, weight = node.value(0), node.value(1)
    axes = len(x.shape) - 2
    if axes not in (1, 2) or len(weight.shape) != axes + 2:
        node.fail(f"{axes}-D convolution of {x.type}; only 1-D and 2-D convolutions are supported")
    kernel = tuple(weight.shape[2:])
    strides = window_attribute(node, "strides", axes)
    dilations = window_attribute(node, "dilations", axes)
    pads = window_pads(node, kernel, strides, dilations, x.shape[2:])
    window: dict[str, Any] = {"strides": (1, *strides)[-2:], "pads": pads, "dilations": (1, *dilations)[-2:]}
    image, taps, groups = plane(node, x, "plane"), plane(node, weight, "weight"), int(node.attr("group", 1))
    if is_computed(weight):
        return convolved(node, image, taps, **window, groups=groups)
    bias = node.value(2) if node.has(2) else node.constant("bias", np.zeros(weight.shape[0], x.dtype))
    return windowed(node, "conv2d", [image, taps, bias], **window, groups=groups)


class Conv2d(OpDef):
    """y[n,h,w,o] = act(Σ x[n, h·s+i·d−p, w·s+j·d−p, c] · weight[o,i,j,c] + bias[o] + residual[n,h,w,o]) / divisors[o].

    Operands: x, weight, bias [O], and with `residual` a tensor of the result's shape.

    Source:
        ONNX Conv; the integer form is QLinearConv with a float32 multiplier and a residual.
    """

    name = "conv2d"
    Attrs = Conv2dAttrs
    activations = (0,)
    integer = Quantization.ACCUMULATE
    takes_int16 = True
    adds_residual = True
    onnx: ClassVar[dict[str, Any]] = {"Conv": _from_onnx}

    def infer(self, attrs: Conv2dAttrs, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the type of the result."""
        x, weight, bias = inputs[:3]
        if x.rank != 4 or weight.rank != 4:
            raise ValueError(f"conv2d needs 4-D operands, got {x} and {weight}")
        channels = x.shape[1] if attrs.layout == "NCHW" else x.shape[3]
        outputs, per_group, kernel = self._weight_extents(attrs, weight)
        if per_group * attrs.groups != channels or outputs % attrs.groups:
            raise ValueError(f"weight {weight} does not fit {channels} channels in {attrs.groups} groups")
        if bias.shape != (outputs,):
            raise ValueError(f"bias {bias} does not fit {outputs} output channels")
        check_divisor_count(attrs, outputs)
        spatial = [x.shape[a] for a in spatial_axes(attrs.layout)]
        pads = ((attrs.pads[0], attrs.pads[2]), (attrs.pads[1], attrs.pads[3]))
        out = [window_extent(spatial[a], kernel[a], attrs.strides[a], attrs.dilations[a], pads[a]) for a in (0, 1)]
        result = x.with_shape(with_spatial(x.shape, attrs.layout, (out[0], out[1]), outputs))
        if len(inputs) != (4 if attrs.residual else 3):
            raise ValueError(f"conv2d got {len(inputs)} operands")
        if attrs.residual and inputs[3].shape != result.shape:
            raise ValueError(f"residual {inputs[3]} does not fit the result {result}")
        return (result,)

    @staticmethod
    def _weight_extents(attrs: Conv2dAttrs, weight: TensorType) -> tuple[int, int, tuple[int, int]]:
        o, a, b, c = weight.shape
        return (o, a, (b, c)) if attrs.layout == "NCHW" else (o, c, (a, b))

    def evaluate(self, attrs: Conv2dAttrs, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Compute the convolution in the precision of the operands."""
        y = convolve(inputs[0], inputs[1], attrs)
        y += along_channels(inputs[2], attrs.layout)
        if attrs.residual:
            y += inputs[3]
        return (activate_layer(attrs, y),)

    def evaluate_integer(self, node: Node, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Compute the convolution on int8 operands; see `qcompile.ops.arithmetic.finish_accumulator`."""
        attrs = node.attrs
        x_params = node.inputs[0].qparams
        if x_params is None:
            raise ValueError(f"{node}: operand 0 is not quantized")
        if x_params.dtype == int16.INT16:
            return (self._evaluate_int16(node, inputs, x_params),)
        # Whole numbers in float32 are exact here, and what the products need.
        centred = inputs[0].astype(np.float32)
        centred -= x_params.scalar_zero_point
        acc = integer_convolve(centred, inputs[1], attrs)
        acc += along_channels(inputs[2], attrs.layout)
        residual = to_nhwc(inputs[3], attrs.layout) if attrs.residual else None
        return (from_nhwc(finish_accumulator(node, to_nhwc(acc, attrs.layout), residual), attrs.layout),)

    def _evaluate_int16(self, node: Node, inputs: Sequence[Array], x_params: QParams) -> Array:
        """Compute the convolution of 16-bit activations; see `qcompile.ops.arithmetic.finish_planes`."""
        layout = node.attrs.layout
        sums = []
        for x, bias in zip(int16.centred_planes(inputs[0], x_params), int16.split(inputs[2]), strict=True):
            acc = integer_convolve(x.astype(np.float32), inputs[1], node.attrs)
            sums.append(to_nhwc(acc + along_channels(bias, layout), layout))
        return from_nhwc(finish_planes(node, sums[0], sums[1]), layout)

    def operand_activations(self, node: Node) -> tuple[int, ...]:
        """Return x and the residual."""
        return (0, 3) if node.attrs.residual else (0,)

    def check(self, node: Node) -> None:
        """Check that the accumulator cannot overflow, and that the activation has an integer form."""
        if node.is_integer:
            check_epilogue(node)
            weight = node.inputs[1].shape
            check_accumulator(node, int(np.prod(weight[1:])))

    def macs(self, node: Node) -> int:
        """Return output elements times taps times channels per group."""
        return node.outputs[0].type.size * int(np.prod(node.inputs[1].shape[1:]))

    def lower(self, node: Node, context: Any) -> None:
        """Emit a convolution or depthwise kernel."""
        context.conv2d(node)


def along_channels(bias: Array, layout: str) -> Array:
    """Return one value per channel in a shape that broadcasts over a 4-D tensor."""
    return bias.reshape(-1, 1, 1) if layout == "NCHW" else bias
