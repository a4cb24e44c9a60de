"""What `qcompile eval` measures: the protocol that each file of `qcompile/evaluate/measures` implements once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import compress
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from qcompile.definition_files import modules_of, refuse_file
from qcompile.errors import UsageError, did_you_mean
from qcompile.evaluate.intervals import middle_share, paired_score, resampled, wilson
from qcompile.ir.fields import build
from qcompile.ir.literal import Scanner

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Observation:
    """One sample with all that is known of it.

    Args:
        where: the sample, for messages.
        outputs: real values by output name, of the model under evaluation.
        label: the truth (class index, text, boxes, image), or None.
        reference: outputs of the float model, or None.
        names: class names (or characters) in the order of the output, or None.
        folders: number of folders whose order made the labels, where nothing else says which class they are; or None.
    """

    where: str
    outputs: Mapping[str, Array]
    label: Any = None
    reference: Mapping[str, Array] | None = None
    names: Sequence[str] | None = None
    folders: int | None = None


@dataclass(frozen=True)
class Estimate:
    """A measured value with its uncertainty.

    Args:
        value: in the measure's unit; NaN where no sample counts.
        low: lower end of the confidence interval; None where the samples do not tell it.
        high: upper end, or None.
    """

    value: float
    low: float | None = None
    high: float | None = None


class Measure(ABC):
    """A measure of quality that is a function of sums over the samples; subclasses are frozen dataclasses.

    Class attributes:
        name: on the command line.
        unit: "dB", or "" for a plain number.
        proportion: whether it is a share of the samples, with rows of (1 or 0, 1), or (0, 0) for one that does not
            count.
        higher_is_better: the direction.
        needs_label: whether every sample must have a label.
        needs_reference: whether it compares with the float model.
    """

    name: ClassVar[str]
    unit: ClassVar[str] = ""
    proportion: ClassVar[bool] = False
    higher_is_better: ClassVar[bool] = True
    needs_label: ClassVar[bool] = False
    needs_reference: ClassVar[bool] = False

    @property
    def title(self) -> str:
        """What reports call it."""
        return self.name

    @abstractmethod
    def row(self, seen: Observation) -> Any:
        """Return what one sample adds to the sums.

        Raises:
            UsageError: the outputs or the label do not fit the measure.
        """

    @abstractmethod
    def value(self, sums: Array) -> Array:
        """Return the measure.

        Args:
            sums: rows added up, float64 [..., terms].

        Returns:
            The measure for each sum, [...].
        """

    def estimate(self, rows: Sequence[Any], seed: int = 0) -> Estimate:
        """Return the measure over all samples with its confidence interval, which one that counts does not tell."""
        table = np.asarray(rows, np.float64)
        value = float(self.value(table.sum(axis=0)))
        if not np.isfinite(value):
            return Estimate(value)
        if self.proportion:
            return Estimate(value, *wilson(table[:, 0].sum(), int(table[:, 1].sum())))
        # Samples that do not count say nothing of others; of a resample that holds nothing else there is no value.
        counted = list(compress(rows, self.counts(rows)))
        return Estimate(value, *_interval(self._resampled(counted, seed))) if len(counted) > 1 else Estimate(value)

    def counts(self, rows: Sequence[Any]) -> Array:
        """Return which samples count, [samples]: those that have a value by themselves, unless a measure says more."""
        return ~np.isnan(self.value(np.asarray(rows, np.float64)))

    def difference(self, rows: Sequence[Any], reference: Sequence[Any], seed: int = 0) -> Estimate:
        """Return this model's value minus the reference's, on the same samples.

        Where every sample counts the same for both, and their number alone tells what others may do, only the interval
        of a proportion has a width; other measures have none then.

        Source:
            Paired bootstrap; Efron and Tibshirani, "An introduction to the bootstrap", 1993, ch. 13.
        """
        value = self.estimate(rows, seed).value - self.estimate(reference, seed).value
        if not np.isfinite(value):
            return Estimate(value)
        if self.proportion:
            apart = np.asarray(rows, np.float64)[:, 0] - np.asarray(reference, np.float64)[:, 0]
            return Estimate(value, *paired_score(int((apart > 0).sum()), int((apart < 0).sum()), len(rows)))
        counted = self.counts(rows) & self.counts(reference)
        ours, theirs = list(compress(rows, counted)), list(compress(reference, counted))
        if len(ours) < 2 or all(map(_equal, ours, theirs)):
            return Estimate(value)
        return Estimate(value, *_interval(self._resampled(ours, seed) - self._resampled(theirs, seed)))

    def _resampled(self, rows: Sequence[Any], seed: int) -> Array:
        """Return the measure of sets drawn with replacement, the same sets for the same seed."""
        return resampled(self.value, np.asarray(rows, np.float64), seed)

    def better(self, value: float, bound: float) -> bool:
        """Return whether a value is at least as good as a bound."""
        return value >= bound if self.higher_is_better else value <= bound

    def room(self, value: float) -> float:
        """Return what may be lost of a value: a drop is a share of it.

        Args:
            value: of the float model.
        """
        return abs(value)


def _interval(values: Array) -> tuple[float, float]:
    """Return the middle share of resampled values; sets in which nothing counts have none."""
    return middle_share(values[~np.isnan(values)])


def _equal(first: Sequence[Any], second: Sequence[Any]) -> bool:
    return all(map(np.array_equal, first, second))


@cache
def measures() -> dict[str, type[Measure]]:
    """Return every measure by name, found by listing `qcompile.evaluate.measures`.

    Raises:
        UsageError: a file cannot be imported, or does not define one measure.
    """
    import qcompile.evaluate.measures as package

    found: dict[str, type[Measure]] = {}
    for file, module in modules_of(package):
        classes = [c for c in vars(module).values() if isinstance(c, type) and c.__module__ == module.__name__]
        own: list[type[Measure]] = [c for c in classes if issubclass(c, Measure)]
        if len(own) != 1 or own[0].__name__.lower() != file.replace("_", ""):
            raise refuse_file(module, "must define one Measure, whose class has the name of the file")
        found[own[0].name] = own[0]
    return found


def make_measure(text: str) -> Measure:
    """Return the measure that a text asks for: a name with options, `topk{k=5}`, or `module:function`.

    Raises:
        UsageError: the text is malformed, or names no measure or option.
    """
    known = measures()
    head = text.partition("{")[0]
    if ":" in head:
        return known["user"](function=text)  # type: ignore[call-arg]
    scan = Scanner(text, "--metric")
    name = scan.take("word", "the name of a metric").replace("-", "_")
    if name not in known or name == "user":
        offered = [n for n in known if n != "user"]
        hint = did_you_mean(name, offered)
        raise UsageError(f"unknown metric '{name}'", hint=f"{hint}; or module:function")
    options: dict[str, Any] = {}
    if scan.accept("{"):
        options = scan.assignments("}", lambda _: scan.literal())
    if scan.kind != "end":
        raise scan.error("the end")
    measure: Measure = build(known[name], options, f"metric '{name}'")
    return measure


def only_output(seen: Observation, wanted: str) -> Array:
    """Return the output that a measure is about.

    Args:
        seen: the sample.
        wanted: an output's name, or "" for the only one.

    Raises:
        UsageError: there is no such output, or there are several to choose from.
    """
    return seen.outputs[output_name(seen, wanted)]


def output_name(seen: Observation, wanted: str) -> str:
    """Return the name of the output that a measure is about; see `only_output`."""
    names = list(seen.outputs)
    if wanted:
        if wanted not in names:
            raise UsageError(f"the model has no output '{wanted}'", hint=did_you_mean(wanted, names))
        return wanted
    if len(names) != 1:
        raise UsageError(
            f"the model has {len(names)} outputs",
            hint=f"choose one: metric{{output={names[0]}}}; outputs: {', '.join(names)}",
        )
    return names[0]


def noisy_outputs(seen: Observation, wanted: str) -> list[str]:
    """Return the names of the outputs that a measure of noise is about.

    The rule is that of `comparison.judged_outputs`, by what a bundle gives instead of by the float graph, which is not
    there: engines return real numbers for integers that stand for some, so that other integers are indices or counts.

    Args:
        seen: the sample.
        wanted: an output's name, or "" for all that hold real numbers; where none does, for all.

    Raises:
        UsageError: there is no such output.
    """
    if wanted:
        return [output_name(seen, wanted)]
    return [n for n, array in seen.outputs.items() if np.asarray(array).dtype.kind not in "iub"] or list(seen.outputs)


def float_outputs(seen: Observation, metric: str) -> Mapping[str, Array]:
    """Return the float model's outputs, which are the truth where a sample has no label.

    Args:
        seen: the sample.
        metric: what asks, for messages.

    Raises:
        UsageError: there is no float model either.
    """
    if seen.reference is None:
        raise UsageError(f"metric '{metric}' needs labels or the float model", hint="add --reference MODEL.onnx")
    return seen.reference


def reference_output(seen: Observation, name: str) -> Array:
    """Return the float model's output of a name.

    Args:
        seen: the sample.
        name: an output of the model under evaluation.

    Raises:
        UsageError: the float model has no such output, or one of another shape.
    """
    reference, ours = seen.reference or {}, np.shape(seen.outputs[name])
    if name not in reference:
        hint = f"its outputs: {', '.join(reference)}; give the model that the bundle was made from"
        raise UsageError(f"the float model has no output '{name}'", hint=hint)
    theirs = np.asarray(reference[name])
    if theirs.shape != ours:
        raise UsageError(
            f"{seen.where}: output '{name}' is {list(ours)}, that of the float model {list(theirs.shape)}",
            hint="give the model that the bundle was made from as --reference",
        )
    return theirs


def quotient(sums: Array) -> Array:
    """Return sums[..., 0] / sums[..., 1]; NaN where nothing counts."""
    part, whole = np.asarray(sums[..., 0], np.float64), np.asarray(sums[..., 1], np.float64)
    return np.asarray(np.divide(part, whole, out=np.full_like(part, np.nan), where=whole != 0))
