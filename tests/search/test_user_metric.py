"""Searches whose goal is a metric of the user's on labelled samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from search_graphs import PIPELINE, context_of

from qcompile import ops
from qcompile.config import CompileConfig
from qcompile.errors import UsageError
from qcompile.ir.graph import Graph
from qcompile.ir.parser import parse_graph
from qcompile.ops.interpreter import Interpreter
from qcompile.search.goal import Goal
from qcompile.search.rung import Rung
from qcompile.search.start import SearchSettings, search, settings_of
from qcompile.search.state import SearchState
from qcompile.search.user_metric import UserMetric

CLASSIFIER = """
graph "classifier" {
  input %x : f32[1,8]
  const @w : f32[10,8] = normal(1, 1)
  const @b : f32[10] = normal(2, 1)
  %y = dense(%x, @w, @b) : f32[1,10] loc("scores")
  output "y" = %y
}
"""


def classifier() -> Graph:
    return parse_graph(CLASSIFIER, ops.all_ops())


def inputs(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 1, 8)).astype(np.float32)


def labelled(folder: Path, wrong: int = 0, count: int = 40) -> Path:
    """Write samples whose labels are the float network's answers, some of them spoiled."""
    x, run = inputs(count, 5), Interpreter(classifier())
    labels = np.array([int(run.run({"x": row})["y"].argmax()) for row in x])
    labels[:wrong] = (labels[:wrong] + 1) % 10
    path = folder / f"labelled{wrong}of{count}.npz"
    np.savez(path, x=x[:, 0], labels=labels)
    return path


def run(goal: Goal, folder: Path | None = None, reports: list[Any] | None = None, **settings: Any) -> Any:
    context = context_of([{"x": row} for row in inputs(20, 1)])
    context.on_progress = (lambda *report: reports.append(report)) if reports is not None else None
    found = search(classifier(), PIPELINE, context, SearchSettings(goal, False, folder, **settings))
    return found, context


class Shifted:
    """Stands for a quantized network that answers some samples with the next class."""

    def __init__(self, graph: Graph) -> None:
        self._run, self._count = Interpreter(graph), 0

    def run(self, given: Any) -> Any:
        answer = self._run.run(given)
        self._count += 1
        return {"y": np.roll(answer["y"], 1)} if self._count % 2 else answer


def test_the_drop_is_relative_to_the_float_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    metric = UserMetric(classifier(), str(labelled(tmp_path, wrong=8)))
    assert metric.reference == pytest.approx(0.8)
    assert metric.measure(classifier(), "checking") == (pytest.approx(0.8), 0.0)
    monkeypatch.setattr("qcompile.search.user_metric.Interpreter", Shifted)
    # Half of the samples get the next class, which is right for half of the 8 spoiled labels only.
    value, drop = metric.measure(classifier(), "checking")
    assert value == pytest.approx((16 + 4) / 40)
    assert drop == pytest.approx(1 - value / 0.8)


def test_what_quantization_gets_right_is_no_loss(tmp_path: Path):
    """Labels that the float network misses count neither way: disagreement alone is no drop."""
    found, context = run(Goal(max_drop=0.1), data=str(labelled(tmp_path)))
    assert found.met
    assert found.score.metric == 1.0
    assert found.metric == {"name": "top1", "float": 1.0, "samples": 40}
    assert "metric 1.0000" in found.reason
    said = "the drop is that of top1 on 40 labelled samples, relative to the 1.0000 in float"
    assert any(said in note for note in context.notes)
    figures = "SQNR and agreement, the share of float's answers kept, are of 5 samples that took no part in calibration"
    assert any(note.startswith(figures) for note in context.notes), "they are of other samples than the drop"
    assert found.to_json()["metric"]["float"] == 1.0


