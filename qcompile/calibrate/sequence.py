"""Calibration samples of a model that keeps tensors between runs: the model itself supplies these."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from qcompile.calibrate.calibration_set import CalibrationSet, SampleIterator
from qcompile.calibrate.reader import Reader
from qcompile.calibrate.sample import Sample
from qcompile.ir.graph import Graph
from qcompile.ir.state import initial_states
from qcompile.ops.interpreter import Interpreter


class SequenceSet(CalibrationSet):
    """Takes the samples as successive inputs of one run through the float model.

    Each pass yields them with the kept tensors as the sample before left them; the first gets the initial ones.

    Args:
        reader: gives samples without the kept tensors.
        graph: float graph with states.
    """

    def __init__(self, reader: Reader, graph: Graph) -> None:
        super().__init__(reader)
        self._graph = graph
        self._known: list[Sample] = []

    def __iter__(self) -> SampleIterator:
        return SampleIterator(self._continued(), self.size)

    def _continued(self) -> Iterator[Sample]:
        interpreter = Interpreter(self._graph)
        kept = initial_states(self._graph)
        for number, sample in enumerate(self._checked()):
            if number < len(self._known):
                yield {**sample, **self._known[number]}
                continue
            self._known.append(kept)
            yield {**sample, **kept}
            with np.errstate(all="ignore"):
                made = interpreter.run({**sample, **self._known[number]})
            kept = {state.input: made[state.output] for state in self._graph.states}
        if self.summary is not None:
            self.summary.repeated = 0  # the same input after another one is another sample
