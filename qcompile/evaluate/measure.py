"""What `qcompile eval` measures: the protocol that each file of `qcompile/evaluate/measures` implements once."""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from qcompile.errors import UsageError, did_you_mean
from qcompile.ir.literal import Scanner, build

Array = npt.NDArray[Any]

CONFIDENCE = 0.95
"""Share of repeated evaluations whose interval would hold the true value."""

RESAMPLES = 1000
_NORMAL_QUANTILE = 1.959963984540054  # of (1 + CONFIDENCE) / 2


@dataclass(frozen=True)
class Observation:
    """One sample with all that is known of it.

    Args:
        where: the sample, for messages.
        outputs: real values by output name, of the model under evaluation.
        label: the truth (class index, text, boxes, image), or None.
        reference: outputs of the float model, or None.
        names: class names (or characters) in the order of the output, or None.
    """

    where: str
    outputs: Mapping[str, Array]
    label: Any = None
    reference: Mapping[str, Array] | None = None
    names: Sequence[str] | None = None


@dataclass(frozen=True)
class Estimate:
    """A measured value with its uncertainty.

    Args:
        value: in the measure's unit.
        low: lower end of the confidence interval.
        high: upper end.
    """

    value: float
    low: float
    high: float


class Measure(ABC):
    """A measure of quality that is a function of sums over the samples; subclasses are frozen dataclasses.

    Class attributes:
        name: on the command line.
        unit: "dB", or "" for a plain number.
        proportion: whether it is a share of the samples, so that Wilson's interval applies.
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
        """Return the measure over all samples with its confidence interval."""
        table = np.asarray(rows, np.float64)
        value = float(self.value(table.sum(axis=0)))
        if self.proportion:
            return Estimate(value, *wilson(table[:, 0].sum(), len(table)))
        return Estimate(value, *_interval(self._resampled(rows, seed)))

    def difference(self, rows: Sequence[Any], reference: Sequence[Any], seed: int = 0) -> Estimate:
        """Return this model's value minus the reference's, on the same samples.

        Source:
            Paired bootstrap; Efron and Tibshirani, "An introduction to the bootstrap", 1993, ch. 13.
        """
        value = self.estimate(rows, seed).value - self.estimate(reference, seed).value
        return Estimate(value, *_interval(self._resampled(rows, seed) - self._resampled(reference, seed)))

    def _resampled(self, rows: Sequence[Any], seed: int) -> Array:
        """Return the measure of RESAMPLES sets drawn with replacement, the same sets for the same seed."""
        table = np.asarray(rows, np.float64)
        drawn = np.random.default_rng(seed).multinomial(len(table), np.full(len(table), 1 / len(table)), RESAMPLES)
        return np.asarray(self.value(drawn @ table))

    def better(self, value: float, bound: float) -> bool:
        """Return whether a value is at least as good as a bound."""
        return value >= bound if self.higher_is_better else value <= bound


def wilson(hits: float, count: int) -> tuple[float, float]:
    """Return the confidence interval of a proportion.

    Formula:
        (p + z²/2n ± z·√(p(1−p)/n + z²/4n²)) / (1 + z²/n)

    Args:
        hits: samples that count.
        count: samples in all, above 0.

    Source:
        Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
    """
    p, z2 = hits / count, _NORMAL_QUANTILE**2
    centre = p + z2 / (2 * count)
    spread = _NORMAL_QUANTILE * np.sqrt(p * (1 - p) / count + z2 / (4 * count * count))
    scale = 1 + z2 / count
    return max(0.0, float((centre - spread) / scale)), min(1.0, float((centre + spread) / scale))


def _interval(values: Array) -> tuple[float, float]:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


@cache
def measures() -> dict[str, type[Measure]]:
    """Return every measure by name, found by listing `qcompile.evaluate.measures`."""
    import qcompile.evaluate.measures as package

    found: dict[str, type[Measure]] = {}
    for info in sorted(pkgutil.iter_modules(package.__path__), key=lambda entry: entry.name):
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        classes = [c for c in vars(module).values() if isinstance(c, type) and c.__module__ == module.__name__]
        own: list[type[Measure]] = [c for c in classes if issubclass(c, Measure)]
        if len(own) != 1 or own[0].__name__.lower() != info.name.replace("_", ""):
            raise ImportError(f"{module.__name__} must define one Measure, named after the file")
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
            f"the model has {len(names)} outputs", hint=f"choose one: metric{{output={names[0]}}}, or {names[1:]}"
        )
    return names[0]


def class_scores(seen: Observation, outputs: Mapping[str, Array], wanted: str) -> Array:
    """Return the scores of all classes for one sample, float64 [classes].

    Raises:
        UsageError: the output holds no such scores.
    """
    name = output_name(seen, wanted)
    scores = np.asarray(outputs[name], np.float64)
    squeezed = scores.reshape([d for d in scores.shape if d != 1])
    if squeezed.ndim != 1 or squeezed.size < 2:
        raise UsageError(
            f"output '{name}' has shape {list(scores.shape)}, not one score for each class",
            hint="choose another output, or another metric (sqnr, cosine, module:function)",
        )
    return squeezed


def class_label(seen: Observation, classes: int) -> int:
    """Return the class index that a label says.

    Raises:
        UsageError: it is no index of a class.
    """
    label = np.asarray(seen.label)
    if label.size != 1 or label.dtype.kind not in "iu":
        raise UsageError(f"{seen.where}: the label {seen.label!r} is no class index")
    index = int(label.reshape(()))
    if not 0 <= index < classes:
        raise UsageError(f"{seen.where}: label {index} is not one of the {classes} classes of the model")
    return index
