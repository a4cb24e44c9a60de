"""Calibration samples: the characters of the poems, one after another; the bundle's memory follows from them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

TEXT = (Path(__file__).parent / "poems.txt").read_text(encoding="utf-8")
LETTERS = "".join(sorted(set(TEXT)))


def samples() -> Iterator[dict[str, np.ndarray]]:
    """Yield one character a sample."""
    for letter in TEXT:
        yield {"token": np.array([LETTERS.index(letter)], np.int64)}
