"""2-D transposed convolution: every input element adds a scaled kernel to the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from qcompile.ir.graph import Node, Value
from qcompile.ir.opdef import Array, OpDef, Quantization
from qcompile.ir.types import TensorType
from qcompile.ops.arithmetic import (
    activate,
    check_accumulator,
    check_activation,
    check_epilogue,
    finish_accumulator,
    integer_matmul,
)
from qcompile.ops.computed_weights import biased, has_computed, is_computed, spread
from qcompile.ops.onnx_node import OnnxNode
from qcompile.ops.reshape import reshaped
from qcompile.ops.spatial import Pads, from_nhwc, plane, spatial_axes, to_nhwc, windowed, with_spatial
from qcompile.ops.transpose import transposed
from qcompile.quant.qparams import QParams


@dataclass(frozen=True)
class ConvTranspose2dAttrs:
    """Attributes of conv_transpose2d.

    Args:
        strides: vertical and horizontal distance, in the result, of neighbouring input elements.
        pads: elements cut off at top, left, bottom, right.
        dilations: distance of taps, elements.
        groups: channel groups.
        output_padding: rows and columns added at bottom and right, which receive the bias alone.
        layout: "NCHW" (weight OIHW) or "NHWC" (weight OHWI).
        activation: applied last, one of ACTIVATIONS.
        alpha: first parameter of the activation.
        beta: second parameter of the activation.
        residual: whether the last operand is added before the activation.
        pre_activation: integer form: QParams before an activation that is a table.
    """

    strides: tuple[int, int] = (1, 1)
    pads: Pads = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)
    groups: int = 1
    output_padding: tuple[int, int] = (0, 0)
    layout: str = "NCHW"
    activation: str = "none"
    alpha: float = 0.0
    beta: float = 0.0
    residual: bool = False
    pre_activation: QParams | None = None

    def __post_init__(self) -> None:
        if self.layout not in ("NCHW", "NHWC"):
            raise ValueError(f"layout '{self.layout}' is neither NCHW nor NHWC")
        check_activation(self.activation)
        if min(*self.strides, *self.dilations, self.groups) < 1 or min(*self.pads, *self.output_padding) < 0:
            raise ValueError(
                f"strides {self.strides}, dilations {self.dilations}, groups {self.groups}, pads {self.pads}, "
                f"output_padding {self.output_padding}"
            )

    def canvas(self, size: Sequence[int], kernel: Sequence[int]) -> tuple[int, int]:
        """Return height and width of the result before `pads` are cut off.

        Formula:
            (size − 1)·stride + dilation·(kernel − 1) + 1 + output_padding

        Args:
            size: height and width of the operand, elements.
            kernel: height and width of the kernel, taps.
        """
        height, width = (
            (size[a] - 1) * self.strides[a] + self.dilations[a] * (kernel[a] - 1) + 1 + self.output_padding[a]
            for a in (0, 1)
        )
        return height, width

    def extents(self, size: Sequence[int], kernel: Sequence[int]) -> tuple[int, int]:
        """Return height and width of the result; see `canvas`."""
        height, width = self.canvas(size, kernel)
        return height - self.pads[0] - self.pads[2], width - self.pads[1] - self.pads[3]


def _from_onnx(node: OnnxNode) -> Value:
    if node.has(2) and has_computed(node):
        return biased(node, _from_onnx)
    axes = len(node.type(0).shape) - 2
    if axes not in (1, 2) or node.type(1).rank != axes + 2:
        node.fail(f"{axes}-D transposed convolution of {node.type(0)}; only 1-D and 2-D ones are supported")
    x, weight = plane(node, node.value(0), "plane"), plane(node, node.value(1), "weight.plane")
    groups = int(node.attr("group", 1))
    channels, per_group, kh, kw = weight.shape
    if groups < 1 or channels % groups or channels != x.shape[1]:
        node.fail(f"weight {weight.type} does not fit {x.type} in {groups} groups")
    strides, dilations, extra = (
        (fill, *node.attr(name, [fill] * axes))[-2:]
        for name, fill in (("strides", 1), ("dilations", 1), ("output_padding", 0))
    )
    pads, added = _transposed_pads(node, x.shape[2:], (kh, kw), strides, dilations, extra)
    outputs = per_group * groups
    if is_computed(weight):
        window: dict[str, Any] = {"strides": strides, "pads": pads, "dilations": dilations, "added": added}
        return spread(node, x, _output_major(node, weight, groups), **window, groups=groups)
    bias = node.value(2) if node.has(2) else node.constant("bias", np.zeros(outputs, x.dtype))
    return windowed(
        node,
        "conv_transpose2d",
        [x, _output_major(node, weight, groups), bias],
        strides=strides,
        pads=pads,
        dilations=dilations,
        groups=groups,
        output_padding=added,
    )


def _output_major(node: OnnxNode, weight: Value, groups: int) -> Value:
    """Bring ONNX's weight [C_in, O/groups, kH, kW] into the form of conv2d: [O, C_in/groups, kH, kW]."""
    channels, per_group, kh, kw = weight.shape
    name = f"{node.outputs[0]}.weight"
    apart = reshaped(node, weight, (groups, channels // groups, per_group, kh, kw), f"{name}.groups")
    swapped = transposed(node, apart, (0, 2, 1, 3, 4), f"{name}.swapped")
    return reshaped(node, swapped, (groups * per_group, channels // groups, kh, kw), name)


def _transposed_pads(
    node: OnnxNode,
    size: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    extra: Sequence[int],
) -> tuple[Pads, tuple[int, int]]:
    """Return pads and output_padding from `pads`, `auto_pad` or `output_shape`."""
    mode = node.attr("auto_pad", "NOTSET")
    wanted = node.attr("output_shape")
    if wanted is None and mode in ("SAME_UPPER", "SAME_LOWER"):
        wanted = [size[a] * strides[a] for a in (0, 1)]
    if wanted is None:
        given = [0, 0, 0, 0] if mode == "VALID" else node.attr("pads", [0, 0, 0, 0])
        if min(given) < 0:
            node.fail(f"negative pads {given}")
        half = len(given) // 2
        top, left = (0, *given[:half])[-2:]
        bottom, right = (0, *given[half:])[-2:]
        return (top, left, bottom, right), (extra[0], extra[1])
    begin, end, added = [0, 0], [0, 0], [extra[0], extra[1]]
    for a, target in enumerate((1, *wanted)[-2:]):
        full = (size[a] - 1) * strides[a] + dilations[a] * (kernel[a] - 1) + 1 + extra[a]
        surplus = full - int(target)
        if surplus < 0:
            # The result is larger than what the kernels reach: the rest is bias.
            added[a] -= surplus
            continue
        small, large = surplus // 2, surplus - surplus // 2
        begin[a], end[a] = (small, large) if mode == "SAME_UPPER" else (large, small)
    return (begin[0], begin[1], end[0], end[1]), (added[0], added[1])


class ConvTranspose2d(OpDef):
    """y[n, h·s+i·d−p, w·s+j·d−p, o] += x[n,h,w,c] · weight[o,i,j,c], then + bias[o] and the activation.

    Operands: x, weight (output channels first, as conv2d has it), bias [O], and with `residual` a tensor of the
    result's shape.

    Source:
        ONNX ConvTranspose; the integer form accumulates as conv2d does.
    """

    name = "conv_transpose2d"
    Attrs = ConvTranspose2dAttrs
    activations = (0,)
    integer = Quantization.ACCUMULATE
    onnx: ClassVar[dict[str, Any]] = {"ConvTranspose": _from_onnx}

    def infer(self, attrs: ConvTranspose2dAttrs, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the type of the result."""
        x, weight, bias = inputs[:3]
        if x.rank != 4 or weight.rank != 4:
            raise ValueError(f"conv_transpose2d needs 4-D operands, got {x} and {weight}")
        if len(inputs) != (4 if attrs.residual else 3):
            raise ValueError(f"conv_transpose2d got {len(inputs)} operands")
        channels = x.shape[1] if attrs.layout == "NCHW" else x.shape[3]
        outputs, kernel, per_group = _weight_extents(attrs, weight.shape)
        if per_group * attrs.groups != channels or outputs % attrs.groups:
            raise ValueError(f"weight {weight} does not fit {channels} channels in {attrs.groups} groups")
        if bias.shape != (outputs,):
            raise ValueError(f"bias {bias} does not fit {outputs} output channels")
        extents = attrs.extents([x.shape[a] for a in spatial_axes(attrs.layout)], kernel)
        if min(extents) < 1:
            raise ValueError(f"pads {list(attrs.pads)} leave nothing of the result")
        result = x.with_shape(with_spatial(x.shape, attrs.layout, extents, outputs))
        if attrs.residual and inputs[3].shape != result.shape:
            raise ValueError(f"residual {inputs[3]} does not fit the result {result}")
        return (result,)

    def evaluate(self, attrs: ConvTranspose2dAttrs, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Compute the transposed convolution in the precision of the operands."""
        x, weight = to_nhwc(inputs[0], attrs.layout), to_nhwc(inputs[1], attrs.layout)
        y = _scatter(x, weight, attrs) + inputs[2]
        if attrs.residual:
            y = y + to_nhwc(inputs[3], attrs.layout)
        return (from_nhwc(activate(y, attrs.activation, attrs.alpha, attrs.beta), attrs.layout),)

    def evaluate_integer(self, node: Node, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Compute it on int8 operands; see `qcompile.ops.arithmetic.finish_accumulator`."""
        attrs, params = node.attrs, node.inputs[0].qparams
        if params is None:
            raise ValueError(f"{node}: operand 0 is not quantized")
        centred = to_nhwc(inputs[0], attrs.layout).astype(np.int16) - np.int16(params.scalar_zero_point)
        acc = _scatter(centred, to_nhwc(inputs[1], attrs.layout), attrs) + inputs[2]
        residual = to_nhwc(inputs[3], attrs.layout) if attrs.residual else None
        return (from_nhwc(finish_accumulator(node, acc.astype(np.int32), residual), attrs.layout),)

    def check(self, node: Node) -> None:
        """Check that the accumulator cannot overflow, and that the activation has an integer form."""
        if node.is_integer:
            check_epilogue(node)
            check_accumulator(node, int(np.prod(node.inputs[1].shape[1:])))

    def macs(self, node: Node) -> int:
        """Return input elements times taps times output channels per group."""
        weight = node.inputs[1].shape
        outputs, kernel, _ = _weight_extents(node.attrs, weight)
        per_element = kernel[0] * kernel[1] * outputs // int(node.attrs.groups)
        return node.inputs[0].type.size * per_element

    def lower(self, node: Node, context: Any) -> None:
        """Emit a transposed convolution kernel."""
        context.conv_transpose2d(node)


def _weight_extents(attrs: ConvTranspose2dAttrs, weight: Sequence[int]) -> tuple[int, tuple[int, int], int]:
    """Return output channels, kernel extents and input channels per group."""
    o, a, b, c = weight
    return (o, (b, c), a) if attrs.layout == "NCHW" else (o, (a, b), c)


def _scatter(x: Array, weight: Array, attrs: ConvTranspose2dAttrs) -> Array:
    """Add every tap's products to the places they belong; integers give exact int32 sums."""
    n, height, width, channels = x.shape
    outputs, kh, kw, _ = weight.shape
    groups = attrs.groups
    pixels = x.reshape(n * height * width, groups, channels // groups).transpose(1, 0, 2)
    columns = weight.reshape(groups, outputs // groups * kh * kw, channels // groups).transpose(0, 2, 1)
    multiply = integer_matmul if x.dtype.kind == "i" else np.matmul
    products = multiply(pixels, columns).reshape(groups, n, height, width, outputs // groups, kh, kw)
    taps = products.transpose(5, 6, 1, 2, 3, 0, 4).reshape(kh, kw, n, height, width, outputs)
    full = attrs.canvas((height, width), (kh, kw))
    canvas = np.zeros((n, *full, outputs), taps.dtype)
    for i in range(kh):
        for j in range(kw):
            top, left = i * attrs.dilations[0], j * attrs.dilations[1]
            bottom, right = top + (height - 1) * attrs.strides[0] + 1, left + (width - 1) * attrs.strides[1] + 1
            canvas[:, top : bottom : attrs.strides[0], left : right : attrs.strides[1]] += taps[i, j]
    return canvas[:, attrs.pads[0] : full[0] - attrs.pads[2], attrs.pads[1] : full[1] - attrs.pads[3]]
