"""Every operation in its integer form, on every instruction set of this machine: the interpreter's bits."""

from __future__ import annotations

import re

import pytest
from graph_checks import check, graph_names, graph_of, graph_texts

from qcompile import ops
from qcompile.ir.opdef import Quantization
from qcompile.targets import Target

GRAPHS = graph_texts(*(name for name in graph_names() if name.startswith("integer")))


@pytest.mark.parametrize("name", list(GRAPHS))
def test_integer_form(name: str, machine: Target) -> None:
    check(graph_of(GRAPHS[name]), machine, rtol=0)


def test_every_kind_of_integer_form_is_covered() -> None:
    """Tables share one kernel and copies one, so their operations need not all appear; the others do."""
    used = {op for text in GRAPHS.values() for op in re.findall(r"= (\w+)\(", text)}
    own_rule = (Quantization.ACCUMULATE, Quantization.ARITHMETIC)
    assert {name for name, op in ops.all_ops().items() if op.integer in own_rule} - used == set()
