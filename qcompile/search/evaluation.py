"""Scores candidates on samples that their calibration never saw."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from qcompile.calibrate.calibration_set import SampleIterator
from qcompile.calibrate.reader import spaced
from qcompile.cost import NodeCosts
from qcompile.ir.graph import Graph
from qcompile.ops.interpreter import Interpreter
from qcompile.parallel import in_order
from qcompile.progress import Progress
from qcompile.quant.noise_power import decibels, deviation_power
from qcompile.search.boundary import bound_sample, real_outputs
from qcompile.search.drop import classifier_drop, is_classifier, signal_drop
from qcompile.search.output_use import OutputUse, output_uses
from qcompile.search.processes import run_tasks
from qcompile.search.score import Score, int8_share

if TYPE_CHECKING:
    from qcompile.search.user_metric import UserMetric

Array = npt.NDArray[Any]
Sample = Mapping[str, Array]

MOST = 32
"""Samples for verification at most."""

FEWEST_TO_SPLIT = 16
"""With fewer samples than this, all serve for calibration and verification alike."""

_SHARE = 4
"""One in so many samples is kept for verification."""


_BYTES = 2**28
"""Samples that take less are held in memory: decoding photographs again and again takes longer than running them."""


@dataclass(frozen=True)
class Split:
    """The user's samples, divided.

    Args:
        source: gives all samples, the same in every pass.
        verification: the samples kept for verification.
        indices: their places in `source`; empty where the samples are too few to be divided.
        total: number of samples in `source`.
    """

    source: Callable[[], Iterable[Sample]]
    verification: tuple[Sample, ...]
    indices: frozenset[int]
    total: int

    def whole(self) -> Split:
        """Return the division in which all samples calibrate; the same ones verify, and no longer say anything new."""
        return replace(self, indices=frozenset())

    def calibration(self) -> SampleIterator:
        """Return a pass over the samples for calibration."""
        return SampleIterator(self._calibration(), self.total - len(self.indices))

    def _calibration(self) -> Iterator[dict[str, Array]]:
        for index, sample in enumerate(self.source()):
            if index not in self.indices:
                yield dict(sample)

    def few(self, count: int) -> tuple[Sample, ...]:
        """Return some of the samples for calibration, evenly spaced."""
        wanted = set(spaced(self.total - len(self.indices), count))
        return tuple(sample for index, sample in enumerate(self.calibration()) if index in wanted)


def split_samples(source: Callable[[], Iterable[Sample]]) -> Split:
    """Divide the samples into those that calibrate and those that verify.

    Args:
        source: gives all samples, the same in every pass.
    """
    held = _held(source)
    if held is not None:
        source = held.__iter__
    total = sum(1 for _ in source())
    if total < FEWEST_TO_SPLIT:
        chosen = frozenset(spaced(total, MOST))
        return Split(source, _taken(source(), chosen), frozenset(), total)
    kept = range(_SHARE // 2, total, _SHARE)
    chosen = frozenset(kept[i] for i in spaced(len(kept), MOST))
    return Split(source, _taken(source(), chosen), chosen, total)


def _held(source: Callable[[], Iterable[Sample]]) -> list[Sample] | None:
    """Return all samples; None where they are too large to be held."""
    held: list[Sample] = []
    size = 0
    for sample in source():
        size += sum(array.nbytes for array in sample.values())
        if size > _BYTES:
            return None
        held.append(sample)
    return held


def _taken(samples: Iterable[Sample], chosen: frozenset[int]) -> tuple[Sample, ...]:
    return tuple(sample for index, sample in enumerate(samples) if index in chosen)


@dataclass(frozen=True)
class _Deviation:
    """What one sample says of a candidate.

    Args:
        powers: signal and noise, per output.
        uses: the same of what the outputs are used for.
        scores: first output of a classifier.
    """

    powers: tuple[tuple[float, float], ...]
    uses: tuple[tuple[float, float], ...]
    scores: tuple[float, ...] | None


class Evaluator:
    """Compares candidates with the float network.

    Args:
        reference: float graph.
        samples: inputs, real values.
        jobs: processes.
        threads: of this process, where it computes.
        costs: of nodes on the target; None for a typical one.
        progress: called with (done, total, what).
        metric: what the drop is of; None estimates it from how far outputs are from those of the float network.
    """

    def __init__(
        self,
        reference: Graph,
        samples: Sequence[Sample],
        *,
        jobs: int = 1,
        threads: int = 1,
        costs: NodeCosts | None = None,
        progress: Progress | None = None,
        metric: UserMetric | None = None,
    ) -> None:
        self._metric = metric
        self._costs = costs or NodeCosts()
        self._samples = tuple(samples)
        self._jobs, self._threads = jobs, threads
        self._progress = progress
        self._names = list(reference.output_names)
        self._uses = output_uses(reference)
        run = Interpreter(reference)

        def expected(sample: Sample) -> list[Array]:
            with np.errstate(all="ignore"):
                return self._outputs(run.run(sample))

        self._expected = list(in_order(expected, self._samples, threads))
        # A sample of several images, where the batch is open, has no one class.
        single = all(outputs[0].size == outputs[0].shape[-1] for outputs in self._expected if outputs[0].ndim)
        self._classifier = is_classifier(reference) and single

    def _outputs(self, named: Mapping[str, Array]) -> list[Array]:
        return [np.asarray(named[name]) for name in self._names]

    def _scores(self) -> list[Array]:
        return [outputs[0].reshape(-1).astype(np.float64) for outputs in self._expected]

    def estimate(self, graph: Graph, what: str = "checking a candidate") -> Score:
        """Return how close a graph is to the reference, and its time; its drop is estimated without labels.

        Args:
            graph: float, integer or mixed; its outputs are those of the reference.
            what: for the progress report.
        """
        found = self._deviations(graph, what)
        ratios = _ratios([d.powers for d in found])
        sqnr, mean = min(ratios), sum(ratios) / len(ratios)
        drop, agreement = signal_drop(sqnr), None
        if self._classifier:
            actual = [np.asarray(d.scores, np.float64) for d in found]
            drop, agreement = classifier_drop(self._scores(), actual)
        ms, share = round(self._costs.graph_ms(graph), 6), round(int8_share(graph), 6)
        return Score(round(sqnr, 4), round(mean, 4), round(drop, 8), agreement, ms, share)

    def score(self, graph: Graph, what: str = "checking a candidate", estimate: Score | None = None) -> Score:
        """Return how close a graph is to the reference, and its time; its drop is that of the user's metric.

        Args:
            graph: float, integer or mixed; its outputs are those of the reference.
            what: for the progress report.
            estimate: of the same graph, where it is known.
        """
        estimate = estimate or self.estimate(graph, what)
        if self._metric is None:
            return estimate
        value, lost = self._metric.measure(graph, what)
        # What labelled samples are too few to show is estimated all the same.
        drop = max(lost, min(estimate.drop, self._metric.resolution))
        return replace(estimate, drop=round(drop, 8), metric=value)

    def output_db(self, graph: Graph, what: str = "checking the outputs") -> list[float]:
        """Return the SQNR at each output, dB.

        Args:
            graph: float, integer or mixed; its outputs are those of the reference.
            what: for the progress report.
        """
        return _ratios([d.powers for d in self._deviations(graph, what)])

    def use_db(self, graph: Graph, what: str = "checking the outputs") -> tuple[list[float], list[float]]:
        """Return the SQNR at each output, and that of each use of them (`output_uses`), dB.

        Class scores say whether the same class is found, and so do probabilities: the better of both counts.

        Args:
            graph: as for `output_db`.
            what: as there.
        """
        found = self._deviations(graph, what)
        plain, used = (_ratios([getattr(d, of) for d in found]) for of in ("powers", "uses"))
        pairs = zip(self._uses, used, strict=True)
        return plain, [max(db, plain[use.output]) if use.places is None else db for use, db in pairs]

    def _deviations(self, graph: Graph, what: str) -> list[_Deviation]:
        run = Interpreter(graph)
        # All that the tasks need, and nothing else: they may go to another machine.
        samples, expected, names, classifier = self._samples, self._expected, self._names, self._classifier
        uses = self._uses

        def work(index: int) -> _Deviation:
            with np.errstate(all="ignore"):
                actual = run.run(bound_sample(graph, samples[index]))
            return _deviation(expected[index], real_outputs(graph, names, actual), uses, classifier)

        def progress(done: int, total: int) -> None:
            if self._progress is not None:
                self._progress(done, total, what)

        return run_tasks(work, len(self._samples), jobs=self._jobs, threads=self._threads, progress=progress)


def _ratios(found: Sequence[Sequence[tuple[float, float]]]) -> list[float]:
    """Return the SQNR at each output from the powers of each sample, dB."""
    columns = (zip(*powers, strict=True) for powers in zip(*found, strict=True))
    return [decibels(sum(signal), sum(noise)) for signal, noise in columns]


def _deviation(expected: list[Array], actual: list[Array], uses: Sequence[OutputUse], classifier: bool) -> _Deviation:
    powers = tuple(deviation_power(e, a) for e, a in zip(expected, actual, strict=True))
    used = tuple(use.powers(expected, actual) for use in uses)
    scores = tuple(np.nan_to_num(actual[0].reshape(-1).astype(np.float64)).tolist()) if classifier else None
    return _Deviation(powers, used, scores)
