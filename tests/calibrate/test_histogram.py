import math
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from qcompile.calibrate.histogram import TensorStatistics
from qcompile.errors import InternalError

FLOATS = st.floats(-1e6, 1e6, width=32, allow_subnormal=False)


def statistics_of(*arrays, **options):
    statistics = TensorStatistics("t", **options)
    for array in arrays:
        statistics.update(np.asarray(array, np.float32))
    return statistics


def histogram_bytes(statistics):
    statistics.distribution()  # counts what waits
    return sum(row.nbytes for row in statistics._rows.values())


def test_exact_figures():
    statistics = statistics_of([[1.0, -2.0]], [[4.0, 0.0]])
    assert (statistics.minimum, statistics.maximum, statistics.count, statistics.samples) == (-2.0, 4.0, 4, 2)


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(np.float32, st.integers(1, 200), elements=FLOATS))
def test_cells_hold_every_value_once(values):
    distribution = statistics_of(values).distribution()
    assert distribution.total == values.size
    assert distribution.zeros == np.count_nonzero(values == 0)
    assert (distribution.lower[1:] >= distribution.upper[:-1]).all()
    for lower, upper, count in zip(distribution.lower, distribution.upper, distribution.counts, strict=True):
        if lower == upper:
            inside = values == lower
        elif upper <= 0:  # a cell holds the end that is nearer to zero
            inside = (values > lower) & (values <= upper)
        else:
            inside = (values >= lower) & (values < upper)
        assert inside.sum() == count


@settings(max_examples=40, deadline=None)
@given(hnp.arrays(np.float32, st.integers(2, 100), elements=FLOATS), st.randoms(use_true_random=False))
def test_order_and_grouping_do_not_matter(values, random):
    shuffled = values.copy()
    random.shuffle(shuffled)
    cut = random.randrange(values.size + 1)
    once, parts = statistics_of(values), statistics_of(shuffled[:cut], shuffled[cut:])
    a, b = once.distribution(), parts.distribution()
    assert np.array_equal(a.lower, b.lower)
    assert np.array_equal(a.counts, b.counts)
    assert (a.minimum, a.maximum) == (b.minimum, b.maximum)


@settings(max_examples=40, deadline=None)
@given(hnp.arrays(np.float32, st.integers(1, 300), elements=FLOATS), st.floats(0, 1))
def test_quantile_is_within_a_cell_of_the_rank(values, fraction):
    found = statistics_of(values).distribution().quantile(fraction)
    rank = fraction * (values.size - 1)
    ordered = np.sort(values).astype(np.float64)
    low, high = ordered[math.floor(rank)], ordered[math.ceil(rank)]
    slack = max(abs(low), abs(high)) / 64
    assert low - slack <= found <= high + slack
    assert values.min() <= found <= values.max()


def test_uniform_bins_match_numpy_for_many_values():
    values = np.random.default_rng(0).standard_normal(200_000).astype(np.float32)
    distribution = statistics_of(values).distribution()
    bins = distribution.uniform(64, -3.0, 3.0)
    expected, _ = np.histogram(values, 64, (-3.0, 3.0))
    assert np.abs(bins - expected).max() < 0.06 * expected.max()
    whole = distribution.uniform(100, distribution.minimum, distribution.maximum)
    assert whole.sum() == pytest.approx(values.size)


def test_uniform_puts_zeros_into_one_bin():
    bins = statistics_of([0.0] * 7 + [1.0]).distribution().uniform(4, -1.0, 1.0)
    assert bins.tolist() == [0.0, 0.0, 7.0, 1.0]


def test_folding_adds_both_signs():
    folded = statistics_of([-1.5, 1.5, 0.0, -0.0, -3.0]).distribution().folded()
    assert folded.counts.tolist() == [2, 2, 1]
    assert (folded.minimum, folded.maximum) == (0.0, 3.0)


@pytest.mark.parametrize("marker", [-3.4028235e38, -1e30, 3e38, -np.inf, np.inf])
def test_markers_are_left_out(marker):
    values = np.random.default_rng(1).standard_normal(1000).astype(np.float32)
    clean = statistics_of(values)
    marked = statistics_of(np.concatenate([values, [marker, marker]]))
    assert marked.markers == 2
    assert (marked.minimum, marked.maximum) == (clean.minimum, clean.maximum)
    assert np.array_equal(marked.distribution().counts, clean.distribution().counts)


def test_only_markers():
    statistics = statistics_of([-np.inf, -3e38])
    assert statistics.count == 0
    assert statistics.distribution().total == 0


def test_an_outlier_does_not_blur_the_rest():
    values = np.random.default_rng(2).uniform(-1, 1, 100_000)
    distribution = statistics_of(np.append(values, 1e9)).distribution()
    assert distribution.quantile(0.25) == pytest.approx(-0.5, abs=0.02)
    assert distribution.maximum == 1e9


def test_nan_is_a_marker_above_all():
    statistics = statistics_of([1.0], [1.0, np.nan, -np.inf], [-np.inf], [np.nan])
    assert (statistics.count, statistics.markers, statistics.samples) == (2, 4, 4)
    assert (statistics.minimum, statistics.maximum) == (1.0, 1.0)
    assert np.isnan(statistics.mark)


def test_integers_are_our_own_fault():
    with pytest.raises(InternalError):
        TensorStatistics("t").update(np.zeros(3, np.int64))


def test_moving_average_follows_its_formula():
    statistics = statistics_of([-1.0, 1.0], [-3.0, 2.0], [-2.0, 6.0], momentum=0.75)
    assert statistics.moving_minimum == (0.75 * (0.75 * -1 + 0.25 * -3) + 0.25 * -2)
    assert statistics.moving_maximum == (0.75 * (0.75 * 1 + 0.25 * 2) + 0.25 * 6)


def test_strided_and_half_precision_arrays():
    base = np.arange(24, dtype=np.float16).reshape(4, 6)
    statistics = TensorStatistics("t")
    statistics.update(base.T[::2])
    assert statistics.count == 12
    assert (statistics.minimum, statistics.maximum) == (0.0, 22.0)


def test_empty_arrays_count_as_samples():
    statistics = statistics_of(np.zeros((0, 3)), [2.0])
    assert (statistics.samples, statistics.count, statistics.maximum) == (2, 1, 2.0)


def test_memory_is_bounded():
    statistics = TensorStatistics("t")
    rng = np.random.default_rng(4)
    statistics.update(rng.standard_normal(1 << 20).astype(np.float32))
    tracemalloc.start()
    for _ in range(6):
        statistics.update(rng.standard_normal(1 << 20).astype(np.float32))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert histogram_bytes(statistics) <= 64 * 1024
    # The sample itself takes 12 MiB here (float64, then float32); its values are never copied whole.
    assert peak < 18 * 2**20
    everything = (np.arange(1 << 16, dtype=np.uint32) << 16).view(np.float32)
    statistics.update(everything[np.isfinite(everything)])
    assert histogram_bytes(statistics) <= 391 * 1024


def test_millions_of_values_are_counted_in_chunks():
    """The same counts, whether they come at once or one after the other."""
    values = np.random.default_rng(5).standard_normal(7_000_000).astype(np.float32)
    whole, parts = TensorStatistics("t"), TensorStatistics("t")
    start = time.process_time()
    whole.update(values)
    print(f"7 million values: {time.process_time() - start:.3f} s")
    for part in np.split(values, 7):
        parts.update(part)
    one, other = whole.distribution(), parts.distribution()
    assert one.total == values.size
    for name in ("lower", "upper", "counts"):
        assert np.array_equal(getattr(one, name), getattr(other, name))
