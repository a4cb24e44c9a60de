"""The import of loops that are not unrolled: ONNX Runtime's results, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from qcompile.errors import UnsupportedOpError
from qcompile.ir.regions import regions
from qcompile.ir.symbol import Symbol
from qcompile.onnx_import import control_flow, import_onnx
from qcompile.onnx_import.bounds import import_model
from qcompile.onnx_import.compositions import recurrent as recurrent_operators

from .rolled_models import against_runtime, conditional, counting, greedy, info, recurrent, scanning, summing


@pytest.fixture
def rolling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unroll nothing."""
    monkeypatch.setattr(control_flow, "UNROLLED_LIMIT", 0)
    monkeypatch.setattr(recurrent_operators, "STEPS_LIMIT", 0)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("op", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize(("lengths", "layout"), [(False, 0), (True, 0)])
def test_recurrent(rolling: None, op: str, direction: str, lengths: bool, layout: int) -> None:
    graph = against_runtime(*recurrent(op, direction, lengths=lengths, layout=layout))
    assert len(regions(graph.nodes)) == (2 if direction == "bidirectional" else 1)


def test_a_long_sequence_stays_a_loop() -> None:
    graph = against_runtime(*recurrent("LSTM", "forward", steps=3000))
    assert [region.trips for region in regions(graph.nodes)] == [3000]
    assert len(graph.nodes) < 40


@pytest.mark.parametrize("op", ["RNN", "GRU", "LSTM"])
def test_only_short_sequences_are_unrolled(op: str) -> None:
    assert not regions(against_runtime(*recurrent(op, "forward", steps=8)).nodes)
    graph = against_runtime(*recurrent(op, "bidirectional", steps=9))
    assert [region.trips for region in regions(graph.nodes)] == [9, 9]


def test_open_extents_are_unrolled() -> None:
    model, _ = recurrent("LSTM", "forward", steps=12)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "T"
    graph = import_model(model, {"x": ("T:1..12", 2, 3)})
    assert not regions(graph.nodes)
    assert [symbol.most for symbol in graph.symbols] == [12]


def test_only_short_loops_are_unrolled() -> None:
    assert not regions(against_runtime(*summing(40)).nodes)
    assert [region.trips for region in regions(against_runtime(*summing(50)).nodes)] == [50]


@pytest.mark.parametrize(("trips", "steps"), [(None, 80), (1000, 80), (60, 60)])
def test_a_condition_that_counts_is_known_at_import(trips: int | None, steps: int) -> None:
    graph = against_runtime(*counting(80, trips))
    (region,) = regions(graph.nodes)
    assert region.trips == steps
    assert region.condition is None
    assert "less" not in {node.op.name for node in graph.nodes}


def test_a_loop_within_a_short_one_stays_a_loop_where_it_can() -> None:
    inner, _ = summing(60)
    graph = against_runtime(loop_of(around(inner), 2), {"x": np.array([0.1, 0.2, 0.3], np.float32)})
    assert [region.trips for region in regions(graph.nodes)] == [60, 60]


def test_what_cannot_stay_a_loop_is_unrolled() -> None:
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["on"]),
            helper.make_node("Concat", ["a", "x"], ["longer"], axis=0),
            *(helper.make_node("Neg", ["longer" if k == 0 else f"t{k}"], [f"t{k + 1}"]) for k in range(30)),
            helper.make_node("Identity", ["t30"], ["next"]),
        ],
        "body",
        [info("i", [], TensorProto.INT64), info("go", [], TensorProto.BOOL), info("a", None)],
        [info("on", [], TensorProto.BOOL), info("next", None)],
    )
    model = loop_of(body, 10)
    graph = against_runtime(model, {"x": np.array([1, 2, 3], np.float32)})
    assert not regions(graph.nodes)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    assert len(import_onnx(model).notes) == 1  # of the open axis; said once, though the model was converted twice


def test_loop_of_a_known_length(rolling: None) -> None:
    graph = against_runtime(*summing(7))
    assert [region.trips for region in regions(graph.nodes)] == [7]


def test_a_loop_that_is_too_long_to_unroll() -> None:
    graph = against_runtime(*summing(20_000))
    assert [region.trips for region in regions(graph.nodes)] == [20_000]


@pytest.mark.parametrize("limit", [0.5, 20.0, 1e9])
@pytest.mark.parametrize("bounded", [True, False])
def test_a_condition_at_run_time_ends_a_loop(limit: float, bounded: bool) -> None:
    if not bounded and limit > 1e6:
        limit = 300.0
    against_runtime(*conditional(limit, trips=12 if bounded else None))


def test_results_of_a_loop_that_a_condition_ends_tell_their_number() -> None:
    graph = against_runtime(*conditional(20.0, trips=12, collect=True))
    assert [(entry.output, entry.axis) for entry in graph.counted] == [("all", 0)]


def test_what_no_iteration_changes_is_computed_before_the_loop(rolling: None) -> None:
    graph = against_runtime(*summing(5))
    (region,) = regions(graph.nodes)
    assert "exp" in {node.op.name for node in graph.nodes}
    assert "exp" not in {node.op.name for node in region.nodes}


