"""The class scores that a network turns into probabilities at its end.

Of probabilities, hardly any but those of undecided positions change, and of these the few samples of a check hold too
few: one letter read otherwise decides the sum. The scores before them change everywhere, by as much.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.ir.graph import Graph

Array = npt.NDArray[Any]

_LEAST = float(np.finfo(np.float32).tiny)


def probability_axes(graph: Graph) -> list[int | None]:
    """Return along which axis each output holds the probabilities that a softmax makes; None where it does not.

    Args:
        graph: float.
    """
    makers = [value.producer for value in graph.outputs]
    return [maker.attrs.axis if maker is not None and maker.op.name == "softmax" else None for maker in makers]


def class_scores(probabilities: Array, axis: int) -> Array:
    """Return what a softmax was given, but for what it does not tell: a constant of each row.

    Formula:
        z = ln p − mean ln p, since softmax(z + c) = softmax(z)

    Args:
        probabilities: p, float.
        axis: of the classes.
    """
    logarithms = np.log(np.maximum(np.asarray(probabilities, np.float64), _LEAST))
    return np.asarray(logarithms - logarithms.mean(axis=axis, keepdims=True))
