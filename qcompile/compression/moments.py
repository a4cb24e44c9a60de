"""Mean and covariance of the channels that layers read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.ir.graph import Graph, Node, Value
from qcompile.ops.interpreter import Interpreter
from qcompile.passmgr.context import PassContext

Array = npt.NDArray[Any]
Sample = Mapping[str, Array]

_DAMPING = 0.002
_DAMPING_OF_FEW = 0.05
_LEAST = 1e-6
"""Added to a channel's variance: this share of it, more where channels are many for the positions seen, and this share
of the mean variance for channels that never move."""


class Moments:
    """Mean and covariance of the channels of a tensor, float64.

    Args:
        channels: extent of its last axis.
    """

    def __init__(self, channels: int) -> None:
        self.count = 0
        self._sum = np.zeros(channels)
        self._products = np.zeros((channels, channels))

    def update(self, array: Array) -> None:
        """Add every position of a tensor [..., channels]."""
        rows = array.reshape(-1, array.shape[-1]).astype(np.float64)
        self.count += len(rows)
        self._sum += rows.sum(axis=0)
        self._products += rows.T @ rows

    @property
    def mean(self) -> Array:
        """Mean of each channel."""
        return self._sum / max(1, self.count)

    @property
    def covariance(self) -> Array:
        """Covariance [channels, channels]."""
        return np.asarray(self._products / max(1, self.count) - np.outer(self.mean, self.mean))

    @property
    def damped(self) -> Array:
        """Covariance with more on the diagonal the less the samples say of it; it can be inverted."""
        covariance, channels = self.covariance, len(self._sum)
        own = np.diag(covariance)
        share = _DAMPING + _DAMPING_OF_FEW * channels / max(1, self.count)
        return np.asarray(covariance + np.diag(share * own + _LEAST * float(own.mean()) + 1e-20))


def input_moments(
    graph: Graph, nodes: Iterable[Node], samples: Iterable[Sample], context: PassContext
) -> Mapping[Value, Moments]:
    """Return the moments of operand 0 of some nodes over samples.

    Args:
        graph: of the nodes.
        nodes: read tensors with channels last.
        samples: to run it on.
        context: shows progress.
    """
    wanted = {node.inputs[0]: Moments(node.inputs[0].shape[-1]) for node in nodes}
    interpreter, chosen = Interpreter(graph), list(samples)

    def see(value: Value, array: Array) -> None:
        if value in wanted:
            wanted[value].update(array)

    for number, sample in enumerate(chosen):
        context.progress(number, len(chosen), "measuring channels")
        interpreter.run(sample, on_value=see)
    return wanted
