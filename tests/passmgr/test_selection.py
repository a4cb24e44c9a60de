"""Patterns that choose nodes."""

from __future__ import annotations

import re

import pytest

from qcompile import ops
from qcompile.errors import PassError, UsageError
from qcompile.ir.graph import Graph
from qcompile.ir.parser import parse_graph
from qcompile.passmgr.selection import _reached, check_selection, idle_selections, select_nodes, selected

TEXT = """
graph "two ways" {
  input %x : f32[1,8]
  const @w : f32[8,8] = normal(1)
  const @b : f32[8] = normal(2)
  %stem = dense(%x, @w, @b) : f32[1,8] loc("/stem/Gemm")
  %left = dense(%stem, @w, @b) : f32[1,8] loc("/left/Gemm")
  %gate = sigmoid(%left) : f32[1,8] loc("/left/Sigmoid")
  %right = dense(%stem, @w, @b) : f32[1,8] loc("/right/Gemm")
  %sum = add(%gate, %right) : f32[1,8] loc("/Add")
  %p = softmax(%sum) : f32[1,8] loc("tail[0]")
  output "probabilities" = %p
}
"""


@pytest.fixture
def graph() -> Graph:
    return parse_graph(TEXT, ops.all_ops(), source="test")


def names(graph: Graph, pattern: str) -> list[str]:
    return [node.loc for node in select_nodes(graph, pattern)]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("/left/Gemm", ["/left/Gemm"]),
        ("gate", ["/left/Sigmoid"]),
        ("tail[0]", ["tail[0]"]),
        ("/left/*", ["/left/Gemm", "/left/Sigmoid"]),
        ("op:softmax", ["tail[0]"]),
        ("op:Gemm", ["/stem/Gemm", "/left/Gemm", "/right/Gemm"]),
        ("op:s*", ["/left/Sigmoid", "tail[0]"]),
        ("/(left|right).Gemm/", ["/left/Gemm", "/right/Gemm"]),
        ("/^g/", ["/left/Sigmoid"]),
        ("stem..sum", ["/left/Gemm", "/left/Sigmoid", "/right/Gemm", "/Add"]),
        ("/left/Gemm../Add", ["/left/Gemm", "/left/Sigmoid", "/Add"]),
        ("sum..", ["tail[0]"]),
        ("sum..probabilities", ["tail[0]"]),
        ("..stem", ["/stem/Gemm"]),
        ("x..gate", ["/stem/Gemm", "/left/Gemm", "/left/Sigmoid"]),
        ("nothing*", []),
        ("gate..right", []),
    ],
)
def test_patterns(graph: Graph, pattern: str, expected: list[str]) -> None:
    assert names(graph, pattern) == expected


@pytest.mark.parametrize(
    ("pattern", "hint"),
    [
        ("/left/Gem", "did you mean '/left/Gemm'"),
        ("/Adds*", "did you mean '/Add'"),
        ("op:softmx", "did you mean 'op:softmax'"),
        ("op:quux", "operations here: add, dense"),
        ("gate..right", "is the order right"),
        ("zzzzzz", "qcompile inspect"),
    ],
)
def test_a_pattern_that_matches_nothing_is_an_error(graph: Graph, pattern: str, hint: str) -> None:
    with pytest.raises(PassError, match="matches no node") as caught:
        selected(graph, [pattern], option="keep_float")
    assert hint in (caught.value.hint or "")
    with pytest.raises(UsageError, match="matches no node"):
        check_selection(graph, ["/Add", pattern], option="--keep-float")


def test_unknown_ends_and_faulty_expressions_are_errors(graph: Graph) -> None:
    with pytest.raises(UsageError, match="no tensor or node 'stm'") as caught:
        select_nodes(graph, "stm..sum")
    assert caught.value.hint == "did you mean 'stem'?"
    with pytest.raises(UsageError, match="not a regular expression"):
        select_nodes(graph, "/(left/")


def test_a_merged_node_is_named(graph: Graph) -> None:
    merged = graph.clone()
    add = next(node for node in merged.nodes if node.loc == "/Add")
    gate = next(node for node in merged.nodes if node.loc == "/left/Sigmoid")
    gate.loc = ""
    with pytest.raises(PassError) as caught:
        selected(merged, ["/left/Sigmoid"], option="keep_float", original=graph)
    assert caught.value.hint == "it is part of '/left/Gemm' by now: give that name"
    assert selected(merged, ["/Add", "sum"], option="keep_float") == {add}


@pytest.mark.parametrize("pattern", ["/left/Sigmoid..tail[0]", "stem..gate", "..gate", "left..gate"])
def test_an_end_that_was_merged_is_named(graph: Graph, pattern: str) -> None:
    merged, host = graph.clone(), "'/left/Gemm' by now: give that name"
    merged.nodes[2].loc, merged.nodes[2].output.name = "", "table"
    if pattern == "left..gate":  # the name of a node
        graph.nodes[2].loc = pattern
    with pytest.raises(UsageError) as caught:
        check_selection(merged, [pattern], option="--keep-float", original=graph)
    assert f"--keep-float '{pattern}': there is no tensor or node" in caught.value.message
    assert caught.value.hint is not None
    assert caught.value.hint.endswith(f"is part of {host}")


def test_a_faulty_expression_names_the_option(graph: Graph) -> None:
    with pytest.raises(UsageError, match=re.escape("--keep-float '/(/': this is not a regular expression")) as caught:
        check_selection(graph, ["/(/"], option="--keep-float")
    assert caught.value.hint


def test_a_node_that_is_gone_is_named(graph: Graph) -> None:
    rest = graph.clone()
    for node in rest.nodes:
        node.loc = f"{node.loc} of another network"
    with pytest.raises(PassError) as caught:
        selected(rest, ["tail[0]"], option="keep_float", original=graph)
    assert caught.value.hint == "nothing is left of it: the network does without"


def test_what_sixteen_bits_do_nothing_for_is_told(graph: Graph) -> None:
    assert idle_selections(graph, ["op:sigmoid"], ["/Add"]) == []
    assert idle_selections(graph, ["op:dense"], ["op:dense", "tail[0]"]) == [
        "--keep-int16 does nothing for 3 nodes (/stem/Gemm, …): --keep-float names it, too",
        "--keep-int16 does nothing for tail[0]: 'softmax' has no integer form",
    ]


def test_a_long_way_is_looked_at_once() -> None:
    """Whatever many nodes start a way, or many ways meet in."""
    asked: list[int] = []

    def following(number: int) -> list[int]:
        asked.append(number)
        return [n for n in (number + 1, number + 2) if n < 100]

    assert _reached(set(range(0, 100, 7)), following) == set(range(100))
    assert sorted(asked) == list(range(100))