def test_what_few_samples_cannot_show_is_estimated(tmp_path: Path):
    """Of 4 samples one is 25 %: that none is lost does not show that less than half a percent is."""
    few, many = (run(Goal(max_drop=1.0), data=str(labelled(tmp_path, count=n)))[0].score for n in (4, 1000))
    estimate = run(Goal(max_drop=1.0))[0].score.drop
    assert few.metric == 1.0
    assert 0.0 < estimate < 1 / 1000
    assert few.drop == pytest.approx(estimate)
    assert many.drop == pytest.approx(max(1.0 - many.metric, estimate))
    metric = UserMetric(classifier(), str(labelled(tmp_path, count=4)))
    assert metric.resolution == 1 / 4


def test_without_labels_the_search_says_what_a_drop_is():
    found, context = run(Goal(max_drop=0.005))
    assert found.metric is None
    assert found.score.metric is None
    assert any(note.startswith("these figures are of 5 samples that took no part") for note in context.notes)
    assert any("estimated from how far outputs are" in note and "--eval-data" in note for note in context.notes)
    _, context = run(Goal(min_sqnr=10.0))
    assert not any("estimated" in note for note in context.notes)


def test_a_users_function_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "own.py").write_text(
        "import numpy as np\n"
        "def share(outputs, label, reference):\n"
        "    return float(np.allclose(outputs['y'], reference['y'], atol=1e-4))\n"
    )
    found, _ = run(Goal(max_drop=0.005), data=str(labelled(tmp_path)), metric=f"{tmp_path / 'own.py'}:share")
    # Only the float network is as close as that, and the search ends there.
    assert found.met
    assert found.kept_float
    assert found.score.metric == 1.0
    assert found.attempts[0].score.drop > 0.5


def test_a_killed_search_with_labels_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    data, goal, state = str(labelled(tmp_path)), Goal(min_sqnr=60.0, max_drop=0.005), tmp_path / "state"
    whole, _ = run(goal, data=data)
    put, seen = SearchState.put, []

    def put_and_die(self: SearchState, *arguments: Any) -> None:
        put(self, *arguments)
        seen.append(arguments)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(SearchState, "put", put_and_die)
        with pytest.raises(KeyboardInterrupt, match="the same command goes on"):
            run(goal, state, data=data)
    reports: list[tuple[int, int, str]] = []
    resumed, _ = run(goal, state, data=data, reports=reports)
    assert resumed.to_json() == whole.to_json()
    assert (2, 2, "taking over measurements of an earlier run") in reports
    # Other labels are another task: nothing measured before counts.
    reports.clear()
    run(goal, state, data=str(labelled(tmp_path, wrong=3)), reports=reports)
    assert not any("earlier run" in what for _, _, what in reports)


def test_labels_are_not_asked_about_what_does_not_lower_the_noise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rungs = (
        Rung("nothing", "fold-constants", after="calibrate"),
        Rung("coarse", "insert-observers", {"observer": "percentile{percentile=60}"}),
    )
    monkeypatch.setattr("qcompile.search.ladder.RUNGS", rungs)
    measured: list[str] = []
    measure = UserMetric.measure

    def count(self: UserMetric, graph: Graph, what: str) -> Any:
        measured.append(what)
        return measure(self, graph, what)

    monkeypatch.setattr(UserMetric, "measure", count)
    context = context_of([{"x": row} for row in inputs(20, 1)])
    settings = SearchSettings(Goal(min_sqnr=60.0, max_drop=0.5), True, data=str(labelled(tmp_path)))
    found = search(classifier(), PIPELINE, context, settings)
    outcomes = {a.title: (a.outcome, a.score.metric) for a in found.attempts}
    assert outcomes["nothing"] == ("no effect", None)
    assert outcomes["coarse"] == ("dropped", None)
    assert not {"nothing", "coarse"} & set(measured)
    assert found.met
    assert found.score.metric is not None


