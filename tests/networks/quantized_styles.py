"""Small networks in the forms in which tools export quantized models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray
SHAPE = (1, 8, 12, 12)
LAST = (1, 12, 12, 8)


class QdqModel:
    """Builds a model in QuantizeLinear and DequantizeLinear.

    Args:
        dtype: of activations.
        weights: element type of weights.
        per_channel: whether each output channel has a scale (and a zero point) of its own.
        symmetric: whether weights have zero point 0.
        float_weights: whether weights are stored in float and quantized in the graph.
        most: largest integer of activations in use, None for the type's own.
        opset: version of the default domain.
    """

    def __init__(
        self,
        dtype: str = "uint8",
        weights: str = "int8",
        per_channel: bool = True,
        symmetric: bool = True,
        float_weights: bool = False,
        opset: int = 17,
        most: int | None = None,
    ) -> None:
        self.most = np.iinfo(dtype).max if most is None else most
        self.dtype, self.weights, self.per_channel = dtype, weights, per_channel
        self.symmetric, self.float_weights, self.opset = symmetric, float_weights, opset
        self.random = np.random.default_rng(7)
        self.nodes: list[Any] = []
        self.tensors: list[Any] = []
        self.outputs: dict[str, float] = {}
        self.scales: dict[str, float] = {}

    def constant(self, array: Array, name: str = "") -> str:
        name = name or f"k{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def node(self, op: str, inputs: Sequence[str], **attributes: Any) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=f"{op}_{len(self.nodes)}", **attributes))
        return name

    def pair(self, x: str, low: float, high: float) -> str:
        """Round a tensor to the grid of a range."""
        ends = np.iinfo(self.dtype)
        scale = np.float32((high - low) / (self.most - ends.min))
        zero = np.array(round(ends.min - low / float(scale)), self.dtype)
        parameters = [self.constant(scale), self.constant(zero)]
        q = self.node("QuantizeLinear", [x, *parameters])
        if self.most < ends.max:
            q = self.node("Clip", [q, *(self.constant(np.array(v, self.dtype)) for v in (ends.min, self.most))])
        y = self.node("DequantizeLinear", [q, *parameters])
        self.scales[y] = float(scale)
        return y

    def weight(self, shape: tuple[int, ...], axis: int = 0, spread: float = 1.0) -> tuple[str, Array]:
        """Return dequantized weights and their scales."""
        values = self.random.normal(0.05, spread / np.sqrt(np.prod(shape) / shape[axis]), shape)
        others = tuple(a for a in range(len(shape)) if a != axis) if self.per_channel else None
        low, high = np.minimum(values.min(others), 0), np.maximum(values.max(others), 0)
        ends = np.iinfo(self.weights)
        if self.symmetric:
            scales = np.maximum(-low, high) / (ends.max if ends.min else 127)
            zeros = np.full_like(scales, 0 if ends.min else 128)
        else:
            scales = (high - low) / (ends.max - ends.min)
            zeros = np.rint(ends.min - low / scales)
        scales = np.asarray(scales, np.float32)
        along = [-1 if a == axis else 1 for a in range(len(shape))] if self.per_channel else []
        own, offset = scales.reshape(along), zeros.reshape(along)
        codes = np.clip(np.rint(values / own) + offset, ends.min, ends.max).astype(self.weights)
        parameters = [self.constant(scales), self.constant(np.asarray(zeros, self.weights))]
        options = {"axis": axis} if self.per_channel else {}
        if self.float_weights:
            real = self.constant(((codes.astype(np.int32) - offset) * own).astype(np.float32))
            stored = self.node("QuantizeLinear", [real, *parameters], **options)
        else:
            stored = self.constant(codes)
        return self.node("DequantizeLinear", [stored, *parameters], **options), scales

    def bias(self, count: int, x: str, scales: Array) -> str:
        codes = self.random.integers(-3000, 3000, count).astype(np.int32)
        scale = self.constant(np.asarray(self.scales[x] * scales, np.float32))
        zero = self.constant(np.zeros(scales.shape, np.int32))
        axis = {"axis": 0} if scales.shape else {}
        return self.node("DequantizeLinear", [self.constant(codes), scale, zero], **axis)

    def conv(self, x: str, inputs: int, outputs: int, kernel: int = 3, groups: int = 1, **attributes: Any) -> str:
        weight, scales = self.weight((outputs, inputs // groups, kernel, kernel))
        pads = {"pads": [kernel // 2] * 4, **attributes}
        return self.node("Conv", [x, weight, self.bias(outputs, x, scales)], group=groups, **pads)

    def output(self, name: str, y: str) -> None:
        """Name a rounded tensor as an output."""
        self.nodes.append(helper.make_node("Identity", [y], [name]))
        self.outputs[name] = self.scales[y]

    def model(self, shape: tuple[int, ...] = SHAPE) -> Any:
        inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
        outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in self.outputs]
        graph = helper.make_graph(self.nodes, "quantized", inputs, outputs, self.tensors)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=10)


def residual(m: QdqModel) -> QdqModel:
    """Add a residual network: convolutions of all kinds, an addition, a pool and a fully connected end."""
    x = m.pair("x", -2.5, 2.6)
    a = m.pair(m.node("Relu", [m.conv(x, 8, 12, strides=[2, 2])]), 0, 3)
    b = m.pair(m.node("Relu", [m.conv(a, 12, 12, groups=12)]), 0, 2)
    c = m.pair(m.conv(b, 12, 12, 1), -2, 2)
    d = m.pair(m.node("Relu", [m.node("Add", [c, a])]), 0, 4)
    m.output("features", d)
    e = m.pair(m.node("GlobalAveragePool", [d]), 0, 2)
    f = m.pair(m.node("Flatten", [e]), 0, 2)
    weight, scales = m.weight((12, 5), axis=1)
    product = m.node("MatMul", [f, weight])
    m.output("scores", m.pair(m.node("Add", [product, m.bias(5, f, scales)]), -2, 2))
    return m


def fake_quantized() -> QdqModel:
    """Return what PyTorch's fake quantization exports: float weights quantized in the graph, activations of 7 bits."""
    return residual(QdqModel("uint8", "int8", float_weights=True, most=127))


