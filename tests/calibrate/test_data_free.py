import numpy as np
import pytest

from qcompile.calibrate.data_free import NormalizingInterpreter, data_free_range
from qcompile.ir.graph import Graph
from qcompile.ir.types import TensorType
from qcompile.ops import get
from qcompile.ops.interpreter import Interpreter

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


def samples_of(graph, count=6):
    rng = np.random.default_rng(1)
    return [{v.name: rng.standard_normal(v.shape).astype(np.float32) for v in graph.inputs} for _ in range(count)]


def run(graph):
    samples = samples_of(graph)
    interpreter = NormalizingInterpreter(graph)
    interpreter.learn(samples)
    return np.concatenate([interpreter.run(s)["y"] for s in samples]), samples


def test_channels_get_their_trained_mean_and_deviation():
    y, _ = run(network())
    assert y.mean(axis=(0, 2, 3)) == pytest.approx(MEAN, abs=0.1)
    assert y.std(axis=(0, 2, 3)) == pytest.approx(STD, rel=0.05)
    assert y.dtype == np.float32


def test_samples_go_on_to_differ():
    graph = network()
    bright, dark = ({"x": np.full((1, 3, 9, 9), level, np.float32)} for level in (1.0, -1.0))
    interpreter = NormalizingInterpreter(graph)
    interpreter.learn([bright, dark] * 3)
    means = [interpreter.run(s)["y"].mean(axis=(0, 2, 3)) for s in (bright, dark)]
    assert (np.abs(means[0] - means[1]) > STD / 4).all()


def test_runs_after_learning_are_fixed():
    graph = network()
    samples = samples_of(graph)
    interpreter = NormalizingInterpreter(graph)
    before = interpreter.run(samples[0])["y"]
    assert np.array_equal(before, Interpreter(graph).run(samples[0])["y"])
    interpreter.learn(samples)
    first = interpreter.run(samples[0])["y"]
    interpreter.run(samples[1])
    assert np.array_equal(first, interpreter.run(samples[0])["y"])
    assert not np.array_equal(before, first)


def test_statistics_hold_before_the_fused_activation():
    plain, _ = run(network())
    y, _ = run(network(activation="relu"))
    assert np.array_equal(y, np.maximum(plain, 0))


def test_statistics_hold_before_what_divides_each_channel():
    plain, _ = run(network())
    y, _ = run(network(activation="channel_hard_swish", divisors=(2.0, 0.5)))
    wanted = plain * np.clip(plain / 6 + 0.5, 0, 1) / np.array([2.0, 0.5]).reshape(-1, 1, 1)
    np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-6)


def test_statistics_hold_before_the_fused_residual():
    graph = network(residual=True)
    y, samples = run(graph)
    without = y - np.concatenate([s["r"] for s in samples])
    assert without.mean(axis=(0, 2, 3)) == pytest.approx(MEAN, abs=0.1)
    assert without.std(axis=(0, 2, 3)) == pytest.approx(STD, rel=0.05)


def test_without_statistics_nothing_changes():
    graph = network(stats=None)
    y, samples = run(graph)
    assert np.array_equal(y[:1], Interpreter(graph).run(samples[0])["y"])


def test_corrections_are_bounded():
    y, _ = run(network(stats=(MEAN, 1000 * STD)))
    plain, _ = run(network(stats=None))
    assert y.std() < 4.5 * plain.std()


def test_channels_without_variation_only_move():
    graph = network()
    zeros = {"x": np.zeros((1, 3, 9, 9), np.float32)}
    interpreter = NormalizingInterpreter(graph)
    interpreter.learn([zeros])
    assert np.unique(interpreter.run(zeros)["y"]) == pytest.approx(sorted(MEAN))


def layered(**attrs):
    """A network with a weighted layer behind the one under test."""
    graph = network(**attrs)
    op = get("conv2d")
    weight = graph.add_constant("w2", np.ones((1, 2, 1, 1), np.float32))
    bias = graph.add_constant("b2", np.zeros(1, np.float32))
    relu = graph.add_node(get("relu"), [graph.outputs[0]])
    last = graph.add_node(op, [relu.output, weight, bias])
    graph.set_outputs([graph.add_node(get("relu"), [last.output]).output])
    return graph


def test_ranges_reach_four_deviations():
    value = network().outputs[0]
    assert data_free_range(value, -1.0, 1.0) == pytest.approx((-10.0, 6.0))
    assert data_free_range(value, -20.0, 1.0) == pytest.approx((-20.0, 6.0))


def test_ranges_go_through_the_fused_activation():
    assert data_free_range(network(activation="relu").outputs[0], 0.0, 1.0) == pytest.approx((0.0, 6.0))
    clipped = network(activation="clip", alpha=0.0, beta=2.5).outputs[0]
    assert data_free_range(clipped, 0.0, 1.0) == pytest.approx((0.0, 2.5))
    # The first channel reaches 3, which the clip to 2.5 cuts, and the second one 6.
    for divisors, most in (((1.0, 5.0), 2.5), ((5.0, 1.0), 2.5), ((0.5, 0.25), 10.0)):
        divided = network(activation="channel_clip", beta=2.5, divisors=divisors).outputs[0]
        assert data_free_range(divided, 0.0, 1.0) == pytest.approx((0.0, most))


def test_scores_get_a_margin():
    graph = layered(stats=None)
    scores, hidden = graph.outputs[0], graph.nodes[0].output
    assert data_free_range(scores, 0.0, 1.5) == (0.0, 3.0)
    assert data_free_range(scores.producer.inputs[0], -1.0, 1.5) == (-2.0, 3.0)
    assert data_free_range(hidden, -1.0, 1.0) == (-1.0, 1.0)
    assert data_free_range(graph.nodes[1].output, 0.0, 1.0) == (0.0, 1.0)


def test_ranges_that_statistics_say_nothing_about():
    graph = network()
    assert data_free_range(graph.inputs[0], -1.0, 1.0) == (-1.0, 1.0)
    assert data_free_range(network(residual=True).outputs[0], -1.0, 1.0) == (-2.0, 2.0)


@pytest.mark.parametrize("extent", [2, 5])
def test_channels_come_last_where_the_layout_says_so(extent):
    rng = np.random.default_rng(0)
    graph = Graph()
    x = graph.add_input("x", TensorType("float32", (1, extent, extent, 3)))
    op = get("conv2d")
    weight = graph.add_constant("w", rng.standard_normal((2, 1, 1, 3)).astype(np.float32))
    bias = graph.add_constant("b", np.array([5.0, 7.0], np.float32))
    node = graph.add_node(op, [x, weight, bias], op.Attrs(layout="NHWC"), names=["y"])
    node.output.stats = (MEAN, STD)
    graph.set_outputs([node.output])
    y, _ = run(graph)
    assert y.mean(axis=(0, 1, 2)) == pytest.approx(MEAN, abs=0.5)


def test_channels_of_a_dense_layer_are_its_last_axis():
    rng = np.random.default_rng(0)
    graph = Graph()
    x = graph.add_input("x", TensorType("float32", (40, 2, 3)))
    op = get("dense")
    weight = graph.add_constant("w", rng.standard_normal((2, 3)).astype(np.float32))
    bias = graph.add_constant("b", np.array([5.0, 7.0], np.float32))
    node = graph.add_node(op, [x, weight, bias], names=["y"])
    node.output.stats = (MEAN, STD)
    graph.set_outputs([node.output])
    y, _ = run(graph)
    assert y.mean(axis=(0, 1)) == pytest.approx(MEAN, abs=0.5)
