"""What the outputs of a network are used for, and by how much another network misses that.

An output is used as a whole, but for two: probabilities say which class it is, and so do the scores before the
softmax; and what a concatenation joined is used part by part. Boxes in pixels would hide the scores beside them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.ir.graph import Graph, Node, Value
from qcompile.quant.noise_power import deviation_power
from qcompile.search.class_scores import class_scores, probability_axes

Array = npt.NDArray[Any]

_MOST_PARTS = 8
"""An output of more parts is a list rather than a record."""

_FAINT = 0.01
"""Root mean square of scores from 0 to 1 below which nothing was found, and how surely does not matter."""


@dataclass(frozen=True)
class OutputUse:
    """One use of an output.

    Args:
        output: index of the output.
        axis: of the classes whose probabilities it holds; None where it does not.
        places: the elements that are used, bool, of the output's shape; None for all.
        scores: whether these are scores that sigmoids made.
    """

    output: int
    axis: int | None = None
    places: Array | None = None
    scores: bool = False

    def powers(self, expected: list[Array], actual: list[Array]) -> tuple[float, float]:
        """Return the power of what is used, and of its deviation.

        Args:
            expected: outputs of the float network.
            actual: of the other one.
        """
        pair = expected[self.output], actual[self.output]
        if self.places is None:
            return use_power(*pair, self.axis)
        signal, noise = deviation_power(*(array[self.places] for array in pair))
        return max(signal, _FAINT**2 * self.places.sum() if self.scores else 0.0), noise


def whole_outputs(graph: Graph) -> list[OutputUse]:
    """Return the plain use of each output."""
    return [OutputUse(index) for index in range(len(graph.outputs))]


def output_uses(graph: Graph) -> list[OutputUse]:
    """Return the uses of all outputs, in their order.

    Args:
        graph: float.
    """
    found = []
    for index, (value, axis) in enumerate(zip(graph.outputs, probability_axes(graph), strict=True)):
        labels, makers = _parts(value) if not graph.symbols else (np.zeros(0), [None])
        if 1 < len(makers) <= _MOST_PARTS:
            made = [maker is not None and maker.op.name == "sigmoid" for maker in makers]
            found += [OutputUse(index, None, labels == part, scores) for part, scores in enumerate(made)]
        else:
            found.append(OutputUse(index, axis))
    return found


def _parts(value: Value) -> tuple[Array, list[Node | None]]:
    """Return which part each element of a tensor belongs to, int64 of its shape, and what makes each part."""
    node = value.producer
    if node is not None and node.op.name == "concat":
        return _joined([_parts(operand) for operand in node.inputs], node.attrs.axis)
    if node is not None and node.op.name in ("transpose", "reshape", "identity"):
        labels, makers = _parts(node.inputs[0])
        moved = labels.transpose(node.attrs.perm) if node.op.name == "transpose" else labels.reshape(value.shape)
        return moved, makers
    return np.zeros(value.shape, np.int64), [node]


def _joined(operands: list[tuple[Array, list[Node | None]]], axis: int) -> tuple[Array, list[Node | None]]:
    """Return the parts of a concatenation; what several grids give in the same way is not told apart."""
    labels = [labels for labels, _ in operands]
    kinds = {tuple(maker.op.name if maker is not None else "" for maker in makers) for _, makers in operands}
    if len(kinds) == 1:
        return np.concatenate(labels, axis), operands[0][1]
    makers: list[Node | None] = []
    for index, (own, made) in enumerate(operands):
        labels[index] = own + len(makers)
        makers += made
    return np.concatenate(labels, axis), makers


def use_power(expected: Array, actual: Array, axis: int | None) -> tuple[float, float]:
    """Return `deviation_power` of class scores, if arrays hold probabilities along an axis, else of the arrays."""
    if axis is None:
        return deviation_power(expected, actual)
    return deviation_power(class_scores(expected, axis), class_scores(actual, axis))