def relu6() -> QdqModel:
    """Return a network trained with quantization: Clip to 0..6 before the rounding, trained scales."""
    m = QdqModel("int8", "int8")
    x = m.pair("x", -2.5, 2.6)
    limits = [m.constant(np.float32(0)), m.constant(np.float32(6))]
    a = m.pair(m.node("Clip", [m.conv(x, 8, 16), *limits]), 0, 6)
    b = m.pair(m.node("Clip", [m.conv(a, 16, 16, groups=16, strides=[2, 2]), *limits]), 0, 5.1)
    m.output("y", m.pair(m.conv(b, 16, 8, 1), -3.7, 2.9))
    return m


def channels_last() -> QdqModel:
    """Return what converters make of a TFLite file: NHWC outside, transposes around each convolution."""
    m = QdqModel("int8", "int8")
    x = m.pair("x", -2.5, 2.6)

    def convolved(y: str, inputs: int, outputs: int, kernel: int, groups: int = 1) -> str:
        first = m.node("Transpose", [y], perm=[0, 3, 1, 2])
        m.scales[first] = m.scales[y]
        return m.node("Transpose", [m.conv(first, inputs, outputs, kernel, groups)], perm=[0, 2, 3, 1])

    a = m.pair(m.node("Relu", [convolved(x, 8, 16, 3)]), 0, 3)
    b = m.pair(m.node("Relu", [convolved(a, 16, 16, 3, 16)]), 0, 2)
    c = m.pair(convolved(b, 16, 8, 1), -2, 2)
    d = m.pair(m.node("Add", [c, x]), -4, 4)
    e = m.pair(m.node("ReduceMean", [d], axes=[1, 2], keepdims=0), -1, 1)
    weight, scales = m.weight((4, 8))
    m.output("y", m.pair(m.node("Gemm", [e, weight, m.bias(4, e, scales)], transB=1), -1, 1))
    return m


def around_everything() -> QdqModel:
    """Return roundings around concatenation, pools, resizes, softmax and elementwise operators."""
    m = QdqModel("uint8", "int8")
    x = m.pair("x", -2.5, 2.6)
    a = m.pair(m.conv(x, 8, 8), -3, 3)
    pooled = m.pair(m.node("MaxPool", [a], kernel_shape=[2, 2], strides=[2, 2]), -3, 3)
    mean = m.pair(m.node("AveragePool", [a], kernel_shape=[2, 2], strides=[2, 2]), -2, 2)
    both = m.pair(m.node("Concat", [pooled, mean], axis=1), -3, 3)
    m.output("joined", both)
    scales = m.constant(np.array([1, 1, 2, 2], np.float32))
    near = m.pair(m.node("Resize", [both, "", scales], mode="nearest", coordinate_transformation_mode="asymmetric",
                         nearest_mode="floor"), -3, 3)  # fmt: skip
    fine = m.pair(m.node("Resize", [both, "", scales], mode="linear"), -3, 3)
    m.output("linear", fine)
    gate = m.pair(m.node("Sigmoid", [near]), 0, 1)
    m.output("gated", m.pair(m.node("Mul", [near, gate]), -1, 3))
    low, high = (m.pair(part, -3, 3) for part in (m.node("Slice", [fine, *(m.constant(np.array([v])) for v in span)])
                                                  for span in ((0, 8, 1), (8, 16, 1))))  # fmt: skip
    m.output("less", m.pair(m.node("Sub", [low, high]), -6, 6))
    flat = m.pair(m.node("Reshape", [low, m.constant(np.array([1, 8, 144]))]), -3, 3)
    m.output("shares", m.pair(m.node("Softmax", [flat], axis=-1), 0, 1))
    other = m.pair(m.node("Transpose", [flat], perm=[0, 2, 1]), -3, 3)
    m.output("product", m.pair(m.node("MatMul", [flat, other]), -300, 600))
    return m


