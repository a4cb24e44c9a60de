"""What a generator returns: one compiled-once function, with its parallel extent and its scratch."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Kernel:
    """A function of the bundle's C kernel type.

    Attributes:
        name: C symbol, "k_" and a digest of everything the code depends on; equal names mean equal code.
        func: the ``tirx.PrimFunc``.
        tiles: number of parallel items; the function computes items [begin, end).
        scratch_bytes: private memory which one thread needs, 64-byte aligned.
        levels: how an item's number is made, outermost factor first: (count, rows), where one index of the factor
            stands for so many rows of the result, one after another; 0 where it does not cut rows. Empty where that
            is not known.
        row: elements of the result in a row.
    """

    name: str
    func: Any
    tiles: int
    scratch_bytes: int
    levels: tuple[tuple[int, int], ...] = ()
    row: int = 1


def symbol(*parts: object) -> str:
    """Name a kernel after what its code depends on (frozen dataclasses, numbers, strings)."""
    text = "\n".join(repr(part) for part in parts)
    return "k_" + hashlib.sha256(text.encode()).hexdigest()[:16]
