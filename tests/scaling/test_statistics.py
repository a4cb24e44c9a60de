"""How far channels are taken to reach."""

from __future__ import annotations

import numpy as np
import pytest

from qcompile import ops
from qcompile.ir.parser import parse_graph
from qcompile.scaling.classes import ScaleClasses
from qcompile.scaling.statistics import ChannelStatistics, _reach

NETWORK = """graph "g" {
  input %x : f32[1,2,2,2]
  const @w : f32[2,1,1,2] = [1.0, 0.0, 0.0, 1.0]
  const @b : f32[2] = [0.0, 0.0]
  %a = conv2d(%x, @w, @b) {layout="NHWC", activation="ACTIVATION", alpha=ALPHA, beta=6.0} : f32[1,2,2,2]
  %y = max_pool(%a) {kernel=[2,2], layout="NHWC"} : f32[1,1,1,2]
  output "y" = %y
}
"""


def statistics(samples: list[list[float]], activation: str = "none", alpha: float = 0.0, trained: bool = False):
    """Return the reach of %a, and the statistics, of samples that are constant but for one place."""
    text = NETWORK.replace("ACTIVATION", activation).replace("ALPHA", str(alpha))
    graph = parse_graph(text, ops.all_ops(), source="test")
    value = graph.nodes[0].output
    if trained:
        value.stats = (np.array([1.0, -2.0], np.float32), np.array([0.5, 1.0], np.float32))
    found = ChannelStatistics(ScaleClasses(graph).numbers)
    images = []
    for places in samples:
        image = np.zeros((1, 2, 2, 2), np.float32)
        image[0, 0, 1] = places
        images.append({"x": image})
    found.gather(graph, images, lambda done: None)
    low, high = found.reach(value)
    return low.ravel(), high.ravel(), found, value


def test_a_channel_that_was_not_seen_to_answer_is_taken_to_reach_as_far_as_others() -> None:
    low, high, found, value = statistics([[1.0, -1.0], [3.0, -1.0]])
    assert high.tolist() == [3.0, 3.0]
    assert low.tolist() == [1.0, 1.0]
    assert found.power[value].ravel().tolist() == [(1 + 9) / 8, 1 / 4]


def test_what_varies_between_samples_reaches_further_than_was_seen() -> None:
    first, second = [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 4.0], [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 2.0, 4.0]
    found = _reach(np.array([first, first, second]))
    # One channel of eight doubled from half to half; the furthest is not taken to go further still.
    assert found == pytest.approx([1.93] * 6 + [3.86, 4.0])
    assert _reach(np.array([first, first, first])).tolist() == first
    assert _reach(np.zeros((3, 2))).tolist() == [0.0, 0.0]
    # One sample says nothing of how much channels vary.
    assert _reach(np.array([first])).min() > 3.5


def test_training_tells_of_channels_that_the_samples_do_not_excite() -> None:
    low, high, *_ = statistics([[0.5, -0.5], [0.5, 0.25]], trained=True)
    assert high[0] == pytest.approx(1.0 + 6 * 0.5)
    assert low[1] == pytest.approx(2.0 + 6 * 1.0)
    assert high[1] == pytest.approx(-2.0 + 6 * 1.0)


def test_an_activation_bounds_what_training_tells() -> None:
    assert statistics([[0.5, 0.5]], "clip", trained=True)[1].tolist() == [4.0, 4.0]
    low, high, *_ = statistics([[-0.5, 7.0]], "clip", trained=True)
    assert [*low, *high] == [0.0, 0.0, 6.0, 6.0]
    low, *_ = statistics([[-0.5, -0.5]], "leaky_relu", alpha=0.125, trained=True)
    assert low.tolist() == [2.0 * 0.125, 8.0 * 0.125]
    assert statistics([[-0.5, -2.0]], "hard_swish", trained=True)[0].tolist() == [0.375, 0.375]
