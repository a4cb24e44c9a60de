"""The user's own measure of a network, on labelled samples: it takes the place of disagreement with float."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.calibrate.preprocess import Preprocess
from qcompile.calibrate.sample import graph_inputs
from qcompile.calibrate.sequence import passed_on
from qcompile.errors import UsageError
from qcompile.evaluate.evaluation import check_alike
from qcompile.evaluate.labelled_set import Labelled, LabelledSet
from qcompile.evaluate.measure import Measure, Observation, make_measure
from qcompile.ir.graph import Graph
from qcompile.ir.initial import initial_states
from qcompile.ops.interpreter import Interpreter
from qcompile.progress import Progress
from qcompile.search.boundary import bound_sample, real_outputs
from qcompile.search.processes import run_tasks

Array = npt.NDArray[Any]
DEFAULT_METRIC = "top1"

MOST = 1000
"""Labelled samples used at most; every candidate runs them all."""

_KEPT = 1 << 28
"""Bytes of the float network's outputs to keep for measures that look at them; what is beyond is computed again."""


class UserMetric:
    """Measures candidates on labelled samples, beside the float network.

    Args:
        reference: float graph.
        data: labelled samples, as for `qcompile eval`.
        metric: such as "topk{k=5}", or `module:function`.
        preprocess: how photographs become inputs.
        names: class names in the order of the output, or None.
        jobs: processes.
        progress: called with (done, total, what).

    Attributes:
        notes: what was chosen for the user, one sentence each.

    Raises:
        UsageError: the data or the metric cannot be used, or the float network's value leaves nothing to lose.
    """

    def __init__(
        self,
        reference: Graph,
        data: str,
        metric: str = DEFAULT_METRIC,
        *,
        preprocess: Preprocess | None = None,
        names: Sequence[str] | None = None,
        jobs: int = 1,
        progress: Progress | None = None,
    ) -> None:
        self._measure = make_measure(metric)
        self._text = metric
        self._names, self._jobs, self._progress = names, jobs, progress
        kept = [state.input for state in reference.states]
        given = [spec for spec in graph_inputs(reference) if spec.name not in kept]
        labelled = LabelledSet(data, given, preprocess, names=names, limit=MOST, kept=kept)
        self._samples: list[Labelled] = list(labelled)
        self.notes = list(labelled.notes)
        if not self._samples:
            raise UsageError(f"'{data}' holds no sample to evaluate on", hint="--eval-data names labelled samples")
        for sample in self._samples:
            _check_label(self._measure, sample)
            check_alike(self._measure, self._samples[0], sample)
        passed_on = [state.output for state in reference.states]
        self._float, self._outputs = _Runs(reference), [n for n in reference.output_names if n not in passed_on]
        self._expected: list[Mapping[str, Array] | None] = []
        self.reference, self._samples_digest = self._measure_float()
        if not 0.0 < self._most() < np.inf:
            raise UsageError(
                f"the float network's {self.name} is {self.reference:g} on '{data}': there is nothing to lose",
                hint="do the labels, their order and the preprocessing fit the model? `qcompile eval` shows more",
            )

    @property
    def name(self) -> str:
        """The metric's name."""
        return self._measure.title

    @property
    def size(self) -> int:
        """Number of samples."""
        return len(self._samples)

    @property
    def resolution(self) -> float:
        """Smallest drop that the samples can show: one of them, where the metric is a share of them."""
        return 1.0 / (self.size * self._most()) if self._measure.proportion else 0.0

    def digest(self) -> str:
        """Return a digest of all that values depend on besides the candidate."""
        digest = hashlib.sha256(json.dumps([self._text, list(self._names or ())]).encode())
        digest.update(self._samples_digest)
        # The user's function may look at anything: its value on the float network stands for what it does.
        digest.update(repr(self.reference).encode())
        return digest.hexdigest()

    def measure(self, graph: Graph, what: str) -> tuple[float, float]:
        """Return the value of a candidate and the share of the float network's that is lost.

        Formula:
            (v_float − v) / |v_float|; where less is better (v − v_float) / v_float, for error rates, which end at 1,
            (v − v_float) / (1 − v_float); at least 0

        Args:
            graph: float, integer or mixed; its outputs are those of the reference.
            what: for the progress report.
        """
        samples, runs = self._samples, _Runs(graph)

        def work(index: int) -> Any:
            return self._row(samples[index], runs(samples[index].inputs, self._outputs), self._reference_of(index))

        def report(done: int, total: int) -> None:
            if self._progress is not None:
                self._progress(done, total, f"{what}, {self.name}")

        value = self._value(run_tasks(work, len(samples), jobs=1 if graph.states else self._jobs, progress=report))
        lost = self.reference - value if self._measure.higher_is_better else value - self.reference
        return value, 1.0 if np.isnan(lost) else min(1.0, max(0.0, lost / self._most()))

    def _most(self) -> float:
        """Return what can be lost, in the metric's unit."""
        return self._measure.room(self.reference)

    def _measure_float(self) -> tuple[float, bytes]:
        """Run the float network once on every sample; keep its outputs where rows need them and they are not too large.

        Returns:
            Its value, and a digest of the samples and of what it says of them.
        """
        digest, rows, room = hashlib.sha256(), [], _KEPT
        for sample in self._samples:
            outputs = self._float_outputs(sample)
            digest.update(f"{sample.where.rpartition('/')[2]}={np.asarray(sample.label).tolist()!r}".encode())
            for arrays in (sample.inputs, outputs):
                for name in sorted(arrays):
                    digest.update(name.encode() + np.ascontiguousarray(arrays[name]).tobytes())
            needed = self._reads_reference(sample)
            room -= sum(array.nbytes for array in outputs.values()) if needed else 0
            # What came before a sample of a sequence is not computed again.
            self._expected.append(outputs if needed and (room >= 0 or self._float.goes_on) else None)
            rows.append(self._row(sample, outputs, outputs if needed else None))
        return self._value(rows), digest.digest()

    def _float_outputs(self, sample: Labelled) -> dict[str, Array]:
        return {n: np.array(a) for n, a in self._float(sample.inputs, self._outputs).items()}

    def _reads_reference(self, sample: Labelled) -> bool:
        """Return whether the measure looks at the float network's outputs: where no label says what is true."""
        return self._measure.needs_reference or sample.label is None or self._measure.name == "user"

    def _reference_of(self, index: int) -> Mapping[str, Array] | None:
        sample, kept = self._samples[index], self._expected[index]
        return self._float_outputs(sample) if kept is None and self._reads_reference(sample) else kept

    def _row(self, sample: Labelled, outputs: Mapping[str, Array], reference: Mapping[str, Array] | None) -> Any:
        return self._measure.row(
            Observation(sample.where, outputs, sample.label, reference, self._names, sample.folders)
        )

    def _value(self, rows: Sequence[Any]) -> float:
        return self._measure.estimate(rows).value

    def text(self) -> str:
        """Return what is measured, in words."""
        unit = f" {self._measure.unit}" if self._measure.unit else ""
        return f"{self.name} on {self.size} labelled samples, relative to the {self.reference:.4f}{unit} in float"

    def to_json(self) -> dict[str, Any]:
        """Return the fields that a manifest records."""
        return {"name": self.name, "float": self.reference, "samples": self.size}


