"""Small networks with a known weak spot, and what the tests of the search do with them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from qcompile import ops
from qcompile.ir.graph import Graph
from qcompile.ir.parser import parse_graph
from qcompile.passmgr import PassContext, PassRegistry
from qcompile.search.candidates import Candidates
from qcompile.search.evaluation import split_samples
from qcompile.search.recipe import Recipe
from qcompile.search.state import SearchState

SHAPE = (1, 8, 8, 4)

HEADS = """
graph "heads" {
  input %x : f32[1,8,8,4]
  const @w0 : f32[16,3,3,4] = normal(1, 0.2)
  const @b0 : f32[16] = normal(2, 0.1)
  const @w1 : f32[16,3,3,16] = normal(7, 0.1)
  const @wb : f32[4,1,1,16] = normal(3, 100)
  const @bb : f32[4] = normal(4, 100)
  const @ws : f32[4,1,1,16] = normal(5, 0.05)
  const @bs : f32[4] = normal(6, 0.02)
  %h = conv2d(%x, @w0, @b0) {pads=[1,1,1,1], layout="NHWC", activation="relu"} : f32[1,8,8,16] loc("trunk")
  %t = conv2d(%h, @w1, @b0) {pads=[1,1,1,1], layout="NHWC", activation="relu"} : f32[1,8,8,16] loc("tail")
  %boxes = conv2d(%t, @wb, @bb) {layout="NHWC"} : f32[1,8,8,4] loc("boxes")
  %s = conv2d(%t, @ws, @bs) {layout="NHWC"} : f32[1,8,8,4] loc("logits")
  %scores = sigmoid(%s) : f32[1,8,8,4] loc("scores")
  %both = concat(%boxes, %scores) {axis=3} : f32[1,8,8,8] loc("both")
  %left = slice(%both) {starts=[0,0,0,0], steps=[1,1,1,1], sizes=[1,8,8,4]} : f32[1,8,8,4] loc("left")
  %right = slice(%both) {starts=[0,0,0,4], steps=[1,1,1,1], sizes=[1,8,8,4]} : f32[1,8,8,4] loc("right")
  output "boxes" = %left
  output "scores" = %right
}
"""
"""Boxes of some hundreds and scores below 1 share one concat, and so one scale: no score survives."""


def heads(renamed: bool = False) -> Graph:
    text = HEADS
    if renamed:
        for number, name in enumerate(("trunk", "tail", "boxes", "logits", "scores", "both", "left", "right")):
            text = text.replace(f'loc("{name}")', f'loc("n{number}")')
    return parse_graph(text, ops.all_ops())


def samples(count: int = 20) -> list[dict[str, np.ndarray]]:
    generator = np.random.default_rng(0)
    return [{"x": generator.standard_normal(SHAPE).astype(np.float32)} for _ in range(count)]


def context_of(given: list[dict[str, np.ndarray]]) -> PassContext:
    def start() -> Iterator[dict[str, np.ndarray]]:
        return iter(given)

    return PassContext(samples=start)


PIPELINE = (
    'fuse-activation{tables=false},insert-observers{observer="minmax"},calibrate,assign-precision{spread=1e9},quantize,'
    "fuse-requantize,fuse-activation,eliminate-dead"
)
"""The quick passes alone: what the search does with them is the same with slow ones."""


def candidates(graph: Graph, state: SearchState | None = None, jobs: int = 1) -> Candidates:
    given = samples()
    split = split_samples(lambda: iter(given))
    return Candidates(graph, context_of(given), split, PassRegistry(), state or SearchState(None, ""), jobs)


def recipe() -> Recipe:
    return Recipe.parse(PIPELINE, PassRegistry())
