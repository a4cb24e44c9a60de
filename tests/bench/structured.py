"""More networks for timing: squeeze-excite, concatenations and splits of channels, with seeded weights."""

from __future__ import annotations

import numpy as np
import onnx
from networks import NetworkBuilder


class StructureBuilder(NetworkBuilder):
    """Adds what these networks are made of."""

    def hard_swish(self, x: str) -> str:
        return self.node("HardSwish", [x])

    def silu(self, x: str) -> str:
        return self.node("Mul", [x, self.node("Sigmoid", [x])])

    def concat(self, parts: list[str]) -> str:
        return self.node("Concat", parts, axis=1)

    def conv(self, x: str, c_in: int, c_out: int, kernel: int = 1) -> str:
        name = f"conv{len(self.nodes)}"
        weight = self.random.normal(0, np.sqrt(2 / (c_in * kernel * kernel)), (c_out, c_in, kernel, kernel))
        bias = self.constant(f"{name}.b", self.random.normal(0, 0.1, c_out))
        inputs = [x, self.constant(f"{name}.w", weight), bias]
        return self.node("Conv", inputs, kernel_shape=[kernel, kernel], pads=[kernel // 2] * 4)

    def squeeze_excite(self, x: str, channels: int, inner: int, gate: str) -> str:
        y = self.conv(self.node("GlobalAveragePool", [x]), channels, inner)
        y = self.silu(y) if gate == "Sigmoid" else self.relu(y)
        return self.node("Mul", [x, self.node(gate, [self.conv(y, inner, channels)])])


def mobilenetv3() -> onnx.ModelProto:
    """Howard et al., "Searching for MobileNetV3", 2019, large."""
    b = StructureBuilder(3)
    x, c = b.hard_swish(b.conv_bn("image", 3, 16, 3, 2)), 16
    rows = [(3, 16, 16, 0, 0, 1), (3, 64, 24, 0, 0, 2), (3, 72, 24, 0, 0, 1), (5, 72, 40, 24, 0, 2),
            (5, 120, 40, 32, 0, 1), (5, 120, 40, 32, 0, 1), (3, 240, 80, 0, 1, 2), (3, 200, 80, 0, 1, 1),
            (3, 184, 80, 0, 1, 1), (3, 184, 80, 0, 1, 1), (3, 480, 112, 120, 1, 1), (3, 672, 112, 168, 1, 1),
            (5, 672, 160, 168, 1, 2), (5, 960, 160, 240, 1, 1), (5, 960, 160, 240, 1, 1)]  # fmt: skip
    for kernel, hidden, out, squeeze, swish, stride in rows:
        act = b.hard_swish if swish else b.relu
        y = act(b.conv_bn(x, c, hidden, 1)) if hidden != c else x
        y = act(b.conv_bn(y, hidden, hidden, kernel, stride, groups=hidden))
        y = b.squeeze_excite(y, hidden, squeeze, "HardSigmoid") if squeeze else y
        y = b.conv_bn(y, hidden, out, 1)
        x, c = (b.node("Add", [x, y]) if stride == 1 and c == out else y), out
    x = b.node("GlobalAveragePool", [b.hard_swish(b.conv_bn(x, c, 960, 1))])
    return b.model(b.classifier(b.hard_swish(b.conv(x, 960, 1280)), 1280), "mobilenetv3")


def efficientnet_b0() -> onnx.ModelProto:
    """Tan and Le, "EfficientNet: Rethinking model scaling", 2019, B0."""
    b = StructureBuilder(5)
    x, c = b.silu(b.conv_bn("image", 3, 32, 3, 2)), 32
    rows = [(1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5),
            (6, 192, 4, 2, 5), (6, 320, 1, 1, 3)]  # fmt: skip
    for expand, out, repeat, first, kernel in rows:
        for i in range(repeat):
            s, hidden = (first if i == 0 else 1), c * expand
            y = b.silu(b.conv_bn(x, c, hidden, 1)) if expand != 1 else x
            y = b.silu(b.conv_bn(y, hidden, hidden, kernel, s, groups=hidden))
            y = b.conv_bn(b.squeeze_excite(y, hidden, max(1, c // 4), "Sigmoid"), hidden, out, 1)
            x, c = (b.node("Add", [x, y]) if s == 1 and c == out else y), out
    return b.model(b.classifier(b.silu(b.conv_bn(x, c, 1280, 1)), 1280), "efficientnet_b0")


def densenet121() -> onnx.ModelProto:
    """Huang et al., "Densely connected convolutional networks", 2016, 121 layers (BatchNorm after convolutions)."""
    b = StructureBuilder(121)
    x, c = b.relu(b.conv_bn("image", 3, 64, 7, 2)), 64
    x = b.node("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    for stage, repeat in enumerate((6, 12, 24, 16)):
        for _ in range(repeat):
            y = b.relu(b.conv_bn(b.relu(b.conv_bn(x, c, 128, 1)), 128, 32, 3))
            x, c = b.concat([x, y]), c + 32
        if stage < 3:
            x, c = b.relu(b.conv_bn(x, c, c // 2, 1)), c // 2
            x = b.node("AveragePool", [x], kernel_shape=[2, 2], strides=[2, 2])
    return b.model(b.classifier(x, c), "densenet121")


def squeezenet() -> onnx.ModelProto:
    """Iandola et al., "SqueezeNet", 2016, version 1.1."""
    b = StructureBuilder(11)
    x, c = b.relu(b.conv("image", 3, 64, 3)), 64
    for number, (squeeze, expand) in enumerate([(16, 64)] * 2 + [(32, 128)] * 2 + [(48, 192)] * 2 + [(64, 256)] * 2):
        if number in (0, 2, 4):
            x = b.node("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2])
        y = b.relu(b.conv(x, c, squeeze))
        x = b.concat([b.relu(b.conv(y, squeeze, expand)), b.relu(b.conv(y, squeeze, expand, 3))])
        c = 2 * expand
    return b.model(b.classifier(x, c), "squeezenet")


def shufflenetv2() -> onnx.ModelProto:
    """Ma et al., "ShuffleNet V2", 2018, width 1.0."""
    b = StructureBuilder(22)
    x, c, size = b.relu(b.conv_bn("image", 3, 24, 3, 2)), 24, 56
    x = b.node("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    for out, repeat in ((116, 4), (232, 8), (464, 4)):
        half, size = out // 2, size // 2
        for i in range(repeat):
            stride = 2 if i == 0 else 1
            if stride == 2:
                left = b.relu(b.conv_bn(b.conv_bn(x, c, c, 3, 2, groups=c), c, half, 1))
                right, width = x, c
            else:
                left, right = f"left{len(b.nodes)}", f"right{len(b.nodes)}"
                node = onnx.helper.make_node("Split", [x], [left, right], name=f"Split_{len(b.nodes)}", axis=1)
                b.nodes.append(node)
                width = half
            y = b.relu(b.conv_bn(right, width, half, 1))
            y = b.relu(b.conv_bn(b.conv_bn(y, half, half, 3, stride, groups=half), half, half, 1))
            x, c = shuffled(b, b.concat([left, y]), out, size), out
    return b.model(b.classifier(b.relu(b.conv_bn(x, c, 1024, 1)), 1024), "shufflenetv2")


def shuffled(b: StructureBuilder, x: str, channels: int, size: int) -> str:
    """Interleave the halves of the channels."""
    for shape, turn in (((1, 2, channels // 2, size, size), True), ((1, channels, size, size), False)):
        name = f"shape{len(b.nodes)}"
        b.weights.append(onnx.numpy_helper.from_array(np.array(shape, np.int64), name))
        x = b.node("Reshape", [x, name])
        if turn:
            x = b.node("Transpose", [x], perm=[0, 2, 1, 3, 4])
    return x


NETWORKS = {
    "mobilenetv3": mobilenetv3,
    "efficientnet_b0": efficientnet_b0,
    "densenet121": densenet121,
    "squeezenet": squeezenet,
    "shufflenetv2": shufflenetv2,
}
