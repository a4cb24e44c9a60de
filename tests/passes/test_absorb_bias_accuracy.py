"""What absorption of biases is worth in int8: a channel far above zero no longer sets the range of its tensor."""

from __future__ import annotations

import numpy as np
import pytest

from qcompile import ops
from qcompile.ir.graph import Graph
from qcompile.ir.parser import parse_graph
from qcompile.ops.interpreter import Interpreter
from qcompile.passmgr import PassContext, PassManager
from qcompile.quant.noise_power import decibels, deviation_power

TEXT = """
graph "high bias" {
  input %x : f32[1,6,6,8]
  const @w1 : f32[16,1,1,8] = normal(1, 0.2)
  const @b1 : f32[16] = [0.0, 0.1, 0.0, -0.1, 0.2, 0.0, 0.1, 0.0, 40.0, 0.0, -0.2, 0.1, 0.0, 30.0, 0.1, 0.0]
  const @w2 : f32[8,1,1,16] = normal(3, 0.3)
  const @b2 : f32[8] = normal(4)
  %a = conv2d(%x, @w1, @b1) {layout="NHWC", activation="relu"} : f32[1,6,6,16]
  %y = conv2d(%a, @w2, @b2) {layout="NHWC"} : f32[1,6,6,8]
  output "y" = %y
}
"""
RECIPE = 'insert-observers{observer="minmax"},calibrate,assign-precision,quantize,fuse-requantize'


def samples(count: int, seed: int) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(seed)
    return [{"x": random.standard_normal((1, 6, 6, 8)).astype(np.float32)} for _ in range(count)]


def source() -> Graph:
    graph = parse_graph(TEXT, ops.all_ops(), source="high bias")
    first = graph.nodes[0]
    weight, bias = (v.constant() for v in first.inputs[1:3])
    # Of independent inputs with mean 0 and deviation 1, as a BatchNorm would have learned them.
    deviation = np.sqrt((weight.reshape(16, 8) ** 2).sum(axis=1))
    first.output.stats = (bias.astype(np.float32), deviation.astype(np.float32))
    return graph


def ratio(pipeline: str) -> float:
    given, inputs = samples(16, 0), samples(16, 1)
    final = PassManager(pipeline).run(source(), PassContext(samples=lambda: iter(given)))
    exact = np.concatenate([Interpreter(source()).run(s)["y"] for s in inputs])
    found = np.concatenate([Interpreter(final).run(s)["y"] for s in inputs])
    # The constant part of the outputs would hide the noise.
    mean = exact.mean(axis=(0, 1, 2))
    return decibels(*deviation_power(exact - mean, found - mean))


def test_absorption_gives_the_other_channels_their_resolution_back() -> None:
    assert ratio(f"absorb-bias,{RECIPE}") > ratio(RECIPE) + 15.0


def test_few_values_are_below_what_a_channel_always_exceeds() -> None:
    given = samples(16, 1)
    exact = np.concatenate([Interpreter(source()).run(s)["y"] for s in given])
    absorbed = PassManager("absorb-bias").run(source(), PassContext())
    found = np.concatenate([Interpreter(absorbed).run(s)["y"] for s in given])
    # 3 deviations below the mean hold for 99.865 % of normal values.
    assert (np.abs(found - exact) > 1e-3).mean() < 0.01
    assert absorbed.nodes[0].inputs[2].constant().max() == pytest.approx(3 * 0.6, abs=1.0)
