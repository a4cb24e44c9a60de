"""A tensor that no sample varied, or a table that holds a mark, gets no range of its own."""

from __future__ import annotations

import numpy as np
import pytest

from qcompile import ops
from qcompile.ir.graph import Graph
from qcompile.ir.parser import parse_graph
from qcompile.ops.interpreter import Interpreter
from qcompile.passmgr import PassContext, PassManager

Sample = dict[str, np.ndarray]

QUANTIZE = "insert-observers,calibrate,assign-precision,quantize,fuse-requantize"

MASKED = """graph "masked" {
  input %x : f32[1,8,16]
  input %mask : i1[1,1,8]
  const @wq : f32[16,16] = normal(1, 0.12)
  const @wk : f32[16,16] = normal(2, 0.12)
  const @b : f32[16] = normal(3, 0.1)
  const @seen : f32[] = [0.0]
  const @hidden : f32[] = [HIDDEN]
  %q = dense(%x, @wq, @b) : f32[1,8,16] loc("query")
  %k = dense(%x, @wk, @b) : f32[1,8,16] loc("key")
  %t = transpose(%k) {perm=[0, 2, 1]} : f32[1,16,8]
  %s = matmul(%q, %t) : f32[1,8,8] loc("scores")
  %m = where(%mask, @seen, @hidden) : f32[1,1,8]
  %r = reshape(%m) {shape=[1, 1, 8]} : f32[1,1,8]
  %y = add(%s, %r) : f32[1,8,8] loc("masked")
  %a = softmax(%y) {axis=-1} : f32[1,8,8]
  %o = matmul(%a, %q) : f32[1,8,16] loc("mixed")
  output "o" = %o
}
"""

TABLE = """graph "table" {
  input %x : f32[6,8]
  input %distance : i64[6]
  const @w : f32[8,8] = normal(1, 0.5)
  const @b : f32[8] = normal(2, 0.1)
  const @bias : f32[5,8] = [BIAS]
  %s = dense(%x, @w, @b) : f32[6,8]
  %r = gather(@bias, %distance) {axis=0} : f32[6,8] loc("relative")
  %t = add(%s, %r) : f32[6,8] loc("sum")
  %y = dense(%t, @w, @b) : f32[6,8]
  output "y" = %y
}
"""


def quantized(text: str, samples: list[Sample]) -> tuple[Graph, Graph, str]:
    """Return the float graph, the quantized one, and the reasons why nodes stayed in float."""
    graph = parse_graph(text, ops.all_ops())
    manager = PassManager(QUANTIZE)
    made = manager.run(graph, PassContext(samples=lambda: iter(samples)))
    return graph, made, " ".join(skip.reason for record in manager.records for skip in record.skips)


def sqnr(graph: Graph, other: Graph, sample: Sample, rows: int) -> float:
    """Return the SQNR of the first rows of the output, dB."""
    last = graph.outputs[0].shape[-1]
    a, b = (next(iter(Interpreter(g).run(sample).values())).reshape(-1, last)[:rows] for g in (graph, other))
    return float(10 * np.log10(np.square(a).sum() / np.square(a - b).sum()))


def tokens(seed: int, padding: int) -> Sample:
    mask = np.arange(8) < 8 - padding
    return {
        "x": np.random.default_rng(seed).normal(0, 1, (1, 8, 16)).astype(np.float32),
        "mask": mask[None, None],
    }


@pytest.mark.parametrize("hidden", ["-1e4", "-3.4e38", "-inf"])
def test_a_mask_that_no_sample_used_still_hides(hidden: str) -> None:
    text = MASKED.replace("HIDDEN", hidden)
    graph, made, skips = quantized(text, [tokens(seed, 0) for seed in range(16)])
    assert "one value in all samples" in skips
    assert any(node.is_integer for node in made.nodes)
    assert sqnr(graph, made, tokens(99, 0), 8) > 25
    assert sqnr(graph, made, tokens(99, 3), 5) > 25


def test_a_state_fed_as_zeros_stays_real() -> None:
    text = """graph "step" {
  input %x : f32[1,16]
  input %h : f32[1,16]
  const @w : f32[16,16] = normal(1, 0.3)
  const @u : f32[16,16] = normal(2, 0.3)
  const @b : f32[16] = normal(3, 0.1)
  %p = dense(%x, @w, @b) : f32[1,16]
  %q = dense(%h, @u, @b) : f32[1,16] loc("recurrent")
  %s = add(%p, %q) : f32[1,16]
  %y = tanh(%s) : f32[1,16]
  output "y" = %y
}
"""

    def step(seed: int, size: float) -> Sample:
        random = np.random.default_rng(seed)
        x, h = (random.normal(0, 1, (1, 16)).astype(np.float32) for _ in range(2))
        return {"x": x, "h": h * np.float32(size)}

    graph, made, _ = quantized(text, [step(seed, 0.0) for seed in range(16)])
    assert sqnr(graph, made, step(50, 0.0), 1) > 25
    assert sqnr(graph, made, step(50, 0.5), 1) > 15
    assert next(node for node in made.nodes if node.loc == "recurrent").inputs[0].dtype == "float32"


@pytest.mark.parametrize("mark", ["-inf", "-1e4"])
def test_a_table_with_a_mark_stays_real(mark: str) -> None:
    """The samples never read its last row, the mark; an 8-bit range with it would leave the others nothing."""
    rows = np.random.default_rng(5).normal(0, 1, (4, 8)).round(3)
    numbers = ", ".join([*(str(v) for v in rows.ravel()), *[mark] * 8])

    def sample(seed: int, distances: int) -> Sample:
        random = np.random.default_rng(seed)
        x = random.normal(0, 1, (6, 8)).astype(np.float32)
        return {"x": x, "distance": random.permutation(np.arange(6) % distances)}

    graph, made, skips = quantized(TABLE.replace("BIAS", numbers), [sample(seed, 4) for seed in range(16)])
    assert "as a mark" in skips
    assert sqnr(graph, made, sample(77, 4), 6) > 30
