"""Outputs whose actual extents another output tells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt


@dataclass(frozen=True)
class CountedAxis:
    """An axis of an output of which a run makes the first elements only; zeros follow them.

    Args:
        output: name of the output; it has the largest extent.
        axis: of it.
        count: name of the output that holds the actual extent, int64 [1].
    """

    output: str
    axis: int
    count: str


def trimmed(counted: Sequence[CountedAxis], results: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """Return the outputs of a model as its user knows them.

    Args:
        counted: `Graph.counted`.
        results: every output, of its largest extents.
    """
    numbers = {entry.count for entry in counted}
    found = {name: array for name, array in results.items() if name not in numbers}
    for entry in counted:
        cut = (slice(None),) * entry.axis + (slice(int(results[entry.count][0])),)
        found[entry.output] = found[entry.output][cut]
    return found
