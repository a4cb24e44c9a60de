"""What exporters repeat along an axis that is open is computed once."""

from __future__ import annotations

import numpy as np

from qcompile import ops
from qcompile.ir.graph import Graph
from qcompile.ir.parser import parse_graph
from qcompile.onnx_import.uniform import drop_expansions
from qcompile.ops.interpreter import Interpreter

MASK = """
graph "mask" {
  input %scores : f32[1,4,23,9]
  input %mask : f32[1,9]
  const @low : f32[] = [-100]
  const @one : f32[] = [1]
  %keys = reshape(%mask) {shape=[1,1,1,9]} : f32[1,1,1,9]
  %wide = expand(%keys) {shape=[1,1,23,9]} : f32[1,1,23,9]
  %hidden = sub(@one, %wide) : f32[1,1,23,9]
  %which = cast(%hidden) {dtype="bool"} : i1[1,1,23,9]
  %bias = where(%which, @low, %hidden) : f32[1,1,23,9]
  %y = add(%scores, %bias) : f32[1,4,23,9]
  output "y" = %y
}
"""


def graph_of(text: str) -> Graph:
    return parse_graph(text, ops.all_ops())


def run(graph: Graph) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    scores, mask = rng.normal(size=(1, 4, 23, 9)), rng.integers(0, 2, (1, 9))
    return Interpreter(graph).run({"scores": scores.astype(np.float32), "mask": mask.astype(np.float32)})


def test_a_mask_is_computed_once_for_all_new_places() -> None:
    graph = graph_of(MASK)
    wanted = run(graph)
    drop_expansions(graph, (23, 24))
    assert [(node.op.name, node.output.shape[-2]) for node in graph.nodes[1:]] == [
        ("sub", 1), ("cast", 1), ("where", 1), ("add", 23),
    ]  # fmt: skip
    assert all(np.array_equal(array, wanted[name]) for name, array in run(graph).items())


def test_an_axis_that_is_not_open_stays_repeated() -> None:
    graph = graph_of(MASK)
    drop_expansions(graph, (24,))
    assert graph.structural_hash() == graph_of(MASK).structural_hash()


def test_what_others_read_whole_is_still_made() -> None:
    graph = graph_of(MASK.replace('output "y" = %y', 'output "y" = %y\n  output "bias" = %bias'))
    wanted = run(graph)
    drop_expansions(graph, (23,))
    assert all(np.array_equal(array, wanted[name]) for name, array in run(graph).items())
