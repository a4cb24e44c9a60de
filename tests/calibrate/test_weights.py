import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from qcompile.calibrate.weights import constant_scales, grid_scales, raise_for_bias, refine_for_bias, weight_scales
from qcompile.ir.graph import Graph

WEIGHTS = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=2, max_dims=4, max_side=5), elements=st.floats(-8, 8, width=32)
)


def error_of(weight, scales, axis, qmax=127):
    shape = [1] * weight.ndim
    if axis is not None:
        shape[axis] = -1
    s = scales.astype(np.float64).reshape(shape)
    return ((weight - s * np.clip(np.rint(weight / s), -qmax, qmax)) ** 2).sum()


@settings(max_examples=50, deadline=None)
@given(WEIGHTS, st.sampled_from([None, 0, 1]), st.sampled_from(["max", "mse"]))
def test_scales_are_positive_and_cover(weight, axis, method):
    scales = weight_scales(weight, axis, method=method)
    assert scales.shape == ((1,) if axis is None else (weight.shape[axis],))
    assert scales.dtype == np.float32
    assert (scales > 0).all()
    if method == "max" and np.abs(weight).max() > 1e-6:
        peaks = np.abs(np.moveaxis(weight, axis or 0, 0).reshape(scales.size, -1)).max(axis=1)
        assert (scales * 127 >= peaks * (1 - 1e-6)).all()


@pytest.mark.parametrize("axis", [None, 0])
def test_mse_lowers_the_error_of_heavy_tails(axis):
    weight = np.random.default_rng(0).standard_t(3, (8, 16, 3, 3)).astype(np.float32)
    for qmax, gain in ((7, 0.85), (127, 1.0)):
        best = error_of(weight, weight_scales(weight, axis, method="mse", qmax=qmax), axis, qmax)
        assert best <= gain * error_of(weight, weight_scales(weight, axis, qmax=qmax), axis, qmax)


def test_per_channel_is_exact_for_spread_channels():
    weight = np.array([[127.0, -64.0], [0.0127, 0.0064]], np.float32)
    assert weight_scales(weight).tolist() == pytest.approx([1.0, 1e-4])
    assert weight_scales(weight, 1).tolist() == pytest.approx([1.0, 64 / 127])


def test_dead_channels_take_the_largest_other_scale():
    weight = np.array([[0.0, 0.0], [12.7, 0.0], [1e-38, 0.0], [25.4, 1.0]], np.float32)
    assert weight_scales(weight).tolist() == pytest.approx([0.2, 0.1, 0.2, 0.2])
    assert weight_scales(np.zeros((3, 2), np.float32)).tolist() == [1.0, 1.0, 1.0]


def test_infinite_weights_are_refused():
    with pytest.raises(ValueError, match="not finite"):
        weight_scales(np.array([[np.inf]], np.float32))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(1e-20, 1.0), min_size=1, max_size=6), st.floats(-1e4, 1e4), st.floats(1e-4, 10))
def test_biases_fit_after_raising(scales, bias, input_scale):
    raised = raise_for_bias(np.asarray(scales, np.float32), np.full(len(scales), bias), input_scale)
    assert (raised >= np.asarray(scales, np.float32)).all()
    assert (np.abs(bias / (input_scale * raised.astype(np.float64))) < 2**30 * (1 + 1e-6)).all()


def test_a_shared_scale_is_raised_for_the_largest_bias():
    raised = raise_for_bias(np.array([1e-12], np.float32), np.array([0.5, -2.0]), 1.0, limit=2**20)
    assert raised.tolist() == [2.0**-19]


def test_a_grid_gets_finer_where_the_bias_lies_between():
    """One weight lies on the grid of its own size, of which the bias is no multiple."""
    weight = np.array([[0.85], [0.85], [-0.5], [0.0]], np.float32)
    scales = grid_scales(weight, 0)
    bias = np.array([0.0305, 0.04, 0.0, 0.3], np.float32)
    refined = refine_for_bias(scales, weight, bias, bias[0] / scales[0])
    np.testing.assert_allclose(refined / scales, [1, 1 / 127, 1, 1 / 127], 1e-6)
    codes = weight[:, 0] / refined
    np.testing.assert_allclose(codes, np.rint(codes), atol=1e-4)
    assert np.abs(codes).max() < 127.01


def test_a_grid_in_full_use_stays():
    weight = np.array([[127.0, 3.0], [1.0, 64.0]], np.float32)
    scales = grid_scales(weight, 0)
    np.testing.assert_array_equal(refine_for_bias(scales, weight, np.array([0.3, 0.3]), 1.0), scales)


def test_the_very_scale_of_a_quantized_model_is_found() -> None:
    """Not the one beside it, by which some multiples are other numbers."""
    random = np.random.default_rng(0)
    scales = random.uniform(1e-3, 1e-2, 500).astype(np.float32)
    codes = random.integers(-127, 128, (500, 40)).astype(np.float32)
    codes[:, 0] = 127
    assert np.array_equal(grid_scales(codes * scales[:, None], 0), scales)


def test_the_scale_that_a_constant_is_stored_with_comes_before_any_guess() -> None:
    """One weight a channel lies on the grid of its own size, too."""
    graph, scales = Graph("g"), np.array([[0.01], [0.02], [0.5]], np.float32)
    codes = np.array([[127], [-126], [0]], np.float32)
    stored = graph.add_constant("w", codes * scales)
    np.testing.assert_allclose(constant_scales(stored), [1.27, 2.52, 2.52], 1e-6)
    stored.steps = scales
    np.testing.assert_array_equal(constant_scales(stored), scales[:, 0])
    moved = graph.add_moved("m", stored, np.transpose)
    np.testing.assert_array_equal(constant_scales(moved, 1), scales[:, 0])
    stored.steps = scales * np.float32(1.5)
    np.testing.assert_allclose(constant_scales(stored), [1.27, 2.52, 2.52], 1e-6)
