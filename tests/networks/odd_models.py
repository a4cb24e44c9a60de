"""Small networks in the odd forms in which older exporters and converters write them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray
IMAGE = (1, 3, 16, 16)
LAST = (1, 16, 16, 3)


class OddModel:
    """Builds a model of one input "x".

    Args:
        opset: version of the default domain.
        shape: of the input.
        ir_version: of the file; before 4 every initializer is an input, too.
    """

    def __init__(self, opset: int, shape: tuple[int, ...] = IMAGE, ir_version: int = 6) -> None:
        self.opset, self.shape, self.ir_version = opset, shape, ir_version
        self.random = np.random.default_rng(opset)
        self.nodes: list[Any] = []
        self.tensors: list[Any] = []
        self.names: list[str] = []

    def constant(self, array: Any) -> str:
        name = f"k{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def weights(self, *shape: int) -> str:
        spread = 1.4 / np.sqrt(np.prod(shape[1:]) if len(shape) == 4 else shape[0])
        return self.constant(self.random.normal(0, spread, shape).astype(np.float32))

    def vector(self, size: int, low: float = -0.3, high: float = 0.3) -> str:
        return self.constant(self.random.uniform(low, high, size).astype(np.float32))

    def node(self, op: str, inputs: Sequence[str], outputs: int = 1, **attributes: Any) -> str:
        """Append a node and return the name of its first output."""
        name = f"t{len(self.nodes)}"
        names = [name, *(f"{name}_{k}" for k in range(1, outputs))]
        self.nodes.append(helper.make_node(op, list(inputs), names, name=f"{op}_{len(self.nodes)}", **attributes))
        return name

    def integers(self, *numbers: int) -> str:
        """Return numbers as a Constant node."""
        return self.node("Constant", [], value=numpy_helper.from_array(np.array(numbers, np.int64)))

    def conv(self, x: str, inputs: int, outputs: int, kernel: int = 3, **attributes: Any) -> str:
        operands = [x, self.weights(outputs, inputs, kernel, kernel), self.vector(outputs)]
        return self.node("Conv", operands, **{"pads": [kernel // 2] * 4, **attributes})

    def normalized(self, x: str, channels: int, **attributes: Any) -> str:
        """Append a BatchNormalization."""
        parameters = [self.vector(channels, 0.5, 1.5), self.vector(channels), self.vector(channels),
                      self.vector(channels, 0.3, 1.5)]  # fmt: skip
        return self.node("BatchNormalization", [x, *parameters], epsilon=1e-3, **attributes)

    def model(self) -> Any:
        infos = [helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shape)]
        if self.ir_version < 4:
            infos += [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in self.tensors]
        outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in self.names]
        graph = helper.make_graph(self.nodes, "odd", infos, outputs, self.tensors)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=self.ir_version)


def tensorflow() -> OddModel:
    """Return what tf2onnx makes of a channels-last network: transposes around layers, bias and ReLU6 in pieces."""
    m = OddModel(9, LAST, 4)

    def layer(x: str, inputs: int, outputs: int, stride: int = 1, groups: int = 1) -> str:
        first = m.node("Transpose", [x], perm=[0, 3, 1, 2])
        weight = m.weights(outputs, inputs // groups, 3, 3)
        y = m.node("Conv", [first, weight], auto_pad="SAME_UPPER", strides=[stride] * 2, group=groups)
        y = m.node("Transpose", [y], perm=[0, 2, 3, 1])
        y = m.node("Add", [y, m.vector(outputs)])
        low, high = m.constant(np.float32(0)), m.constant(np.float32(6))
        return m.node("Max", [m.node("Min", [y, high]), low])

    y = layer("x", 3, 8, stride=2)
    y = m.node("Add", [layer(y, 8, 8, groups=8), y])
    y = m.node("Mul", [layer(y, 8, 12, stride=2), m.vector(12, 0.5, 1.5)])
    y = m.node("Squeeze", [m.node("ReduceMean", [y], axes=[1, 2], keepdims=1)], axes=[1, 2])
    y = m.node("Add", [m.node("MatMul", [y, m.weights(12, 5)]), m.vector(5)])
    m.names = [y]
    return m


def keras() -> OddModel:
    """Return opset 7 with statistics of every channel, an Upsample with an attribute, and initializers as inputs."""
    m = OddModel(7, ir_version=3)
    a = m.node("Relu", [m.normalized(m.conv("x", 3, 8), 8, spatial=1, momentum=0.99)])
    b = m.node("MaxPool", [a], kernel_shape=[2, 2], strides=[2, 2])
    b = m.node("Elu", [m.normalized(m.conv(b, 8, 8), 8, momentum=0.9)])
    up = m.node("Upsample", [b], mode="nearest", scales=[1.0, 1.0, 2.0, 2.0])
    y = m.node("Concat", [m.node("Dropout", [up], ratio=0.3), a], axis=1)
    m.names = [m.node("Sigmoid", [m.conv(y, 16, 2, 1)])]
    return m


def caffe() -> OddModel:
    """Return opset 8 with Scale layers as Mul and Add, LRN, a Flatten by Reshape with 0, and a Gemm."""
    m = OddModel(8, ir_version=3)
    y = m.conv("x", 3, 8, strides=[2, 2])
    scale, shift = (m.constant(m.random.uniform(0.5, 1.5, (8, 1, 1)).astype(np.float32)) for _ in range(2))
    y = m.node("PRelu", [m.node("Add", [m.node("Mul", [y, scale]), shift]), m.vector(1, 0.1, 0.3)])
    y = m.node("LRN", [y], size=3, alpha=0.1, beta=0.75, bias=1.0)
    y = m.node("AveragePool", [y], kernel_shape=[2, 2], strides=[2, 2])
    y = m.node("Reshape", [y, m.constant(np.array([0, -1]))])
    m.names = [m.node("Gemm", [m.node("Dropout", [y], outputs=2), m.weights(128, 6), m.vector(6)])]
    return m


def shape_arithmetic() -> OddModel:
    """Return a channel shuffle and a flattening whose shapes PyTorch computes from the tensor's."""
    m = OddModel(11)
    a = m.node("Relu", [m.conv("x", 3, 8, strides=[2, 2])])

    def extent(axis: int) -> str:
        return m.node("Gather", [m.node("Shape", [a]), m.node("Constant", [], value=_number(axis))], axis=0)

    def joined(*parts: str) -> str:
        return m.node("Concat", [m.node("Unsqueeze", [p], axes=[0]) for p in parts], axis=0)

    two = m.node("Constant", [], value=_number(2))
    half = m.node("Floor", [m.node("Cast", [m.node("Div", [extent(1), two])], to=TensorProto.FLOAT)])
    groups = m.node("Cast", [half], to=TensorProto.INT64)
    split = m.node("Reshape", [a, joined(extent(0), two, groups, extent(2), extent(3))])
    shuffled = m.node("Transpose", [split], perm=[0, 2, 1, 3, 4])
    back = m.node("Reshape", [shuffled, joined(extent(0), extent(1), extent(2), extent(3))])
    y = m.node("GlobalAveragePool", [m.node("Relu", [m.conv(back, 8, 8)])])
    rest = m.node("ReduceProd", [m.node("Slice", [m.node("Shape", [y]), m.integers(1), m.integers(4)])], keepdims=0)
    y = m.node("Reshape", [y, joined(extent(0), rest)])
    m.names = [m.node("Gemm", [y, m.weights(8, 4), m.vector(4)])]
    return m


