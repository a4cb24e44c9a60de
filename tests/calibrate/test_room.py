"""Room in ranges for samples to come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from qcompile.calibrate.extremes import LEAST_SAMPLES, Extremes
from qcompile.calibrate.histogram import TensorStatistics
from qcompile.calibrate.mse import Mse
from qcompile.calibrate.room import with_room
from qcompile.quant.affine import fake_quantize
from qcompile.quant.qparams import QParams

Array = np.ndarray[Any, Any]


def statistics(samples: Sequence[Array]) -> TensorStatistics:
    seen = TensorStatistics("x")
    for sample in samples:
        seen.update(sample.astype(np.float32))
    return seen


def extremes(values: Array) -> Extremes:
    found = Extremes()
    for value in values:
        found.add(float(value))
    return found


def photographs(seed: int, count: int) -> list[Array]:
    """Return samples with a heavy tail, some of which are stronger than others."""
    random = np.random.default_rng(seed)
    return [random.laplace(size=2000) * random.lognormal(0, 0.3) for _ in range(count)]


def worst(samples: Sequence[Array], bounds: tuple[float, float]) -> float:
    """Return the mean cubed error of samples in a range."""
    params = QParams.from_range(*bounds)
    error = [np.abs(fake_quantize(s.astype(np.float32), params) - s) ** 3 for s in samples]
    return float(np.mean(error))


@pytest.mark.parametrize("power", [1.0, 3.0])
def test_the_excess_is_that_of_samples_to_come(power: float) -> None:
    random = np.random.default_rng(1)
    seen = extremes(random.gumbel(5, 2, 4000))
    others = random.gumbel(5, 2, 400_000)
    expected = 4000 * np.mean(np.maximum(others - 9, 0) ** power)
    assert seen.excess(9, power) == pytest.approx(expected, rel=0.15)


def test_the_order_of_samples_does_not_matter() -> None:
    values = np.random.default_rng(2).normal(0, 1e3, 50)
    assert extremes(values).excess(500, 3) == extremes(values[::-1]).excess(500, 3) > 0


def test_few_samples_and_clipped_ones_have_no_excess() -> None:
    assert extremes(np.arange(LEAST_SAMPLES - 1.0)).excess(0, 3) == 0
    assert extremes(np.full(LEAST_SAMPLES, 6.0)).excess(6, 3) == 0


def test_a_range_with_room_is_better_for_other_samples() -> None:
    seen = statistics(photographs(0, 64))
    tight = Mse().range(seen)
    wide = with_room(seen, *tight)
    assert wide[0] < tight[0]
    assert tight[1] < wide[1]
    others = photographs(1, 400)
    assert worst(others, wide) * 2 < worst(others, tight)


def test_room_grows_with_the_tensor_and_mirrors_with_it() -> None:
    samples = photographs(0, 64)
    lo, hi = with_room(statistics(samples), -4.0, 5.0)
    assert with_room(statistics([4 * s for s in samples]), -16.0, 20.0) == pytest.approx((4 * lo, 4 * hi))
    assert with_room(statistics([-s for s in samples]), -5.0, 4.0) == pytest.approx((-hi, -lo))


def test_what_reaches_its_bounds_gets_no_room() -> None:
    samples = [np.clip(s, 0, 1) for s in photographs(0, 64)]
    assert with_room(statistics(samples), 0.0, 1.0) == (0.0, 1.0)


def test_a_mask_is_no_measure_of_what_comes() -> None:
    samples = [np.append(s, np.full(20, -1e4 - s.max())) for s in photographs(0, 16)]
    assert with_room(statistics(samples), -8.0, 8.0) == (-8.0, 8.0)
