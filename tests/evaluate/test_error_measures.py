"""The measures of `qcompile eval` for regression and segmentation against values known otherwise."""

from __future__ import annotations

import re

import numpy as np
import pytest

from qcompile.errors import UsageError
from qcompile.evaluate.measure import Observation, make_measure

from .observations import seen, value


def numbers(*pairs: tuple[object, object], output: str = "y") -> list[Observation]:
    return [seen({output: np.asarray(answer)}, np.asarray(truth)) for answer, truth in pairs]


def test_errors_of_numbers_are_pooled_over_the_samples() -> None:
    """The first sample has three values, the second one: each value counts alike."""
    observations = numbers(([[1.0, 2.0, 5.0]], [1.0, 3.0, 3.0]), ([[7.0]], 5.0))
    assert value("mae", *observations) == pytest.approx((0 + 1 + 2 + 2) / 4)
    assert value("rmse", *observations) == pytest.approx(((0 + 1 + 4 + 4) / 4) ** 0.5)
    spread = np.square(np.array([1.0, 3.0, 3.0, 5.0]) - 3.0).sum()
    assert value("r2", *observations) == pytest.approx(1 - 9 / spread)
    assert value("mae", seen({"y": np.array([[2.5]])}, "4.0")) == 1.5, "as a list of files and labels says it"


def test_r2_needs_labels_that_differ_and_no_small_ones() -> None:
    assert np.isnan(value("r2", *numbers(([[0.2]], 0.1), ([[0.1]], 0.1))))
    assert value("r2", *numbers(([[1e6 + 0.1]], 1e6), ([[1e6 + 10]], 1e6 + 10))) == pytest.approx(
        1 - 0.01 / 50, abs=1e-4
    )
    assert value("r2", *numbers(([[5.0]], 1.0), ([[-5.0]], 2.0))) < 0.0
    measure = make_measure("r2")
    few = [measure.row(o) for o in numbers(([[1.1]], 1.0), ([[2.2]], 2.0))]
    estimate = measure.estimate(few)
    assert estimate.low == estimate.high == pytest.approx(estimate.value), "draws of one sample twice tell nothing"


@pytest.mark.parametrize("metric", ["mae", "rmse", "r2"])
def test_errors_of_numbers_against_the_float_model(metric: str) -> None:
    theirs = {"y": np.array([1.0, 2.0, 3.0]), "z": np.zeros(2)}
    ours = {"y": np.array([1.0, 2.0, 4.0]), "z": np.ones(2)}
    expected = {"mae": 1 / 3, "rmse": (1 / 3) ** 0.5, "r2": 0.5}[metric]
    assert value(f"{metric}{{output=y}}", seen(ours, None, theirs)) == pytest.approx(expected)
    with pytest.raises(UsageError, match="2 outputs"):
        value(metric, seen(ours, None, theirs))
    with pytest.raises(UsageError, match=f"metric '{metric}' needs labels or the float model"):
        value(metric, seen({"y": np.ones(3)}))
    with pytest.raises(UsageError, match=r"label of shape \[2\] for an output of \[3\]"):
        value(metric, seen({"y": np.ones(3)}, np.ones(2)))
    with pytest.raises(UsageError, match="label of shape") as caught:
        value(metric, seen({"y": np.ones(3)}, 2))
    assert "where the label is a class, --metric top1" in (caught.value.hint or "")
    with pytest.raises(UsageError, match="the label 'cat' is no number") as caught:
        value(metric, seen({"y": np.ones(1)}, "cat"))
    assert caught.value.hint == f"{metric} compares numbers: give one for each value of output 'y'"
    assert make_measure(metric).higher_is_better == (metric == "r2")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("metric", "worst"), [("mae", np.inf), ("rmse", np.inf), ("r2", -np.inf)])
def test_answers_that_are_no_numbers_are_worse_than_any(metric: str, worst: float) -> None:
    measure = make_measure(metric)
    rows = [measure.row(o) for o in numbers(([np.nan, 1.0], [0.0, 1.0]), ([1.0, 1.0], [1.0, np.nan]))]
    fine = [measure.row(o) for o in numbers(([0.0, 1.0], [0.0, 1.0]), ([1.0, 1.0], [1.0, np.nan]))]
    assert measure.estimate(rows).value == worst
    assert measure.estimate(rows).low is None
    assert measure.difference(rows, fine).value == worst
    assert measure.estimate(fine).value == (1.0 if metric == "r2" else 0.0), "labels that are no numbers do not count"


