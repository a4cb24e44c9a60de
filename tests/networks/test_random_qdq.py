"""Random graphs of QuantizeLinear and DequantizeLinear, as converters of other tools write them, beside ONNX Runtime.

Each is also tried in operators on integers (QLinearConv, …), as ONNX Runtime's own optimizer writes it.

Every rounded tensor is an output. Where ONNX Runtime found the same operands, its results are at most one step away;
where an operand was a step off already, that step goes through the next node, too. `QCOMPILE_RANDOM_QDQ` sets how many
graphs (20; nightly runs take 1,000).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from qcompile import driver
from qcompile.config import CompileConfig
from qcompile.ir.graph import Graph
from qcompile.onnx_import import import_onnx
from qcompile.ops.interpreter import Interpreter
from qcompile.passmgr import PassContext

from .quantized_styles import SHAPE, QdqModel

COUNT = int(os.environ.get("QCOMPILE_RANDOM_QDQ", "20"))
STYLES = [("uint8", "int8", True), ("int8", "int8", True), ("int8", "int8", False), ("uint8", "uint8", False)]
AROUND = {"quantize", "dequantize", "quantize_linear", "reshape", "transpose"}


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
        self.m = QdqModel(dtype, weights, per_channel=per_channel, symmetric=weights == "int8")
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


STEPS: list[Callable[[Sketch], None]] = [
    convolution, convolution, binary, binary, concatenation, pool, global_pool, gate, moved, resized,
]  # fmt: skip


def sketch(seed: int) -> Sketch:
    """Return a random model of a few steps."""
    s = Sketch(seed)
    for _ in range(int(s.random.integers(2, 7))):
        STEPS[int(s.random.integers(len(STEPS)))](s)
    return s


def integers(model: Any) -> tuple[Graph, list[str]]:
    config, context = CompileConfig(precision="int8"), PassContext()
    graph, _ = driver.simplify(import_onnx(model), config, context, ())
    return driver.to_precision(graph, config, context, ())[0], context.notes


def expected(model: Any, names: Sequence[str], inputs: dict[str, Any]) -> dict[str, Any]:
    """Return what ONNX Runtime makes of the model as it is written: without fusions of its own."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip(names, session.run(list(names), inputs), strict=True))


def with_integer_operators(model: Any, path: Path) -> Any:
    """Return what ONNX Runtime's optimizer makes of the model: QLinearConv, QLinearAdd, QLinearConcat, …"""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(path)
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(path)


@pytest.mark.parametrize("form", ["pairs", "operators"])
@pytest.mark.parametrize("seed", range(COUNT))
def test_every_rounded_tensor(seed: int, form: str, tmp_path: Path) -> None:
    s = sketch(seed)
    model = s.m.model()
    if form == "operators":
        model = with_integer_operators(model, tmp_path / "m.onnx")
    graph, notes = integers(model)
    inputs = {"x": np.random.default_rng(seed).normal(0, 1, SHAPE).astype(np.float32)}
    wanted, found = expected(model, list(s.m.outputs), inputs), Interpreter(graph).run(inputs)
    exact = {}
    for name, step in s.m.outputs.items():
        steps = np.abs(found[name] - wanted[name]).max() / step
        exact[name] = steps < 0.01
        same = all(exact[s.outputs[operand]] for operand in s.operands[name])
        assert steps <= (1.01 if same else 6.01), f"{name} is {steps:.2f} steps away"
    left = [str(node) for node in graph.nodes if node.op.name == "fake_quantize"]
    assert bool(left) == any(" in float32: " in note for note in notes), f"{left} {notes}"