def _number(value: int) -> Any:
    return numpy_helper.from_array(np.array(value, np.int64))


def resized_by_shape() -> OddModel:
    """Return feature pyramids whose resizing takes sizes, or ratios of sizes, from the other level."""
    m = OddModel(11)
    a = m.node("Relu", [m.conv("x", 3, 8)])
    b = m.node("Relu", [m.conv(a, 8, 8, strides=[2, 2])])
    c = m.node("Relu", [m.conv(b, 8, 8, strides=[2, 2])])
    none = m.constant(np.zeros(0, np.float32))

    def sizes(of: str) -> str:
        return m.node("Slice", [m.node("Shape", [of]), m.integers(2), m.integers(4), m.integers(0)])

    front = m.node("Slice", [m.node("Shape", [c]), m.integers(0), m.integers(2), m.integers(0)])
    wanted = m.node("Concat", [front, m.node("Cast", [sizes(b)], to=TensorProto.INT64)], axis=0)
    up = m.node("Resize", [c, none, none, wanted], mode="linear", coordinate_transformation_mode="pytorch_half_pixel")
    mixed = m.node("Add", [up, b])
    ratio = m.node("Div", [m.node("Cast", [sizes(k)], to=TensorProto.FLOAT) for k in (a, mixed)])
    scales = m.node("Concat", [m.constant(np.ones(2, np.float32)), ratio], axis=0)
    up = m.node("Resize", [mixed, none, scales], mode="nearest", coordinate_transformation_mode="asymmetric",
                nearest_mode="floor")  # fmt: skip
    m.names = [m.conv(m.node("Add", [up, a]), 8, 4, 1)]
    return m


