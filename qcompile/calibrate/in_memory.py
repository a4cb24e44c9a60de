"""Samples that a Python program hands over."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sized
from itertools import islice
from typing import ClassVar

from qcompile.calibrate.reader import Reader, Request
from qcompile.errors import CalibrationError, UsageError


class InMemory(Reader):
    """An iterable of samples, each {input name: array} or an array.

    A generator can be read but once; where the samples are needed again (several observers, a search) give
    a list, or an object whose `__iter__` starts anew.
    """

    name: ClassVar[str] = "in-memory"

    def __init__(self, samples: Iterable[object], request: Request) -> None:
        super().__init__("samples", request)
        if isinstance(samples, (str, bytes, Mapping)) or not isinstance(samples, Iterable):
            raise UsageError(
                f"calibration is {type(samples).__name__}, not an iterable of samples",
                hint="give a list of {input name: array}, a path, or None",
            )
        self._samples = samples
        self._spent = False

    @classmethod
    def claims(cls, source: str) -> bool:
        """Return False: such samples have no name."""
        return False

    def size(self) -> int | None:
        """Return the number of samples, or None for a generator."""
        if not isinstance(self._samples, Sized):
            return None
        total = len(self._samples)
        return total if self.request.limit is None else min(total, self.request.limit)

    def spares(self) -> Iterator[tuple[str, object]]:
        """Yield the samples behind the limit; none of a generator, which is used up."""
        limit = self.request.limit
        if limit is None or not isinstance(self._samples, Sized):
            return
        for index, sample in enumerate(islice(self._samples, limit, limit + self.request.spare), limit):
            yield f"samples[{index}]", sample

    def __iter__(self) -> Iterator[tuple[str, object]]:
        iterator = iter(self._samples)
        if iterator is self._samples:
            if self._spent:
                raise CalibrationError(
                    "the calibration samples are needed again, but their iterator is used up",
                    hint="give a list, or an object whose __iter__ starts anew",
                )
            self._spent = True
        for index, sample in enumerate(islice(iterator, self.request.limit)):
            yield f"samples[{index}]", sample
