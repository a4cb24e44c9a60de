"""Equalization behind a clip: channels that meet it stay, the others are enlarged, and the results are the same."""

from __future__ import annotations

import numpy as np
import pytest

from qcompile import ops
from qcompile.ir.graph import Graph
from qcompile.ir.parser import parse_graph
from qcompile.ops.interpreter import Interpreter
from qcompile.passmgr import PassContext, PassManager
from qcompile.passmgr.channel_links import channel_links
from qcompile.passmgr.clip_reach import MARGIN, least_factors

TEXT = """
graph "clips" {{
  input %x : f32[1,4,4,2]
  const @w1 : f32[3,1,1,2] = [8.0, 4.0, 0.05, 0.025, 0.01, -0.02]
  const @b1 : f32[3] = [1.0, 0.125, 0.0]
  const @w2 : f32[2,1,1,3] = [0.5, 8.0, 0.25, 4.0, 1.0, 9.0]
  const @b2 : f32[2] = [0.5, 0.0]
  %a = conv2d(%x, @w1, @b1) {{layout="NHWC", activation="clip", alpha={low}, beta=6.0}} : f32[1,4,4,3]
  %y = conv2d(%a, @w2, @b2) {{layout="NHWC"}} : f32[1,4,4,2]
  output "y" = %y
}}
"""


def graph(low: float) -> Graph:
    return parse_graph(TEXT.format(low=low), ops.all_ops(), source="clips")


def samples() -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(0)
    return [{"x": random.uniform(-1, 1, (1, 4, 4, 2)).astype(np.float32)} for _ in range(4)]


def equalized(low: float, context: PassContext) -> Graph:
    return PassManager("equalize-weights{clips=true, spread=1.0}").run(graph(low), context)


@pytest.mark.parametrize("low", [0.0, -6.0])
def test_what_meets_the_clip_stays_and_the_rest_grows(low: float) -> None:
    given = samples()
    context = PassContext(samples=lambda: iter(given))
    after = equalized(low, context)
    before_weight, after_weight = (g.nodes[0].inputs[1].constant().reshape(3, 2) for g in (graph(low), after))
    np.testing.assert_array_equal(after_weight[0], before_weight[0])
    assert np.all(np.abs(after_weight[1:]) > 2 * np.abs(before_weight[1:]))
    for sample in given:
        expected = Interpreter(graph(low)).run(sample)["y"]
        np.testing.assert_allclose(Interpreter(after).run(sample)["y"], expected, rtol=1e-5, atol=1e-5)


def test_a_channel_stays_below_its_clip_by_the_margin() -> None:
    given = samples()
    after = equalized(0.0, PassContext(samples=lambda: iter(given)))
    peaks = np.zeros(3)

    def look(value, array):  # type: ignore[no-untyped-def]
        if value.name == "a":
            np.maximum(peaks, array.reshape(-1, 3).max(axis=0), out=peaks)

    for sample in given:
        Interpreter(after).run(sample, on_value=look)
    assert peaks[0] == 6.0
    assert np.all(peaks[1:] <= 6.0 / MARGIN * 1.0001)


def test_trained_statistics_serve_where_there_are_no_samples() -> None:
    source = graph(0.0)
    first = source.nodes[0].output
    first.stats = (np.array([4.0, 0.1, 0.0], np.float32), np.array([2.0, 0.1, 0.05], np.float32))
    (link,), _ = channel_links(source, clips=True)
    (least,) = least_factors([link], source, PassContext())
    assert least is not None
    np.testing.assert_allclose(least, [np.inf, 0.7 / 6.0, 0.3 / 6.0], rtol=1e-5)


def test_nothing_known_nothing_done() -> None:
    manager = PassManager("equalize-weights{clips=true, spread=1.0}")
    after = manager.run(graph(0.0), PassContext())
    assert after.structural_hash() == graph(0.0).structural_hash()
    assert any("meet their clip is not known" in skip.reason for record in manager.records for skip in record.skips)
