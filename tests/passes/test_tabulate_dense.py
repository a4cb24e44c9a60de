"""Tables of a layer's results: every index gives what the layer gave, and INT8 loses less than with the layer."""

from __future__ import annotations

import numpy as np

from qcompile import ops, pipelines
from qcompile.config import CompileConfig
from qcompile.ir.graph import Graph
from qcompile.ir.parser import parse_graph
from qcompile.ops.interpreter import Interpreter
from qcompile.passmgr import PassContext, run_pipeline
from qcompile.quant.noise_power import decibels, deviation_power

ROWS, TERMS = 29, 64

TEXT = """
graph "letters" {
  input %i : i64[4]
  input %h : f32[4,64]
  const @t : f32[29,64] = normal(1, 0.3)
  const @w : f32[96,64] = normal(2, 0.3)
  const @b : f32[96] = normal(3, 0.3)
  const @u : f32[96,64] = normal(4, 0.3)
  %r = gather(@t, %i) {axis=0} : f32[4,64]
  %a = dense(%r, @w, @b) : f32[4,96]
  %c = dense(%h, @u, @b) : f32[4,96]
  %s = add(%a, %c) : f32[4,96]
  output "s" = %s
}
"""


def letters() -> Graph:
    return parse_graph(TEXT, ops.all_ops())


def samples() -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(1)
    return [
        {"i": random.integers(0, ROWS, 4), "h": random.normal(0, 0.3, (4, TERMS)).astype(np.float32)} for _ in range(32)
    ]


def test_indices_from_the_end_and_beyond_it() -> None:
    before = letters()
    after = run_pipeline(before, "tabulate-dense")
    assert [node.op.name for node in after.nodes] == ["gather", "dense", "add"]
    given = {"i": np.array([-1, 0, ROWS - 1, ROWS + 5]), "h": samples()[0]["h"]}
    expected, found = (Interpreter(graph).run(given)["s"] for graph in (before, after))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def integer_form(first: str) -> Graph:
    """Return the default recipe's graph, with the sum in 16 bits."""
    config = CompileConfig(keep_int16=("op:add",))
    pipeline = f"{first}{pipelines.quantization(config)}"
    return run_pipeline(letters(), pipeline, PassContext(samples=lambda: iter(samples())))


def test_int8_loses_less() -> None:
    exact, plain, tabulated = (
        np.stack([Interpreter(graph).run(sample)["s"] for sample in samples()])
        for graph in (letters(), integer_form(""), integer_form("tabulate-dense,"))
    )
    assert decibels(*deviation_power(exact, tabulated)) > decibels(*deviation_power(exact, plain)) + 2.0


def test_small_tables_stay_real() -> None:
    graph = integer_form("tabulate-dense,")
    tables = [node.inputs[0] for node in graph.nodes if node.op.name == "gather"]
    assert [(table.is_constant, table.dtype) for table in tables] == [(True, "float32")]
