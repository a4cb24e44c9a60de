from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from search_graphs import PIPELINE, candidates, context_of, heads, recipe, samples

from qcompile.calibrate import layer_correction
from qcompile.calibrate.observer import make_observer
from qcompile.errors import CalibrationError, UsageError
from qcompile.ir.rewrite import Rewriter
from qcompile.passmgr import PassManager, PassRegistry
from qcompile.search.candidates import Candidates
from qcompile.search.evaluation import Split
from qcompile.search.goal import Goal
from qcompile.search.ladder import MOST_SLOW_CHECKS, RUNGS, Ladder
from qcompile.search.leaving import Kept
from qcompile.search.plan import Plan, Step
from qcompile.search.recipe import Recipe
from qcompile.search.rung import Rung
from qcompile.search.score import Score
from qcompile.search.start import SearchSettings, search
from qcompile.search.state import NAME, SearchState, remove_state


def run(folder: Path | None, goal: Goal, jobs: int = 1):
    context = context_of(samples())
    reports: list[tuple[int, str]] = []
    context.on_progress = lambda done, total, what: reports.append((done, what))
    context.reports = reports  # type: ignore[attr-defined]
    return search(heads(), PIPELINE, context, SearchSettings(goal, True, folder, jobs)), context


def test_every_rung_names_a_pass_with_its_options():
    registry = PassRegistry()
    for rung in RUNGS:
        base = recipe()
        if rung.after and not base.has(rung.after):
            base = base.inserted(registry.get(rung.after)(), "")
        applied = rung.applied(base, registry)
        chosen = next(p for p in applied.passes if p.name == rung.name)
        assert all(getattr(chosen, option) == value for option, value in rung.options.items())
        make_observer(str(rung.options.get("observer", "minmax")))


def test_a_rung_is_one_line():
    rung = Rung("nothing", "fold-constants", after="calibrate")
    registry = PassRegistry()
    applied = rung.applied(recipe(), registry)
    names = [p.name for p in applied.passes]
    assert names[names.index("calibrate") + 1] == "fold-constants"
    assert Recipe.parse(applied.text, registry) == applied
    assert Rung("useless", "fold-constants", after="no-such").applied(recipe(), registry) == recipe()
    with pytest.raises(UsageError, match="no-such"):
        recipe().inserted(registry.get("fold-constants")(), "no-such")


def test_a_means_that_does_nothing_is_dropped_and_a_met_goal_ends_the_climb():
    rungs = (
        Rung("nothing", "fold-constants", after="calibrate"),
        Rung("coarse ranges", "insert-observers", {"observer": "percentile{percentile=60}"}),
    )
    missed = Ladder(candidates(heads()), Goal(min_sqnr=25), rungs).climb(recipe(), (15, 5))
    outcomes = {a.title: a.outcome for a in missed.attempts}
    assert outcomes["nothing"] == "no effect"
    assert outcomes["coarse ranges"] == "dropped"
    assert missed.met
    assert missed.kept_int16
    assert not missed.kept_float
    assert not missed.recipe.has("fold-constants")
    met = Ladder(candidates(heads()), Goal(min_sqnr=-50), rungs).climb(recipe(), (15, 5))
    assert [a.outcome for a in met.attempts] == ["start"]
    assert "is met" in met.reason


def test_sixteen_bits_come_before_float():
    within, beyond = (Ladder(candidates(heads()), Goal(min_sqnr=db), ()).climb(recipe(), (15, 5)) for db in (25, 100))
    assert within.kept_int16
    assert not within.kept_float
    assert f"with {len(within.kept_int16)} node" in within.reason
    assert "in int16" in within.reason
    assert "keep_int16=" in within.recipe.text
    assert within.to_json()["kept_int16"] == list(within.kept_int16)
    # What no sixteen bits give, float does; one measurement told.
    assert beyond.kept_float
    assert not beyond.kept_int16
    assert {a.outcome for a in beyond.attempts if "in int16" in a.title} == {"checked"}


def test_a_means_that_helps_is_kept():
    spoiled = recipe().with_options("insert-observers", {"observer": "percentile{percentile=60}"})
    rungs = (Rung("whole ranges", "insert-observers", {"observer": "minmax"}),)
    found = Ladder(candidates(heads()), Goal(min_sqnr=30), rungs).climb(spoiled, (15, 5))
    assert [a.outcome for a in found.attempts[:2]] == ["start", "kept"]
    assert 'observer="minmax"' in found.recipe.text


class Killed(BaseException):
    """Stands for a signal."""


