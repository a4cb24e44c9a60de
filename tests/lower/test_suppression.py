"""Suppression of boxes among many of them: equal scores, scores and boxes that are no numbers, all limits."""

from __future__ import annotations

import emulation
import numpy as np
import pytest
from graph_checks import graph_of
from program_execution import Executable

from qcompile import targets
from qcompile.ir.graph import Graph
from qcompile.lower import lower_graph
from qcompile.ops.interpreter import Interpreter
from qcompile.targets import Target

FORMS = {
    "all": "most=300, overlap=0.5",
    "few": "most=7, overlap=0.3, least=0.2",
    "centred": "most=100, overlap=0.6, least=0.0, centred=true",
    "none meets": "most=300, overlap=1.0",
    "any meeting": "most=300, overlap=0.0",
    "none wanted": "most=5, overlap=0.5, least=2.0",
}


def crowd(form: str) -> Graph:
    line = f"%y = non_max_suppression(%boxes, %scores) {{{FORMS[form]}}}"
    rows = 2 * 3 * int(FORMS[form].partition("most=")[2].partition(",")[0])
    inputs = "input %boxes : f32[2,300,4] input %scores : f32[2,3,300]"
    return graph_of(f'graph "g" {{ {inputs} {line} : i64[{rows},3] output "y" = %y }}')


def boxes_and_scores(seed: int) -> dict[str, np.ndarray]:
    """Return boxes that crowd in part of the plane, among them empty, infinite and undefined ones."""
    rng = np.random.default_rng(seed)
    start, size = rng.uniform(-3, 6, (2, 300, 2)), rng.exponential(2.0, (2, 300, 2))
    boxes = np.concatenate([start, start + size], axis=2).astype(np.float32)
    boxes[:, ::11] = boxes[:, ::11, [2, 3, 0, 1]]
    boxes[0, 20:30, 2:] = boxes[0, 20:30, :2]
    boxes[0, 40:50] = boxes[0, 39]
    boxes[1, 5, 0], boxes[1, 6, 3], boxes[1, 7] = np.nan, np.inf, np.nan
    scores = rng.uniform(0, 1, (2, 3, 300)).round(2).astype(np.float32)
    scores[:, 1, 100:110], scores[1, 2, 50:60] = np.nan, -np.inf
    return {"boxes": boxes, "scores": scores}


@pytest.mark.parametrize("form", list(FORMS))
def test_the_same_boxes_stay(form: str, machine: Target) -> None:
    graph = crowd(form)
    executable = Executable(lower_graph(graph, machine, jobs=1))
    for seed in (0, 1):
        inputs = boxes_and_scores(seed)
        want = Interpreter(graph).run(inputs)["y"]
        assert (want[0, 2] < 0) == (form == "none wanted")
        np.testing.assert_array_equal(executable.run(inputs)["y"], want)


@pytest.mark.arm
def test_the_same_boxes_stay_on_arm() -> None:
    if emulation.emulator() is None:
        pytest.skip("qemu-aarch64 is not installed (Debian: qemu-user)")
    graph, inputs = crowd("all"), boxes_and_scores(2)
    got = emulation.run_emulated(lower_graph(graph, targets.load("rpi4"), jobs=1), inputs)
    np.testing.assert_array_equal(got["y"], Interpreter(graph).run(inputs)["y"])
