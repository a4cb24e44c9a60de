import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from qcompile.evaluate import metrics

ARRAYS = hnp.arrays(np.float32, st.integers(1, 30), elements=st.floats(-1e3, 1e3, width=32))


def test_sqnr_of_known_noise():
    r = np.array([3.0, 4.0])
    assert metrics.sqnr_db(r, r + np.array([0.3, -0.4])) == pytest.approx(20.0)
    assert metrics.sqnr_db(r, r) == math.inf
    assert metrics.sqnr_db(np.zeros(2), r) == -math.inf
    assert metrics.sqnr_db(np.zeros(2), np.zeros(2)) == math.inf


def test_sqnr_of_rounding_matches_theory():
    x = np.random.default_rng(0).uniform(-1, 1, 200_000)
    rounded = np.rint(x * 127) / 127
    assert metrics.sqnr_db(x, rounded) == pytest.approx(20 * math.log10(2 * 127), abs=0.1)


def test_psnr():
    r = np.zeros((4, 4))
    assert metrics.psnr_db(r, r + 0.1) == pytest.approx(20.0)
    assert metrics.psnr_db(r, r + 25.5, peak=255) == pytest.approx(20.0)
    assert metrics.psnr_db(r, r) == math.inf
    with pytest.raises(ValueError, match="at least one"):
        metrics.psnr_db(np.zeros(0), np.zeros(0))


@settings(max_examples=50, deadline=None)
@given(ARRAYS, st.floats(1e-3, 1e3))
def test_cosine_does_not_see_scale(x, factor):
    assert metrics.cosine(x, x.astype(np.float64) * factor) == pytest.approx(1.0, abs=1e-5)
    assert -1.0 <= metrics.cosine(x, x[::-1]) <= 1.0
    if np.abs(x).max() > 0:
        assert metrics.cosine(x, -x) == pytest.approx(-1.0)


def test_cosine_of_extremes():
    assert metrics.cosine(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == 0.0
    assert metrics.cosine(np.zeros(2), np.zeros(2)) == 1.0
    assert metrics.cosine(np.zeros(2), np.ones(2)) == 0.0
    assert metrics.cosine(np.array([1e-200, 0.0]), np.array([1e200, 0.0])) == 1.0


def test_errors():
    r, a = np.array([1.0, -4.0]), np.array([1.5, -4.0])
    assert metrics.max_absolute_error(r, a) == 0.5
    assert metrics.max_relative_error(r, a) == 0.125
    assert metrics.max_relative_error(np.zeros(2), np.zeros(2)) == 0.0
    assert metrics.max_relative_error(np.zeros(2), np.ones(2)) == math.inf
    assert metrics.max_absolute_error(np.zeros(0), np.zeros(0)) == 0.0


def test_integers_do_not_overflow():
    a, b = np.array([-128], np.int8), np.array([127], np.int8)
    assert metrics.max_absolute_error(a, b) == 255


@pytest.mark.parametrize(
    "measure",
    [
        metrics.sqnr_db,
        metrics.psnr_db,
        metrics.cosine,
        metrics.max_absolute_error,
        metrics.max_relative_error,
    ],
)
def test_shapes_must_agree(measure):
    with pytest.raises(ValueError, match="shapes differ"):
        measure(np.zeros(3), np.zeros((3, 1)))


def test_top_k_breaks_ties_by_index():
    assert metrics.top_k(np.array([1.0, 3.0, 3.0, 2.0]), 3).tolist() == [1, 2, 3]
    assert metrics.top_k(np.array([[1, 2], [5, 5]]), 9).tolist() == [[1, 0], [0, 1]]


def test_top_k_accuracy():
    scores = np.array([[0.1, 0.9, 0.0], [0.5, 0.3, 0.2], [0.2, 0.3, 0.5]])
    assert metrics.top_k_accuracy(scores, [1, 1, 0]) == pytest.approx(1 / 3)
    assert metrics.top_k_accuracy(scores, [1, 1, 0], k=2) == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="belong together"):
        metrics.top_k_accuracy(scores, [1])


def test_agreement():
    a = np.eye(3)
    b = np.eye(3)[[0, 1, 1]]
    assert metrics.agreement(a, b) == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="belong together"):
        metrics.agreement(a, b[:2])