@pytest.mark.parametrize("survived", [2, 5])
def test_a_killed_search_goes_on_and_ends_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, survived: int):
    monkeypatch.setattr("qcompile.search.ladder.RUNGS", RUNGS[:2])
    goal = Goal(min_sqnr=45)
    whole, _ = run(None, goal)
    put, writes = SearchState.put, []

    def put_and_die(self: SearchState, kind: str, text: str, value: Any) -> None:
        put(self, kind, text, value)
        writes.append(text)
        if len(writes) == survived:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(SearchState, "put", put_and_die)
        with pytest.raises(Killed):
            run(tmp_path / "state", goal)
    measured: list[str] = []

    def put_and_count(self: SearchState, kind: str, text: str, value: Any) -> None:
        measured.append(f"{kind}:{text}")
        put(self, kind, text, value)

    monkeypatch.setattr(SearchState, "put", put_and_count)
    resumed, context = run(tmp_path / "state", goal)
    assert resumed.to_json() == whole.to_json()
    assert resumed.recipe == whole.recipe
    assert (survived, "taking over measurements of an earlier run") in context.reports
    assert not any("earlier run" in note for note in context.notes), "the bundle would differ"
    again, _ = run(tmp_path / "state", goal)
    assert again.to_json() == whole.to_json()
    assert len(measured) == len(set(measured)), "something was measured twice"


def test_rungs_that_choose_ranges_share_one_pass_over_the_data(monkeypatch: pytest.MonkeyPatch):
    passes = []
    calibration = Split.calibration

    def count(self: Split):
        passes.append(1)
        return calibration(self)

    monkeypatch.setattr(Split, "calibration", count)
    Ladder(candidates(heads()), Goal(min_sqnr=200), RUNGS[:3]).climb(recipe(), (15, 5), means=True)
    # One for the ranges, one for the few samples of the sensitivities.
    assert len(passes) == 2


def test_the_usual_recipe_is_never_given_up_for_a_worse_one(monkeypatch: pytest.MonkeyPatch):
    """Where no means helps alone, and only together they do, the start is what stays."""
    usual = recipe().inserted(PassRegistry().get("correct-bias")(), "fuse-requantize")
    unreachable = (Rung("bias correction", "correct-bias", after="no-such"),)

    def score(self: Candidates, candidate: Recipe, what: str) -> Score:
        db = 40.0 if candidate.has("correct-bias") else 30.0
        return Score(db, db, 0.0, None, 1.0, 1.0)

    monkeypatch.setattr(Candidates, "score", score)
    monkeypatch.setattr(Candidates, "estimate", score)
    found = Ladder(candidates(heads()), Goal(max_ms=1.0), unreachable).climb(usual, (15, 5))
    assert [a.title for a in found.attempts[:2]] == ["the usual recipe", "plain int8"]
    assert found.recipe.has("correct-bias")
    assert found.score.sqnr_db == 40.0


def test_a_dear_means_that_cannot_close_the_gap_is_left_out():
    registry = PassRegistry()
    usual = recipe().inserted(registry.get("correct-bias")(), "fuse-requantize")
    dear = Rung("dear", "fold-constants", after="calibrate", instead_of=("correct-bias",), most_db=2.0)
    found = Ladder(candidates(heads()), Goal(min_sqnr=60), (dear,)).climb(usual, (15, 5))
    assert "dear" not in [a.title for a in found.attempts]
    assert len(found.left_out) == 1
    assert "dear: it brings 2 dB at most, and" in found.left_out[0]
    assert found.to_json()["left_out"] == list(found.left_out)


def test_the_reason_names_nodes_and_their_price():
    found, _ = run(None, Goal(min_sqnr=25))
    assert "(concat both" in found.reason or ", concat both" in found.reason
    assert "; all in int8, SQNR is" in found.reason


def test_the_state_is_for_these_samples_only(tmp_path: Path):
    state = SearchState(tmp_path / "s", "key")
    state.put("score", "a", {"x": 1.5})
    assert SearchState(tmp_path / "s", "key").get("score", "a") == {"x": 1.5}
    assert SearchState(tmp_path / "s", "other").get("score", "a") is None
    assert [p.name for p in (tmp_path / "s").iterdir()] == [NAME]
    (tmp_path / "s" / NAME).write_text("{")
    with pytest.raises(UsageError, match="damaged"):
        SearchState(tmp_path / "s", "key")
    remove_state(tmp_path / "s")
    assert not (tmp_path / "s").exists()
    SearchState(tmp_path / "s", "key").leave()
    assert not (tmp_path / "s").exists(), "a search that measured nothing leaves nothing"
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot keep the state"):
        SearchState(tmp_path / "file", "key")


