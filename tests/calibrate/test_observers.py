import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from qcompile.calibrate.entropy import Entropy
from qcompile.calibrate.histogram import TensorStatistics
from qcompile.calibrate.minmax import MinMax
from qcompile.calibrate.moving_average import MovingAverage
from qcompile.calibrate.mse import Mse
from qcompile.calibrate.observer import make_observer, observer_text, observers
from qcompile.calibrate.percentile import Percentile
from qcompile.errors import UsageError
from qcompile.quant.affine import fake_quantize
from qcompile.quant.qparams import QParams

RNG = np.random.default_rng(0)
SIZE = 100_000
DISTRIBUTIONS = {
    "normal": RNG.standard_normal(SIZE),
    "laplace": RNG.laplace(size=SIZE),
    "relu": np.maximum(RNG.standard_normal(SIZE), 0),
    "student3": RNG.standard_t(3, SIZE),
    "negative": -RNG.exponential(size=SIZE),
    "uniform": RNG.uniform(-1, 3, SIZE),
}
DISTRIBUTIONS = {name: values.astype(np.float32) for name, values in DISTRIBUTIONS.items()}


def seen(*samples):
    statistics = TensorStatistics("t")
    for values in samples:
        statistics.update(np.asarray(values, np.float32))
    return statistics


def measured_mse(values, bounds):
    error = fake_quantize(values, QParams.from_range(*bounds)).astype(np.float64) - values
    return float(np.mean(error**2))


def test_the_listing_finds_all():
    assert set(observers()) == {"minmax", "moving-average", "percentile", "entropy", "mse", "auto"}


@pytest.mark.parametrize("name", sorted(observers()))
@settings(max_examples=25, deadline=None)
@given(hnp.arrays(np.float32, st.integers(1, 60), elements=st.floats(-1e5, 1e5, width=32)), st.booleans())
def test_every_range_is_usable(name, values, symmetric):
    lo, hi = make_observer(name).range(seen(values), symmetric=symmetric)
    assert lo <= 0.0 <= hi
    assert lo < hi
    assert QParams.from_range(lo, hi).scale[0] > 0
    if symmetric:
        assert lo == -hi
    elif np.abs(values).max() > 1e-20:
        slack = 1e-6 * np.abs(values).max()
        assert min(values.min(), 0) - slack <= lo
        assert hi <= max(values.max(), 0) + slack


@pytest.mark.parametrize("name", sorted(observers()))
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0] * 5, (0.0, 1.0)),
        ([3.0] * 5, (0.0, 3.0)),
        ([-2.5] * 5, (-2.5, 0.0)),
        ([1e-38, -1e-38], (0.0, 1.0)),
        ([-np.inf, -3e38], (0.0, 1.0)),
    ],
)
def test_degenerate_tensors(name, values, expected):
    assert make_observer(name).range(seen(values)) == pytest.approx(expected, rel=0.3)


@pytest.mark.parametrize("name", sorted(observers()))
def test_nearly_always_zero_keeps_its_few_values(name):
    values = np.zeros(100_000)
    values[7] = 5.0
    lo, hi = make_observer(name).range(seen(values))
    assert lo == 0.0
    assert 1.0 < hi <= 5.0


@pytest.mark.parametrize("name", sorted(observers()))
def test_a_mask_does_not_destroy_the_range(name):
    values = np.append(DISTRIBUTIONS["normal"], [-3.4028235e38] * 1000)
    lo, hi = make_observer(name).range(seen(values))
    assert -6 < lo < -2
    assert 2 < hi < 6


@pytest.mark.parametrize("name", sorted(observers()))
def test_symmetric_range_of_a_one_sided_tensor(name):
    lo, hi = make_observer(name).range(seen(DISTRIBUTIONS["negative"]), symmetric=True)
    assert hi == -lo
    assert 4 < hi <= -DISTRIBUTIONS["negative"].min()


def test_minmax_takes_the_extremes():
    assert MinMax().range(seen([-1.0, 2.0], [0.5, 7.25])) == (-1.0, 7.25)