@pytest.mark.parametrize("axes", [(0, 0), (1, 0), (0, 1), (1, -1)])
@pytest.mark.parametrize("directions", [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_scan(rolling: None, axes: tuple[int, int], directions: tuple[int, int]) -> None:
    graph = against_runtime(*scanning(axes, directions))
    assert [region.trips for region in regions(graph.nodes)] == [6]


def test_a_state_that_the_body_does_not_read_may_change_its_type(rolling: None) -> None:
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["on"]),
            helper.make_node("Add", ["a", "x"], ["next"]),
            helper.make_node("Mul", ["next", "x"], ["seen"]),
            helper.make_node("Identity", ["w"], ["w2"]),
        ],
        "body",
        [info("i", [], TensorProto.INT64), info("go", [], TensorProto.BOOL),
         *(info(n, None) for n in ("a", "unread", "other", "w"))],
        [info("on", [], TensorProto.BOOL), *(info(n, None) for n in ("next", "seen", "next", "w2"))],
    )  # fmt: skip
    node = helper.make_node("Loop", ["n", "", "x", "one", "one", "x"], ["y", "z", "same", "w_end"], body=body)
    constants = [numpy_helper.from_array(np.int64(3), "n"), numpy_helper.from_array(np.zeros(1, "f4"), "one")]
    outputs = [info(n, None) for n in ("y", "z", "same", "w_end")]
    graph = helper.make_graph([node], "loop", [info("x", [3])], outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 16)], ir_version=8)
    found = against_runtime(model, {"x": np.array([1, 2, 3], np.float32)})
    (region,) = regions(found.nodes)
    assert len(region.states) == 2


# -- refusals ---------------------------------------------------------------------------------------------


def test_a_growing_state_is_refused(rolling: None) -> None:
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Concat", ["a", "x"], ["next"], axis=0)],
        "body",
        [info("i", [], TensorProto.INT64), info("go", [], TensorProto.BOOL), info("a", None)],
        [info("on", [], TensorProto.BOOL), info("next", None)],
    )
    refused(loop_of(body), r"its state 0 is f32\[3\] before an iteration and f32\[6\] after it")


def test_a_loop_within_a_loop_is_unrolled_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    nested = around(summing(4)[0])
    monkeypatch.setattr(control_flow, "UNROLLED_LIMIT", 30)
    graph = against_runtime(loop_of(nested, 20), {"x": np.array([0.1, 0.2, 0.3], np.float32)})
    assert [region.trips for region in regions(graph.nodes)] == [20]
    monkeypatch.setattr(control_flow, "UNROLLED_LIMIT", 0)
    refused(loop_of(nested, 20), "neither it nor the loop around it can be unrolled")


def test_open_extents_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = recurrent("GRU", "forward")
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "N"
    monkeypatch.setattr(recurrent_operators, "STEPS_LIMIT", 3)
    with pytest.raises(UnsupportedOpError, match="extents that are all known"):
        import_onnx(model, {"x": (5, 2, 3)}, symbols=[Symbol("N", 1, 2)])


def around(inner: Any) -> Any:
    """Return the body of a loop that runs a model and adds its result to a state."""
    return helper.make_graph(
        [
            helper.make_node("Identity", ["may"], ["proceed"]),
            *inner.graph.node,
            helper.make_node("Add", ["a", "last"], ["after"]),
        ],
        "outer",
        [info("j", [], TensorProto.INT64), info("may", [], TensorProto.BOOL), info("a", [3])],
        [info("proceed", [], TensorProto.BOOL), info("after", [3])],
        inner.graph.initializer,
    )


def loop_of(body: Any, trips: int = 3) -> Any:
    """Return a model of a Loop with one state, x."""
    node = helper.make_node("Loop", ["n", "", "x"], ["y"], body=body)
    constants = [numpy_helper.from_array(np.int64(trips), "n")]
    graph = helper.make_graph([node], "loop", [info("x", [3])], [info("y", None)], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 16)], ir_version=8)


def refused(model: Any, message: str) -> None:
    with pytest.raises(UnsupportedOpError, match=message):
        import_onnx(model)


# -- decoders ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", [2.0, 0.75, -1.0])
def test_a_decoder_that_counts_and_cuts(wanted: float) -> None:
    graph = against_runtime(*greedy(9, wanted))
    (region,) = regions(graph.nodes)
    # The comparison of the counter, not the trip count, is what ends the loop at the latest.
    assert region.trips == 9
    assert region.condition is not None
    # Weights, the counter, and what nothing reads are no states: what is left are the hidden state and the rows.
    assert len(region.states) == 2
    assert [(entry.output, entry.axis) for entry in graph.counted] == [("y", 1)]


def test_cuts_of_different_sizes_are_refused() -> None:
    body = helper.make_graph(
        [
            helper.make_node("Reshape", ["i", "flat"], ["end"]),
            helper.make_node("Slice", ["x", "flat", "end"], ["part"]),
            helper.make_node("ReduceSum", ["part"], ["total"], keepdims=0),
            helper.make_node("Less", ["total", "a"], ["on"]),
            helper.make_node("Add", ["a", "total"], ["next"]),
        ],
        "body",
        [info("i", [], TensorProto.INT64), info("go", [], TensorProto.BOOL), info("a", None)],
        [info("on", [], TensorProto.BOOL), info("next", None)],
        [numpy_helper.from_array(np.array([1]), "flat")],
    )
    node = helper.make_node("Loop", ["n", "", "x"], ["y"], body=body)
    graph = helper.make_graph([node], "loop", [info("x", [3])], [info("y", None)],
                              [numpy_helper.from_array(np.int64(3), "n")])  # fmt: skip
    refused(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 16)], ir_version=8), "run time")
