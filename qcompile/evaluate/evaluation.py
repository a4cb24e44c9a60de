"""Runs models on labelled samples and measures how good they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from qcompile.errors import UsageError
from qcompile.evaluate.labelled_set import Labelled
from qcompile.evaluate.measure import Estimate, Measure, Observation, measures
from qcompile.progress import Progress

Array = npt.NDArray[Any]


class Engine(Protocol):
    """Whatever computes a model's outputs."""

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return real values by output name, from one real array per input."""


@dataclass(frozen=True)
class Evaluation:
    """What `qcompile eval` found.

    Args:
        metric: its name, or the function that the user gave.
        unit: of the values.
        higher_is_better: the direction.
        samples: how many were run.
        model: of the model under evaluation.
        reference: of the float model on the same samples; None where there is none, or where the metric itself
            is a comparison with it.
        difference: model − reference, from paired resamples; None where there is no reference.
        notes: what the user should know.
    """

    metric: str
    unit: str
    higher_is_better: bool
    samples: int
    model: Estimate
    reference: Estimate | None
    difference: Estimate | None
    notes: tuple[str, ...] = ()

    def to_mapping(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


_BEYOND = 0.01  # share of values outside of the calibrated range; a few lie there even in the best of cases
_ROUNDING = 0.01  # of the calibrated width: what lies beyond by less was not scaled otherwise
_SMALL = 0.1  # of the calibrated width
_CHANCE = 8.0  # over the number of values that calibration saw: a larger share of others lies beyond in 1 of 300 cases
_SOME = 16  # values; fewer lie close together by chance
_BYTE, _ABOUT = 255.0, 1.3  # how much wider pixels are that nobody divided, and how far samples may differ from that


class InputRanges:
    """Compares the values of each input with what calibration saw.

    Args:
        calibrated: [lowest, highest] value of each input at calibration.
        samples: how many calibration saw; None where that is not known.
    """

    def __init__(self, calibrated: Mapping[str, Sequence[float]], samples: int | None = None) -> None:
        self._calibrated, self._samples, self._done = calibrated, samples, 0
        self._found: dict[str, tuple[float, float]] = {}
        self._values = dict.fromkeys(calibrated, 0)
        self._beyond = dict.fromkeys(calibrated, 0)

    def include(self, inputs: Mapping[str, Array]) -> None:
        """Take a sample into account."""
        self._done += 1
        for name, (low, high) in self._calibrated.items():
            array = inputs.get(name)
            if array is None or array.dtype.kind != "f" or not array.size:
                continue
            lo, hi = self._found.get(name, (np.inf, -np.inf))
            self._found[name] = min(lo, float(array.min())), max(hi, float(array.max()))
            self._values[name] += array.size
            slack = max(_ROUNDING * (high - low), float(np.spacing(np.float32(max(abs(low), abs(high))))))
            self._beyond[name] += int(((array < low - slack) | (array > high + slack)).sum())

    def misfits(self) -> list[str]:
        """Return one sentence per input that is scaled otherwise than at calibration."""
        notes = []
        for name, (lo, hi) in self._found.items():
            low, high = self._calibrated[name]
            share = self._beyond[name] / self._values[name]
            here = f"input '{name}' goes from {lo:.4g} to {hi:.4g} here"
            if share > max(_BEYOND, self._chance(name)):
                seen = f"calibration saw only {low:.4g} to {high:.4g}"
                notes.append(f"{here}, {seen}: {share:.0%} of the values lie beyond; {_guess(hi - lo, high - low)}")
            elif hi - lo < _SMALL * (high - low) and self._values[name] >= _SOME:
                seen = f"a small part of the {low:.4g} to {high:.4g} that calibration saw"
                notes.append(f"{here}, {seen}; {_guess(hi - lo, high - low)}")
        return notes

    def _chance(self, name: str) -> float:
        """Return the share of values that may lie beyond the ends of few others from the same source.

        Formula:
            8 / n, n values at calibration; the share beyond both ends is the sum of two exponential variables of mean
            1 / n, and above 8 / n with a probability of 9·exp(−8)
        """
        if not self._samples:
            return 0.0
        return _CHANCE * self._done / (self._samples * self._values[name])


def _guess(width: float, calibrated: float) -> str:
    """Return what probably happened to inputs of another width than those of calibration, as a question."""
    ratio = width / calibrated if calibrated > 0 else 0.0
    if _BYTE / _ABOUT < ratio < _BYTE * _ABOUT:
        return "are these pixels of 0 to 255 where calibration had 0 to 1?"
    if 1 / (_BYTE * _ABOUT) < ratio < _ABOUT / _BYTE:
        return "are these pixels of 0 to 1 where calibration had 0 to 255?"
    return "is the preprocessing the same?"


def evaluate_samples(
    samples: Iterable[Labelled],
    measure: Measure,
    engine: Engine,
    reference: Engine | None = None,
    *,
    names: Sequence[str] | None = None,
    calibrated: Mapping[str, Sequence[float]] | None = None,
    calibration_samples: int | None = None,
    seed: int = 0,
    size: int | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Run one or two models on the same samples and measure both.

    Args:
        samples: with labels where the measure needs them.
        measure: what to measure.
        engine: the model under evaluation.
        reference: the float model, or None.
        names: class names in the order of the output, or None.
        calibrated: [lowest, highest] value of each input at calibration; inputs beyond are noted.
        calibration_samples: how many there were, if known.
        seed: of the resamples behind the confidence intervals.
        size: number of samples, if known.
        progress: called with (done, total, what).

    Raises:
        UsageError: the measure needs labels or the float model and there is none, only some samples have a label, or
            there is no sample.
    """
    if measure.needs_reference and reference is None:
        raise UsageError(f"metric '{measure.name}' compares with the float model", hint="add --reference MODEL.onnx")
    rows: list[Any] = []
    reference_rows: list[Any] = []
    ranges = InputRanges(calibrated or {}, calibration_samples)
    first: Labelled | None = None
    for sample in samples:
        first = first or sample
        _check_label(measure, sample)
        check_alike(measure, first, sample)
        ranges.include(sample.inputs)
        outputs = engine(sample.inputs)
        expected = reference(sample.inputs) if reference is not None else None
        seen = Observation(sample.where, outputs, sample.label, expected, names, sample.folders)
        rows.append(measure.row(seen))
        if expected is not None and not _is_comparison(measure, sample):
            reference_rows.append(measure.row(replace(seen, outputs=expected)))
        if progress is not None:
            progress(len(rows), size or 0, "evaluating")
    if not rows:
        raise UsageError("there is no sample to evaluate on", hint="--data names labelled samples, at least one")
    theirs = measure.estimate(reference_rows, seed) if reference_rows else None
    difference = measure.difference(rows, reference_rows, seed) if reference_rows else None
    return Evaluation(
        measure.title,
        measure.unit,
        measure.higher_is_better,
        len(rows),
        measure.estimate(rows, seed),
        theirs,
        difference,
        tuple(ranges.misfits()),
    )


