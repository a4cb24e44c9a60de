"""Streams whose first frames are zero in all samples: what follows tells the range of what will be fed."""

from __future__ import annotations

import numpy as np

from qcompile import ops
from qcompile.ir.graph import Graph
from qcompile.ir.parser import parse_graph
from qcompile.ops.interpreter import Interpreter
from qcompile.passmgr import PassContext, PassManager
from qcompile.passmgr.likely_states import joined_states, likely_states

FRAMES = "{starts=[0, 8, 0], steps=[1, 1, 1], sizes=[1, 4, 16]}"
STREAM = f"""
graph "stream" {{
  input %x : f32[1,8,16]
  input %past : f32[1,4,16]
  const @w : f32[16,16] = normal(1, 0.3)
  const @b : f32[16] = normal(2, 0.1)
  %h = dense(%x, @w, @b) {{activation="relu"}} : f32[1,8,16] loc("frames")
  %joined = concat(%past, %h) {{axis=1}} : f32[1,12,16] loc("joined")
  %y = dense(%joined, @w, @b) : f32[1,12,16] loc("result")
  %next = slice(%joined) {FRAMES} : f32[1,4,16] loc("next")
  output "y" = %y
  output "next" = %next
}}
"""
PIPELINE = "insert-observers,calibrate,assign-precision,quantize,fuse-requantize"


def stream(text: str = STREAM) -> Graph:
    return parse_graph(text, ops.all_ops())


def frames(count: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(0, 1, (1, 8, 16)).astype(np.float32) for _ in range(count)]


def test_a_state_has_the_range_of_what_continues_it() -> None:
    graph = stream()
    given = [{"x": x, "past": np.zeros((1, 4, 16), np.float32)} for x in frames(32, 0)]
    context = PassContext(samples=lambda: iter(given))
    made = PassManager(PIPELINE).run(graph, context)
    assert any("'past' was zero in all samples" in note for note in context.notes)
    assert {node.precision for node in made.nodes} == {"int8"}
    real, rounded = Interpreter(graph), Interpreter(made)
    noise = {"zero": 0.0, "continued": 0.0}
    past = zero = np.zeros((1, 4, 16), np.float32)
    for x in frames(16, 1):
        for kind, state in (("zero", zero), ("continued", past)):
            wanted, got = (run.run({"x": x, "past": state}) for run in (real, rounded))
            noise[kind] += float(np.square(wanted["y"] - got["y"]).sum() / np.square(wanted["y"]).sum())
        past = wanted["next"]
    assert past.max() > 1.0
    assert noise["continued"] < 2.0 * noise["zero"]


def test_two_pictures_are_no_states() -> None:
    """A network that makes one picture of two keeps none of them."""
    inputs = "input %a : f32[1,8,8,3] input %b : f32[1,8,8,3]"
    graph = stream(f'graph "g" {{ {inputs} %y = add(%a, %b) : f32[1,8,8,3] output "y" = %y }}')
    assert likely_states(graph) == {}
    graph = stream(f'graph "g" {{ {inputs} %y = add(%a, %b) : f32[1,8,8,3] output "y" = %y output "z" = %y }}')
    assert likely_states(graph) == {}, "there is nothing but states"


def test_what_is_more_than_joined_is_left_alone() -> None:
    """A layer that reads zeros gives its bias: no sample tells what it gives else."""
    assert [(a.name, b.name) for a, b in joined_states(stream()).items()] == [("past", "next")]
    read = STREAM.replace('output "y"', '%z = dense(%past, @w, @b) : f32[1,4,16]\n  output "z" = %z\n  output "y"')
    assert not joined_states(stream(read.replace('output "z" = %z\n', "")))
    assert not joined_states(stream(read)), "two outputs are alike, and one input"
    assert not joined_states(stream(STREAM.replace('output "next" = %next', "")))
