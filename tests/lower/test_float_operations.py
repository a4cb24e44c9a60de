"""Every operation in its real form, on every instruction set of this machine, against the interpreter."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from graph_checks import check, graph_names, graph_of, graph_texts

from qcompile import ops
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
    texts = [GRAPHS["unary"], *graph_texts(*graph_names()).values()]
    used = {op for text in texts for op in re.findall(r"= (\w+)\(", text)}
    for path in Path(__file__).parent.glob("test_*.py"):
        used |= set(re.findall(r'"(\w+)"', path.read_text()))
    assert set(ops.all_ops()) - used - ELSEWHERE == set()