def test_moving_average_weighs_recent_samples():
    observer = MovingAverage(momentum=0.5)
    statistics = observer.new_statistics("t")
    for sample in ([-4.0, 8.0], [-2.0, 4.0]):
        statistics.update(np.asarray(sample, np.float32))
    assert observer.range(statistics) == (-3.0, 6.0)


@pytest.mark.parametrize("name", sorted(DISTRIBUTIONS))
@pytest.mark.parametrize("percentile", [90.0, 99.0, 99.9])
def test_percentile_agrees_with_numpy(name, percentile):
    values = DISTRIBUTIONS[name]
    lo, hi = Percentile(percentile).range(seen(values))
    expected = np.percentile(values, [100 - percentile, percentile])
    assert lo == pytest.approx(min(expected[0], 0), rel=0.01, abs=1e-6)
    assert hi == pytest.approx(max(expected[1], 0), rel=0.01, abs=1e-6)


@pytest.mark.parametrize("name", sorted(DISTRIBUTIONS))
def test_mse_is_no_worse_than_minmax(name):
    values = DISTRIBUTIONS[name]
    statistics = seen(values)
    assert measured_mse(values, Mse().range(statistics)) <= 1.02 * measured_mse(values, MinMax().range(statistics))


@pytest.mark.parametrize(("name", "gain"), [("normal", 1.2), ("laplace", 1.15), ("student3", 1.2)])
def test_mse_beats_minmax_on_tails(name, gain):
    values = DISTRIBUTIONS[name]
    statistics = seen(values)
    assert gain * measured_mse(values, Mse().range(statistics)) < measured_mse(values, MinMax().range(statistics))


@pytest.mark.parametrize("name", sorted(DISTRIBUTIONS))
def test_mse_is_close_to_an_exhaustive_search(name):
    values = DISTRIBUTIONS[name][:20_000]
    statistics = seen(values)
    lo, hi = min(statistics.minimum, 0.0), max(statistics.maximum, 0.0)
    factors = np.geomspace(1, 1 / 16, 24)
    best = min(
        measured_mse(values, (lo * a, hi * b)) for a, b in itertools.product(factors, factors) if lo * a < hi * b
    )
    assert measured_mse(values, Mse().range(statistics)) <= 1.03 * best


def test_mse_clips_more_with_fewer_levels():
    statistics = seen(DISTRIBUTIONS["laplace"])
    ranges = [Mse().range(statistics, levels=levels)[1] for levels in (16, 256, 65536)]
    assert ranges[0] < ranges[1] < ranges[2]
    assert ranges[2] == pytest.approx(statistics.maximum, rel=0.05)


def test_entropy_keeps_a_uniform_range_and_clips_a_tail():
    lo, hi = Entropy().range(seen(DISTRIBUTIONS["uniform"]))
    assert (lo, hi) == pytest.approx((-1, 3), rel=0.02)
    statistics = seen(DISTRIBUTIONS["student3"])
    lo, hi = Entropy().range(statistics)
    assert statistics.minimum < lo < -5
    assert 5 < hi < statistics.maximum


def test_entropy_ignores_exact_zeros():
    values = DISTRIBUTIONS["laplace"]
    padded = np.append(values, np.zeros(10 * values.size, np.float32))
    assert Entropy().range(seen(padded)) == Entropy().range(seen(values))


def test_texts_round_trip():
    for text in ("minmax", "percentile{percentile=99.9}", "moving-average{momentum=0.5}", "mse", "entropy"):
        assert observer_text(make_observer(text)) == text
    assert make_observer("moving_average") == MovingAverage()
    assert make_observer(" percentile { percentile = 99.5 } ") == Percentile(99.5)


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("entrpy", "unknown observer 'entrpy'", "entropy"),
        ("percentile{percentle=3}", "no option 'percentle'", "percentile"),
        ("percentile{percentile=much}", "not a number", None),
        ("percentile{percentile=12}", r"not in \(50, 100\]", "99.99"),
        ("moving-average{momentum=2}", "not between 0 and 1", None),
        ("minmax{x=1}", "no option 'x'", "no options"),
        ("percentile{", "not of the form", None),
    ],
)
def test_wrong_texts(text, message, hint):
    with pytest.raises(UsageError, match=message) as caught:
        make_observer(text)
    assert hint is None or hint in (caught.value.hint or "")
