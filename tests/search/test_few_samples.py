"""Networks of which a few samples are all that is known."""

from __future__ import annotations

import numpy as np
import pytest

from qcompile import driver, ops
from qcompile.calibrate.calibration_set import open_calibration
from qcompile.calibrate.sample import graph_inputs
from qcompile.config import CompileConfig
from qcompile.ir.parser import parse_graph
from qcompile.passmgr import PassContext
from qcompile.precision import comparable, measure
from qcompile.search.evaluation import Evaluator

WIDTH, DEPTH = 256, 5


def _text() -> str:
    """Return layers of far more weights than there are samples."""
    lines = [f"  input %x0 : f32[1,{WIDTH}]"]
    for i in range(DEPTH):
        lines += [
            f"  const @w{i} : f32[{WIDTH},{WIDTH}] = normal({i + 1}, {1.6 / WIDTH**0.5})",
            f"  const @b{i} : f32[{WIDTH}] = normal({i + 31}, 0.1)",
        ]
    activation = '{activation="relu"}'
    lines += [f"  %x{i + 1} = dense(%x{i}, @w{i}, @b{i}) {activation} : f32[1,{WIDTH}]" for i in range(DEPTH)]
    return 'graph "chain" {\n' + "\n".join([*lines, f'  output "y" = %x{DEPTH}', "}"])


@pytest.mark.parametrize("count", [16, 24])
def test_what_is_said_of_few_samples_holds_for_others(count: int) -> None:
    """A layer with more weights than samples can be fitted to all of them, which says nothing of the next one."""
    graph = parse_graph(_text(), ops.all_ops())
    random = np.random.default_rng(1)
    made = [{"x0": random.normal(size=(1, WIDTH)).astype(np.float32)} for _ in range(count + 100)]
    given = open_calibration(made[:count], graph_inputs(graph))
    context = PassContext(samples=given.__iter__)
    final, _ = driver.to_precision(graph, CompileConfig(), context, ())
    said = measure(comparable(graph, context), final, given, context)
    assert said is not None
    assert not said.fitted
    assert said.outputs["y"] == pytest.approx(Evaluator(graph, made[count:]).output_db(final)[0], abs=1.5)