def _check_label(measure: Measure, sample: Labelled) -> None:
    if measure.needs_label and sample.label is None:
        bare = sorted(name for name, cls in measures().items() if not cls.needs_label and name != "user")
        raise UsageError(
            f"{sample.where} has no label, which metric '{measure.name}' needs",
            hint="give one folder for each class, a list of files and labels, or `labels` in the .npz file; "
            f"with --reference MODEL.onnx these metrics need no labels: {', '.join(bare)}",
        )


def check_alike(measure: Measure, first: Labelled, sample: Labelled) -> None:
    """Refuse labels of only some samples where a measure compares those without one with the float model.

    Its value would be neither how near to the truth a model is nor how near to float, and the float model's own value
    would be of other samples.

    Args:
        measure: what is measured.
        first: of all samples.
        sample: one of them.

    Raises:
        UsageError: one of them has a label and the other has none.
    """
    either = not (measure.needs_reference or measure.needs_label or measure.name == "user")
    if either and (first.label is None) != (sample.label is None):
        bare, known = (first, sample) if first.label is None else (sample, first)
        raise UsageError(
            f"{bare.where} has no label, but {known.where} has one: metric '{measure.name}' would compare the first "
            "with the float model and the other with the truth",
            hint="give all samples a label, or none of them",
        )


def _is_comparison(measure: Measure, sample: Labelled) -> bool:
    """Return whether the value of the float model itself says nothing, as it would be compared with itself."""
    return measure.needs_reference or (sample.label is None and measure.name != "user")
