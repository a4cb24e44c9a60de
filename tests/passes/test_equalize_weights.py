"""Which channels equalization leaves alone, and which networks."""

from __future__ import annotations

import numpy as np
import pytest

from qcompile import ops
from qcompile.ir.graph import Graph
from qcompile.ir.parser import parse_graph
from qcompile.ops.interpreter import Interpreter
from qcompile.passmgr import PassManager

PIPELINE = "equalize-weights{spread=1.0}"


def network(first: list[float], bias: list[float]) -> Graph:
    text = f"""graph "dead" {{
      input %x : f32[1,4,4,1]
      const @w1 : f32[4,1,1,1] = {first}
      const @b1 : f32[4] = {bias}
      const @w2 : f32[2,1,1,4] = [0.5, 8.0, 0.25, 4.0, 1.0, 9.0, 0.125, 2.0]
      const @b2 : f32[2] = [0.5, 0.0]
      %a = conv2d(%x, @w1, @b1) {{layout="NHWC", activation="relu"}} : f32[1,4,4,4]
      %y = conv2d(%a, @w2, @b2) {{layout="NHWC"}} : f32[1,4,4,2]
      output "y" = %y
    }}"""
    return parse_graph(text, ops.all_ops())


@pytest.mark.parametrize("dead", [1e-4, 1e-9, 1e-38])
def test_the_bias_of_a_dead_channel_does_not_grow(dead: float) -> None:
    graph = network([1.0, dead, 0.5, 0.25], [0.25, 0.5, 0.0, 0.25])
    made = PassManager(PIPELINE).run(graph)
    biases, before = (g.nodes[0].inputs[2].constant() for g in (made, graph))
    assert biases[1] == before[1]
    assert not np.array_equal(biases, before)
    x = {"x": np.random.default_rng(0).standard_normal((1, 4, 4, 1)).astype(np.float32)}
    np.testing.assert_allclose(Interpreter(made).run(x)["y"], Interpreter(graph).run(x)["y"], rtol=1e-5)


def test_a_channel_that_is_small_throughout_grows() -> None:
    graph = network([1.0, 1e-4, 0.5, 0.25], [0.25, 5e-5, 0.0, 0.25])
    made = PassManager(PIPELINE).run(graph)
    assert made.nodes[0].inputs[1].constant()[1] > 20 * graph.nodes[0].inputs[1].constant()[1]


def test_a_pad_that_adds_channels_ends_what_can_be_equalized() -> None:
    text = """graph "padded" {
      input %x : f32[1,4,4,2]
      const @w1 : f32[2,1,1,2] = [8.0, 4.0, 0.05, 0.025]
      const @b1 : f32[2] = [1.0, 0.125]
      const @w2 : f32[2,1,1,5] = normal(1)
      const @b2 : f32[2] = [0.5, 0.0]
      %a = conv2d(%x, @w1, @b1) {layout="NHWC", activation="relu"} : f32[1,4,4,2] loc("first")
      %p = pad(%a) {pads=[0,0,0,1,0,0,0,2]} : f32[1,4,4,5] loc("wider")
      %y = conv2d(%p, @w2, @b2) {layout="NHWC"} : f32[1,4,4,2]
      output "y" = %y
    }"""
    graph, manager = parse_graph(text, ops.all_ops()), PassManager(PIPELINE)
    assert manager.run(graph).structural_hash() == graph.structural_hash()
    assert "pad wider adds channels" in [skip.reason for skip in manager.records[0].skips]
