"""Samples that a Python program hands over."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from itertools import count, islice
from typing import Any, ClassVar, TypeVar

from qcompile.calibrate.reader import Reader, Request
from qcompile.errors import CalibrationError, UsageError, with_line

T = TypeVar("T")


class InMemory(Reader):
    """An iterable of samples, each {input name: array} or an array.

    A generator can be read but once; where the samples are needed again (several observers, a search) give
    a list, or an object whose `__iter__` starts anew.
    """

    name: ClassVar[str] = "in-memory"

    def __init__(self, samples: Iterable[object], request: Request) -> None:
        super().__init__("samples", request)
        if not isinstance(samples, Iterable) and isinstance(samples, Sized) and hasattr(samples, "__getitem__"):
            samples = _Indexed(samples)
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
        yield from self._read(iter(self._samples), limit, limit + self.request.spare)

    def __iter__(self) -> Iterator[tuple[str, object]]:
        iterator = self._called(lambda: iter(self._samples))
        if iterator is self._samples:
            if self._spent:
                raise CalibrationError(
                    "the calibration samples are needed again, but their iterator is used up",
                    hint="give a list, or an object whose __iter__ starts anew",
                )
            self._spent = True
        yield from self._read(iterator, 0, self.request.limit)

    def _read(self, iterator: Iterator[object], start: int, stop: int | None) -> Iterator[tuple[str, object]]:
        end = object()
        rest = islice(iterator, start, stop)
        for index in count(start):
            sample = self._called(lambda: next(rest, end))
            if sample is end:
                return
            yield f"samples[{index}]", sample

    def _called(self, step: Callable[[], T]) -> T:
        """Return what the program's own code does, which may fail."""
        try:
            return step()
        except Exception as error:
            problem = f"the calibration samples cannot be read: {with_line(error)}"
            raise CalibrationError(problem, hint="repair what gives them") from error


class _Indexed:
    """Samples that are asked for by number, such as a Dataset of PyTorch."""

    def __init__(self, samples: Any) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __iter__(self) -> Iterator[object]:
        return (self._samples[index] for index in range(len(self)))
