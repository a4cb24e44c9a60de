"""Random models of QuantizeLinear and DequantizeLinear, as converters of other tools write them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto, helper

from .quantized_styles import SHAPE, QdqModel

STYLES = [
    ("uint8", "int8", True), ("int8", "int8", True), ("int8", "int8", False), ("uint8", "uint8", False),
    ("int16", "int8", True), ("uint16", "uint8", False), ("int8", "int8", True), ("uint8", "uint8", True),
]  # fmt: skip
"""Element types of activations and weights, and whether each output channel has a scale of its own."""


@dataclass
class Tensor:
    """A rounded tensor: name, shape and the range of its grid."""

    name: str
    shape: tuple[int, ...]
    low: float
    high: float


class Sketch:
    """A model while it grows.

    Args:
        seed: decides everything.
    """

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        dtype, weights, per_channel = STYLES[seed % len(STYLES)]
        self.m = QdqModel(dtype, weights, per_channel=per_channel, symmetric=weights == "int8", opset=21)
        self.m.random = self.random
        self.operands: dict[str, list[str]] = {}
        self.tensors = [self.rounded("x", SHAPE, -2.5, 2.6, [])]

    def rounded(self, y: str, shape: tuple[int, ...], low: float, high: float, operands: Sequence[Tensor]) -> Tensor:
        """Round a result to a grid of its own, and make it an output."""
        name = self.m.pair(y, low, high)
        self.m.output(f"o{len(self.m.outputs)}", name)
        self.operands[f"o{len(self.m.outputs) - 1}"] = [t.name for t in operands]
        self.last = Tensor(name, shape, low, high)
        self.outputs = {**getattr(self, "outputs", {}), name: f"o{len(self.m.outputs) - 1}"}
        return self.last

    def finish(self, y: str, shape: tuple[int, ...], low: float, high: float, operands: Sequence[Tensor]) -> None:
        """Round a result to a range near the one it may have: trained scales are no measured ones."""
        factor = float(self.random.uniform(0.6, 1.3))
        self.tensors.append(self.rounded(y, shape, low * factor, high * factor, operands))

    def pick(self, rank: int = 4) -> Tensor:
        """Return one of the tensors, newer ones more often."""
        fitting = [t for t in self.tensors if len(t.shape) == rank]
        return fitting[-1 - min(int(self.random.exponential(1.5)), len(fitting) - 1)]

    def like(self, t: Tensor) -> Tensor:
        """Return a tensor of the same shape with another grid."""
        same = [other for other in self.tensors if other.shape == t.shape]
        return same[int(self.random.integers(len(same)))]


def convolution(s: Sketch) -> None:
    t = s.pick()
    channels, kernel, stride = t.shape[1], int(s.random.choice([1, 3])), int(s.random.choice([1, 1, 2]))
    depthwise = s.random.random() < 0.4
    outputs, groups = (channels, channels) if depthwise else (int(s.random.choice([4, 8, 12])), 1)
    y = s.m.conv(t.name, channels, outputs, kernel, groups, strides=[stride, stride])
    size = tuple((d + 2 * (kernel // 2) - kernel) // stride + 1 for d in t.shape[2:])
    low, high = -2.5, 2.5
    end = s.random.choice(["none", "Relu", "Clip", "HardSwish", "LeakyRelu", "swish", "Sigmoid"])
    if end == "Relu":
        y, low = s.m.node("Relu", [y]), 0.0
    elif end == "Clip":
        y, low, high = s.m.node("Clip", [y, *(s.m.constant(np.float32(v)) for v in (0, 6))]), 0.0, 4.0
    elif end == "HardSwish":
        y, low = _hard_swish(s, y), -0.375
    elif end == "LeakyRelu":
        y, low = s.m.node("LeakyRelu", [y], alpha=0.1), -0.3
    elif end == "swish":
        y, low = s.m.node("Mul", [y, s.m.node("Sigmoid", [y])]), -0.28
    elif end == "Sigmoid":
        y, low, high = s.m.node("Sigmoid", [y]), 0.0, 1.0
    s.finish(y, (1, outputs, *size), low, high, [t])


def _hard_swish(s: Sketch, y: str) -> str:
    """Return x · clip(x + 3, 0, 6) / 6 in one of the forms that exporters write."""
    three, six, zero = (s.m.constant(np.float32(v)) for v in (3, 6, 0))
    if s.random.random() < 0.3:
        return s.m.node("Mul", [y, s.m.node("HardSigmoid", [y], alpha=1 / 6, beta=0.5)])
    gate = s.m.node("Clip", [s.m.node("Add", [y, three]), zero, six])
    if s.random.random() < 0.5:
        return s.m.node("Div", [s.m.node("Mul", [y, gate]), six])
    return s.m.node("Mul", [y, s.m.node("Div", [gate, six])])


def binary(s: Sketch) -> None:
    t = s.pick()
    other = s.like(t)
    op = str(s.random.choice(["Add", "Add", "Sub", "Mul"]))
    y = s.m.node(op, [t.name, other.name])
    reach = max(-t.low, t.high) * max(-other.low, other.high) if op == "Mul" else t.high - t.low
    low, high = -0.7 * reach, 0.7 * reach
    if op == "Add" and s.random.random() < 0.4:
        y, low = s.m.node("Relu", [y]), 0.0
    s.finish(y, t.shape, low, high, [t, other])


def concatenation(s: Sketch) -> None:
    t = s.pick()
    parts = [t, *(s.like(t) for _ in range(int(s.random.integers(1, 3))))]
    y = s.m.node("Concat", [part.name for part in parts], axis=1)
    channels = sum(part.shape[1] for part in parts)
    if channels <= 40:
        s.finish(y, (1, channels, *t.shape[2:]), min(p.low for p in parts), max(p.high for p in parts), parts)


def pool(s: Sketch) -> None:
    t = s.pick()
    if min(t.shape[2:]) < 3:
        return
    op = str(s.random.choice(["MaxPool", "AveragePool"]))
    y = s.m.node(op, [t.name], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    shape = (*t.shape[:2], *((d - 1) // 2 + 1 for d in t.shape[2:]))
    if op == "MaxPool" and s.random.random() < 0.5:
        s.tensors.append(s.rounded(y, shape, t.low, t.high, [t]))
    else:
        s.finish(y, shape, t.low, t.high, [t])


def global_pool(s: Sketch) -> None:
    t = s.pick()
    y = s.m.node("GlobalAveragePool", [t.name])
    s.finish(y, (*t.shape[:2], 1, 1), 0.5 * t.low, 0.5 * t.high, [t])


def gate(s: Sketch) -> None:
    """Scale channels by what a global pool says: squeeze and excite."""
    t = s.pick()
    mean = s.rounded(s.m.node("GlobalAveragePool", [t.name]), (*t.shape[:2], 1, 1), 0.6 * t.low, 0.6 * t.high, [t])
    shares = s.rounded(s.m.node("Sigmoid", [mean.name]), mean.shape, 0.0, 1.0, [mean])
    s.finish(s.m.node("Mul", [t.name, shares.name]), t.shape, t.low, t.high, [t, shares])


def moved(s: Sketch) -> None:
    """Move elements as converters from channels-last formats do, with a rounding on the same grid between."""
    t = s.pick()
    last = s.m.node("Transpose", [t.name], perm=[0, 2, 3, 1])
    between = s.rounded(last, tuple(t.shape[a] for a in (0, 2, 3, 1)), t.low, t.high, [t])
    back = s.m.node("Transpose", [between.name], perm=[0, 3, 1, 2])
    s.m.scales[back] = s.m.scales[between.name]
    s.finish(s.m.node("Relu", [back]), t.shape, 0.0, t.high, [between])


def resized(s: Sketch) -> None:
    t = s.pick()
    if max(t.shape[2:]) > 12:
        return
    scales = s.m.constant(np.array([1, 1, 2, 2], np.float32))
    mode = str(s.random.choice(["nearest", "linear"]))
    more = {"nearest_mode": "floor"} if mode == "nearest" else {}
    y = s.m.node("Resize", [t.name, "", scales], mode=mode, coordinate_transformation_mode="asymmetric", **more)
    s.finish(y, (*t.shape[:2], *(2 * d for d in t.shape[2:])), t.low, t.high, [t])


def leaky(s: Sketch) -> None:
    t = s.pick()
    s.finish(s.m.node("LeakyRelu", [t.name], alpha=0.2), t.shape, 0.2 * t.low, t.high, [t])


def connected(s: Sketch) -> None:
    """Add a fully connected layer, behind a pool where nothing is flat yet: Gemm, or MatMul and Add."""
    t = s.pick(2) if any(len(t.shape) == 2 for t in s.tensors) and s.random.random() < 0.5 else _flat(s)
    inputs, outputs = t.shape[1], int(s.random.choice([5, 8]))
    if s.random.random() < 0.5:
        weight, scales = s.m.weight((outputs, inputs))
        y = s.m.node("Gemm", [t.name, weight, s.m.bias(outputs, t.name, scales)], transB=1)
    else:
        weight, scales = s.m.weight((inputs, outputs), axis=1)
        y = s.m.node("Add", [s.m.node("MatMul", [t.name, weight]), s.m.bias(outputs, t.name, scales)])
    s.finish(y, (1, outputs), -2.0, 2.0, [t])


def _flat(s: Sketch) -> Tensor:
    t = s.pick()
    mean = s.rounded(s.m.node("GlobalAveragePool", [t.name]), (*t.shape[:2], 1, 1), t.low, t.high, [t])
    return s.rounded(s.m.node("Flatten", [mean.name]), t.shape[:2], t.low, t.high, [mean])


def blocked(s: Sketch) -> None:
    """Multiply by weights of 4 bits with a scale for every few of their rows."""
    t = _flat(s)
    rows, outputs = t.shape[1], 6
    block = int(s.random.choice([2, 4]))
    codes = s.random.integers(-8, 8, rows * outputs)
    name = f"codes{len(s.m.tensors)}"
    s.m.tensors.append(helper.make_tensor(name, TensorProto.INT4, [rows, outputs], codes.tolist()))
    scale = s.m.constant(s.random.uniform(0.02, 0.08, (-(-rows // block), outputs)).astype(np.float32))
    weight = s.m.node("DequantizeLinear", [name, scale], axis=0, block_size=block)
    s.finish(s.m.node("MatMul", [t.name, weight]), (1, outputs), -1.5, 1.5, [t])


def transposed_convolution(s: Sketch) -> None:
    t = s.pick()
    if max(t.shape[2:]) > 12:
        return
    outputs = int(s.random.choice([4, 6]))
    weight, scales = s.m.weight((t.shape[1], outputs, 2, 2), axis=1)
    y = s.m.node("ConvTranspose", [t.name, weight, s.m.bias(outputs, t.name, scales)], strides=[2, 2])
    s.finish(y, (1, outputs, *(2 * d for d in t.shape[2:])), -2.5, 2.5, [t])


def product(s: Sketch) -> None:
    """Multiply two activations, as attention does, and scale the result to where it was."""
    t = s.pick()
    channels, places = t.shape[1], t.shape[2] * t.shape[3]
    grid = [t.low, t.high, [t]]
    rows = s.rounded(s.m.node("Reshape", [t.name, s.m.constant(np.array([1, channels, places]))]),
                     (1, channels, places), *grid)  # fmt: skip
    columns = s.rounded(
        s.m.node("Transpose", [rows.name], perm=[0, 2, 1]), (1, places, channels), t.low, t.high, [rows]
    )
    y = s.m.node("MatMul", [rows.name, columns.name])
    reach = 0.5 * places * max(-t.low, t.high) ** 2
    s.finish(y, (1, channels, channels), -0.3 * reach, reach, [rows, columns])


def at_run_time(s: Sketch) -> None:
    """Quantize a tensor by its own range at run time, for a product of integers."""
    t = s.pick()
    names = [f"d{len(s.m.nodes)}_{k}" for k in range(3)]
    s.m.nodes.append(helper.make_node("DynamicQuantizeLinear", [t.name], names, name=names[0]))
    outputs, channels = 6, t.shape[1]
    weights = s.m.constant(s.random.integers(-127, 128, (outputs, channels, 1, 1)).astype(np.int8))
    scale = s.m.constant(np.float32(0.8 / 127 / np.sqrt(channels)))
    whole = s.m.node("ConvInteger", [names[0], weights, names[2]])
    factor = s.m.node("Mul", [names[1], scale])
    y = s.m.node("Mul", [s.m.node("Cast", [whole], to=TensorProto.FLOAT), factor])
    s.finish(y, (1, outputs, *t.shape[2:]), -2.5, 2.5, [t])


STEPS: list[Callable[[Sketch], None]] = [
    convolution, convolution, binary, binary, concatenation, pool, global_pool, gate, moved, resized, leaky, connected,
    blocked, transposed_convolution, product, at_run_time,
]  # fmt: skip


def sketch(seed: int) -> Sketch:
    """Return a random model of a few steps."""
    s = Sketch(seed)
    for _ in range(int(s.random.integers(2, 7))):
        STEPS[int(s.random.integers(len(STEPS)))](s)
    return s
