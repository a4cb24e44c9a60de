"""Readers bring calibration samples from where the user keeps them.

Adding a reader is adding a file to this package: it holds one subclass of Reader, named after the file, and
is found by listing the package.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompile.calibrate.preprocess import Preprocess
from qcompile.calibrate.sample import InputSpec

MOST_SAMPLES = 256
"""How many samples a reader takes from a larger set unless told; more change ranges very little."""


@dataclass(frozen=True)
class Request:
    """What samples are wanted.

    Args:
        inputs: what the model takes.
        preprocess: how photographs become tensors; fields left open are chosen for the model.
        limit: largest number of samples, or None for the reader's own choice.
        crops_per_image: samples to cut from each photograph, or None for the reader's own choice.
        spare: samples beyond the limit to set aside, at most: what they show, calibration has not seen.
        kept: inputs of the model that no sample gives, because its own outputs supply them.
    """

    inputs: tuple[InputSpec, ...]
    preprocess: Preprocess
    limit: int | None = None
    crops_per_image: int | None = None
    spare: int = 0
    kept: tuple[str, ...] = ()


class Reader(ABC):
    """Yields calibration samples one at a time.

    Attributes:
        source: what the user gave.
        request: what is wanted.
        notes: what the reader chose by itself, one sentence each, for the user to read.
        preprocess: the resolved steps, where there are any.
    """

    name: ClassVar[str]

    def __init__(self, source: str, request: Request) -> None:
        self.source = source
        self.request = request
        self.notes: list[str] = []
        self.preprocess: Preprocess | None = None

    @classmethod
    @abstractmethod
    def claims(cls, source: str) -> bool:
        """Return whether a source is for this reader; at most one may claim it."""

    @abstractmethod
    def __iter__(self) -> Iterator[tuple[str, object]]:
        """Yield (where the sample comes from, the sample unchecked), the same in every pass."""

    def spares(self) -> Iterator[tuple[str, object]]:
        """Yield samples that iterating does not, as it does: `request.spare` at most, and none that resemble those."""
        return iter(())

    @abstractmethod
    def size(self) -> int | None:
        """Return the number of samples, or None where it is not known before the end."""


def spaced_apart(total: int, chosen: Sequence[int], count: int) -> list[int]:
    """Return at most `count` of the indices below `total` that were not chosen, evenly spaced, ascending."""
    taken = set(chosen)
    left = [index for index in range(total) if index not in taken]
    return [left[place] for place in spaced(len(left), count)]


def spaced(total: int, limit: int) -> Sequence[int]:
    """Return at most `limit` indices below `total`, evenly spaced, ascending."""
    if total <= limit:
        return range(total)
    return [int(i) for i in (np.arange(limit, dtype=np.int64) * total) // limit]
