"""A quantization whose scale the data decide: what makes the scale, and what multiplies with it."""

from __future__ import annotations

import numpy as np

from qcompile import ops
from qcompile.cost import precision_of
from qcompile.ir.parser import parse_graph
from qcompile.ops.interpreter import Interpreter
from qcompile.passmgr import PassContext, PassManager
from qcompile.passmgr.run_time_scales import scaling_nodes
from qcompile.search.score import mac_shares

DYNAMIC = """graph "dynamic" {
  input %x : f32[4,16]
  const @w0 : f32[16,16] = normal(1, 0.3)
  const @b0 : f32[16] = normal(2, 0.1)
  const @most : f32[] = [127.0]
  const @none : i8[] = [0]
  const @w : i8[8,16] = normal(3, 30)
  const @zero : i32[] = [0]
  const @step : f32[] = [0.01]
  %y = dense(%x, @w0, @b0) : f32[4,16] loc("first")
  %a = abs(%y) : f32[4,16] loc("sizes")
  %m = reduce_max(%a) {axes=[0, 1], keepdims=false} : f32[] loc("largest")
  %s = div(%m, @most) : f32[] loc("scale")
  %q = quantize_linear(%y, %s, @none) {dtype="int8", qmin=-128, qmax=127} : i8[4,16] loc("rounded")
  %p = dense_integer(%q, @w, @zero) : i32[4,8] loc("product")
  %f = cast(%p) {dtype="float32"} : f32[4,8] loc("real")
  %t = mul(%s, @step) : f32[] loc("both")
  %z = mul(%f, %t) : f32[4,8] loc("scaled")
  output "z" = %z
}
"""


def test_makers_and_readers_of_scales_are_found() -> None:
    graph = parse_graph(DYNAMIC, ops.all_ops())
    assert {node.loc for node in scaling_nodes(graph)} == {"largest", "scale", "both", "scaled"}


def test_they_stay_in_float_and_the_integers_right() -> None:
    graph = parse_graph(DYNAMIC, ops.all_ops())
    random = np.random.default_rng(0)
    samples = [{"x": random.normal(0, s, (4, 16)).astype(np.float32)} for s in (0.3, 1, 3)]
    manager = PassManager("insert-observers,calibrate,assign-precision,quantize,fuse-requantize")
    made = manager.run(graph, PassContext(samples=lambda: iter(samples)))
    assert [node.loc for node in made.nodes if node.is_integer and node.loc in ("largest", "scale", "both")] == []
    for sample in samples:
        a, b = (Interpreter(g).run(sample)["z"] for g in (graph, made))
        assert 10 * np.log10(np.square(a).sum() / np.square(a - b).sum()) > 15


def test_products_of_a_models_own_integers_count_as_int8() -> None:
    graph = parse_graph(DYNAMIC, ops.all_ops())
    assert {node.loc: precision_of(node) for node in graph.nodes if node.loc in ("first", "product")} == {
        "first": "float32",
        "product": "int8",
    }
    assert mac_shares(graph)["int8"] == 512 / (512 + 1024)