@pytest.mark.parametrize("metric", ["mae", "rmse"])
def test_an_error_that_grows_is_a_drop_of_its_share(tmp_path: Path, metric: str):
    """Errors of numbers have no upper end, and may be far above 1: a drop is a share of the float network's."""
    x = inputs(8, 5)
    path = tmp_path / "numbers.npz"
    answers = np.stack([Interpreter(classifier()).run({"x": row})["y"][0] for row in x])
    np.savez(path, x=x[:, 0], targets=answers + 4.0)
    user = UserMetric(classifier(), str(path), metric)
    assert user.reference == pytest.approx(4.0, rel=1e-5)
    moved = classifier()
    bias = moved.nodes[0].inputs[2]
    bias.data = bias.constant() - np.float32(1.0)
    bias.data.setflags(write=False)
    assert user.measure(moved, "") == (pytest.approx(5.0, rel=1e-5), pytest.approx(0.25, rel=1e-4))
    np.savez(path, x=x[:, 0])
    with pytest.raises(UsageError, match="no value that could drop"):
        UserMetric(classifier(), str(path), metric)


@pytest.mark.parametrize(
    ("metric", "wrong", "message"),
    [
        ("top1", 40, "there is nothing to lose"),
        ("sqnr", 0, "no value that could drop"),
        ("topp", 0, "unknown metric 'topp'"),
        ("psnr", 0, "label of shape"),
    ],
)
def test_metrics_that_cannot_be_used(tmp_path: Path, metric: str, wrong: int, message: str):
    with pytest.raises(UsageError, match=message):
        UserMetric(classifier(), str(labelled(tmp_path, wrong)), metric)


def test_labels_are_needed(tmp_path: Path):
    path = tmp_path / "bare.npz"
    np.savez(path, x=inputs(4, 3)[:, 0])
    with pytest.raises(UsageError, match="has no label, which metric 'top1' needs"):
        UserMetric(classifier(), str(path))
    assert UserMetric(classifier(), str(path), "agreement").reference == 1.0


def test_settings_name_what_is_missing(tmp_path: Path):
    with pytest.raises(UsageError, match="--metric needs labelled samples"):
        CompileConfig(metric="top1", accuracy="auto")
    with pytest.raises(UsageError, match="--eval-data is for a search"):
        CompileConfig(eval_data="photos")
    config = CompileConfig().updated({"max-drop": "1%", "eval-data": "a/b.npz", "metric": "topk{k=2}"}, "arguments")
    settings = settings_of(config, tmp_path / "out")
    assert (settings.data, settings.metric, settings.goal.max_drop) == ("a/b.npz", "topk{k=2}", 0.01)
    assert config.recorded()["eval_data"] == "b.npz"


def test_outputs_of_the_float_network_are_kept_only_where_they_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Those of 1,000 photographs may take gigabytes; what does not fit is computed again, with the same result."""
    data = str(labelled(tmp_path, wrong=8))
    assert UserMetric(classifier(), data)._expected == [None] * 40
    (tmp_path / "own.py").write_text(
        "def close(outputs, label, reference):\n    return 1 - abs(outputs['y'] - reference['y']).mean()\n"
    )
    measures = ("agreement", f"{tmp_path / 'own.py'}:close")
    weight = classifier()
    values = weight.nodes[0].inputs[1]
    values.data = np.roll(values.constant(), 1, axis=0)
    values.data.setflags(write=False)
    whole = [UserMetric(classifier(), data, metric) for metric in measures]
    assert all(None not in metric._expected for metric in whole)
    monkeypatch.setattr("qcompile.search.user_metric._KEPT", 100)
    part = [UserMetric(classifier(), data, metric) for metric in measures]
    assert [metric._expected.count(None) for metric in part] == [38, 38]
    assert [m.digest() for m in part] == [m.digest() for m in whole]
    assert [m.measure(weight, "") for m in part] == [m.measure(weight, "") for m in whole]
    assert part[0].measure(weight, "")[0] < 0.9