class _Runs:
    """A network that takes one sample after another, as a bundle does: what it keeps goes on to the next run.

    Args:
        graph: float, integer or mixed.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph, self._interpreter, self._kept = graph, Interpreter(graph), initial_states(graph)

    @property
    def goes_on(self) -> bool:
        """Whether a run depends on those before it."""
        return bool(self._graph.states)

    def __call__(self, sample: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Return real values of some outputs."""
        with np.errstate(all="ignore"):
            made = self._interpreter.run({**bound_sample(self._graph, sample), **self._kept})
        self._kept = passed_on(self._graph, made)
        return dict(zip(outputs, real_outputs(self._graph, outputs, made), strict=True))


def _check_label(measure: Measure, sample: Labelled) -> None:
    """Refuse samples on which the float network has no value of its own."""
    if measure.needs_label and sample.label is None:
        raise UsageError(
            f"{sample.where} has no label, which metric '{measure.name}' needs",
            hint="give one folder for each class, a list of files and labels, or `labels` in the .npz file",
        )
    # No noise is infinitely many decibels, no error is 0: of neither there is a share.
    if (measure.unit == "dB" or not measure.higher_is_better) and (measure.needs_reference or sample.label is None):
        raise UsageError(
            f"metric '{measure.name}' against the float model itself has no value that could drop",
            hint="give labels, or a goal for the noise: --min-sqnr 30",
        )
