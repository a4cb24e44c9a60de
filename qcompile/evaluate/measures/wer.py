"""Word error rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qcompile.evaluate.transcripts import ErrorRate, Tokens


@dataclass(frozen=True)
class Wer(ErrorRate):
    """Return the errors per true word; class indices count as words where no names are known. Less is better.

    Formula:
        Σ (insertions + deletions + replacements) / Σ words of the labels

    Args:
        decode: `module:function` from the outputs to a text; "" for best path, blank 0.
        output: the output to read; "" for the only one.
    """

    name: ClassVar[str] = "wer"

    def units(self, text: str) -> Tokens:
        """Return the words."""
        return text.split()