def empty_tensors() -> OddModel:
    """Return tensors of no elements joined, sliced, split off and reduced beside a network."""
    m = OddModel(13, ir_version=7)
    a = m.node("Relu", [m.conv("x", 3, 8, strides=[2, 2])])
    nothing = m.constant(np.zeros((1, 0, 8, 8), np.float32))
    a = m.node("Concat", [nothing, a], axis=1)
    m.nodes.append(helper.make_node("Split", [a, m.constant(np.array([0, 8]))], ["none", "all"], axis=1))
    tail = m.node("Slice", ["all", m.integers(8), m.integers(99), m.integers(1)])
    b = m.conv(m.node("Concat", ["all", tail, "none"], axis=1), 8, 8)
    mean = m.node("ReduceSum", [tail, m.integers(1)], keepdims=1)
    m.names = [m.node("Add", [b, mean])]
    return m


def noise() -> OddModel:
    """Return a network full of nodes that do nothing."""
    m = OddModel(13, ir_version=7)
    x = m.node("Identity", [m.node("Cast", ["x"], to=TensorProto.FLOAT)])
    weight = m.node("Identity", [m.node("Identity", [m.weights(8, 3, 3, 3)])])
    y = m.node("Conv", [x, weight], pads=[1] * 4)
    y = m.node("Transpose", [m.node("Transpose", [y], perm=[0, 2, 3, 1])], perm=[0, 3, 1, 2])
    y = m.node("Cast", [m.node("Cast", [y], to=TensorProto.DOUBLE)], to=TensorProto.FLOAT)
    y = m.node("Pad", [m.node("Relu", [y]), m.integers(*[0] * 8)])
    y = m.node("Squeeze", [m.node("Unsqueeze", [y, m.integers(0)]), m.integers(0)])
    y = m.node("Mul", [m.node("Add", [y, m.constant(np.float32(0))]), m.constant(np.float32(1))])
    y = m.node("Dropout", [y, m.constant(np.float32(0.5)), m.constant(np.bool_(False))], outputs=2)
    y = m.node("Expand", [m.node("Reshape", [y, m.integers(0, 0, 16, -1)]), m.integers(1, 1, 1, 1)])
    y = m.conv(m.node("Concat", [y], axis=1), 8, 4, 1)
    y = m.node("Sum", [m.node("Slice", [y, m.integers(0), m.integers(2**63 - 1), m.integers(2)])])
    m.names = [m.node("Identity", [y]), y]
    return m


def _branch(m: OddModel, condition: str, then: Any, other: Any) -> str:
    """Append an If between two nodes of the outer graph's tensors."""
    bodies = {}
    for name, node in (("then_branch", then), ("else_branch", other)):
        out = helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, None)
        bodies[name] = helper.make_graph([node], name, [], [out])
    return m.node("If", [condition], **bodies)


def constant_branches() -> OddModel:
    """Return branches on extents: PyTorch's squeeze of an axis that may be single, and a layer for some extents."""
    m = OddModel(11)
    a = m.node("GlobalAveragePool", [m.node("Relu", [m.conv("x", 3, 8)])])
    size = m.node("Gather", [m.node("Shape", [a]), m.node("Constant", [], value=_number(3))], axis=0)
    single = m.node("Equal", [size, m.node("Constant", [], value=_number(1))])
    squeezed = helper.make_node("Squeeze", [a], ["inner_a"], axes=[3])
    a = _branch(m, single, squeezed, helper.make_node("Identity", [a], ["inner_b"]))
    a = m.node("Squeeze", [a], axes=[2])
    large = m.node("Not", [m.node("Greater", [size, m.node("Constant", [], value=_number(4))])])
    weight, bias = m.weights(8, 8), m.vector(8)
    layer = helper.make_node("Gemm", [a, weight, bias], ["inner_c"])
    a = _branch(m, large, layer, helper.make_node("Relu", [a], ["inner_d"]))
    m.names = [m.node("Gemm", [m.node("Tanh", [a]), m.weights(8, 4), m.vector(4)])]
    return m


