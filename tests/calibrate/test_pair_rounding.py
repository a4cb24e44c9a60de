"""Weights of crowded pairs become even, at little cost at the output of their layer."""

from __future__ import annotations

import numpy as np
import pytest

from qcompile.calibrate import weight_rounding
from qcompile.calibrate.weight_rounding import damped, round_pairs, round_weights
from qcompile.quant.byte_pairs import crowded, halvable, nearest_even, needing_halves


def test_pairs_are_crowded_where_sums_of_two_products_can_leave_16_bits() -> None:
    rng = np.random.default_rng(0)
    weights = rng.integers(-127, 128, (200, 8))
    pairs = weights.reshape(200, 4, 2)
    ends = [np.where(sign * pairs > 0, 255 * pairs, 0).sum(axis=-1) for sign in (1, -1)]
    # 255 * 128 is the last multiple of 255 within int16.
    np.testing.assert_array_equal(crowded(weights), (ends[0] > 32767) | (ends[1] < -32768))
    even = (pairs % 2 == 0).all(axis=-1)
    np.testing.assert_array_equal(halvable(weights), crowded(weights) & even)
    np.testing.assert_array_equal(needing_halves(weights, 4)[:, ::2], crowded(weights) & ~even)


def test_pairs_are_counted_from_the_start_of_each_run_and_the_last_may_be_alone() -> None:
    weights = np.array([[1, 2, 127, 127, 127, 3], [127, 127, 127, 127, 127, 126]])
    found = needing_halves(weights, 3)
    np.testing.assert_array_equal(found, [[0, 0, 0, 1, 1, 0], [1, 1, 0, 1, 1, 0]])


def test_nearest_even_numbers() -> None:
    wanted = np.array([101.4, 54.6, 126.9, 127.0, 100.0, 28.4, -127.0, 127.0])
    found = nearest_even(wanted, np.rint(wanted), 8)
    np.testing.assert_array_equal(found, [102, 54, 126, 126, 100, 28, -127, 127])


@pytest.mark.parametrize("run", [64, 16])
@pytest.mark.parametrize("related", [False, True])
def test_errors_of_even_weights_cancel_at_the_output(related: bool, run: int) -> None:
    rng = np.random.default_rng(1)
    weight = rng.normal(0, 1, (1, 16, 64))
    inputs = np.maximum(rng.normal(0, 1, (400, 64)) + (rng.normal(0, 2, (400, 1)) if related else 0), 0)
    hessian = damped(np.cov(inputs.T)[None], 0.01)
    scale = np.abs(weight).max(axis=2) / 127
    integers = round_weights(weight, scale, hessian)
    assert needing_halves(integers, run).any()
    found, loss = round_pairs(weight, scale, integers, hessian, run)
    assert not needing_halves(found, run).any()
    assert np.abs(found).max() <= 127

    def error(z: np.ndarray) -> float:
        e = weight - z * scale[:, :, None]
        return float((np.matmul(e, hessian) * e).sum())

    assert loss == pytest.approx(10 * np.log10(error(found) / error(integers)))
    assert loss < 2.5
    assert error(found) < error(nearest_even(weight / scale[:, :, None], integers, run))


def test_weights_without_crowded_pairs_stay() -> None:
    integers = np.tile([64.0, 64.0, -127.0, 127.0], (1, 3, 2))
    found, loss = round_pairs(integers * 0.1, np.full((1, 3), 0.1), integers, np.eye(8)[None], 8)
    np.testing.assert_array_equal(found, integers)
    assert loss == 0.0


def test_rounded_weights_cannot_be_improved_one_by_one() -> None:
    """More terms than a block has: what one block changes reaches the terms of the others."""
    rng = np.random.default_rng(3)
    groups, outputs, terms = 2, 5, 150
    w = rng.normal(size=(groups, outputs, terms))
    x = rng.normal(size=(groups, 400, terms)) @ rng.normal(size=(groups, terms, terms))
    h = np.matmul(x.transpose(0, 2, 1), x) / 400 + 0.1 * np.eye(terms)
    scale = np.abs(w).max(axis=2) / 127
    z = round_weights(w, scale, h, qmax=127, sweeps=200)
    gradient = np.matmul(w / scale[:, :, None] - z, h) / np.diagonal(h, axis1=1, axis2=2)[:, None]
    np.testing.assert_array_equal(np.clip(np.rint(z + gradient), -127, 127), z)
    start = round_weights(w, scale, h, qmax=127, sweeps=0)
    costs = [(np.matmul(e, h) * e).sum(axis=2) for e in (w / scale[:, :, None] - one for one in (start, z))]
    assert (costs[1] <= costs[0]).all()
    assert (costs[1] < costs[0]).any()


def test_outputs_that_go_from_move_to_move_end_where_those_that_go_term_by_term_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(4)
    for groups, outputs, terms in ((1, 7, 150), (3, 5, 70), (40, 1, 9)):
        w = rng.normal(size=(groups, outputs, terms))
        x = rng.normal(size=(groups, 300, terms)) @ rng.normal(size=(groups, terms, terms))
        h = np.matmul(x.transpose(0, 2, 1), x) / 300 + 0.1 * np.eye(terms)
        scale = np.abs(w).max(axis=2) / 127
        found = []
        for share in (0.0, 1.0):
            monkeypatch.setattr(weight_rounding, "_MANY", share)
            integers = round_weights(w, scale, h)
            found.append((integers, *round_pairs(w, scale, integers, h, terms)))
        for by_term, by_move in zip(*found, strict=True):
            np.testing.assert_array_equal(by_term, by_move)
        assert needing_halves(found[0][0], terms).any()
