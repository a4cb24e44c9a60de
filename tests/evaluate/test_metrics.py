import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from qcompile.evaluate import metrics

ARRAYS = hnp.arrays(np.float32, st.integers(1, 30), elements=st.floats(-1e3, 1e3, width=32))


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


@pytest.mark.parametrize("measure", [metrics.psnr_db, metrics.cosine])
def test_shapes_must_agree(measure):
    with pytest.raises(ValueError, match="shapes differ"):
        measure(np.zeros(3), np.zeros((3, 1)))


def test_top_k_breaks_ties_by_index():
    assert metrics.top_k(np.array([1.0, 3.0, 3.0, 2.0]), 3).tolist() == [1, 2, 3]
    assert metrics.top_k(np.array([[1, 2], [5, 5]]), 9).tolist() == [[1, 0], [0, 1]]
