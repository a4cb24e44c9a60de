"""What noise in a channel of a tensor does to the outputs of a network, from gradients on samples."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.ir.graph import Graph, Node, Value
from qcompile.parallel import in_order
from qcompile.scaling.classes import ScaleClasses
from qcompile.scaling.gradients import random_signs
from qcompile.scaling.statistics import ChannelStatistics, mean_squares
from qcompile.scaling.tape import Tape
from qcompile.shapes.specialize import Specializer

Array = npt.NDArray[Any]

_PROBES = 2
"""Random signs at the outputs for each sample."""

_TINY = 1e-30

_Sums = dict[Value, tuple[Array, Array]]
"""Mean squares of the gradients of a tensor: at its elements that rounding changes, and before its activation."""


class NoiseGains:
    """How much each channel's noise counts at the outputs, relative to their power.

    Formula:
        g[v, c] = Σ_outputs E ‖∂y/∂v_c‖² / E‖y‖² for one element of the channel = E (∂(r·y)/∂v_c)², with r random signs
        over the root of E‖y‖²; an element that is zero, or that an activation cut off, counts as 0, since its value is
        one of those that it can have in 8 bits

    Args:
        graph: float, activations fused.
        classes: of the graph.
        statistics: of its outputs at least.
        tensors: whose gains are wanted.

    Source:
        Hutchinson, "A stochastic estimator of the trace of the influence matrix", 1989 (random signs).
    """

    def __init__(
        self, graph: Graph, classes: ScaleClasses, statistics: ChannelStatistics, tensors: Collection[Value]
    ) -> None:
        self._graph, self._classes, self._tensors = graph, classes, frozenset(tensors)
        self._sizes = {
            value: np.float32(1 / np.sqrt(max(float(statistics.power[value].mean()) * value.type.size, _TINY)))
            for value in graph.outputs
            if value in statistics.power
        }
        self._sums: _Sums = {}
        self._count = 0

    def gather(self, samples: Iterable[Mapping[str, Array]], progress: Callable[[int], None], threads: int = 1) -> None:
        """Follow random signs from the outputs back, on samples.

        Args:
            samples: inputs.
            progress: called with the number of samples done.
            threads: to run samples on.
        """
        specializer = Specializer(self._graph) if self._graph.symbols else None

        def follow(numbered: tuple[int, Mapping[str, Array]]) -> _Sums:
            seed, sample = numbered
            tape, found = Tape(self._graph, sample, specializer), _Sums()
            generator = np.random.default_rng(seed)

            def on_gradient(value: Value, array: Array, after: Array, before: Array) -> None:
                if value in self._tensors:
                    shape = self._classes.numbers[value].shape
                    rounded = np.where((array == 0.0) | (before == 0.0), np.float32(0.0), after)
                    _add(found, value, (mean_squares(shape, rounded), mean_squares(shape, before)))

            with np.errstate(all="ignore"):
                for _ in range(_PROBES):
                    tape.follow(self._signs(tape, generator), generator, on_gradient)
            return found

        for done, found in enumerate(in_order(follow, enumerate(samples), threads), 1):
            for value, squares in found.items():
                _add(self._sums, value, squares)
            self._count += _PROBES
            progress(done)

    def of(self, value: Value) -> Array:
        """Return the gains of one element of each channel of a tensor, in the shape of its numbers."""
        return self._gains(value, 0)

    def before(self, node: Node) -> Array:
        """Return the gains of the sums of a layer, before its activation."""
        return self._gains(node.output, 1)

    def _gains(self, value: Value, which: int) -> Array:
        if value not in self._sums:
            return np.zeros(self._classes.numbers[value].shape)
        return np.asarray(self._sums[value][which] / self._count)

    def _signs(self, tape: Tape, generator: np.random.Generator) -> dict[Value, Array]:
        return {value: random_signs(generator, tape.shape(value)) * size for value, size in self._sizes.items()}


def _add(sums: _Sums, value: Value, more: tuple[Array, Array]) -> None:
    known = sums.get(value)
    sums[value] = more if known is None else (known[0] + more[0], known[1] + more[1])
