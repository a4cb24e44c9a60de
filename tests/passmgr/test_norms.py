"""What divides by a norm that the graph computes."""

from __future__ import annotations

import numpy as np
import pytest

from qcompile import ops
from qcompile.ir.parser import parse_graph
from qcompile.ops.interpreter import Interpreter
from qcompile.passmgr import PassContext, PassManager
from qcompile.passmgr.norms import norm_nodes

HEAD = """graph "norms" {
  input %x : f32[4,16]
  input %z : f32[4,16]
  const @w : f32[16,16] = normal(1, 0.3)
  const @b : f32[16] = normal(2, 0.1)
  const @two : f32[] = [2.0]
  const @half : f32[] = [0.5]
  const @small : f32[] = [0.00001]
  %y = dense(%x, @w, @b) : f32[4,16] loc("layer")
  %q = mul(%y, %y) : f32[4,16] loc("squares")
  %s = reduce_sum(%q) {axes=[1]} : f32[4,1] loc("sum")
"""

LENGTH = """
  %n = sqrt(%s) : f32[4,1] loc("root")
  %c = clip(%n) {min=0.00001} : f32[4,1] loc("clip")
  %o = div(%y, %c) : f32[4,16] loc("quotient")
  output "o" = %o
}"""

ROOT_MEAN_SQUARE = """
  %p = add(%s, @small) : f32[4,1] loc("plus")
  %n = sqrt(%p) : f32[4,1] loc("root")
  %i = reciprocal(%n) : f32[4,1] loc("inverse")
  %o = mul(%y, %i) : f32[4,16] loc("product")
  output "o" = %o
}"""

COSINE = """
  %m = mul(%y, %z) : f32[4,16] loc("products")
  %d = reduce_sum(%m) {axes=[1]} : f32[4,1] loc("dot")
  %e = mul(%z, %z) : f32[4,16] loc("other squares")
  %f = reduce_sum(%e) {axes=[1]} : f32[4,1] loc("other sum")
  %g = mul(%s, %f) : f32[4,1] loc("both")
  %h = sqrt(%g) : f32[4,1] loc("root")
  %o = div(%d, %h) : f32[4,1] loc("cosine")
  output "o" = %o
}"""

LARGEST = """
  %a = abs(%y) : f32[4,16] loc("sizes")
  %m = reduce_max(%a) {axes=[1]} : f32[4,1] loc("largest")
  %o = div(%y, %m) : f32[4,16] loc("quotient")
  output "o" = %o
}"""

ENERGY = """
  %n = sqrt(%s) : f32[4,1] loc("root")
  %o = mul(%z, %n) : f32[4,16] loc("product")
  output "o" = %o
}"""

NO_NORM = """
  %d = dense(%z, @w, @b) : f32[4,16] loc("other layer")
  %t = reduce_sum(%d) {axes=[1]} : f32[4,1] loc("other sum")
  %r = add(%t, %s) : f32[4,1] loc("sums")
  %o = div(%y, %r) : f32[4,16] loc("quotient")
  output "o" = %o
}"""


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (LENGTH, {"squares", "sum", "root", "clip", "quotient"}),
        (ROOT_MEAN_SQUARE, {"squares", "sum", "plus", "root", "inverse", "product"}),
        (COSINE, {"squares", "sum", "other squares", "other sum", "both", "root", "cosine"}),
        (LARGEST, {"sizes", "largest", "quotient"}),
        (ENERGY, set()),
        (NO_NORM, set()),
    ],
    ids=["length", "root mean square", "cosine", "largest", "energy", "no norm"],
)
def test_norms_and_what_divides_by_them(text: str, found: set[str]) -> None:
    assert {node.loc for node in norm_nodes(parse_graph(HEAD + text, ops.all_ops()))} == found


def test_a_norm_of_norms() -> None:
    text = """
  %n = sqrt(%s) : f32[4,1] loc("root")
  %m = reduce_mean(%n) {axes=[0]} : f32[1,1] loc("mean")
  %o = div(%n, %m) : f32[4,1] loc("quotient")
  output "o" = %o
}"""
    found = norm_nodes(parse_graph(HEAD + text, ops.all_ops()))
    assert {node.loc for node in found} == {"squares", "sum", "root", "mean", "quotient"}


def test_inputs_beyond_the_samples_keep_their_length() -> None:
    graph = parse_graph(HEAD + LENGTH, ops.all_ops())
    random = np.random.default_rng(0)
    samples = [{k: random.normal(0, 1, (4, 16)).astype(np.float32) for k in "xz"} for _ in range(8)]
    manager = PassManager("insert-observers,calibrate,assign-precision,quantize,fuse-requantize")
    made = manager.run(graph, PassContext(samples=lambda: iter(samples)))
    assert {node.loc for node in made.nodes if node.is_integer and node.op.name != "quantize"} == {"layer"}
    longer = {name: 2 * array for name, array in samples[0].items()}
    lengths = np.linalg.norm(Interpreter(made).run(longer)["o"], axis=1)
    np.testing.assert_allclose(lengths, 1.0, rtol=0.02)
