"""Observers turn the statistics of a tensor into the range that its integers shall cover.

Adding an observer is adding a file to this package: it holds one subclass of Observer, named after the file
(`moving_average.py` holds MovingAverage, called `moving-average`), and is found by listing the package. An
observer is a frozen dataclass; its fields are its options: `percentile{percentile=99.9}`.
"""

from __future__ import annotations

import inspect
import math
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from functools import cache
from typing import ClassVar

from qcompile.calibrate.distribution import Distribution
from qcompile.calibrate.histogram import TensorStatistics
from qcompile.errors import QCompileError, UsageError, did_you_mean, with_line

_SMALLEST_WIDTH = 2.0**-100
"""A range below this has a scale that is no normal float32: such a tensor counts as zero."""


_OPTIONS = "an observer is a frozen dataclass whose options have defaults, with a method `choose`"
_CHOICE = "`choose` returns two finite numbers, the smaller one first"


@dataclass(frozen=True)
class Observer(ABC):
    """Chooses the real range [lo, hi] that a quantized tensor covers, from its statistics."""

    name: ClassVar[str]
    weighs_errors: ClassVar[bool] = False
    """Whether it looks for the least error: its ranges then follow the errors behind a function that reads the tensor
    alone, and leave headroom for samples to come."""

    def new_statistics(self, tensor: str) -> TensorStatistics:
        """Return empty statistics that keep all that this observer needs.

        Args:
            tensor: name of the tensor.
        """
        return TensorStatistics(tensor)

    def range(self, statistics: TensorStatistics, *, levels: int = 256, symmetric: bool = False) -> tuple[float, float]:
        """Return the range to quantize to; it always includes 0.

        A tensor without variation gets [0, c] or [c, 0]; one that is always zero (0, 1), since every scale
        represents it exactly.

        Args:
            statistics: of the tensor.
            levels: number of integers, 256 for 8 bits.
            symmetric: whether lo = −hi is asked for (zero_point 0).

        Returns:
            lo ≤ 0 ≤ hi with lo < hi, real units.

        Raises:
            UsageError: the observer fails, or chooses no range.
        """
        distribution = statistics.distribution()
        if max(abs(distribution.minimum), abs(distribution.maximum)) < _SMALLEST_WIDTH:
            return (-1.0, 1.0) if symmetric else (0.0, 1.0)
        if symmetric:
            _, peak = self._chosen(distribution.folded(), (levels + 1) // 2, statistics)
            peak = peak if peak >= _SMALLEST_WIDTH else max(-distribution.minimum, distribution.maximum)
            return -peak, peak
        lo, hi = self._chosen(distribution, levels, statistics)
        lo, hi = min(lo, 0.0), max(hi, 0.0)
        if hi - lo < _SMALLEST_WIDTH:
            # An observer may cut so much that nothing is left, as a percentile does with a tensor that
            # is nearly always zero. Then the few other values are all the information there is.
            return min(distribution.minimum, 0.0), max(distribution.maximum, 0.0)
        return lo, hi

    def _chosen(self, distribution: Distribution, levels: int, statistics: TensorStatistics) -> tuple[float, float]:
        """Return what `choose` does, once it is known to be a range: an observer may be the user's own."""
        what, where = f"observer '{self.name}'", inspect.getsourcefile(type(self))
        try:
            chosen = self.choose(distribution, levels)
        except QCompileError:
            raise
        except (Exception, SystemExit) as error:
            problem = f"{what} fails on '{statistics.name}': {with_line(error)}"
            raise UsageError(problem, loc=where, hint=_CHOICE) from error
        try:
            lo, hi = (float(end) for end in chosen)
        except (TypeError, ValueError):
            lo = hi = math.nan
        if not (math.isfinite(lo) and math.isfinite(hi) and lo <= hi):
            raise UsageError(f"{what} chooses {chosen!r} for '{statistics.name}'", loc=where, hint=_CHOICE)
        return lo, hi

    @abstractmethod
    def choose(self, distribution: Distribution, levels: int) -> tuple[float, float]:
        """Return the range for a distribution that has values other than zero.

        Args:
            distribution: of the values, or of their magnitudes for a symmetric range.
            levels: number of integers between lo and hi, both included.
        """


@cache
def observers() -> dict[str, type[Observer]]:
    """Return every observer by name."""
    from qcompile.calibrate.listing import definitions

    found = {}
    for cls in definitions(Observer):  # type: ignore[type-abstract]
        if not isinstance(getattr(cls, "name", None), str):
            where = inspect.getsourcefile(cls)
            raise UsageError(f"the observer {cls.__name__} has no `name`", loc=where, hint="name: ClassVar[str] = …")
        found[cls.name] = cls
    return found


def make_observer(text: str) -> Observer:
    """Build an observer from its text, `name` or `name{option=number,...}`.

    Args:
        text: such as `minmax` or `percentile{percentile=99.9}`; underscores pass for hyphens in the name.

    Raises:
        UsageError: the name, an option or a value is not valid.
    """
    match = re.fullmatch(r"\s*([\w-]+)\s*(?:\{([^{}]*)\})?\s*", text)
    if match is None:
        raise UsageError(f"observer '{text}' is not of the form name{{option=value,...}}")
    name = match[1].replace("_", "-")
    known = observers()
    if name not in known:
        raise UsageError(f"unknown observer '{match[1]}'", hint=did_you_mean(name, sorted(known)))
    options: dict[str, float] = {}
    names = [field.name for field in fields(known[name])]
    for item in filter(None, (part.strip() for part in (match[2] or "").split(","))):
        key, _, value = (part.strip() for part in item.partition("="))
        if key not in names:
            hint = did_you_mean(key, names) if names else "it has no options"
            raise UsageError(f"observer '{name}' has no option '{key}'", hint=hint)
        try:
            options[key] = float(value)
        except ValueError:
            raise UsageError(f"observer option {key}={value!r} is not a number") from None
    try:
        return known[name](**options)
    except (TypeError, ValueError) as error:
        where = inspect.getsourcefile(known[name])
        raise UsageError(f"observer '{name}' cannot be made: {error}", loc=where, hint=_OPTIONS) from error


def observer_text(observer: Observer) -> str:
    """Return the text from which `make_observer` builds the same observer."""
    options = ",".join(f"{f.name}={getattr(observer, f.name):g}" for f in fields(observer))
    return f"{observer.name}{{{options}}}" if options else observer.name
