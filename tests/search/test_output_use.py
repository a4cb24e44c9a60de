"""What is judged at the outputs: wholes, class scores, and the parts of what a concatenation joined."""

from __future__ import annotations

import numpy as np
import pytest

from qcompile import ops
from qcompile.ir.graph import Graph
from qcompile.ir.parser import parse_graph
from qcompile.passmgr import PassContext, PassManager
from qcompile.search.evaluation import Evaluator
from qcompile.search.output_use import OutputUse, output_uses, whole_outputs
from qcompile.search.sensitivity import measure_all
from qcompile.search.targets import CLASSES_DB, SIGNAL_DB, targets

DETECTOR = """
graph "detector" {
  input %x : f32[1,4,4,3]
  const @w : f32[4,1,1,3] = normal(1, 1)
  const @b : f32[4] = normal(2, 1)
  const @v : f32[2,1,1,3] = normal(3, 1)
  const @c : f32[2] = normal(4, 1)
  const @pixels : f32[1] = [400.0]
  %l = conv2d(%x, @w, @b) {layout="NHWC"} : f32[1,4,4,4]
  %t = tanh(%l) : f32[1,4,4,4]
  %boxes = mul(%t, @pixels) : f32[1,4,4,4]
  %z = conv2d(%x, @v, @c) {layout="NHWC"} : f32[1,4,4,2]
  %s = sigmoid(%z) : f32[1,4,4,2]
  %j = concat(%boxes, %s) {axis=3} : f32[1,4,4,6]
  %rows = reshape(%j) {shape=[1,16,6]} : f32[1,16,6]
  %small = concat(%boxes, %s) {axis=3} : f32[1,4,4,6]
  %more = reshape(%small) {shape=[1,16,6]} : f32[1,16,6]
  %all = concat(%rows, %more) {axis=1} : f32[1,32,6]
  %y = transpose(%all) {perm=[0,2,1]} : f32[1,6,32]
  %grids = concat(%z, %z) {axis=1} : f32[1,8,4,2]
  output "y" = %y
  output "grids" = %grids
}
"""


def detector() -> Graph:
    return parse_graph(DETECTOR, ops.all_ops())


def samples(count: int = 6) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(0)
    return [{"x": random.normal(0, 1, (1, 4, 4, 3)).astype(np.float32)} for _ in range(count)]


def test_boxes_and_scores_of_all_grids_are_two_parts() -> None:
    boxes, scores, grids = output_uses(detector())
    wanted = np.zeros((1, 6, 32), bool)
    wanted[:, :4] = True
    assert boxes.places is not None
    assert scores.places is not None
    np.testing.assert_array_equal(boxes.places, wanted)
    np.testing.assert_array_equal(scores.places, ~wanted)
    assert (boxes.scores, scores.scores, grids) == (False, True, OutputUse(1))
    assert targets(detector()) == [SIGNAL_DB, CLASSES_DB, SIGNAL_DB]


def test_lists_have_no_parts() -> None:
    joined = "\n".join(f"  %p{k} = sigmoid(%x) : f32[1,3]\n  %q{k} = neg(%x) : f32[1,3]" for k in range(5))
    names = ", ".join(f"%p{k}, %q{k}" for k in range(5))
    text = f'graph "g" {{\n  input %x : f32[1,3]\n{joined}\n  %y = concat({names}) {{axis=1}} : f32[1,30]\n'
    assert output_uses(parse_graph(f'{text}  output "y" = %y\n}}\n', ops.all_ops())) == [OutputUse(0)]


def test_scores_count_beside_boxes_in_pixels() -> None:
    graph, given = detector(), samples()
    context = PassContext(samples=lambda: iter(given))
    calibrated = PassManager("insert-observers,calibrate,assign-precision").run(graph.clone(), context)
    integer = PassManager("quantize").run(calibrated, context)
    plain, used = Evaluator(graph, given).use_db(integer)
    assert (len(plain), len(used)) == (2, 3)
    assert used[2] == plain[1]
    assert min(used[:2]) <= plain[0] <= max(used[:2])
    whole, parts = (measure_all(calibrated, integer, given, uses=asked) for asked in (False, True))
    scores = next(k for k, noise in enumerate(whole) if noise.source.name == "z" and noise.source.constants)
    # Whole, the noise of the scores is nothing beside pixels; as a part it counts, and touches no box.
    assert whole[scores].outputs[0] < 1e-6
    assert parts[scores].outputs[0] == 0.0
    assert parts[scores].outputs[1] > 1e-6


def test_scores_that_found_nothing_need_not_be_exact() -> None:
    places = np.ones((1, 100), bool)
    faint = np.full((1, 100), 1e-6)
    signal, noise = OutputUse(0, None, places, True).powers([faint], [faint + 1e-4])
    assert signal == pytest.approx(100 * 0.01**2)
    assert noise == pytest.approx(100 * 1e-8)
    signal, _ = OutputUse(0, None, places, False).powers([faint], [faint])
    assert signal == pytest.approx(100 * 1e-12)


def test_whole_outputs() -> None:
    assert whole_outputs(detector()) == [OutputUse(0), OutputUse(1)]