def scores_of(classes: object, count: int = 3) -> np.ndarray:
    """Return scores [1, classes, rows, columns] whose best class is the given one."""
    return np.moveaxis(np.eye(count)[np.asarray(classes)], -1, 0)[None]


def test_overlap_of_segments_by_hand() -> None:
    """Class 2 is nowhere and does not count; pixels of both images are counted together."""
    first = seen({"y": scores_of([[0, 1], [1, 1]])}, np.array([[0, 0], [1, 1]]))
    second = seen({"y": scores_of([[0, 0], [0, 0]])}, np.array([[[0, 0], [0, 1]]], np.uint8))
    assert value("miou", first) == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert value("miou", first, second) == pytest.approx(((1 + 3) / (2 + 4) + 2 / 4) / 2)
    last = seen({"y": np.moveaxis(scores_of([[0, 1], [1, 1]]), 1, -1)}, np.array([[0, 0], [1, 1]]))
    assert value("miou{axis=-1}", last) == value("miou", first)
    named = seen({"y": np.array([[[0, 1], [1, 1]]])}, np.array([[0, 0], [1, 1]]))
    assert value("miou{classes=2}", named) == value("miou", first)
    marked = seen({"y": scores_of([[0, 1], [1, 1]])}, np.array([[0, 255], [1, 1]]))
    assert value("miou{ignore=255}", marked) == 1.0
    measure = make_measure("miou")
    estimate = measure.estimate([measure.row(first), measure.row(second)] * 10)
    assert estimate.low < estimate.value < estimate.high


@pytest.mark.filterwarnings("error")
def test_overlap_of_segments_with_the_float_model() -> None:
    theirs, ours = scores_of([[0, 1], [1, 2]]), scores_of([[0, 1], [1, 1]])
    assert value("miou", seen({"y": theirs}, None, {"y": theirs})) == 1.0
    assert value("miou", seen({"y": ours}, None, {"y": theirs})) == pytest.approx((1 + 2 / 3 + 0) / 3)
    spoiled, masked = theirs.copy(), theirs.copy()
    spoiled[0, 0, 0, 1], masked[0, 0, 0, 1] = np.nan, -np.inf
    assert value("miou", seen({"y": spoiled}, None, {"y": theirs})) == pytest.approx((1 + 1 / 2 + 1) / 3)
    assert value("miou", seen({"y": theirs}, None, {"y": spoiled})) == 1.0, "the float model names no class there"
    assert value("miou", seen({"y": masked}, None, {"y": theirs})) == 1.0


@pytest.mark.parametrize(
    ("metric", "output", "label", "words", "hint"),
    [
        ("miou", scores_of([[0, 1]]), np.array([[0, 255]]), "label 255 is not one of the 3 classes", "ignore=255"),
        ("miou", scores_of([[0, 1]]), np.array([[0.0, 1.0]]), r"label of float64 \[1, 2\]", "integers"),
        ("miou", scores_of([[0, 1]]), np.array([0, 1, 2]), r"label of int64 \[3\]", "axis=-1"),
        ("miou", scores_of([[0, 1]])[:, :1], np.array([[0, 1]]), "not one score for each class", "axis=-1"),
        ("miou{axis=7}", scores_of([[0, 1]]), np.array([[0, 1]]), "not one score for each class", "axis=-1"),
        ("miou", np.array([[0, 1]]), np.array([[0, 1]]), "holds class indices", r"miou\{classes=2\}"),
        ("miou", scores_of([[0, 1]]), None, "needs labels or the float model", "--reference"),
    ],
)
def test_segmentations_that_do_not_fit_say_what_to_do(
    metric: str, output: np.ndarray, label: object, words: str, hint: str
) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        value(metric, seen({"y": output}, label))
    assert re.search(hint, caught.value.hint or "")
