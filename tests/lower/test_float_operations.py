"""Every operation in its real form, on every instruction set of this machine, against the interpreter."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from graph_checks import check, graph_names, graph_of, graph_texts
from program_execution import Executable

from qcompile import ops
from qcompile.lower import lower_graph
from qcompile.ops.interpreter import Interpreter
from qcompile.targets import Target

UNARY = (
    "abs ceil celu elu erf exp floor gelu hard_sigmoid hard_swish identity leaky_relu mish neg relu round selu "
    "sigmoid sign silu softplus softsign tanh"
)
POSITIVE = "log reciprocal sqrt"
"""Functions that are not defined everywhere."""
ELSEWHERE = {"dequantize", "quantize", "requantize"}


def unary_graph() -> str:
    """Return a graph of operations with one real operand and a formula."""
    lines = ['graph "unary" {', "input %x : f32[2,5,7,3]", "%positive = exp(%x) : f32[2,5,7,3]"]
    lines.append('%clip = clip(%x) {min=-0.5, max=1.5} : f32[2,5,7,3] output "clip" = %clip')
    for names, operand in ((UNARY, "x"), (POSITIVE, "positive")):
        lines += [f'%{n} = {n}(%{operand}) : f32[2,5,7,3] output "{n}" = %{n}' for n in names.split()]
    return "\n".join([*lines, "}"])


GRAPHS = {"unary": unary_graph(), **graph_texts(*(name for name in graph_names() if not name.startswith("integer")))}


@pytest.mark.parametrize("name", list(GRAPHS))
def test_real_form(name: str, machine: Target) -> None:
    check(graph_of(GRAPHS[name]), machine, rtol=2e-5 if name == "layers" else 1e-5)


def test_every_operation_is_covered() -> None:
    """No operation of the registry goes untested: a new one brings a file in graphs/ or a test."""
    tests = [path.read_text() for path in Path(__file__).parent.glob("test_*.py")]
    texts = [GRAPHS["unary"], *graph_texts(*graph_names()).values()]
    used = {op for text in texts for op in re.findall(r"= (\w+)\(", text)}
    used |= {op for text in tests for both in re.findall(r'"(\w+)"|%\w+ = (\w+)\(', text) for op in both}
    assert set(ops.all_ops()) - used - ELSEWHERE == set()


@pytest.mark.parametrize("shape", ["4,50", "1,50,6"])
def test_softmax_makes_no_subnormal_number_behind_a_mask(shape: str, machine: Target) -> None:
    """A processor takes a hundred cycles for each."""
    line = f"%y = softmax(%x) {{axis=1}} : f32[{shape}]"
    graph = graph_of(f'graph "g" {{ input %x : f32[{shape}] {line} output "y" = %y }}')
    executable = Executable(lower_graph(graph, machine, jobs=1))
    for depth in (-80.5, -88.0, -100.0, -104.0, -1e4, -np.inf):
        x = np.random.default_rng(0).normal(0, 2, graph.inputs[0].shape).astype(np.float32)
        x[:, 10:30] = depth
        y = executable.run({"x": x}, 1)["y"]
        assert not y[:, 10:30].any()
        np.testing.assert_allclose(y.sum(axis=1), 1.0, rtol=1e-5)


@pytest.mark.parametrize("largest", ["true", "false"])
def test_places_beside_what_is_not_a_number(largest: str, machine: Target) -> None:
    """NaN has no place in an order: it is neither before nor after another, and 0 and −0 are equal."""
    lines = f"%y = rank(%x) {{axis=1, largest={largest}}} : i32[3,300]"
    lines += "%p = place_of_rank(%y) {axis=1, count=9} : i64[3,9]"
    graph = graph_of(f'graph "g" {{ input %x : f32[3,300] {lines} output "y" = %y output "p" = %p }}')
    x = np.random.default_rng(0).normal(0, 2, (3, 300)).astype(np.float32).round(1)
    x[0, 17:90:9], x[1, 30:40], x[2, ::3] = np.nan, np.inf, -0.0
    executable = Executable(lower_graph(graph, machine, jobs=1))
    got, want = executable.run({"x": x}), Interpreter(graph).run({"x": x})
    for name in ("y", "p"):
        np.testing.assert_array_equal(got[name], want[name])
    before = (x[:, None, :] > x[:, :, None]) if largest == "true" else (x[:, None, :] < x[:, :, None])
    before |= (x[:, None, :] == x[:, :, None]) & np.tri(300, k=-1, dtype=bool)
    np.testing.assert_array_equal(want["y"], before.sum(axis=2))
