"""Models that bring their own quantization, and recurrent ones, on ARM: the interpreter's integers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qcompile import driver, targets
from qcompile.config import CompileConfig
from qcompile.ir.graph import Graph
from qcompile.lower import lower_graph
from qcompile.onnx_import import import_onnx
from qcompile.ops.interpreter import Interpreter
from qcompile.passmgr import PassContext

from .test_bit_exact import CORES

pytestmark = pytest.mark.arm

SHAPE, CHANNELS = (1, 16, 10, 10), 16
STEPS, INPUTS, HIDDEN = 5, 12, 20


class QdqBuilder:
    """A chain of convolutions in QuantizeLinear and DequantizeLinear, with a residual."""

    def __init__(self) -> None:
        self.random, self.nodes, self.constants = np.random.default_rng(4), [], []

    def constant(self, name: str, array: np.ndarray) -> str:
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def node(self, op: str, inputs: list[str], **attributes: Any) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], **attributes))
        return name

    def pair(self, x: str, scale: float, zero: int) -> str:
        n = len(self.nodes)
        parameters = [self.constant(f"s{n}", np.float32(scale)), self.constant(f"z{n}", np.int8(zero))]
        return self.node("DequantizeLinear", [self.node("QuantizeLinear", [x, *parameters]), *parameters])

    def conv(self, x: str, x_scale: float, kernel: int, groups: int = 1) -> str:
        n, count = len(self.nodes), CHANNELS // groups
        codes = self.random.integers(-127, 128, (CHANNELS, count, kernel, kernel)).astype(np.int8)
        scales = self.random.uniform(0.5, 1.5, CHANNELS) / 75 / np.sqrt(count) / kernel
        scale = self.constant(f"ws{n}", scales.astype(np.float32))
        zero = self.constant(f"wz{n}", np.zeros(CHANNELS, np.int8))
        weight = self.node("DequantizeLinear", [self.constant(f"w{n}", codes), scale, zero], axis=0)
        bias = self.random.integers(-500, 500, CHANNELS).astype(np.int32)
        scaled = self.constant(f"bs{n}", (scales * x_scale).astype(np.float32))
        none = self.constant(f"bz{n}", np.zeros(CHANNELS, np.int32))
        added = self.node("DequantizeLinear", [self.constant(f"b{n}", bias), scaled, none], axis=0)
        return self.node("Conv", [x, weight, added], pads=[kernel // 2] * 4, group=groups)

    def model(self) -> Any:
        x = self.pair("x", 0.02, 3)
        y = self.pair(self.node("Relu", [self.conv(x, 0.02, 3)]), 0.015, -128)
        y = self.pair(self.node("Relu", [self.conv(y, 0.015, 3, CHANNELS)]), 0.015, -128)
        y = self.pair(self.conv(y, 0.015, 1), 0.02, -7)
        self.nodes[-1].output[0] = "sum_of"
        y = self.pair(self.node("Add", ["sum_of", x]), 0.03, 5)
        self.nodes[-1].output[0] = "y"
        infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, SHAPE) for name in "xy"]
        graph = helper.make_graph(self.nodes, "qdq", infos[:1], infos[1:], self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def lstm() -> Any:
    """Return an LSTM and a product of its last state."""
    rng = np.random.default_rng(6)
    shapes = {"w": (1, 4 * HIDDEN, INPUTS), "r": (1, 4 * HIDDEN, HIDDEN), "b": (1, 8 * HIDDEN), "v": (HIDDEN, 7)}
    tensors = [numpy_helper.from_array(rng.normal(0, 0.4, s).astype("f4"), n) for n, s in shapes.items()]
    tensors.append(numpy_helper.from_array(np.array([1, HIDDEN]), "flat"))
    nodes = [
        helper.make_node("LSTM", ["x", "w", "r", "b"], ["", "h"], hidden_size=HIDDEN),
        helper.make_node("Reshape", ["h", "flat"], ["last"]),
        helper.make_node("MatMul", ["last", "v"], ["y"]),
    ]
    infos = [helper.make_tensor_value_info("x", TensorProto.FLOAT, (STEPS, 1, INPUTS)),
             helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 7))]  # fmt: skip
    graph = helper.make_graph(nodes, "lstm", infos[:1], infos[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def samples(shape: tuple[int, ...], count: int = 8) -> Iterator[dict[str, np.ndarray]]:
    rng = np.random.default_rng(8)
    return iter([{"x": rng.standard_normal(shape).astype(np.float32)} for _ in range(count)])


def integers_of(model: Any, shape: tuple[int, ...]) -> Graph:
    """Return the graph that is lowered."""
    onnx.checker.check_model(model)
    config, context = CompileConfig(precision="int8"), PassContext()
    context.samples = lambda: samples(shape)
    graph, _ = driver.simplify(import_onnx(model), config, context, ())
    return driver.to_precision(graph, config, context, ())[0]


@pytest.mark.parametrize("target", ["rpi3", "rpi4", "rpi5", "graviton3"])
def test_a_model_with_its_own_scales(target: str, run_emulated) -> None:
    graph = integers_of(QdqBuilder().model(), SHAPE)
    assert sum(node.op.name == "conv2d" and node.is_integer for node in graph.nodes) == 3
    inputs = next(samples(SHAPE, 1))
    got = run_emulated(lower_graph(graph, targets.load(target)), CORES[target], inputs, 1)
    np.testing.assert_array_equal(got["y"], Interpreter(graph).run(inputs)["y"])


@pytest.mark.parametrize("target", ["rpi4", "rpi5"])
def test_an_lstm_with_integer_products(target: str, run_emulated) -> None:
    """Gates are real numbers, to the last bits: a code next to a tie may fall to either side, no further."""
    shape = (STEPS, 1, INPUTS)
    graph = integers_of(lstm(), shape)
    products = [node for node in graph.nodes if node.op.name == "dense" and node.is_integer]
    assert len(products) >= STEPS
    inputs = next(samples(shape, 1))
    got = run_emulated(lower_graph(graph, targets.load(target)), CORES[target], inputs, 1)["y"]
    expected = Interpreter(graph).run(inputs)["y"]
    assert np.abs(got - expected).max() <= 0.02 * np.abs(expected).max()
    assert np.mean(got == expected) >= 0.5