def masks() -> OddModel:
    """Return masks made of ConstantOfShape: places by NonZero, an assignment to them by ScatterND, a causal one."""
    m = OddModel(11)
    a = m.conv("x", 3, 4, strides=[2, 2])
    shape = m.node("Shape", [a])
    ones = m.node("ConstantOfShape", [shape], value=numpy_helper.from_array(np.ones(1, np.float32)))
    a = m.node("Mul", [a, ones])
    border = m.constant(np.pad(np.zeros((6, 6), np.float32), 1, constant_values=1))
    places = m.node("Transpose", [m.node("NonZero", [border])], perm=[1, 0])
    plane = m.node("Reshape", [m.node("Transpose", [a], perm=[2, 3, 0, 1]), m.constant(np.array([8, 8, 4]))])
    seen = m.node("GatherND", [plane, places])
    count = m.node("Shape", [seen])
    still = m.node("ConstantOfShape", [count], value=numpy_helper.from_array(np.full(1, 0.5, np.float32)))
    plane = m.node("ScatterND", [plane, places, m.node("Mul", [seen, still])])
    rows = m.node("Reshape", [plane, m.constant(np.array([64, 4]))])
    scores = m.node("MatMul", [rows, m.node("Transpose", [rows], perm=[1, 0])])
    causal = m.constant(np.triu(np.ones((64, 64), np.float32), 1))
    hidden = m.node("Equal", [causal, m.constant(np.float32(1))])
    scores = m.node("Where", [hidden, m.constant(np.float32(-1e9)), scores])
    y = m.node("MatMul", [m.node("Softmax", [scores], axis=1), rows])
    m.names = [m.node("Gemm", [y, m.weights(4, 4), m.vector(4)])]
    return m


def boxes() -> OddModel:
    """Return a detector with its decoding in the graph: TopK, GatherElements, corners of boxes, suppression."""
    m = OddModel(11)
    a = m.node("Relu", [m.conv("x", 3, 16, strides=[2, 2])])
    raw = m.node("Transpose", [m.conv(a, 16, 6, 1)], perm=[0, 2, 3, 1])
    raw = m.node("Reshape", [raw, m.constant(np.array([1, 64, 6]))])
    m.nodes.append(helper.make_node("Split", [raw], ["middle", "size", "chance"], axis=2, split=[2, 2, 2]))
    grid = np.stack(np.meshgrid(np.arange(8), np.arange(8)), -1).reshape(1, 64, 2).astype(np.float32)
    middle = m.node("Add", [m.node("Sigmoid", ["middle"]), m.constant(grid)])
    half = m.node("Mul", [m.node("Exp", ["size"]), m.constant(np.float32(0.5))])
    corners = m.node("Concat", [m.node(op, [middle, half]) for op in ("Sub", "Add")], axis=2)
    shares = m.node("Softmax", ["chance"], axis=2)
    best = m.node("TopK", [m.node("ReduceMax", [shares], axes=[2], keepdims=0), m.constant(np.array([10]))],
                  outputs=2, axis=1)  # fmt: skip
    index = m.node("Unsqueeze", [f"{best}_1"], axes=[2])
    index = m.node("Expand", [index, m.constant(np.array([1, 10, 4]))])
    m.names = [m.node("GatherElements", [corners, index], axis=1), best]
    return m


MODELS: dict[str, Callable[[], OddModel]] = {
    "TensorFlow, channels last": tensorflow,
    "Keras, opset 7": keras,
    "Caffe, opset 8": caffe,
    "shape arithmetic": shape_arithmetic,
    "resized by shape": resized_by_shape,
    "empty tensors": empty_tensors,
    "noise": noise,
    "constant branches": constant_branches,
    "masks": masks,
    "boxes": boxes,
}
