import numpy as np
import pytest

from qcompile.calibrate.preprocess import Preprocess
from qcompile.calibrate.sample import InputSpec
from qcompile.calibrate.synthetic import synthetic_samples


def inputs_of(**inputs):
    return [InputSpec(name, *rest) for name, rest in inputs.items()]


def test_images_fill_the_range_of_the_preprocessing():
    inputs = inputs_of(x=("float32", (1, 3, 64, 48)))
    steps = Preprocess.parse("mean=127,std=128")
    values = np.concatenate([s["x"] for s in synthetic_samples(inputs, 8, preprocess=steps)])
    assert values.shape == (8, 3, 64, 48)
    assert values.dtype == np.float32
    assert -127 / 128 <= values.min() < -0.9
    assert 0.9 < values.max() <= 1.0
    assert abs(values.mean()) < 0.25
    neighbours = np.corrcoef(values[..., 1:].ravel(), values[..., :-1].ravel())[0, 1]
    assert neighbours > 0.7  # structure, not white noise


@pytest.mark.parametrize("shape", [(1, 32, 32, 3), (2, 1, 28, 28), (3, 16, 16)])
def test_other_layouts(shape):
    (sample,) = synthetic_samples(inputs_of(x=("float32", shape)), 1)
    assert sample["x"].shape == shape
    assert np.isfinite(sample["x"]).all()


def test_pixels_for_integer_images():
    (sample,) = synthetic_samples(inputs_of(x=("uint8", (1, 32, 32, 3))), 1)
    assert sample["x"].dtype == np.uint8
    assert sample["x"].std() > 10


def test_real_vectors_are_normal():
    values = np.concatenate([s["v"] for s in synthetic_samples(inputs_of(v=("float32", (1, 500))), 8)])
    assert abs(values.mean()) < 0.1
    assert values.std() == pytest.approx(1.0, abs=0.1)


def test_integers_without_a_table_are_zeros_and_ones():
    (sample,) = synthetic_samples(inputs_of(m=("int64", (1, 50)), b=("bool", (1, 50))), 1)
    assert set(np.unique(sample["m"])) == {0, 1}
    assert sample["b"].dtype == bool


def test_runs_are_equal_and_samples_differ():
    inputs = inputs_of(x=("float32", (1, 3, 16, 16)), v=("float32", (1, 3)))
    first, second = synthetic_samples(inputs, 3), synthetic_samples(inputs, 3)
    assert len(first) == first.size == 3
    for a, b in zip(first, second, strict=True):
        assert all(np.array_equal(a[name], b[name]) for name in a)
    assert len({s["x"].tobytes() for s in first}) == 3
    (other,) = synthetic_samples(inputs, 1, seed=1)
    assert not np.array_equal(next(iter(first))["x"], other["x"])


def test_indices_stay_inside_their_table():
    (sample,) = synthetic_samples(inputs_of(ids=("int64", (1, 500), 30)), 1)
    assert (sample["ids"].min(), sample["ids"].max()) == (0, 29)
