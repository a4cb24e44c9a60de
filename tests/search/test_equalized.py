"""The default recipe on a network one of whose channels reaches far beyond the others."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from qcompile import driver, ops
from qcompile.config import CompileConfig
from qcompile.ir.graph import Graph
from qcompile.ir.parser import parse_graph
from qcompile.ops.interpreter import Interpreter
from qcompile.passmgr import PassContext

Array = npt.NDArray[Any]

NETWORK = """graph "uneven" {
  input %x : f32[1,8,8,4]
  const @w1 : f32[16,1,1,4] = normal(1, 0.5)
  const @b1 : f32[16] = normal(2, 0.2)
  const @w2 : f32[16,3,3,1] = normal(3, 0.3)
  const @b2 : f32[16] = normal(4, 0.2)
  const @w3 : f32[8,1,1,16] = normal(5, 0.3)
  const @b3 : f32[8] = normal(6, 0.2)
  const @w4 : f32[4,8] = normal(7, 0.3)
  const @b4 : f32[4] = normal(8, 0.2)
  %a = conv2d(%x, @w1, @b1) {layout="NHWC", activation="hard_swish"} : f32[1,8,8,16] loc("Conv_0")
  %d = conv2d(%a, @w2, @b2) {layout="NHWC", pads=[1,1,1,1], groups=16, activation="ACTIVATION", beta=6.0} : f32[1,8,8,16] loc("Depthwise_1")
  %e = conv2d(%d, @w3, @b3) {layout="NHWC", activation="relu"} : f32[1,8,8,8] loc("Conv_2")
  %p = global_avg_pool(%e) {layout="NHWC"} : f32[1,1,1,8] loc("Pool_3")
  %f = reshape(%p) {shape=[1,8]} : f32[1,8] loc("Flatten_4")
  %y = dense(%f, @w4, @b4) : f32[1,4] loc("Gemm_5")
  output "y" = %y
}
"""  # noqa: E501


def network(activation: str, outlier: float) -> Graph:
    """Return the network, the first layer's third channel being larger, and read with weights as much smaller."""
    graph = parse_graph(NETWORK.replace("ACTIVATION", activation), ops.all_ops(), source="test")
    first, second = graph.nodes[:2]
    for value, factor in ((first.inputs[1], outlier), (first.inputs[2], outlier), (second.inputs[1], 1 / outlier)):
        data = value.constant().copy()
        data[2] *= np.float32(factor)
        value.data = data
    return graph


def quantized(graph: Graph) -> tuple[Graph, float]:
    """Return the INT8 network of the default recipe, and its SQNR on samples that the recipe has not seen, dB."""
    rng = np.random.default_rng(5)
    images = rng.normal(0.0, 1.0, (400, 1, 8, 8, 4)).astype(np.float32)
    context = PassContext(samples=lambda: ({"x": image} for image in images[:300]))
    final, _ = driver.to_precision(graph, CompileConfig(precision="int8"), context, ())
    exact, rounded = Interpreter(graph), Interpreter(final)
    pairs = [(exact.run({"x": image})["y"], rounded.run({"x": image})["y"]) for image in images[300:]]
    noise = sum(float(np.square(a - b).sum()) for a, b in pairs)
    return final, 10 * np.log10(sum(float(np.square(a).sum()) for a, _ in pairs) / noise)


def divided(graph: Graph) -> list[str]:
    return [node.loc for node in graph.nodes if getattr(node.attrs, "divisors", ())]


@pytest.mark.parametrize("activation", ["clip", "hard_swish"])
def test_a_channel_that_reaches_far_costs_the_others_nothing(activation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    final, decibel = quantized(network(activation, 24.0))
    assert "Conv_0" in divided(final)
    assert all(node.precision == "int8" for node in final.nodes if node.op.name in ("conv2d", "dense"))
    text = driver.pipelines.observation
    monkeypatch.setattr(driver.pipelines, "observation", lambda config, equalized=False: text(config))
    plain, before = quantized(network(activation, 24.0))
    assert not divided(plain)
    assert decibel > before + 3.0
