"""Of few samples some judge what leaves int8, and weights are fitted to all once that is decided."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qcompile import driver, ops, targets
from qcompile.calibrate import sample_choice
from qcompile.config import CompileConfig
from qcompile.ir.graph import Graph
from qcompile.ir.parser import parse_graph
from qcompile.passmgr import PassContext
from qcompile.search.evaluation import Evaluator
from qcompile.search.leaving import Kept
from qcompile.search.safety_net import Way, protect

Sample = dict[str, np.ndarray]

MIXER = """graph "mixer" {
  input %x : f32[1,24]
  const @w0 : f32[24,24] = normal(1, 0.2)
  const @b0 : f32[24] = normal(2, 0.1)
  const @w1 : f32[24,24] = normal(3, 0.2)
  const @w2 : f32[6,24] = normal(4, 0.2)
  const @b2 : f32[6] = normal(5, 0.1)
  %a = dense(%x, @w0, @b0) {activation="relu"} : f32[1,24] loc("first")
  %e = tanh(%a) : f32[1,24] loc("bend")
  %b = dense(%e, @w1, @b0) : f32[1,24] loc("second")
  %s = mul(%b, %b) : f32[1,24] loc("square")
  %y = dense(%s, @w2, @b2) : f32[1,6] loc("last")
  output "y" = %y
}
"""


def samples(count: int, seed: int = 0) -> list[Sample]:
    random = np.random.default_rng(seed)
    return [{"x": random.normal(0, 1, (1, 24)).astype(np.float32)} for _ in range(count)]


@pytest.mark.parametrize(("count", "again"), [(4, False), (8, True), (15, True), (16, False)])
def test_what_was_chosen_is_corrected_on_all_samples(count: int, again: bool) -> None:
    graph = parse_graph(MIXER, ops.all_ops())
    context = PassContext(samples=lambda: iter(samples(count)))
    calls: list[tuple[Kept, bool, bool]] = []

    def run(kept: Kept, whole: bool) -> Any:
        calls.append((kept, whole, context.judging))
        return graph, []

    _, found = protect([Way(graph, run, context, [])])
    assert all(judging for _, _, judging in calls[: len(calls) - again])
    assert not again or calls[-1] == (found.kept, True, False)
    assert context.judging is False


def test_an_interrupted_choice_leaves_nothing_behind() -> None:
    context = PassContext(samples=lambda: iter(samples(8)))

    def run(kept: Kept, whole: bool) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        protect([Way(parse_graph(MIXER, ops.all_ops()), run, context, [])])
    assert context.judging is False


def test_judges_let_leave_what_costs_next_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """On samples that were all fitted to, nothing surely gains."""

    def made() -> Graph:
        graph = parse_graph(MIXER, ops.all_ops())
        context = PassContext(target=targets.load("x86-64-v3"), samples=lambda: iter(samples(12)))
        return driver.to_precision(graph, CompileConfig(), context, ())[0]

    judge = Evaluator(parse_graph(MIXER, ops.all_ops()), samples(40, seed=9))
    after = judge.output_db(made())[0]
    monkeypatch.setattr(sample_choice, "_FEWEST", 16)
    assert after > judge.output_db(made())[0] + 1
