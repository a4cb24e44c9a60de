"""Loops: their text, what the verifier refuses, how they run, where new nodes go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from qcompile import ops
from qcompile.cost import NodeCosts
from qcompile.errors import InternalError
from qcompile.ir.graph import Graph, Value
from qcompile.ir.parser import parse_graph
from qcompile.ir.printer import print_graph
from qcompile.ir.regions import regions, times_run, total_macs
from qcompile.ir.rewrite import Rewriter
from qcompile.ir.verify import verify
from qcompile.ops.evaluation import held_alone
from qcompile.ops.interpreter import Interpreter
from qcompile.ops.scatter import Scatter
from qcompile.ops.sigmoid import Sigmoid
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


FILLING = """graph "filling" {
  input %x : f32[6,2]
  input %start : f32[1,6,2]
  %t, %s = loop_begin(%start) {trips=6} : i64[], f32[1,6,2]
  %at = reshape(%t) {shape=[1]} : i64[1]
  %row = gather(%x, %at) {axis=0} : f32[1,2]
  %rows = reshape(%s) {shape=[6,2]} : f32[6,2]
  %filled = scatter(%rows, %at, %row) : f32[6,2]
  %new = reshape(%filled) {shape=[1,6,2]} : f32[1,6,2]
  %n, %y = loop_end(%t, %new) : i64[], f32[1,6,2]
  output "y" = %y
}
"""


def _filling() -> dict[str, np.ndarray]:
    return {"x": np.arange(12, dtype=np.float32).reshape(6, 2), "start": np.full((1, 6, 2), -1, np.float32)}


def test_a_loop_that_fills_a_tensor_copies_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    copies = []
    evaluate = Scatter.evaluate

    def counted(self: Scatter, attrs: Any, inputs: Sequence[Any]) -> Any:
        copies.append(inputs)
        return evaluate(self, attrs, inputs)

    monkeypatch.setattr(Scatter, "evaluate", counted)
    inputs = _filling()
    found = Interpreter(loop(FILLING)).run(inputs)
    np.testing.assert_array_equal(found["y"][0], inputs["x"])
    np.testing.assert_array_equal(inputs["start"], np.full((1, 6, 2), -1, np.float32))
    assert len(copies) == 1, "the tensor that the loop starts from is the caller's, all others nobody's"


@pytest.mark.parametrize("kept", [("new",), ("s",), ("y",), ("filled", "rows")])
def test_what_an_observer_keeps_of_an_iteration_stays_as_it_was(kept: tuple[str, ...]) -> None:
    seen: list[tuple[str, np.ndarray, np.ndarray]] = []

    def keep(value: Value, array: np.ndarray) -> None:
        if value.name in kept:
            seen.append((value.name, array, array.copy()))

    Interpreter(loop(FILLING)).run(_filling(), keep)
    assert len(seen) >= 6
    for name, array, then in seen:
        np.testing.assert_array_equal(array, then, err_msg=name)


REREAD = """graph "reread" {
  input %x : f32[6,2]
  input %start : f32[6,2]
  %t, %s, %d = loop_begin(%start, %start) {trips=6} : i64[], f32[6,2], f32[6,2]
  %at = reshape(%t) {shape=[1]} : i64[1]
  %row = gather(%x, %at) {axis=0} : f32[1,2]
  %filled = scatter(%s, %at, %row) : f32[6,2]
  %change = sub(%filled, %s) : f32[6,2]
  %n, %y, %last = loop_end(%t, %filled, %change) : i64[], f32[6,2], f32[6,2]
  output "y" = %y
  output "last" = %last
}
"""


def test_a_tensor_that_is_read_again_is_not_written_over() -> None:
    inputs = {name: array.reshape(6, 2) for name, array in _filling().items()}
    found = Interpreter(loop(REREAD)).run(inputs)
    np.testing.assert_array_equal(found["y"], inputs["x"])
    np.testing.assert_array_equal(found["last"], [[0, 0]] * 5 + [[11, 12]])


def test_memory_that_somebody_sees_is_not_alone() -> None:
    assert held_alone([np.zeros(4)])
    assert held_alone([np.zeros(4).reshape(2, 2)])
    seen = np.zeros(4)
    assert not held_alone([seen])
    assert not held_alone([seen[:2]])
    view = np.zeros(4).reshape(2, 2)
    assert not held_alone([view])
    whole = np.zeros((3, 4))
    part = whole[1]
    del whole
    assert not held_alone([part[:2]]), "two views of one memory"
    fixed = [np.zeros(4)]
    fixed[0].setflags(write=False)
    assert not held_alone(fixed)
    assert not held_alone([np.frombuffer(bytearray(8), np.uint8)])


TABLE = """graph "table" {
  input %x : f32[4]
  %t, %s = loop_begin(%x) {trips=5} : i64[], f32[4]
  %q = quantize(%s) : i8[4] q(scale=0.0375, zp=2)
  %f = sigmoid(%q) : i8[4] q(scale=0.0075, zp=-3)
  %new = dequantize(%f) : f32[4]
  %n, %y = loop_end(%t, %new) : i64[], f32[4]
  output "y" = %y
}
"""


@pytest.mark.parametrize("dtype", ["i8", "i16"])
def test_the_table_of_a_function_is_made_once_for_all_iterations(monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    asked = []
    function = Sigmoid.function
    monkeypatch.setattr(Sigmoid, "function", lambda *args: asked.append(args) or function(*args))
    text = TABLE.replace("i8[", f"{dtype}[")
    if dtype == "i16":
        text = text.replace("zp=2)", "zp=2, dtype=int16)").replace("zp=-3)", "zp=-3, dtype=int16)")
    run = Interpreter(loop(text))
    for start in (0.0, 0.5):
        found = run.run({"x": np.full(4, start, np.float32)})["y"]
        assert np.abs(found - 0.657).max() < 0.03, "the number that is its own sigmoid"
    assert len(asked) <= 1, "or none, where a run before this one asked"


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
