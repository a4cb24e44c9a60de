"""Character error rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qcompile.evaluate.transcripts import ErrorRate


@dataclass(frozen=True)
class Cer(ErrorRate):
    """Return the errors per true character; class indices count as characters where no names are known. Less is better.

    Formula:
        Σ (insertions + deletions + replacements) / Σ characters of the labels

    Args:
        decode: `module:function` from the outputs to a text; "" for best path, blank 0.
        output: the output to read; "" for the only one.
    """

    name: ClassVar[str] = "cer"
