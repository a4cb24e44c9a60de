"""Which tensors lie within others, and that this takes no memory that copies would not."""

from __future__ import annotations

import re

import pytest
from graph_checks import graph_of, graph_texts

from qcompile import targets
from qcompile.lower.arena import plan_arena
from qcompile.lower.lowering import generate
from qcompile.lower.placement import plan_placement

PLACES = graph_texts("integer_places", "places")
RESIZED = graph_texts("integer_resized_places", "resized_places")
VNNI = targets.load("x86-64-v4-vnni")


def moved(text: str) -> set[str]:
    placement = plan_placement(graph_of(text))
    return {value.name for value in (*placement.joins, *placement.cuts)}


def copies(text: str) -> list[str]:
    steps = generate(graph_of(text), VNNI).steps
    return [step.loc for step in steps if step.op in ("concat", "split", "slice")]


@pytest.mark.parametrize("name", list(PLACES))
def test_layers_write_to_the_joined_tensor_and_read_parts_of_one(name: str) -> None:
    assert moved(PLACES[name]) >= {"c1", "c2", "j1", "c3", "j2", "d1", "d2", "right", "inner", "e1", "e3", "h1", "h2"}
    # What a split gave and a concat takes is copied once.
    assert copies(PLACES[name]) == ["j4", "both"]


@pytest.mark.parametrize("name", list(RESIZED))
def test_a_part_whose_step_waited_for_its_reader_is_written_in_place(name: str) -> None:
    """What a concat could compute while it copies, but does not, gets its memory only there."""
    assert moved(RESIZED[name]) == {"up", "half"}
    assert copies(RESIZED[name]) == []


def test_arguments_within_the_arena_may_start_anywhere() -> None:
    context = generate(graph_of(PLACES["integer_places"]), VNNI)
    parts = [buffer for step in context.steps for buffer in step.args if buffer is not None and buffer.inside]
    assert any(part.start % 64 for part in parts)
    assert all(part.start < part.whole.nbytes for part in parts)
    plan = plan_arena(context.steps)
    assert {part.whole for part in parts} <= set(plan.offsets)


def join(parts: str, result: str = "q(scale=0.3)") -> str:
    return f"""
    graph "join" {{
      input %x : i8[1,8,8,16] q(scale=0.05)
      const @w : i8[16,1,1,16] = normal(1, 30) q(scale=0.01)
      const @b : i32[16] = normal(2, 300)
      %a = conv2d(%x, @w, @b) {{layout="NHWC"}} : i8[1,8,8,16] q(scale=0.3)
      %c = conv2d(%a, @w, @b) {{layout="NHWC"}} : i8[1,8,8,16] q(scale=0.3)
      %j = concat({parts}) {{axis=3}} : i8[1,8,8,32] {result}
      %y = max_pool(%j) {{kernel=[2,2], strides=[2,2], layout="NHWC"}} : i8[1,4,4,32] {result}
      output "y" = %y
    }}
    """


def test_parts_on_another_grid_are_requantized_where_they_are_copied() -> None:
    assert moved(join("%a, %c")) == {"a", "c"}
    assert moved(join("%a, %c", "q(scale=0.4)")) == set()
    assert moved(join("%a, %c", "q(scale=0.3, range=[0, 127])")) == set()


def test_a_part_that_appears_twice_is_copied() -> None:
    assert moved(join("%a, %a")) == set()


def test_results_and_inputs_of_the_graph_keep_the_callers_memory() -> None:
    shown = join("%a, %c").replace('output "y"', 'output "c" = %c\n      output "y"')
    assert moved(shown) == {"a"}
    assert moved(join("%a, %c").replace("= %y", "= %j")) == set()
    assert moved(join("%x, %c").replace("scale=0.05", "scale=0.3")) == {"c"}


def test_a_graph_with_open_extents_has_no_places() -> None:
    assert moved(graph_texts("integer_open_axes")["integer_open_axes"]) == set()


def test_layers_add_parts_of_a_tensor_and_write_their_sums_beside_them() -> None:
    text = graph_texts("integer_residual_places")["integer_residual_places"]
    assert moved(text) == {"a", "c", "d"}
    assert copies(text) == []


LONG_SKIP = """
graph "long skip" {
  input %x : i8[1,32,32,8] q(scale=0.05)
  const @w : i8[8,1,1,8] = normal(1, 30) q(scale=0.01)
  const @wide : i8[64,1,1,8] = normal(1, 30) q(scale=0.01)
  const @square : i8[64,1,1,64] = normal(1, 30) q(scale=0.01)
  const @back : i8[8,1,1,64] = normal(1, 30) q(scale=0.01)
  const @b : i32[8] = normal(2, 300)
  const @wb : i32[64] = normal(2, 300)
  %skip = conv2d(%x, @w, @b) {layout="NHWC"} : i8[1,32,32,8] q(scale=0.3)
  %big = conv2d(%skip, @wide, @wb) {layout="NHWC"} : i8[1,32,32,64] q(scale=0.3)
  %huge = conv2d(%big, @square, @wb) {layout="NHWC"} : i8[1,32,32,64] q(scale=0.3)
  %bigger = conv2d(%huge, @back, @b) {layout="NHWC"} : i8[1,32,32,8] q(scale=0.3)
  %j = concat(%skip, %bigger) {axis=3} : i8[1,32,32,16] q(scale=0.3)
  %y = max_pool(%j) {kernel=[2,2], strides=[2,2], layout="NHWC"} : i8[1,16,16,16] q(scale=0.3)
  output "y" = %y
}
"""


def test_no_place_takes_more_memory_than_copies() -> None:
    """The joined tensor would be in use beside the largest one for the sake of its parts."""
    assert moved(LONG_SKIP) == {"bigger"}
    slim = re.sub(r"\b64\b", "8", LONG_SKIP)
    assert moved(slim) == {"skip", "bigger"}
    for text in (LONG_SKIP, slim):
        apart = text.replace("16] q(scale=0.3)", "16] q(scale=0.4)")
        assert moved(apart) == set()
        arenas = [plan_arena(generate(graph_of(each), VNNI).steps).size for each in (text, apart)]
        assert arenas[0] <= arenas[1]
