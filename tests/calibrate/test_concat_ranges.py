"""Parts of a concatenation that take its range."""

from __future__ import annotations

import pytest

from qcompile import ops
from qcompile.calibrate.concat_ranges import share_concat_ranges
from qcompile.ir.graph import Graph, Value
from qcompile.ir.parser import parse_graph

TEXT = """graph "split" {{
  input %x : f32[1,8] spec(observer="minmax", range=[-9.0, 9.0])
  %a = tanh(%x) : f32[1,8] spec(observer="minmax", range=[-9.0, 9.0]) precision(int8)
  %s, %t = split(%a) {{axis=1, sizes=[4, 4]}} : f32[1,4] spec(observer="minmax", kind="shared", source="a"), f32[1,4] spec(observer="minmax", kind="shared", source="a") precision(int8)
  %u = tanh({reads}) : f32[1,4] spec(observer="minmax", range=[-1.0, 1.0]) precision(int8)
  %y = concat(%s, {joins}) {{axis=1}} : f32[1,8] spec(observer="minmax", range=[-1.0, 1.0]) precision(int8)
  output "y" = %y
  output "u" = %u
}}
"""  # noqa: E501


def network(reads: str, joins: str) -> tuple[Graph, dict[str, Value]]:
    graph = parse_graph(TEXT.format(reads=reads, joins=joins), ops.all_ops())
    return graph, {value.name: value for value in graph.values()}


def test_what_another_part_of_a_split_feeds_keeps_its_range() -> None:
    graph, values = network("%t", "%u")
    share_concat_ranges(graph)
    assert values["a"].qspec is not None
    assert values["a"].qspec.range == (-9.0, 9.0)


@pytest.mark.parametrize("order", ["%s, %t", "%t, %s"])
def test_parts_that_meet_again_take_the_range_of_the_whole(order: str) -> None:
    first, second = order.split(", ")
    text = TEXT.replace("concat(%s, {joins})", f"concat({first}, {second})")
    text = text.replace(
        '  %u = tanh({reads}) : f32[1,4] spec(observer="minmax", range=[-1.0, 1.0]) precision(int8)\n', ""
    )
    graph = parse_graph(text.replace('  output "u" = %u\n', "").format(), ops.all_ops())
    (changed,) = share_concat_ranges(graph)
    assert changed.name == "a"
    assert changed.qspec is not None
    assert changed.qspec.range == (-1.0, 1.0)
