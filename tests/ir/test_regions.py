"""Loops: their text, what the verifier refuses, how they run, where new nodes go."""

from __future__ import annotations

import numpy as np
import pytest

from qcompile import ops
from qcompile.cost import NodeCosts
from qcompile.errors import InternalError
from qcompile.ir.graph import Graph
from qcompile.ir.parser import parse_graph
from qcompile.ir.printer import print_graph
from qcompile.ir.regions import regions, times_run, total_macs
from qcompile.ir.rewrite import Rewriter
from qcompile.ir.verify import verify
from qcompile.ops.interpreter import Interpreter
from qcompile.passmgr import run_pipeline

LOOP = """graph "loop" {
  input %x : f32[2]
  input %limit : f32[1]
  const @one : f32[1] = [1.0]
  %scaled = mul(%x, %x) : f32[2]
  %t, %s = loop_begin(%x) {trips=4} : i64[], f32[2]
  %new = add(%s, %scaled) : f32[2]
  %norm = reduce_max(%new) {axes=[0]} : f32[1]
  %on = less(%norm, %limit) : i1[1]
  %n, %last = loop_end(%t, %on, %new) {conditional=true} : i64[], f32[2]
  %y = add(%last, @one) : f32[2]
  output "y" = %y
  output "n" = %n
}
"""

WEIGHTS = """  const @w : f32[2,2] = [0.5, 0.0, 0.0, 0.5]
  const @b : f32[2] = [0.0, 0.0]
"""


def loop(text: str = LOOP) -> Graph:
    """Return a graph from its text."""
    return parse_graph(text, ops.all_ops())


def test_text_of_a_region_is_stable() -> None:
    graph = loop()
    verify(graph)
    assert print_graph(graph) == LOOP
    assert print_graph(graph.clone()) == LOOP


@pytest.mark.parametrize(("limit", "trips"), [(0.0, 1), (2.5, 2), (100.0, 4)])
def test_the_condition_ends_a_loop(limit: float, trips: int) -> None:
    found = Interpreter(loop()).run({"x": np.ones(2, np.float32), "limit": np.array([limit], np.float32)})
    assert found["n"] == trips
    np.testing.assert_array_equal(found["y"], np.full(2, 1 + trips + 1, np.float32))


def test_work_of_a_loop_counts_once_a_trip() -> None:
    text = LOOP.replace("  %t, %s", f"{WEIGHTS}  %t, %s").replace("add(%s, %scaled)", "dense(%s, @w, @b)")
    text = text.replace("  %scaled = mul(%x, %x) : f32[2]\n", "")
    graph = loop(text)
    assert total_macs(graph) == 4 * 2 * 2
    assert {node.op.name: times for node, times in times_run(graph).items()} == {
        "loop_begin": 4, "dense": 4, "reduce_max": 4, "less": 4, "loop_end": 4, "add": 1,
    }  # fmt: skip
    assert NodeCosts().graph_ms(graph) > 2 * NodeCosts().graph_ms(loop(text.replace("trips=4", "trips=1")))
    # How often a loop runs that only its condition ends, nobody knows.
    assert total_macs(loop(text.replace("trips=4", "trips=2147483647"))) == 2 * 2


def test_observers_see_every_iteration() -> None:
    seen = []
    inputs = {"x": np.ones(2, np.float32), "limit": np.array([9.0], np.float32)}
    Interpreter(loop()).run(inputs, lambda value, array: seen.append((value.name, float(array.max()))))
    assert [value for name, value in seen if name == "new"] == [2.0, 3.0, 4.0, 5.0]
    assert [value for name, value in seen if name == "s"] == [1.0, 2.0, 3.0, 4.0]


END = "%n, %last = loop_end(%t, %on, %new) {conditional=true} : i64[], f32[2]"
REFUSED = {
    "is read outside": [('output "y" = %y', 'output "y" = %new')],
    "change their types": [
        (END, END.replace("%new", "%norm").replace("f32[2]", "f32[1]")),
        ("%y = add(%last, @one) : f32[2]", "%y = add(%last, @one) : f32[1]"),
    ],
    "inside of the loop": [(END, "%n, %last = loop_begin(%x) {trips=2} : i64[], f32[2]")],
    "one truth value": [("less(%norm, %limit) : i1[1]", "less(%new, %limit) : i1[2]")],
    "0 iterations": [("trips=4", "trips=0")],
}


@pytest.mark.parametrize("message", list(REFUSED))
def test_verifier_refuses(message: str) -> None:
    text = LOOP
    for before, after in REFUSED[message]:
        assert text.count(before) == 1
        text = text.replace(before, after)
    with pytest.raises(InternalError, match=message):
        verify(loop(text))


def test_an_open_region_is_refused() -> None:
    graph = loop()
    with pytest.raises(InternalError, match="has no end"):
        regions(graph.nodes[:-2])
    with pytest.raises(InternalError, match="does not end the loop"):
        regions(graph.nodes[2:])


def test_what_reads_nothing_of_a_loop_goes_before_it() -> None:
    graph = loop()
    add, (begin,) = graph.nodes[2], [node for node in graph.nodes if node.op.name == "loop_begin"]
    rewriter = Rewriter(graph)
    outside = rewriter.insert(add, ops.get("exp"), [graph.inputs[0]], name="outside")
    inside = rewriter.insert(add, ops.get("exp"), [begin.outputs[1]], name="inside")
    order = graph.nodes
    assert order.index(outside) < order.index(begin) < order.index(inside) < order.index(add)
    assert [node.op.name for node in regions(order)[0].nodes][:3] == ["loop_begin", "exp", "add"]


def test_a_layer_before_a_loop_is_not_moved_into_it() -> None:
    text = """graph "loop" {
      input %x : f32[1,4]
      const @w : f32[4,4] = normal(1)
      const @b : f32[4] = normal(2)
      %once = dense(%x, @w, @b) : f32[1,4]
      %t, %s = loop_begin(%x) {trips=4} : i64[], f32[1,4]
      %again = dense(%s, @w, @b) : f32[1,4]
      %sum = add(%s, %once) : f32[1,4]
      %new = add(%sum, %again) : f32[1,4]
      %n, %y = loop_end(%t, %new) : i64[], f32[1,4]
      output "y" = %y
    }"""
    graph = loop(text)
    graph = run_pipeline(graph, "fuse-residual")
    verify(graph)
    (region,) = regions(graph.nodes)
    assert graph.nodes[0].output.name == "once"
    # The one inside takes the addition behind it.
    assert [node.op.name for node in region.nodes] == ["loop_begin", "add", "dense", "loop_end"]


def test_nobody_needs_a_loop_whose_results_are_dead() -> None:
    graph = loop()
    graph.set_outputs(graph.inputs[:1], ["y"])
    Rewriter(graph).eliminate_dead()
    assert graph.nodes == []
