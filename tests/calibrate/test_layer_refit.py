"""Fitting the layers of a compressed network to those of the original."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompile import ops
from qcompile.calibrate.group_rounding import group_values, round_groups
from qcompile.calibrate.layer_refit import Task, fit_layers, fit_remaining, masked_weights
from qcompile.ir import Graph, TensorType
from qcompile.ops.interpreter import Interpreter
from qcompile.quant.groups import quantize_groups

few = settings(max_examples=15, deadline=None, derandomize=True)


def task(rows: int, terms: int, seed: int, groups: int = 1) -> Task:
    """Return random weights, and inputs that go together."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(groups, 4 * terms, terms)) @ rng.normal(size=(groups, terms, terms))
    hessian = np.matmul(x.transpose(0, 2, 1), x) / (4 * terms) + 0.01 * np.eye(terms)
    return Task(rng.normal(size=(groups, rows, terms)), hessian)


@few
@given(rows=st.integers(1, 6), terms=st.integers(2, 24), groups=st.integers(1, 3), seed=st.integers(0, 99))
def test_masked_weights_solve_the_normal_equations(rows: int, terms: int, groups: int, seed: int) -> None:
    problem = task(rows, terms, seed, groups)
    mask = np.random.default_rng(seed).random((groups, rows, terms)) < 0.6
    found = masked_weights(problem, mask, steps=500)
    assert not found[~mask].any()
    for g in range(groups):
        for n in range(rows):
            keep = mask[g, n]
            right = (problem.hessian[g] @ problem.wanted[g, n])[keep]
            exact = np.linalg.solve(problem.hessian[g][np.ix_(keep, keep)], right) if keep.any() else np.zeros(0)
            best = np.zeros(terms)
            best[keep] = exact
            assert _cost(problem, g, n, found[g, n]) <= _cost(problem, g, n, best) * (1 + 1e-6) + 1e-9


def _cost(problem: Task, g: int, n: int, row: np.ndarray) -> float:
    error = problem.wanted[g, n] - row
    return float(error @ problem.hessian[g] @ error)


def test_without_a_mask_nothing_changes() -> None:
    problem = task(4, 12, 1)
    np.testing.assert_allclose(masked_weights(problem, np.ones((1, 4, 12), bool)), problem.wanted)


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("symmetric", [True, False])
def test_rounding_with_the_hessian_costs_less_in_every_row(bits: int, symmetric: bool) -> None:
    problem = task(16, 100, bits)
    plain = quantize_groups(problem.wanted[0].astype(np.float32), bits, 32, symmetric=symmetric)
    found = round_groups(problem, bits, 32, symmetric=symmetric)
    before, after = (problem.cost(group_values(made, 32)[None])[0] for made in (plain, found))
    assert (after <= before * (1 + 1e-9)).all()
    assert after.sum() < (0.9 if bits == 1 else 0.7) * before.sum()
    assert found.codes.dtype == np.int8
    assert found.scale.shape == plain.scale.shape
    low, high = (-1, 1) if bits == 2 else (-(1 << bits - 1), (1 << bits - 1) - 1)
    assert low <= found.codes.min() <= found.codes.max() <= high


def test_inputs_that_are_independent_are_rounded_plainly() -> None:
    problem = Task(task(8, 64, 3).wanted, np.eye(64)[None])
    plain, found = quantize_groups(problem.wanted[0].astype(np.float32), 4, 32), round_groups(problem, 4, 32)
    np.testing.assert_allclose(group_values(found, 32), group_values(plain, 32), atol=1e-6)


def network(seed: int) -> Graph:
    """Return a convolution, a depthwise one, one that adds a residual, and a dense layer."""
    rng, graph = np.random.default_rng(seed), Graph("network")
    x = graph.add_input("x", TensorType("float32", (1, 8, 8, 12)))

    def layer(op: str, inputs: list, shape: tuple[int, ...], **attrs: object):
        weight = rng.normal(0, 1 / np.sqrt(np.prod(shape[1:])), shape).astype(np.float32)
        operands = [inputs[0], graph.add_constant("w", weight), graph.add_constant("b", np.zeros(shape[0], np.float32))]
        return graph.add_node(ops.get(op), [*operands, *inputs[1:]], ops.get(op).Attrs(**attrs)).output

    nhwc = {"layout": "NHWC"}
    a = layer("conv2d", [x], (12, 3, 3, 12), pads=(1, 1, 1, 1), activation="relu", **nhwc)
    d = layer("conv2d", [a], (12, 3, 3, 1), pads=(1, 1, 1, 1), groups=12, **nhwc)
    y = layer("conv2d", [d, x], (12, 1, 1, 12), residual=True, **nhwc)
    f = graph.add_node(ops.get("reshape"), [y], ops.get("reshape").Attrs(shape=(64, 12))).output
    graph.set_outputs([layer("dense", [f], (5, 12))], ["y"])
    return graph


def test_later_layers_make_up_for_earlier_ones() -> None:
    """What a layer cannot compute any more, those behind it take into account."""
    before = network(2)
    rng = np.random.default_rng(5)
    samples = [{"x": rng.normal(size=(1, 8, 8, 12)).astype(np.float32)} for _ in range(12)]
    errors = {}
    for fitted in (False, True):
        after = before.clone()
        layers = [node for node in after.nodes if node.op.name in ("conv2d", "dense")]

        def spoil(node: object, problem: Task, first: object = layers[0]) -> np.ndarray:
            return problem.wanted * 0.8 if node is first else problem.wanted

        fit_layers(before, after, layers if fitted else layers[:1], samples, spoil)
        runs = [Interpreter(graph).run(samples[0])["y"] for graph in (before, after)]
        errors[fitted] = float(np.square(runs[1] - runs[0]).sum())
    assert errors[True] < 0.1 * errors[False]


@pytest.mark.parametrize("wanted", [True, False])
def test_a_fit_that_is_no_better_is_left_out(wanted: bool) -> None:
    before, rng = network(3), np.random.default_rng(6)
    samples = [{"x": rng.normal(size=(1, 8, 8, 12)).astype(np.float32)} for _ in range(4)]
    graph = before.clone()
    layers = [node for node in graph.nodes if node.op.name == "conv2d"]
    masks = {node: rng.random(node.inputs[1].shape) < 0.7 for node in layers}
    judged = iter((10.0, 11.0 if wanted else 10.0))
    assert fit_remaining(before, graph, masks, samples, lambda made: next(judged))[0] == 10.0
    originals = [node for node in before.nodes if node.op.name == "conv2d"]
    pairs = [(a.inputs[1].constant(), b.inputs[1].constant()) for a, b in zip(layers, originals, strict=True)]
    same = [np.array_equal(now, then) for now, then in pairs]
    assert not any(same) if wanted else all(same)
    for node in layers if wanted else ():
        assert not node.inputs[1].constant()[~masks[node]].any()