@pytest.mark.parametrize("change", [("1.5", "1.25"), ('{\n   "x": 1.5\n  }', "5"), ('"digest"', '"other"')])
def test_changed_measurements_are_not_believed(tmp_path: Path, change: tuple[str, str]):
    SearchState(tmp_path, "key").put("score", "a", {"x": 1.5})
    text = (tmp_path / NAME).read_text()
    assert change[0] in text
    (tmp_path / NAME).write_text(text.replace(*change))
    with pytest.raises(UsageError, match="damaged"):
        SearchState(tmp_path, "key")
    SearchState(tmp_path, "other").leave()
    assert (tmp_path / NAME).exists(), "the folder was there before"


def test_the_final_graph_is_made_with_all_samples(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("qcompile.search.ladder.RUNGS", RUNGS[:2])
    found, context = run(None, Goal(min_sqnr=25))
    assert context.samples is not None
    seen = [s["x"] for s in context.samples()]
    assert (found.calibration, found.verification) == (15, 5)
    # Measured on samples that took no part, then made once more with all.
    assert found.whole
    assert len(seen) == 20
    assert any("calibrated on all 20" in note for note in context.notes)
    assert found.made is not None
    again = PassManager(found.recipe.passes, (), PassRegistry()).run(heads(), context_of(samples()))
    assert found.made.graph.structural_hash() == again.structural_hash()
    assert found.recipe.text.count("keep_int16=") == 1


def test_a_search_keeps_what_it_found_where_all_samples_cannot_calibrate(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("qcompile.search.ladder.RUNGS", ())
    score = Candidates.score

    def spoiled(self: Candidates, found: Recipe, what: str) -> Score:
        if what == "building with all samples":
            raise CalibrationError("tensor 'y' became NaN")
        return score(self, found, what)

    monkeypatch.setattr(Candidates, "score", spoiled)
    found, context = run(None, Goal(min_sqnr=25))
    assert found.met
    assert not found.whole
    assert found.made is not None
    assert context.samples is not None
    assert len(list(context.samples())) == 15
    assert any(note.endswith("the other 15: with all it cannot be (tensor 'y' became NaN)") for note in context.notes)


def test_samples_are_needed():
    context = context_of(samples())
    context.samples = None
    with pytest.raises(UsageError, match="calibration samples"):
        search(heads(), PIPELINE, context, SearchSettings(Goal(min_sqnr=25)))


@pytest.mark.parametrize(("name", "stays"), [("round-weights", True), ("correct-bias", False)])
def test_slow_passes_take_part_only_where_it_counts(monkeypatch: pytest.MonkeyPatch, name: str, stays: bool):
    """One that spoils what nodes outside int8 give is given up."""
    registry, scored = PassRegistry(), []
    right = layer_correction.replace_bias

    def wrong(rewriter: Rewriter, data: layer_correction.LayerData, bias: np.ndarray) -> None:
        right(rewriter, data, 1.03 * bias)

    monkeypatch.setattr("qcompile.passes.correct_bias.replace_bias", wrong)
    known = Candidates._known

    def count(self: Candidates, kind: str, candidate: Recipe, what: str) -> Score:
        scored.append(candidate)
        return known(self, kind, candidate, what)

    monkeypatch.setattr(Candidates, "_known", count)
    slow = recipe().inserted(registry.get(name)(), "fuse-requantize")
    found = Ladder(candidates(heads()), Goal(min_sqnr=38)).climb(slow, (15, 5), means=False)
    assert found.met
    assert found.recipe.has(name) == stays
    with_slow = {c.text for c in scored if c.has(name)}
    without = {c.text for c in scored if not c.has(name)}
    assert len(without) > 1
    assert len(with_slow) <= 1 + MOST_SLOW_CHECKS
    assert any(f"without {name}" in a.title for a in found.attempts)
    assert [a.score for a in found.attempts if a.outcome == "chosen"] == [found.score]


def test_passes_that_take_long_are_tried_where_others_found_something_better():
    coarse = recipe().with_options("insert-observers", {"observer": "percentile{percentile=60}"})
    usual = coarse.inserted(PassRegistry().get("round-weights")(), "fuse-requantize")
    late = tuple(rung for rung in RUNGS if rung.name in ("correct-bias", "round-weights"))
    found = Ladder(candidates(heads()), Goal(min_sqnr=60), late).climb(usual, (15, 5))
    assert [a.title for a in found.attempts[:2]] == ["the usual recipe", "plain int8"]
    assert not {"rounding of weights by layer", "bias correction"} & {a.title for a in found.attempts}
    found = Ladder(candidates(heads()), Goal(min_sqnr=60), (*RUNGS[:1], *late)).climb(usual, (15, 5))
    titles = [a.title for a in found.attempts]
    assert titles[2:4] == ["ranges from minimum to maximum", "rounding of weights by layer"]
    # Rounding corrects biases, too.
    assert found.left_out == ("bias correction: rounding of weights by layer does it, too",)


def test_labels_prove_what_an_estimate_says(monkeypatch: pytest.MonkeyPatch):
    """A candidate that only the estimate takes for good enough does not end the climb."""
    rungs = (
        Rung("good", "insert-observers", {"observer": "minmax"}),
        Rung("better", "insert-observers", {"observer": "percentile"}),
    )
    start = recipe().with_options("insert-observers", {"observer": "percentile{percentile=60}"})
    good, better = (rung.applied(start, PassRegistry()).text for rung in rungs)
    db = {good: 41.0, better: 42.0}

    def estimate(self: Candidates, candidate: Recipe, what: str) -> Score:
        return Score(db.get(candidate.text, 20.0), 20.0, 0.0, None, 1.0, 1.0)

    def score(self: Candidates, candidate: Recipe, what: str) -> Score:
        found = estimate(self, candidate, what)
        return found if candidate.text == better else Score(30.0, 20.0, 0.0, None, 1.0, 1.0)

    monkeypatch.setattr(Candidates, "estimate", estimate)
    monkeypatch.setattr(Candidates, "score", score)
    found = Ladder(candidates(heads()), Goal(min_sqnr=40), rungs).climb(start, (15, 5))
    assert found.recipe.text == better
    assert found.met


def test_what_is_chosen_was_measured_on_the_labels(monkeypatch: pytest.MonkeyPatch):
    """Also where slow passes are given up on the way: that it would do without them was only estimated."""

    def estimate(self: Candidates, candidate: Recipe, what: str) -> Score:
        db = 30.0 if candidate.has("correct-bias") else 40.0
        return Score(db, db, 0.0, None, 1.0, 1.0)

    def score(self: Candidates, candidate: Recipe, what: str) -> Score:
        return replace(estimate(self, candidate, what), sqnr_db=30.0, metric=0.5)

    monkeypatch.setattr(Candidates, "has_metric", True)
    monkeypatch.setattr(Candidates, "estimate", estimate)
    monkeypatch.setattr(Candidates, "score", score)
    slow = recipe().inserted(PassRegistry().get("correct-bias")(), "fuse-requantize")
    found = Ladder(candidates(heads()), Goal(min_sqnr=39)).climb(slow, (15, 5), means=False)
    assert found.score.metric == 0.5
    assert not found.met


@pytest.mark.parametrize(("last_noisy", "nodes"), [(40, 13), (6, 12)])
def test_a_goal_that_is_just_missed_is_not_met_by_float_throughout(
    monkeypatch: pytest.MonkeyPatch, last_noisy: int, nodes: int
):
    """The slow passes gain less and less as nodes leave int8, so that all prefixes that look good are too short.

    Args:
        monkeypatch: of pytest.
        last_noisy: the longest prefix of which noise is predicted.
        nodes: outside int8 in the end.
    """
    steps = [
        Step(Kept(real=tuple(f"node{i}" for i in range(count))), 10 ** (-count / 10) if count <= last_noisy else 0.0)
        for count in range(41)
    ]

    def outside(candidate: Recipe) -> int:
        return len(set(re.findall(r"node\d+", candidate.text)))

    def score(self: Candidates, candidate: Recipe, what: str) -> Score:
        count = outside(candidate)
        db = 25.0 + 0.25 * count if candidate.has("round-weights") else 17.0 + 0.9 * count
        return Score(db, db, 0.0, None, 1.0 + count / 10, 1.0 - count / 40)

    monkeypatch.setattr(Candidates, "plan", lambda self, candidate: Plan((), steps, {}))
    monkeypatch.setattr(Candidates, "estimate", score)
    monkeypatch.setattr(Candidates, "score", score)
    slow = recipe().inserted(PassRegistry().get("round-weights")(), "fuse-requantize")
    found = Ladder(candidates(heads()), Goal(min_sqnr=28)).climb(slow, (15, 5), means=False)
    assert found.met
    assert outside(found.recipe) == nodes


@pytest.mark.parametrize("slow", [(), ("round-weights",)])
def test_a_limit_of_time_alone_buys_what_fits_into_it(slow: tuple[str, ...]):
    usual = recipe()
    for name in slow:
        usual = usual.inserted(PassRegistry().get(name)(), "fuse-requantize")
    found = Ladder(candidates(heads()), Goal(max_ms=1e6)).climb(usual, (15, 5), means=False)
    assert found.score.sqnr_db > found.attempts[0].score.sqnr_db + 20
    assert found.score.sqnr_db == max(attempt.score.sqnr_db for attempt in found.attempts)
    least = found.attempts[0].score.ms
    tight = Ladder(candidates(heads()), Goal(max_ms=least)).climb(usual, (15, 5), means=False)
    assert tight.score.ms <= least
