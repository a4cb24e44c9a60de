"""Ranges of tensors that nothing but a function reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from qcompile.calibrate.histogram import TensorStatistics
from qcompile.calibrate.mse import Mse
from qcompile.calibrate.through_function import is_steep, range_through
from qcompile.quant.affine import dequantize, quantize
from qcompile.quant.qparams import QParams

Array = np.ndarray[Any, Any]


def sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def leaky(x: Array) -> Array:
    return np.where(x >= 0, x, 0.1 * x)


def gelu_like(x: Array) -> Array:
    return np.asarray(x * sigmoid(1.702 * x))


def statistics(x: Array) -> TensorStatistics:
    found = TensorStatistics("x")
    found.update(x.astype(np.float32))
    return found


def error(x: Array, bounds: tuple[float, float], function: Callable[[Array], Array]) -> float:
    params = QParams.from_range(*bounds)
    rounded = dequantize(quantize(x.astype(np.float32), params), params).astype(np.float64)
    return float(np.square(function(rounded) - function(x)).sum())


@pytest.mark.parametrize(("function", "gain"), [(sigmoid, 2.0), (leaky, 1.15), (gelu_like, 1.5)])
def test_the_error_behind_the_function_sinks(function: Callable[[Array], Array], gain: float):
    x = np.random.default_rng(0).normal(-1, 4, 20000)
    seen = statistics(x)
    assert error(x, range_through(seen.distribution(), function), function) * gain < error(
        x, Mse().range(seen), function
    )


def test_the_identity_asks_for_what_mse_does():
    x = np.random.default_rng(0).laplace(0, 1, 20000)
    seen = statistics(x)
    assert range_through(seen.distribution(), lambda v: v) == pytest.approx(Mse().range(seen), rel=0.1)


def test_a_function_that_is_undefined_for_some_values_is_no_obstacle():
    lo, hi = range_through(statistics(np.linspace(-1, 4, 999)).distribution(), np.sqrt)
    assert lo <= 0 < hi <= 4


def test_a_constant_tensor_keeps_its_value():
    assert range_through(statistics(np.full(9, 2.5)).distribution(), sigmoid) == (0.0, 2.5)


@pytest.mark.parametrize(("function", "steep"), [(sigmoid, False), (gelu_like, False), (leaky, True), (np.tanh, False)])
def test_flat_functions_are_told_from_steep_ones(function: Callable[[Array], Array], steep: bool):
    seen = statistics(np.random.default_rng(0).normal(-1, 4, 2000))
    assert is_steep(seen.distribution(), function) == steep
