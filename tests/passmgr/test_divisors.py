"""What others divide by is not rounded."""

from __future__ import annotations

import numpy as np
import pytest

from qcompile import ops
from qcompile.ir.parser import parse_graph
from qcompile.passmgr import PassContext, PassManager
from qcompile.passmgr.divisors import divisor_nodes
from qcompile.search.evaluation import Evaluator

HEAD = """graph "divisors" {
  input %x : f32[1,64,8]
  input %v : f32[1,64,8]
  const @w : f32[8,8] = normal(1, 0.5)
  const @b : f32[8] = normal(2, 0.1)
  const @small : f32[] = [0.001]
"""

ATTENTION = """
  %q = dense(%x, @w, @b) {activation="relu"} : f32[1,64,8] loc("queries")
  %t = transpose(%q) {perm=[0,2,1]} : f32[1,8,64] loc("turn")
  %k = matmul(%t, %v) : f32[1,8,8] loc("keys")
  %a = matmul(%q, %k) : f32[1,64,8] loc("sums")
  %u = slice(%a) {starts=[0,0,0], steps=[1,1,1], sizes=[1,64,7]} : f32[1,64,7] loc("upper")
  %l = slice(%a) {starts=[0,0,7], steps=[1,1,1], sizes=[1,64,1]} : f32[1,64,1] loc("lower")
  %d = add(%l, @small) : f32[1,64,1] loc("not zero")
  %o = div(%u, %d) : f32[1,64,7] loc("quotient")
  output "o" = %o
}"""

LAYER = """
  const @w1 : f32[1,8] = normal(4, 0.5)
  const @b1 : f32[1] = [40.0]
  %y = dense(%x, @w1, @b1) : f32[1,64,1] loc("layer")
  %d = add(%y, @small) : f32[1,64,1] loc("plus")
  %o = reciprocal(%d) : f32[1,64,1] loc("inverse")
  output "o" = %o
}"""

CONSTANT = """
  %q = dense(%x, @w, @b) : f32[1,64,8] loc("layer")
  %s = add(%q, @small) : f32[1,64,8] loc("sum")
  %o = div(%s, @small) : f32[1,64,8] loc("quotient")
  output "o" = %o
}"""


@pytest.mark.parametrize(
    ("text", "found"),
    [(ATTENTION, {"sums", "lower", "not zero"}), (LAYER, {"plus"}), (CONSTANT, set())],
    ids=["attention", "layer", "constant"],
)
def test_divisors_from_where_they_are_computed(text: str, found: set[str]) -> None:
    assert {node.loc for node in divisor_nodes(parse_graph(HEAD + text, ops.all_ops()))} == found


def test_attention_divides_by_sums_of_any_size() -> None:
    """The last of the values is one, so that the sums of all weights are what is divided by."""
    graph = parse_graph(HEAD + ATTENTION, ops.all_ops())
    random = np.random.default_rng(0)
    samples = []
    for _ in range(12):
        x, v = random.normal(0, 1, (2, 1, 64, 8)).astype(np.float32)
        v[..., 7] = 1.0
        samples.append({"x": x, "v": v})
    manager = PassManager("insert-observers,calibrate,assign-precision,quantize,fuse-requantize")
    made = manager.run(graph, PassContext(samples=lambda: iter(samples)))
    assert Evaluator(graph, samples).output_db(made)[0] > 28.0
