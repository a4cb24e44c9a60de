"""Calibration samples of a model that keeps tensors between runs: the model itself supplies these."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.calibrate.calibration_set import CalibrationSet, SampleIterator
from qcompile.calibrate.reader import Reader
from qcompile.calibrate.sample import Sample
from qcompile.ir.graph import Graph
from qcompile.ir.initial import initial_states
from qcompile.ops.interpreter import Interpreter

Array = npt.NDArray[Any]

_BYTES = 2**28  # of kept tensors that are remembered from pass to pass


class SequenceSet(CalibrationSet):
    """Takes the samples as successive inputs of one run through the float model.

    Each pass yields them with the kept tensors as the sample before left them; the first gets the initial ones. Samples
    that lead to others are run and not yielded. What was kept is remembered as far as memory allows.

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
                kept = self._known[number]
            elif sum(array.nbytes for array in kept.values()) * (number + 1) <= _BYTES:
                self._known.append(kept)
            if number not in self._reader.leading:
                yield {**sample, **kept}
            # A pass may end anywhere, and the next one go further: what follows the last known ones is computed again.
            if number + 1 >= len(self._known):
                kept = self._next(interpreter, {**sample, **kept})
        if self.summary is not None:
            self.summary.repeated = 0  # the same input after another one is another sample
            self.summary.count -= len(self._reader.leading)
            self.count = self.summary.count

    def _next(self, interpreter: Interpreter, sample: Sample) -> Sample:
        with np.errstate(all="ignore"):
            return passed_on(self._graph, interpreter.run(sample))


def passed_on(graph: Graph, made: Mapping[str, Array]) -> Sample:
    """Return the kept tensors as a run leaves them, or the initial ones where they have no room for another run.

    Args:
        graph: with states or without.
        made: outputs of the run.
    """
    kept = {state.input: made[state.output] for state in graph.states}
    return kept if _has_room(graph, kept) else initial_states(graph)


def _has_room(graph: Graph, kept: Mapping[str, Array]) -> bool:
    """Return whether a growing sequence has room for another run of any size."""
    most = {symbol.name: symbol.most for symbol in graph.symbols}
    return all(
        int(kept[s.past][0]) + (int(s.new) if s.new.isdigit() else most[s.new]) <= s.most
        for s in graph.symbols
        if s.past
    )


def growing_states(graph: Graph) -> dict[str, Array]:
    """Return the kept tensors of a graph at the start of a sequence where there are growing ones, else nothing."""
    return initial_states(graph) if any(state.in_place for state in graph.states) else {}


def from_the_start(samples: Iterable[Mapping[str, Array]], graph: Graph) -> Iterable[Mapping[str, Array]]:
    """Return samples each of which starts a sequence, where the graph has growing ones; else the samples.

    Args:
        samples: inputs.
        graph: decides.
    """
    start = growing_states(graph)
    return _Restarted(samples, start) if start else samples


class _Restarted:
    """Samples with other kept tensors; can be read again and again."""

    def __init__(self, samples: Iterable[Mapping[str, Array]], start: Mapping[str, Array]) -> None:
        self._samples, self._start = samples, start
        size = getattr(samples, "size", None)
        if size is not None:
            self.size = size

    def __iter__(self) -> Iterator[Mapping[str, Array]]:
        return ({**sample, **self._start} for sample in self._samples)
