"""Preprocessing that does not fit the network is told from its first layers."""

from __future__ import annotations

import numpy as np
import pytest

from qcompile import ops
from qcompile.calibrate.input_scale import USUAL, scale_notes
from qcompile.calibrate.preprocess import Preprocess
from qcompile.ir.graph import Graph
from qcompile.ir.parser import parse_graph

TEXT = """
graph "stem" {
  input %x : f32[1,3,16,16]
  const @w : f32[8,3,3,3] = normal(1, 0.2)
  const @b : f32[8] = normal(2, 0.5)
  %c = conv2d(%x, @w, @b) {pads=[0, 0, 0, 0], layout="NCHW"} : f32[1,8,14,14] loc("Stem")
  %y = relu(%c) : f32[1,8,14,14]
  output "y" = %y
}
"""


def photographs(count: int = 6) -> list[np.ndarray]:
    """Smooth coloured pictures from 0 to 255; red is bright, blue is dark, as in daylight."""
    generator = np.random.default_rng(7)
    pictures = []
    for _ in range(count):
        coarse = generator.uniform(0, 1, (1, 3, 4, 4)).repeat(4, 2).repeat(4, 3)
        tinted = coarse * np.array([0.9, 0.7, 0.4]).reshape(1, 3, 1, 1) + np.array([0.1, 0.1, 0.0]).reshape(1, 3, 1, 1)
        pictures.append((tinted * 255).astype(np.float32))
    return pictures


def trained_on(mean: float, std: float) -> Graph:
    """Return a network whose statistics are those of the pictures scaled in one way."""
    graph = parse_graph(TEXT, ops.all_ops(), source="test")
    from qcompile.ops.interpreter import Interpreter

    seen: list[np.ndarray] = []
    for picture in photographs():
        Interpreter(graph).run(
            {"x": (picture - np.float32(mean)) / np.float32(std)},
            on_value=lambda value, array: seen.append(array) if value.name == "c" else None,
        )
    values = np.concatenate(seen).transpose(1, 0, 2, 3).reshape(8, -1)
    target = graph.nodes[0].outputs[0]
    target.stats = values.mean(axis=1).astype(np.float32), values.std(axis=1).astype(np.float32)
    return graph


def fed(mean: float, std: float) -> list[dict[str, np.ndarray]]:
    return [{"x": (p - np.float32(mean)) / np.float32(std)} for p in photographs()]


@pytest.mark.parametrize(("mean", "std"), [(0.0, 255.0), (127.5, 127.5), (0.0, 1.0)])
def test_the_scale_of_training_is_fine(mean: float, std: float) -> None:
    assert scale_notes(trained_on(mean, std), fed(mean, std)) == []


@pytest.mark.parametrize(
    ("trained", "given"),
    [
        ((0.0, 255.0), (0.0, 1.0)),
        ((127.5, 127.5), (0.0, 1.0)),
        ((0.0, 1.0), (0.0, 255.0)),
        ((127.5, 127.5), (0.0, 255.0)),
        ((0.0, 255.0), (127.5, 127.5)),
    ],
)
def test_another_scale_is_noted_with_the_right_one(trained: tuple[float, float], given: tuple[float, float]) -> None:
    notes = scale_notes(trained_on(*trained), fed(*given))
    assert len(notes) == 1
    assert "preprocessing looks wrong: after 'Stem'" in notes[0]
    assert f"'mean={trained[0]:g},std={trained[1]:g}' would fit" in notes[0]


def test_known_steps_are_undone_first() -> None:
    recipe = Preprocess.parse("mean=50,std=10,color=rgb")
    notes = scale_notes(trained_on(0.0, 255.0), fed(50.0, 10.0), recipe)
    assert "'mean=0,std=255' would fit" in notes[0]


def test_a_folded_network_is_judged_by_its_bias() -> None:
    graph = trained_on(0.0, 255.0)
    graph.nodes[0].outputs[0].stats = None
    assert scale_notes(graph, fed(0.0, 255.0)) == []
    (note,) = scale_notes(graph, fed(0.0, 1.0))
    assert "the bias of 'Stem' is very small against inputs of up to" in note
    (note,) = scale_notes(graph, fed(0.0, 255.0 * 255.0))
    assert "are pixels from 0 to 255 expected" in note


def test_texts_of_the_usual_scales_can_be_given_back() -> None:
    for scale in USUAL:
        recipe = Preprocess.parse(f"{scale.text()},range=255")
        assert recipe.mean == pytest.approx(scale.mean)
        assert recipe.std == pytest.approx(scale.std)
