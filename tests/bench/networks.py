"""Networks for timing: the published architectures with seeded weights and live BatchNorms, as ONNX models.

Weights are noise, so these say nothing about accuracy; their shapes, and so their speed, are the real ones.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17


class NetworkBuilder:
    """Appends layers to one ONNX graph."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def constant(self, name: str, array: np.ndarray) -> str:
        self.weights.append(numpy_helper.from_array(array.astype(np.float32), name))
        return name

    def node(self, op: str, inputs: list[str], **attributes: object) -> str:
        name = f"{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [f"{name}_out"], name=name, **attributes))
        return f"{name}_out"

    def conv_bn(self, x: str, c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1) -> str:
        fan_in = c_in // groups * kernel * kernel
        prefix = f"conv{len(self.nodes)}"
        weight = self.random.normal(0, np.sqrt(2 / fan_in), (c_out, c_in // groups, kernel, kernel))
        pad = kernel // 2
        y = self.node(
            "Conv",
            [x, self.constant(f"{prefix}.w", weight)],
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[pad] * 4,
            group=groups,
        )
        statistics = {
            "scale": self.random.uniform(0.8, 1.2, c_out),
            "shift": self.random.normal(0, 0.1, c_out),
            "mean": self.random.normal(0, 0.1, c_out),
            "var": self.random.uniform(0.8, 1.2, c_out),
        }
        return self.node("BatchNormalization", [y, *(self.constant(f"{prefix}.{n}", v) for n, v in statistics.items())])

    def relu(self, x: str) -> str:
        return self.node("Relu", [x])

    def relu6(self, x: str) -> str:
        return self.node("Clip", [x, self.constant(f"lo{len(self.nodes)}", np.array(0.0)),
                                  self.constant(f"hi{len(self.nodes)}", np.array(6.0))])  # fmt: skip

    def classifier(self, x: str, features: int, classes: int = 1000) -> str:
        x = self.node("Flatten", [self.node("GlobalAveragePool", [x])])
        weight = self.constant("fc.w", self.random.normal(0, 0.02, (classes, features)))
        return self.node("Gemm", [x, weight, self.constant("fc.b", np.zeros(classes))], transB=1)

    def model(self, output: str, name: str, shape: tuple[int, ...] = (1, 3, 224, 224)) -> onnx.ModelProto:
        self.nodes[-1].output[0] = "logits"
        graph = helper.make_graph(
            self.nodes,
            name,
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, (shape[0], 1000))],
            self.weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
        onnx.checker.check_model(model)
        return model


def mobilenetv2() -> onnx.ModelProto:
    """Sandler et al., "MobileNetV2: Inverted residuals and linear bottlenecks", 2018, width 1.0."""
    b = NetworkBuilder(2)
    x, c = b.relu6(b.conv_bn("image", 3, 32, 3, 2)), 32
    for expand, out, repeat, stride in [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1),
                                        (6, 160, 3, 2), (6, 320, 1, 1)]:  # fmt: skip
        for i in range(repeat):
            s, hidden = (stride if i == 0 else 1), c * expand
            y = b.relu6(b.conv_bn(x, c, hidden, 1)) if expand != 1 else x
            y = b.relu6(b.conv_bn(y, hidden, hidden, 3, s, groups=hidden))
            y = b.conv_bn(y, hidden, out, 1)
            x, c = (b.node("Add", [x, y]) if s == 1 and c == out else y), out
    x = b.relu6(b.conv_bn(x, c, 1280, 1))
    return b.model(b.classifier(x, 1280), "mobilenetv2")


def resnet18() -> onnx.ModelProto:
    """He et al., "Deep residual learning for image recognition", 2015, 18 layers."""
    return _resnet(18, (2, 2, 2, 2), _basic_block, 512)


def resnet50() -> onnx.ModelProto:
    """He et al., 2015, 50 layers, with the stride in the 3×3 convolution."""
    return _resnet(50, (3, 4, 6, 3), _bottleneck, 2048)


Block = Callable[[NetworkBuilder, str, int, int, int], tuple[str, int]]


def _resnet(depth: int, repeats: tuple[int, ...], block: Block, features: int) -> onnx.ModelProto:
    b = NetworkBuilder(depth)
    x = b.relu(b.conv_bn("image", 3, 64, 7, 2))
    x, c = b.node("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4), 64
    for stage, repeat in enumerate(repeats):
        for i in range(repeat):
            x, c = block(b, x, c, 64 << stage, 2 if stage and i == 0 else 1)
    return b.model(b.classifier(x, features), f"resnet{depth}")


def _basic_block(b: NetworkBuilder, x: str, c: int, width: int, stride: int) -> tuple[str, int]:
    y = b.relu(b.conv_bn(x, c, width, 3, stride))
    y = b.conv_bn(y, width, width, 3)
    short = x if stride == 1 and c == width else b.conv_bn(x, c, width, 1, stride)
    return b.relu(b.node("Add", [y, short])), width


def _bottleneck(b: NetworkBuilder, x: str, c: int, width: int, stride: int) -> tuple[str, int]:
    y = b.relu(b.conv_bn(x, c, width, 1))
    y = b.relu(b.conv_bn(y, width, width, 3, stride))
    y = b.conv_bn(y, width, 4 * width, 1)
    short = x if stride == 1 and c == 4 * width else b.conv_bn(x, c, 4 * width, 1, stride)
    return b.relu(b.node("Add", [y, short])), 4 * width


NETWORKS = {"mobilenetv2": mobilenetv2, "resnet18": resnet18, "resnet50": resnet50}
