from __future__ import annotations

import numpy as np
import pytest
from manager_graphs import conv_graph

from qcompile import ops
from qcompile.errors import InternalError
from qcompile.ir.graph import Graph, Node
from qcompile.ir.parser import parse_graph
from qcompile.ir.rewrite import Rewriter
from qcompile.passmgr.patterns import (
    apply_rules,
    is_close,
    is_present,
    only_reader,
    per_channel,
    replace,
    scalar,
    with_constant,
    with_scalar,
)


def test_rules_that_go_on_for_ever_are_stopped() -> None:
    def swap(node: Node, rewriter: Rewriter) -> bool:
        return replace(rewriter, node, "mul", [node.inputs[1], node.inputs[0]])

    with pytest.raises(InternalError, match="rewrite rules do not come to an end; the last was at mul"):
        apply_rules(Rewriter(conv_graph()), {"mul": (swap,)})


def test_rules_leave_nothing_dead_and_do_not_visit_what_is_gone() -> None:
    text = """graph "g" {
      input %x : f32[2]
      %a = relu(%x) : f32[2]
      %b = tanh(%a) : f32[2]
      %c = tanh(%b) : f32[2]
      %d = tanh(%x) : f32[2]
      output "c" = %c
    }"""
    graph = parse_graph(text, ops.all_ops())
    visited = []

    def shortcut(node: Node, rewriter: Rewriter) -> bool:
        visited.append(node.output.name)
        if node.inputs[0] is graph.inputs[0]:
            return False
        return replace(rewriter, node, "tanh", graph.inputs)

    apply_rules(Rewriter(graph), {"tanh": (shortcut,)})
    assert [node.op.name for node in graph.nodes] == ["tanh"]
    assert "d" not in visited


def constant(data: object, dtype: str = "float32") -> object:
    return Graph().add_constant("c", np.asarray(data, dtype))


@pytest.mark.parametrize(
    ("data", "wanted"),
    [(0.1, 0.1), ([2.0, 2.0], 2.0), ([1.0, 2.0], None), ([], None), ([[1e-5]], 1e-5)],
)
def test_scalar(data: object, wanted: float | None) -> None:
    assert scalar(constant(data)) == wanted  # type: ignore[arg-type]


def test_scalar_of_other_types() -> None:
    assert scalar(constant(3, "int64")) == 3.0  # type: ignore[arg-type]
    assert scalar(constant(True, "bool")) is None  # type: ignore[arg-type]
    assert scalar(conv_graph().inputs[0]) is None


def test_operands() -> None:
    graph = conv_graph()
    conv, mul = graph.nodes
    assert with_scalar(mul) == (conv.output, 2.0)
    assert with_constant(mul) == (conv.output, mul.inputs[1])
    assert with_constant(conv) is None
    assert only_reader(conv.output, graph) is mul
    assert only_reader(mul.output, graph) is None
    assert is_present(mul)
    Rewriter(graph).replace_node(mul, [conv.output])
    assert not is_present(mul)
    assert only_reader(conv.output, graph) is None


def test_is_close() -> None:
    assert is_close(float(np.float32(1 / 6)), 1 / 6)
    assert not is_close(0.167, 1 / 6)
    assert not is_close(None, 0.0)
    assert not is_close(float("nan"), 1.0)


@pytest.mark.parametrize(
    ("shape", "fits"),
    [((), True), ((1,), True), ((3, 1, 1), True), ((1, 3, 1, 1), True), ((3,), False), ((1, 1, 1, 1, 1), False)],
)
def test_per_channel(shape: tuple[int, ...], fits: bool) -> None:
    found = per_channel(np.full(shape, 2.0, np.float32), 4, 1, 3)
    assert (found is not None) == fits
    if found is not None:
        assert np.array_equal(found, [2.0, 2.0, 2.0])
