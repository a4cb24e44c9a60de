"""Constants are fitted to some samples, and judged by others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qcompile import ops
from qcompile.calibrate.calibration_set import CalibrationSet, SampleIterator, open_calibration
from qcompile.calibrate.sample import InputSpec, graph_inputs
from qcompile.calibrate.sample_choice import (
    all_fitted,
    calibration_samples,
    compared_samples,
    correct_all,
    fitted_samples,
    judges,
    other_samples,
    some_judged,
    some_samples,
    spread,
)
from qcompile.ir.graph import Graph
from qcompile.ir.parser import parse_graph
from qcompile.passmgr import PassContext
from qcompile.report.terminal import accuracy_text


def numbered(total: int) -> list[dict[str, np.ndarray]]:
    return [{"x": np.array(index)} for index in range(total)]


def context(total: int, *, sized: bool) -> PassContext:
    def given() -> SampleIterator:
        return SampleIterator(iter(numbered(total)), total if sized else None)

    return PassContext(samples=given)


def places(samples: object) -> list[int]:
    return [int(sample["x"]) for sample in samples]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("total", "fitted"), [(100, 32), (64, 32), (63, 32), (33, 32), (512, 256)])
def test_networks_are_checked_on_samples_that_no_layer_was_corrected_on(total: int, fitted: int) -> None:
    given = numbered(total)
    corrected, checked = spread(given, fitted), judges(given, 8, fitted)[0]
    seen = places(checked)
    assert not set(places(corrected)) & set(seen)
    assert 4 <= len(seen) <= 8
    assert seen[-1] - seen[0] >= total // 2


@pytest.mark.parametrize("count", [0, 1, 2, 7, 20, 40])
def test_samples_are_spread_over_all_there_are(count: int) -> None:
    found = places(spread(numbered(20), count))
    assert min(count, 20) / 2 <= len(found) <= count
    assert found == sorted(set(found))
    assert count < 2 or found[-1] >= 10


@pytest.mark.parametrize(("total", "limit", "new"), [(16, 32, 4), (20, 32, 5), (32, 32, 8), (64, 256, 8), (40, 32, 4)])
def test_of_few_samples_correction_leaves_some_to_judge(total: int, limit: int, new: int) -> None:
    """Weights fitted to all would look better on them than on any others."""
    corrected = places(calibration_samples(network(1), context(total, sized=True), limit, 0))
    checked, mixed = (places(some) for some in judges(numbered(total), 8, limit))
    compared = places(compared_samples(SampleIterator(iter(numbered(total)), total), 8, limit)[1])
    assert not set(corrected) & {*checked, *compared}
    assert len(corrected) >= (total - total // 4 if total <= limit else limit / 2)
    assert len(checked) >= new
    assert bool(set(mixed) & set(corrected)) == (total <= limit)
    assert len(compared) >= new


@pytest.mark.parametrize(("total", "new"), [(8, [3, 7]), (15, [3, 7, 11])])
def test_few_samples_judge_a_choice_and_correct_what_was_chosen(total: int, new: list[int]) -> None:
    given = context(total, sized=True)
    assert places(judges(numbered(total), 8, 32)[0]) == new
    given.judging = True
    assert not set(places(calibration_samples(network(1), given, 32, 0))) & set(new)
    given.judging = False
    assert places(calibration_samples(network(1), given, 32, 0)) == list(range(total))


@pytest.mark.parametrize(("total", "few"), [(0, False), (7, False), (8, True), (15, True), (16, False), (99, False)])
def test_how_many_samples_are_few(total: int, few: bool) -> None:
    assert correct_all(iter(numbered(total))) is few


@pytest.mark.parametrize("total", [0, 1, 7])
def test_of_very_few_samples_none_is_new(total: int) -> None:
    new, mixed = judges(numbered(total), 16, 32)
    assert new == []
    assert places(mixed) == list(range(total))
    assert places(calibration_samples(network(1), context(total, sized=True), 32, 0)) == list(range(total))


@pytest.mark.parametrize("sized", [True, False])
@pytest.mark.parametrize("total", [2, 7, 64, 200])
def test_what_is_fitted_to_does_not_judge(total: int, sized: bool) -> None:
    given = context(total, sized=sized)
    fitted, others = places(fitted_samples(given, 32)), places(other_samples(given, 8))
    compared = places(compared_samples(SampleIterator(iter(numbered(total)), total), 8)[1]) if total >= 16 else others
    assert not set(fitted) & {*others, *compared}
    assert fitted[-1] - fitted[0] >= total // 2 - 1
    assert min(8, total // 2) >= len(others) >= min(4, total // 2)


@pytest.mark.parametrize(
    ("total", "count", "compared"), [(15, 8, 8), (16, 8, 8), (40, 64, 20), (200, 64, 64), (5, 8, 5)]
)
def test_those_that_judge_are_as_many_as_there_are(total: int, count: int, compared: int) -> None:
    samples = open_calibration(numbered(total), [InputSpec("x", "int64", ())])
    list(samples)
    size, chosen = compared_samples(samples, count)
    found = places(list(chosen))
    assert size == len(found) == compared
    assert some_judged(samples) == (total < 16)
    assert some_judged(samples) or all(place % 2 for place in found)


def test_a_single_sample_is_fitted_to() -> None:
    assert places(fitted_samples(context(1, sized=True), 8)) == [0]
    assert other_samples(context(1, sized=True), 8) == []
    assert fitted_samples(PassContext(), 8) == other_samples(PassContext(), 8) == []


def test_a_few_of_many_are_spread_over_all() -> None:
    graph = network()
    assert places(some_samples(graph, context(64, sized=True), 4, 0)) == [0, 16, 32, 48]
    assert places(some_samples(graph, context(3, sized=True), 4, 0)) == [0, 1, 2]
    assert places(some_samples(graph, context(64, sized=False), 4, 0)) == [0, 1, 2, 3]
    assert len(list(some_samples(graph, PassContext(), 4, 2))) == 2


def network(rows: int = 4096) -> Graph:
    """Return one that takes, with the usual rows, so long that no more than 32 samples are fitted to."""
    text = "input %x : f32[ROWS,64] const @w : f32[1024,64] = normal(1) const @b : f32[1024] = normal(2) "
    text += '%y = dense(%x, @w, @b) : f32[ROWS,1024] output "y" = %y }'
    return parse_graph('graph "g" { ' + text.replace("ROWS", str(rows)), ops.all_ops())


def test_samples_of_a_function_are_compared_at_odd_places_too(tmp_path: Path) -> None:
    """Their number is known once they were read: the first ones alone are the worst choice."""
    source = tmp_path / "given.py"
    source.write_text("import numpy as np\ndef samples():\n    return ([np.float32(i)] for i in range(40))\n")
    samples = open_calibration(f"{source}:samples", [InputSpec("x", "float32", (1,))])
    assert samples.size is None
    assert [sample["x"][0] for sample in compared_samples(samples, 4)[1]] == [0, 1, 2, 3]
    samples.digest()
    assert samples.size == 40
    assert [sample["x"][0] for sample in compared_samples(samples, 4)[1]] == [1, 11, 21, 31]


@pytest.mark.parametrize(("count", "copies", "fitted"), [(40, 1, False), (32, 1, False), (15, 1, True), (20, 3, True)])
def test_figures_of_samples_that_weights_were_fitted_to_say_so(count: int, copies: int, fitted: bool) -> None:
    graph = network()
    given = [{"x": np.full((4096, 64), index, np.float32)} for index in range(count)] * copies
    samples: CalibrationSet = open_calibration(given, graph_inputs(graph))
    samples.digest()
    assert all_fitted(graph, samples) == fitted
    text = accuracy_text({"samples": count, "verified": True, "fitted": fitted, "outputs": {"y": 30.0}})
    assert ("weights were fitted to" in text) == fitted
