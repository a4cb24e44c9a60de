"""Products of new rows with a cache: what the kernels in floats and in integers are told."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CacheWorkload:
    """A product of new rows with a cache.

    Args:
        kind: "scores" or "mix".
        heads: matrices of new rows.
        shared: how many of them read the same head of the cache.
        new: most new rows of a head.
        places: of the cache.
        size: elements of a place.
        dtype: what the cache holds.
        integer: whether new rows become codes, for a product of integers with an int8 cache.
    """

    kind: str
    heads: int
    shared: int
    new: int
    places: int
    size: int
    dtype: str
    integer: bool = False


def spans(start: int, end: int, lanes: int) -> list[tuple[int, int]]:
    """Return (start, width) of vectors that cover a range, powers of two."""
    parts, size = [], lanes
    while start < end:
        if start + size <= end:
            parts.append((start, size))
            start += size
        else:
            size //= 2
    return parts
