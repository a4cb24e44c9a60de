"""Values that mark something rather than measure it."""

from __future__ import annotations

import numpy as np
import pytest

from qcompile.calibrate.histogram import TensorStatistics


def sentinel(x: np.ndarray) -> float | None:
    seen = TensorStatistics("x")
    seen.update(x.astype(np.float32))
    return seen.distribution().sentinel()


def scores(mark: float, count: int = 300) -> np.ndarray:
    x = np.random.default_rng(0).normal(0, 4, 2000)
    x[:count] += mark
    return x


@pytest.mark.parametrize("mark", [-1e4, 1e4, -65504.0, -1e9])
def test_a_mask_is_found(mark: float):
    assert sentinel(scores(mark)) == pytest.approx(mark, rel=0.01)


@pytest.mark.parametrize(
    "x",
    [
        np.random.default_rng(0).normal(0, 1, 2000),
        np.random.default_rng(0).standard_cauchy(20000),
        np.array([0.0, -1e4] * 50),  # a mask by itself: one range serves both values
        np.zeros(10),
        scores(-1e4, count=1),  # an outlier, rare enough to be clipped
        np.concatenate([scores(0.0), np.linspace(1e3, 1e4, 500)]),  # large values that differ are a signal
        np.concatenate([scores(0.0), [-1e4] * 50, [1e4] * 50]),
    ],
)
def test_a_signal_is_not(x: np.ndarray):
    assert sentinel(x) is None


def test_the_mark_is_that_of_all_samples_so_far():
    seen = TensorStatistics("x")
    seen.update(scores(0.0).astype(np.float32))
    assert seen.mark is None
    seen.update(scores(-1e4).astype(np.float32))
    assert seen.mark == pytest.approx(-1e4, rel=0.01)
    seen.update(np.array([-3e38], np.float32))
    assert seen.mark == pytest.approx(-3e38)


def test_values_beyond_all_measurement_are_counted_and_named():
    seen = TensorStatistics("x")
    seen.update(np.array([0.0, 1.0, -3.4e38, -np.inf], np.float32))
    assert seen.markers == 2
    assert seen.marker < -1e38
