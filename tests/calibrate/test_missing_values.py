"""NaN that stands for a value which is not known, and that the network fills in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qcompile import ops
from qcompile.calibrate.minmax import MinMax
from qcompile.calibrate.runner import calibrate
from qcompile.calibrate.sample import check_sample, graph_inputs, missing_allowed
from qcompile.calibrate.sample_summary import SampleSummary
from qcompile.errors import CalibrationError
from qcompile.ir.graph import Graph
from qcompile.ir.missing_values import may_miss
from qcompile.ir.parser import parse_graph
from qcompile.ops.interpreter import Interpreter
from qcompile.passmgr import PassContext, PassManager

FILLED = """graph "filled" {
  input %x : f32[1,8]
  input %z : f32[1,8]
  const @zero : f32[] = [0.0]
  const @w : f32[8,16] = normal(1, 0.3)
  const @b : f32[8] = normal(2, 0.1)
  %r = relu(%z) : f32[1,8] loc("positive")
  %c = concat(%x, %r) {axis=1} : f32[1,16] loc("columns")
  %n = is_nan(%c) : i1[1,16] loc("missing")
  %f = where(%n, @zero, %c) : f32[1,16] loc("filled")
  %y = dense(%f, @w, @b) : f32[1,8] loc("dense")
  output "y" = %y
}
"""


@pytest.fixture
def graph() -> Graph:
    return parse_graph(FILLED, ops.all_ops())


def sample(seed: int, *, holes: bool = True) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    found = {name: random.normal(0, 1, (1, 8)).astype(np.float32) for name in ("x", "z")}
    if holes:
        found["x"][0, seed % 8] = np.nan
    return found


def test_what_is_asked_for_nan_may_miss_values(graph: Graph) -> None:
    """What is moved to the question, too; what relu computes of an input is another tensor."""
    assert {value.name for value in may_miss(graph)} == {"x", "r", "c"}
    assert [spec.missing for spec in graph_inputs(graph)] == [True, False]


def test_samples_may_miss_values_where_the_network_fills_them_in(graph: Graph) -> None:
    inputs = graph_inputs(graph)
    assert np.isnan(check_sample(sample(3), inputs, "a")["x"]).sum() == 1
    swapped = dict(zip(("z", "x"), sample(3).values(), strict=True))
    with pytest.raises(CalibrationError, match=r"input 'z' .* has 1 value"):
        check_sample(swapped, inputs, "a")
    with pytest.raises(CalibrationError, match="the first is inf at"):
        check_sample({**sample(3), "x": np.full((1, 8), np.inf, np.float32)}, inputs, "a")


def test_bundles_say_where_values_may_be_missing() -> None:
    assert missing_allowed({"inputs": [{"name": "x", "missing": True}, {"name": "z"}]}) == {"x"}


def test_ranges_are_those_of_the_known_values(graph: Graph) -> None:
    found = calibrate(Interpreter(graph), map(sample, range(9)), {"x": MinMax(), "y": MinMax()})
    known = np.concatenate([sample(seed)["x"] for seed in range(9)])
    assert (found["x"].minimum, found["x"].maximum) == (np.nanmin(known), np.nanmax(known))
    assert found["x"].markers == 9
    assert np.isnan(found["x"].marker)
    assert found["y"].markers == 0


def test_what_is_said_of_samples_is_of_the_known_values() -> None:
    summary = SampleSummary()
    for row in ([np.nan, 1.0, 3.0], [np.nan, np.nan, np.nan], [-2.0, np.nan, -2.0]):
        summary.include({"x": np.array([row], np.float32)})
    assert summary.ranges == {"x": (-2.0, 3.0)}
    assert summary.constant == 1


@pytest.mark.parametrize("seen", [True, False])
def test_the_integer_network_fills_in_as_the_float_one_does(graph: Graph, seen: bool) -> None:
    """Also where no calibration sample missed a value."""
    samples = [sample(seed, holes=seen) for seed in range(16)]
    manager = PassManager("insert-observers,calibrate,assign-precision,quantize,fuse-requantize")
    made = manager.run(graph, PassContext(samples=lambda: iter(samples)))
    assert next(node for node in made.nodes if node.loc == "dense").is_integer
    for seed in range(40, 50):
        want, got = (Interpreter(g).run(sample(seed))["y"] for g in (graph, made))
        np.testing.assert_allclose(got, want, atol=0.1)


def test_an_output_that_is_nan_has_no_answer(graph: Graph) -> None:
    text = FILLED.replace("  %y = dense(%f, @w, @b)", "  %d = sub(%r, %r) : f32[1,8]\n  %y = add(%d, %r)")
    spoils = parse_graph(text, ops.all_ops())
    spoilt = {**sample(1), "z": np.full((1, 8), np.inf, np.float32)}
    with pytest.raises(CalibrationError, match="output 'y' is NaN for calibration sample 2, tensor 'd' is the first"):
        calibrate(Interpreter(spoils), [sample(0), spoilt], {"d": MinMax(), "y": MinMax()})
