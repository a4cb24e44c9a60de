"""Data, shapes and values for an input that a bundle keeps as a state: what is said of them, and where they follow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import qcompile
from qcompile import assessment, driver, runtime
from qcompile.errors import QCompileError, UsageError
from qcompile.evaluate.execution import run_bundle
from qcompile.evaluate.labelled_set import LabelledSet
from qcompile.search.user_metric import UserMetric

X = np.eye(4, dtype=np.float32)[:, None]


@pytest.fixture(scope="module")
def counter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write y = h + x, h' = y: what was seen so often."""
    infos = {n: helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 4]) for n in ("x", "h", "y", "h_next")}
    one = numpy_helper.from_array(np.ones(1, np.float32), "one")
    nodes = [helper.make_node("Add", ["x", "h"], ["h_next"]), helper.make_node("Mul", ["h_next", "one"], ["y"])]
    graph = helper.make_graph(nodes, "counter", [infos["x"], infos["h"]], [infos["y"], infos["h_next"]], [one])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path_factory.mktemp("counter") / "counter.onnx"
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def bundle(counter: Path) -> Path:
    folder = counter.parent / "bundle"
    qcompile.compile(counter, target="host", precision="fp32", state=["auto"], output=folder)
    return folder


@pytest.fixture
def both(tmp_path: Path) -> Path:
    np.savez(tmp_path / "both.npz", x=X, h=X)
    return tmp_path / "both.npz"


def prepared(model: Path, **settings: Any) -> Any:
    given = settings.pop("given", None)
    return driver.prepare(model, driver.resolve_config(model, None, {"state": ["auto"], **settings}), given, None)


def test_samples_that_give_a_state_too(counter: Path, bundle: Path, both: Path) -> None:
    said = "input 'h' takes no data: it is kept as a state"
    with pytest.raises(QCompileError, match=rf"both.npz': {said}") as caught:
        prepared(counter, calib=str(both))
    assert "leave 'h' out" in str(caught.value.hint)
    with pytest.raises(QCompileError, match=said):
        list(prepared(counter, given=[{"x": X[0], "h": X[0]}])[1])
    with pytest.raises(QCompileError, match=rf"both.npz': {said}"):
        assessment.evaluate(bundle, str(both), metric="sqnr", reference=counter)
    for name in ("x", "h"):
        np.save(both.parent / f"{name}.npy", X)
    both.unlink()
    with pytest.raises(QCompileError, match=rf"h.npy': {said}"):
        prepared(counter, calib=str(both.parent))


def test_a_bundle_that_is_given_a_state(bundle: Path, both: Path) -> None:
    with pytest.raises(UsageError, match="input 'h' takes no data: the bundle keeps it as a state"):
        run_bundle(bundle, [f"x={both}", f"h={both}"])
    with runtime.load(bundle) as session, pytest.raises(UsageError, match="no input 'h'") as caught:
        session.run({"x": X[0], "h": X[0]})
    assert caught.value.hint == "it is a state, which set_state() sets; its inputs are ['x']"


@pytest.mark.parametrize(
    ("settings", "message", "hint"),
    [
        (
            {"input_values": {"h": [0]}},
            "'h' cannot be kept between runs .--state.: --input-value fixes it",
            "leave out",
        ),
        ({"input_values": {"h": [0]}, "state": ["h_next=h"]}, "--input-value fixes it", "--input-value h="),
        ({"state": ["h=h_next"]}, "is not OUTPUT=INPUT but INPUT=OUTPUT", "--state h_next=h"),
        (
            {"input_values": {"h": [0]}, "input_shapes": {"h": [1, 4]}, "state": []},
            "no input named 'h' but a constant",
            "--input-value",
        ),
    ],
)
def test_settings_that_contradict_a_state(counter: Path, settings: dict[str, Any], message: str, hint: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        prepared(counter, **settings)
    assert hint in (caught.value.hint or "")


def test_the_first_of_a_sequence_are_evaluated(bundle: Path, tmp_path: Path) -> None:
    """Samples with gaps between them would be another sequence."""
    np.savez(tmp_path / "x.npz", x=np.arange(24, dtype=np.float32).reshape(6, 1, 4), labels=np.arange(6))
    with runtime.load(bundle) as session:
        inputs = prepared_inputs(session)
    samples = LabelledSet(str(tmp_path / "x.npz"), inputs, limit=3, kept=["h"])
    assert [s.label for s in samples] == [0, 1, 2]
    assert samples.notes == ["the first 3 of 6 samples: what is kept goes on from each to the next"]
    assert [s.label for s in LabelledSet(str(tmp_path / "x.npz"), inputs, limit=3)] != [0, 1, 2]


def prepared_inputs(session: runtime.Session) -> Any:
    from qcompile.calibrate.sample import InputSpec

    return [InputSpec(t.name, t.dtype, t.shape) for t in session.inputs]


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_search_measures_a_sequence_as_the_bundle_runs_it(counter: Path, bundle: Path, jobs: int) -> None:
    """The label of each sample is what was seen most often so far, which one sample alone does not tell."""
    seen = X[np.array([2, 2, 1, 0, 1, 1, 3, 1])]
    labels = np.cumsum(seen[:, 0], axis=0).argmax(axis=1)
    path = counter.parent / "labelled.npz"
    np.savez(path, x=seen, labels=labels)
    _, _, graph = prepared(counter)
    metric = UserMetric(graph, str(path), jobs=jobs)
    assert metric.reference == 1.0
    assert metric.measure(graph, "checking") == (1.0, 0.0)
    assert metric.measure(graph, "again") == (1.0, 0.0)
    assert assessment.evaluate(bundle, str(path)).model.value == 1.0


def test_a_cache_that_grows_cannot_be_fixed(tmp_path: Path) -> None:
    infos = [
        helper.make_tensor_value_info("input_ids", TensorProto.INT64, [1, "S"]),
        helper.make_tensor_value_info("past_key_values.0.key", TensorProto.FLOAT, [1, 1, "P", 4]),
    ]
    made = helper.make_tensor_value_info("present.0.key", TensorProto.FLOAT, [1, 1, "T", 4])
    table = numpy_helper.from_array(np.ones((9, 4), np.float32), "table")
    axis = numpy_helper.from_array(np.array([1], np.int64), "axis")
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        helper.make_node("Unsqueeze", ["rows", "axis"], ["new"]),
        helper.make_node("Concat", ["past_key_values.0.key", "new"], ["present.0.key"], axis=2),
    ]
    graph = helper.make_graph(nodes, "decoder", infos, [made], [table, axis])
    path = tmp_path / "decoder.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    with pytest.raises(UsageError, match=r"'past_key_values.0.key' cannot be kept between runs .*--input-value fixes"):
        prepared(path, input_values={"past_key_values.0.key": [0]})
    with pytest.raises(UsageError, match="'input_ids' takes no --input-shape: --input-value fixes it"):
        prepared(path, input_values={"input_ids": [0]}, input_shapes={"input_ids": [1, 2]})
