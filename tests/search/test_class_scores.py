"""Networks that end with a softmax are judged by the scores before it."""

from __future__ import annotations

import numpy as np
import pytest

from qcompile import ops
from qcompile.ir.graph import Graph
from qcompile.ir.parser import parse_graph
from qcompile.ops.interpreter import Interpreter
from qcompile.passmgr import PassContext, PassManager
from qcompile.search.class_scores import class_scores, probability_axes
from qcompile.search.evaluation import Evaluator
from qcompile.search.output_use import use_power
from qcompile.search.sensitivity import measure_all
from qcompile.search.targets import CLASSES_DB, SIGNAL_DB, targets

READER = """
graph "reader" {
  input %x : f32[1,6,8]
  const @w : f32[5,8] = normal(1, 1)
  const @b : f32[5] = normal(2, 1)
  %z = dense(%x, @w, @b) : f32[1,6,5]
  %p = softmax(%z) {axis=-1} : f32[1,6,5]
  %n = neg(%z) : f32[1,6,5]
  output "p" = %p
  output "n" = %n
}
"""


def reader(text: str = READER) -> Graph:
    return parse_graph(text, ops.all_ops())


def samples(count: int = 6) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(0)
    return [{"x": random.normal(0, 1, (1, 6, 8)).astype(np.float32)} for _ in range(count)]


@pytest.mark.parametrize("axis", [-1, 0, 1])
def test_a_softmax_hides_nothing_but_a_constant_of_each_row(axis: int) -> None:
    scores = np.random.default_rng(1).normal(0, 8, (4, 5, 6)).astype(np.float32)
    (probabilities,) = ops.get("softmax").evaluate(ops.get("softmax").Attrs(axis), [scores])
    centred = scores - scores.mean(axis=axis, keepdims=True)
    np.testing.assert_allclose(class_scores(probabilities, axis), centred, atol=2e-5)


def test_a_probability_of_zero_has_a_score() -> None:
    assert np.isfinite(class_scores(np.array([[1.0, 0.0, 0.0]], np.float32), -1)).all()


def test_outputs_that_hold_probabilities() -> None:
    graph = reader()
    assert probability_axes(graph) == [-1, None]
    assert targets(graph) == [CLASSES_DB, SIGNAL_DB]


def test_an_undecided_position_does_not_outweigh_the_others() -> None:
    exact = np.zeros((1, 50, 4))
    exact[..., 0] = 8.0
    exact[0, 0, 1] = 7.95  # which class it is, is open here
    near = exact + np.random.default_rng(2).normal(0, 0.1, exact.shape)
    near[0, 0, :2] = near[0, 0, 1::-1]
    softmax = ops.get("softmax")
    pair = [softmax.evaluate(softmax.Attrs(-1), [z.astype(np.float32)])[0] for z in (exact, near)]
    (signal, noise), (score_signal, score_noise) = use_power(*pair, None), use_power(*pair, -1)
    with_, without = noise / signal, use_power(pair[0][:, 1:], pair[1][:, 1:], None)
    assert with_ > 100 * without[1] / without[0]
    scores = [class_scores(p[:, 1:], -1) for p in pair]
    rest = np.square(scores[1] - scores[0]).sum() / np.square(scores[0]).sum()
    assert score_noise / score_signal < 1.5 * rest


def test_both_ratios_are_known_and_the_better_one_counts() -> None:
    graph, given = reader(), samples()
    quantized = PassManager("insert-observers,calibrate,assign-precision,quantize")
    final = quantized.run(graph.clone(), PassContext(samples=lambda: iter(given)))
    evaluator = Evaluator(graph, given)
    plain, use = evaluator.use_db(final)
    assert plain == evaluator.output_db(final)
    assert use[1] == plain[1]
    run, exact = Interpreter(final), Interpreter(graph)
    powers = np.sum([use_power(exact.run(s)["p"], run.run(s)["p"], -1) for s in given], axis=0)
    assert use[0] == pytest.approx(max(plain[0], 10 * np.log10(powers[0] / powers[1])))


def test_noise_is_measured_at_the_scores_where_asked_to() -> None:
    given = samples()
    context = PassContext(samples=lambda: iter(given))
    calibrated = PassManager("insert-observers,calibrate,assign-precision").run(reader(), context)
    integer = PassManager("quantize").run(calibrated, context)
    plain, scores = (measure_all(calibrated, integer, given, uses=asked) for asked in (False, True))
    assert [n.outputs[1] for n in plain] == [n.outputs[1] for n in scores]
    assert [n.outputs[0] for n in plain] != [n.outputs[0] for n in scores]
