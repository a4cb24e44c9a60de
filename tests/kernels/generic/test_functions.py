"""Accuracy of the vector polynomials against float64, over their whole domains and at their edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
from program_execution import Executable

from qcompile import ops
from qcompile.ir import Graph, TensorType
from qcompile.lower import lower_graph
from qcompile.targets import Target

COUNT = 20_011
TINY = np.finfo(np.float32).tiny


def spread(low: float, high: float) -> np.ndarray:
    """Evenly spaced numbers and, for a domain around zero, ever smaller ones of both signs."""
    even = np.linspace(low, high, COUNT // 2)
    small = np.geomspace(1e-6, max(abs(low), abs(high)), COUNT - COUNT // 2)
    signed = small if low >= 0 else small * np.where(np.arange(small.size) % 2, 1, -1)
    return np.concatenate([even, signed]).astype("f4")


FUNCTIONS = {
    "exp": (spread(-87, 88.7), np.exp, 4e-7),
    "log": (spread(1e-30, 1e30), np.log, 4e-7),
    "tanh": (spread(-20, 20), np.tanh, 5e-7),
    "erf": (spread(-6, 6), np.vectorize(math.erf), 6e-7),
    "sigmoid": (spread(-80, 80), lambda x: 1 / (1 + np.exp(-x)), 1e-6),
    "sqrt": (spread(0, 1e30), np.sqrt, 1e-7),
}


def run(name: str, machine: Target, *arrays: np.ndarray) -> np.ndarray:
    graph = Graph(name)
    values = [graph.add_input(f"x{n}", TensorType("float32", a.shape)) for n, a in enumerate(arrays)]
    graph.set_outputs([graph.add_node(ops.get(name), values).output], ["y"])
    inputs = {f"x{n}": a.astype(np.float32) for n, a in enumerate(arrays)}
    return Executable(lower_graph(graph, machine)).run(inputs)["y"]


@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_relative_error(name: str, machine: Target) -> None:
    x, exact, limit = FUNCTIONS[name]
    want = exact(x.astype(np.float64))
    error = np.abs(run(name, machine, x) - want) / np.maximum(np.abs(want), TINY)
    assert error.max() < limit


def test_power_is_accurate_for_large_exponents(machine: Target) -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(0.1, 30, COUNT).astype(np.float32)
    y = (rng.uniform(-85, 85, COUNT) / np.log(np.maximum(x, 1 / x) + 1)).astype(np.float32)
    want = x.astype(np.float64) ** y.astype(np.float64)
    usable = (want > TINY) & (want < 3e38)
    assert usable.mean() > 0.9
    error = np.abs(run("pow", machine, x, y) / want - 1)[usable]
    assert error.max() < 1e-6


def test_special_values(machine: Target) -> None:
    inf, nan = np.inf, np.nan
    x = np.array([inf, -inf, nan, 0.0, -0.0, 1e-40, -1.0, 200.0, -200.0], np.float32)
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(run("exp", machine, x[[0, 1, 3, 4, 7, 8]]), [inf, 0, 1, 1, inf, 0])
        np.testing.assert_allclose(run("log", machine, x), np.log(x), rtol=1e-6)
        np.testing.assert_allclose(run("tanh", machine, x[[0, 1, 3, 7, 8]]), [1, -1, 0, 1, -1])
        np.testing.assert_allclose(run("erf", machine, x[[0, 1, 3, 7, 8]]), [1, -1, 0, 1, -1])
        base = np.array([2, -2, -2, -2, 0, 0, 0, -8], np.float32)
        exponent = np.array([0, 3, 2, 0.5, 0, 2, -1, -1], np.float32)
        np.testing.assert_allclose(run("pow", machine, base, exponent), base**exponent, rtol=1e-6)
