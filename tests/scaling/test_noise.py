"""What noise in a channel does to the outputs, as predicted and as measured."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from qcompile import ops
from qcompile.ir.graph import Graph
from qcompile.ir.parser import parse_graph
from qcompile.ops.interpreter import Interpreter
from qcompile.scaling.classes import ScaleClasses
from qcompile.scaling.noise import NoiseGains
from qcompile.scaling.statistics import ChannelStatistics

Array = npt.NDArray[Any]

NETWORK = """graph "g" {
  input %x : f32[1,8,8,3]
  const @w1 : f32[4,1,1,3] = normal(1, 0.5)
  const @b1 : f32[4] = normal(2, 0.2)
  const @w2 : f32[2,2,2,4] = normal(3, 0.5)
  const @b2 : f32[2] = normal(4, 0.2)
  const @w3 : f32[3,8,8,1] = normal(5, 0.5)
  const @w4 : f32[5,1,1,5] = normal(7, 0.5)
  const @b3 : f32[3] = normal(6, 0.2)
  const @b4 : f32[5] = normal(8, 0.2)
  %a = conv2d(%x, @w1, @b1) {layout="NHWC"} : f32[1,8,8,4]
  %c = conv2d(%a, @w2, @b2) {layout="NHWC", strides=[2,2]} : f32[1,4,4,2]
  %p = avg_pool(%c) {kernel=[4,4], layout="NHWC"} : f32[1,1,1,2]
  %d = conv2d(%x, @w3, @b3) {layout="NHWC", groups=3} : f32[1,1,1,3]
  %l, %r = split(%p) {axis=3, sizes=[1,1]} : f32[1,1,1,1], f32[1,1,1,1]
  %j = concat(%r, %d, %l) {axis=3} : f32[1,1,1,5]
  %y = conv2d(%j, @w4, @b4) {layout="NHWC"} : f32[1,1,1,5]
  output "y" = %y
}
"""


UPSAMPLED = """graph "g" {
  input %x : f32[1,8,8,3]
  const @w1 : f32[4,1,1,3] = normal(1, 0.5)
  const @b1 : f32[4] = normal(2, 0.2)
  const @w2 : f32[4,3,3,2] = normal(3, 0.5)
  const @b2 : f32[4] = normal(4, 0.2)
  %a = conv2d(%x, @w1, @b1) {layout="NHWC"} : f32[1,8,8,4]
  %y = conv_transpose2d(%a, @w2, @b2) {layout="NHWC", strides=[2,2], groups=2} : f32[1,17,17,4]
  output "y" = %y
}
"""

Gains = dict[str, Array]


def followed(
    network: str, shape: tuple[int, ...], count: int
) -> tuple[Graph, list[dict[str, Array]], ChannelStatistics, NoiseGains]:
    """Return a graph, random samples of a shape, and what they tell of its channels."""
    graph = parse_graph(network, ops.all_ops(), source="test")
    rng = np.random.default_rng(0)
    samples = [{"x": rng.normal(0, 1, shape).astype(np.float32)} for _ in range(count)]
    classes = ScaleClasses(graph)
    statistics = ChannelStatistics(classes.numbers)
    statistics.gather(graph, samples, lambda done: None)
    gains = NoiseGains(graph, classes, statistics, classes.numbers)
    gains.gather(samples, lambda done: None, threads=2)
    return graph, samples, statistics, gains


def measured(network: str, names: list[str]) -> tuple[Gains, Gains]:
    """Return gains as predicted, and from noise that is added to one channel at a time."""
    graph, samples, _, gains = followed(network, (1, 8, 8, 3), 256)
    rng = np.random.default_rng(1)
    values = {value.name: value for value in graph.values()}
    predicted = {name: gains.of(values[name]).ravel() * values[name].shape[1] ** 2 for name in names}
    found: Gains = {name: np.zeros(values[name].shape[-1]) for name in names}
    run, power = Interpreter(graph), 0.0
    for sample in samples:
        kept: Gains = {}
        exact = run.run(sample, on_value=lambda value, array, kept=kept: kept.update({value.name: array}))["y"]
        power += float(np.square(exact).sum())
        for name in names:
            for channel in range(values[name].shape[-1]):
                array = kept[name].copy()
                array[..., channel] += rng.normal(0, 1, array.shape[:-1])
                other = _resumed(graph, kept, name, array)
                found[name][channel] += float(np.square(other - exact).sum())
    return predicted, {name: errors / power for name, errors in found.items()}


def _resumed(graph: Graph, kept: Gains, name: str, array: Array) -> Array:
    """Evaluate what depends on a tensor that was changed."""
    known = {**kept, name: array}
    for node in graph.nodes:
        if any(known.get(v.name) is not kept.get(v.name) for v in node.inputs):
            operands = [v.constant() if v.is_constant else known[v.name] for v in node.inputs]
            known.update(zip((v.name for v in node.outputs), node.op.evaluate(node.attrs, operands), strict=True))
    return known["y"]


@pytest.mark.parametrize(("network", "names"), [(NETWORK, ["a", "c", "p", "d", "j"]), (UPSAMPLED, ["a"])])
def test_gains_are_those_of_noise_that_is_added(network: str, names: list[str]) -> None:
    predicted, found = measured(network, names)
    for name, gains in found.items():
        ratio = predicted[name] / gains
        assert np.abs(np.log(ratio)).max() < 0.25, (name, ratio)


RECTIFIED = """graph "g" {
  input %x : f32[1,4,4,2]
  const @w : f32[2,1,1,2] = normal(1, 0.5)
  const @v : f32[1,1,1,2] = [3.0, 0.0]
  const @b : f32[2] = [0.0, 0.5]
  const @c : f32[1] = [0.0]
  %a = conv2d(%x, @w, @b) {activation="clip", alpha=0.0, beta=0.4, layout="NHWC"} : f32[1,4,4,2]
  %y = conv2d(%a, @v, @c) {layout="NHWC"} : f32[1,4,4,1]
  output "y" = %y
}
"""


def test_what_an_activation_cut_off_takes_no_noise_and_lets_none_through() -> None:
    graph, samples, statistics, gains = followed(RECTIFIED, (1, 4, 4, 2), 64)
    layer, last = graph.nodes
    seen: list[Array] = []
    for sample in samples:
        Interpreter(graph).run(sample, on_value=lambda v, array: seen.append(array) if v is layer.output else None)
    values = np.concatenate(seen)[..., 0]
    between = np.mean((values > 0.0) & (values < np.float32(0.4)))
    assert 0.05 < between < 0.5
    # 3 from every element of the first channel, nothing from the second; signs are the same for all samples' sizes.
    power = statistics.power[last.output].mean() * 16
    assert gains.of(layer.output).ravel() == pytest.approx([between * 9 / power, 0.0], rel=1e-3)
    assert gains.before(layer).ravel() == pytest.approx([between * 9 / power, 0.0], rel=1e-3)


JOINED = """graph "g" {
  input %x : f32[1,4,4,2]
  const @w : f32[2,1,1,2] = normal(1, 0.5)
  const @b : f32[2] = [0.0, 0.0]
  %a = conv2d(%x, @w, @b) {layout="NHWC"} : f32[1,4,4,2]
  %y = lrn(%a) {alpha=0.5, bias=1.0, size=3} : f32[1,4,4,2]
  output "y" = %y
}
"""


def test_noise_keeps_its_ratio_to_the_signal_where_its_way_is_not_followed() -> None:
    graph, _, statistics, gains = followed(JOINED, (1, 4, 4, 2), 1)
    a, y = (node.output for node in graph.nodes)
    power = {value: statistics.power[value].mean() * value.type.size for value in (a, y)}
    assert gains.of(a).max() * power[a] == pytest.approx(gains.of(y).mean() * power[y])
    assert gains.of(a).min() > 0.0
