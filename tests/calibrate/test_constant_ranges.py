"""Sums and products with constants: their codes are those of what they are made of."""

from __future__ import annotations

import numpy as np
import pytest

from qcompile import ops
from qcompile.ir.graph import Graph
from qcompile.ir.parser import parse_graph
from qcompile.ops.interpreter import Interpreter
from qcompile.passmgr import PassManager

TEXT = """graph "constants" {{
  input %x : f32[1,16,16,3] spec(observer="minmax", range=[-4.0, 4.0])
  const @c : f32[1] = [{constant}] spec(observer="minmax", range=[{low}, {high}])
  %a = abs(%x) : f32[1,16,16,3] spec(observer="minmax", range=[0.0, 4.0]) precision(int8)
  %y = {operation}(%a, @c) : f32[1,16,16,3] spec(observer="minmax", range=[{result}]) precision(int8)
  output "y" = %y
}}
"""


def quantized(operation: str, constant: float, result: str) -> Graph:
    text = TEXT.format(
        operation=operation, constant=constant, low=min(constant, 0.0), high=max(constant, 0.0), result=result
    )
    return PassManager("quantize").run(parse_graph(text, ops.all_ops(), source="test"))


def codes(graph: Graph) -> dict[str, np.ndarray]:
    seen: dict[str, np.ndarray] = {}
    x = np.random.default_rng(0).uniform(-4, 4, (1, 16, 16, 3)).astype(np.float32)
    Interpreter(graph).run({"x": x}, on_value=lambda value, array: seen.setdefault(value.name, np.array(array)))
    return seen


@pytest.mark.parametrize(("constant", "result"), [(1.01, "0.0, 5.01"), (-0.5, "-0.5, 3.5"), (0.002, "0.0, 4.1")])
def test_a_sum_moves_the_codes(constant: float, result: str) -> None:
    graph = quantized("add", constant, result)
    found = codes(graph)
    difference = found["y.q"].astype(int) - found["a.q"].astype(int)
    inside = (found["y.q"] > -128) & (found["y.q"] < 127)
    assert len(np.unique(difference[inside])) == 1
    values = {value.name: value for value in graph.values()}
    assert values["a.q"].qparams.scalar_scale == pytest.approx(values["y.q"].qparams.scalar_scale, rel=1e-6)


def test_a_sum_takes_steps_of_which_its_constant_is_a_whole_number() -> None:
    graph = quantized("add", 1.01, "0.0, 5.01")
    step = next(v.qparams.scalar_scale for v in graph.values() if v.name == "y.q")
    assert 1.01 / step == pytest.approx(round(1.01 / step), abs=1e-4)


def test_a_product_keeps_the_codes() -> None:
    found = codes(quantized("mul", 0.75, "0.0, 3.0"))
    assert np.array_equal(found["a.q"], found["y.q"])


def test_a_range_that_would_be_cut_stays() -> None:
    graph = quantized("add", -2.0, "-2.0, 1.0")
    scales = {v.name: v.qparams.scalar_scale for v in graph.values() if v.qparams is not None and v.dtype == "int8"}
    assert scales["a.q"] == pytest.approx(4.0 / 255)
    assert scales["y.q"] == pytest.approx(3.0 / 255)


def test_a_constant_of_a_step_and_a_half_leaves_the_ranges() -> None:
    graph = quantized("add", 1.5 * 4.1 / 255, "0.0, 4.1")
    scales = {v.name: v.qparams.scalar_scale for v in graph.values() if v.qparams is not None and v.dtype == "int8"}
    assert scales["a.q"] == pytest.approx(4.0 / 255)
