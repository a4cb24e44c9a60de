import numpy as np
import pytest

from qcompile.calibrate.data_free import NormalizingInterpreter, data_free_range
from qcompile.ir.graph import Graph
from qcompile.ir.types import TensorType
from qcompile.ops import get

MEAN = np.array([1.0, -2.0], np.float32)
STD = np.array([0.5, 2.0], np.float32)


def network(stats=(MEAN, STD), shape=(1, 3, 9, 9), **attrs):
    rng = np.random.default_rng(0)
    graph = Graph()
    x = graph.add_input("x", TensorType("float32", shape))
    op = get("conv2d")
    weight = graph.add_constant("w", rng.standard_normal((2, 3, 1, 1)).astype(np.float32))
    bias = graph.add_constant("b", np.array([5.0, 7.0], np.float32))
    operands = [x, weight, bias]
    if attrs.get("residual"):
        operands.append(graph.add_input("r", TensorType("float32", (shape[0], 2, *shape[2:]))))
    node = graph.add_node(op, operands, op.Attrs(**attrs), names=["y"])
    node.output.stats = stats
    graph.set_outputs([node.output])
    return graph


def run(graph):
    rng = np.random.default_rng(1)
    inputs = {v.name: rng.standard_normal(v.shape).astype(np.float32) for v in graph.inputs}
    return NormalizingInterpreter(graph).run(inputs)["y"], inputs


def test_channels_get_their_trained_mean_and_deviation():
    y, _ = run(network())
    assert y.mean(axis=(0, 2, 3)) == pytest.approx(MEAN, abs=1e-5)
    assert y.std(axis=(0, 2, 3)) == pytest.approx(STD, rel=1e-5)
    assert y.dtype == np.float32


def test_statistics_hold_before_the_fused_activation():
    plain, _ = run(network())
    y, _ = run(network(activation="relu"))
    assert np.array_equal(y, np.maximum(plain, 0))


def test_statistics_hold_before_the_fused_residual():
    plain, _ = run(network())
    y, inputs = run(network(residual=True))
    assert np.allclose(y, plain + inputs["r"], atol=1e-6)


def test_without_statistics_nothing_changes():
    y, inputs = run(network(stats=None))
    assert y.mean(axis=(0, 2, 3)) == pytest.approx([5.0, 7.0], abs=1.0)
    assert y.shape == (1, 2, *inputs["x"].shape[2:])


def test_too_few_values_are_left_alone():
    few, _ = run(network(shape=(1, 3, 2, 2)))
    plain, _ = run(network(stats=None, shape=(1, 3, 2, 2)))
    assert np.array_equal(few, plain)


def test_channels_without_variation_are_left_alone():
    graph = network()
    y = NormalizingInterpreter(graph).run({"x": np.zeros((1, 3, 9, 9), np.float32)})["y"]
    assert np.unique(y[:, 0]).tolist() == [5.0]


def test_ranges_reach_six_deviations():
    assert data_free_range(network().outputs[0], -1.0, 1.0) == pytest.approx((-14.0, 10.0))
    assert data_free_range(network().outputs[0], -20.0, 1.0) == pytest.approx((-20.0, 10.0))


def test_ranges_go_through_the_fused_activation():
    assert data_free_range(network(activation="relu").outputs[0], 0.0, 1.0) == pytest.approx((0.0, 10.0))
    clipped = network(activation="clip", alpha=0.0, beta=6.0).outputs[0]
    assert data_free_range(clipped, 0.0, 3.0) == pytest.approx((0.0, 6.0))


def test_ranges_that_statistics_say_nothing_about():
    assert data_free_range(network(stats=None).outputs[0], -1.0, 1.0) == (-1.0, 1.0)
    assert data_free_range(network(residual=True).outputs[0], -1.0, 1.0) == (-1.0, 1.0)
    assert data_free_range(network().inputs[0], -1.0, 1.0) == (-1.0, 1.0)