def integer_operators() -> QdqModel:
    """Return the QOperator form of a small network, with asymmetric weights of one zero point a channel."""
    m = QdqModel("uint8", "uint8", per_channel=True, symmetric=False)
    s, z = [m.constant(np.float32(v)) for v in (0.02, 0.03, 0.05)], [m.constant(np.uint8(v)) for v in (125, 7, 130)]
    q = m.node("QuantizeLinear", ["x", s[0], z[0]])
    codes = m.constant(m.random.integers(0, 256, (12, 8, 3, 3)).astype(np.uint8))
    w_scale = m.constant(m.random.uniform(0.002, 0.006, 12).astype(np.float32))
    w_zero = m.constant(m.random.integers(0, 256, 12).astype(np.uint8))
    bias = m.constant(m.random.integers(-999, 999, 12).astype(np.int32))
    c = m.node("QLinearConv", [q, s[0], z[0], codes, w_scale, w_zero, s[1], z[1], bias], pads=[1, 1, 1, 1])
    down = m.constant(m.random.integers(0, 256, (12, 1, 3, 3)).astype(np.uint8))
    one = [m.constant(np.float32(0.007)), m.constant(np.uint8(90))]
    d = m.node("QLinearConv", [c, s[1], z[1], down, *one, s[2], z[2]], pads=[1, 1, 1, 1], group=12)
    y = m.node("DequantizeLinear", [d, s[2], z[2]])
    m.scales[y] = 0.05
    m.output("map", y)
    flat = m.node("Reshape", [c, m.constant(np.array([144, 12]))])
    matrix = [m.constant(m.random.integers(0, 256, (12, 6)).astype(np.uint8)), *one]
    p = m.node("QLinearMatMul", [flat, s[1], z[1], *matrix, s[2], z[2]])
    y = m.node("DequantizeLinear", [p, s[2], z[2]])
    m.scales[y] = 0.05
    m.output("rows", y)
    return m


def asymmetric_layers() -> QdqModel:
    """Return asymmetric uint8 weights in transposed, one-dimensional, grouped and dilated depthwise convolutions."""
    m = QdqModel("uint8", "uint8", per_channel=False, symmetric=False)
    x = m.pair("x", -2.5, 2.6)
    weight, _ = m.weight((8, 6, 3, 3), axis=1)
    m.output("large", m.pair(m.node("ConvTranspose", [x, weight], strides=[2, 2], pads=[1, 1, 0, 0]), -3, 3))
    rows = m.pair(m.node("Reshape", [x, m.constant(np.array([1, 8, 144]))]), -2.5, 2.6)
    weight, _ = m.weight((6, 8, 5))
    m.output("sound", m.pair(m.node("Conv", [rows, weight], dilations=[2], pads=[4, 4]), -3, 3))
    weight, _ = m.weight((16, 2, 3, 3))
    m.output("groups", m.pair(m.node("Conv", [x, weight], group=4, pads=[1] * 4, strides=[2, 1]), -3, 3))
    weight, _ = m.weight((8, 1, 3, 3))
    m.output("dilated", m.pair(m.node("Conv", [x, weight], group=8, pads=[2] * 4, dilations=[2, 2]), -3, 3))
    return m


def four_bits() -> QdqModel:
    """Return weights of 4 bits, one scale a channel, between activations of 8 bits."""
    m = QdqModel("uint8", opset=21)
    x = m.pair("x", -2.5, 2.6)
    codes = m.random.integers(-8, 8, (8, 8, 1, 1))
    m.tensors.append(helper.make_tensor("codes", TensorProto.INT4, codes.shape, codes.reshape(-1).tolist()))
    scale = m.constant(m.random.uniform(0.02, 0.06, 8).astype(np.float32))
    weight = m.node("DequantizeLinear", ["codes", scale], axis=0)
    m.output("y", m.pair(m.node("Conv", [x, weight]), -3, 3))
    return m


STYLES: dict[str, Callable[[], QdqModel]] = {
    "static uint8, int8 per channel": lambda: residual(QdqModel("uint8", "int8")),
    "static uint8, uint8": lambda: residual(QdqModel("uint8", "uint8", per_channel=False, symmetric=False)),
    "static uint8, uint8 per channel": lambda: residual(QdqModel("uint8", "uint8", symmetric=False)),
    "static int8, int8 asymmetric": lambda: residual(QdqModel("int8", "int8", symmetric=False)),
    "int16, uint8": lambda: residual(QdqModel("int16", "uint8", symmetric=False, opset=21)),
    "uint16, int8": lambda: residual(QdqModel("uint16", "int8", opset=21)),
    "fake-quantized": fake_quantized,
    "relu6": relu6,
    "channels last": channels_last,
    "around everything": around_everything,
    "integer operators": integer_operators,
    "asymmetric layers": asymmetric_layers,
    "int4 weights": four_bits,
}
