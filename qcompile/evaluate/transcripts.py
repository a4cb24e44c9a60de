"""Texts: how a recognizer's outputs become one, and how far two of them are apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from qcompile.calibrate.python_function import load_function
from qcompile.errors import UsageError, with_line
from qcompile.evaluate.measure import Array, Measure, Observation, output_name

Tokens = Sequence[Any]

_UNKNOWN = -1  # a step with a score that is NaN or +inf says nothing, and must not pass for what is right
_CALL = "it is called with the outputs, arrays by name, and returns a text or a list of class indices"

_decoder = cache(partial(load_function, refusal=UsageError))


def transcript(seen: Observation, outputs: Mapping[str, Any], decode: str, output: str) -> str | list[int]:
    """Return what a model reads: a text, or class indices where the names of the classes are not known.

    Without a decoder, an output of integers is taken as it is, and scores [1, steps, classes] by best path
    (connectionist temporal classification, blank 0): equal neighbours are one, blanks nothing.

    Args:
        seen: the sample; its `names` are the characters, with or without one for the blank.
        outputs: of the model in question.
        decode: `module:function` from the outputs to a text or a list of indices, or "".
        output: the output's name, "" for the only one.

    Raises:
        UsageError: the output has another form, or the decoder fails.

    Source:
        Graves et al., "Connectionist temporal classification", 2006, §3.2 (best path).
    """
    if decode:
        function: Any = _decoder(decode)
        try:
            read = function(dict(outputs))
        except (Exception, SystemExit) as error:
            problem = f"decoder '{decode}' raised {with_line(error)}"
            raise UsageError(problem, loc=seen.where, hint=_CALL) from error
        return read if isinstance(read, str) else [int(i) for i in read]
    name = output_name(seen, output)
    array: npt.NDArray[Any] = np.asarray(outputs[name])
    if array.dtype.kind in "iu":
        return _named(array.reshape(-1).tolist(), seen.names, 0)
    if array.ndim < 2 or array.size != np.prod(array.shape[-2:]):
        raise UsageError(
            f"output '{name}' of shape {list(array.shape)} is no sequence of scores",
            hint='wer{decode="module:function"} (or cer) turns the outputs into a text',
        )
    classes = array.shape[-1]
    scores = array.reshape(-1, classes)
    best = scores.argmax(axis=1)
    best[~(scores < np.inf).all(axis=1)] = _UNKNOWN
    kept = best[np.concatenate([[True], best[1:] != best[:-1]])]
    return _named([int(i) for i in kept if i != 0], seen.names, classes)


def _named(indices: list[int], names: Sequence[str] | None, classes: int) -> str | list[int]:
    if names is None:
        return indices
    # A list of characters that is one short has no entry for the blank, which is class 0.
    shift = 1 if classes == len(names) + 1 else 0
    known = ("\N{REPLACEMENT CHARACTER}" if i == _UNKNOWN else i - shift for i in indices)
    return "".join(i if isinstance(i, str) else names[i] for i in known if isinstance(i, str) or 0 <= i < len(names))


def truth_like(read: str | list[int], label: Any, where: str) -> str | list[int]:
    """Return a label in the form of what was read; class indices may be a text of numbers with spaces between.

    Raises:
        UsageError: one is a text and the other is not.
    """
    if isinstance(read, str) and isinstance(label, (str, np.str_)):
        return str(label)
    if not isinstance(read, str) and isinstance(label, str) and all(word.isdecimal() for word in label.split()):
        return [int(word) for word in label.split()]
    if not isinstance(read, str) and not isinstance(label, (str, np.str_)) and np.asarray(label).dtype.kind in "iu":
        return [int(i) for i in np.asarray(label).reshape(-1)]
    hint = "give the characters with --labels, one a line" if not isinstance(read, str) else "give texts as labels"
    said = str(label) if isinstance(label, str) else label.tolist() if isinstance(label, np.generic) else label
    raise UsageError(f"{where}: the label {said!r} is not comparable with what was read: {read!r}", hint=hint)


def edits(read: Tokens, truth: Tokens) -> int:
    """Return the least number of insertions, deletions and replacements between two sequences.

    Source:
        Wagner and Fischer, "The string-to-string correction problem", 1974.
    """
    previous = list(range(len(truth) + 1))
    for row, token in enumerate(read, 1):
        current = [row]
        for column, wanted in enumerate(truth, 1):
            replaced = previous[column - 1] + (token != wanted)
            current.append(min(replaced, previous[column] + 1, current[column - 1] + 1))
        previous = current
    return previous[-1]


@dataclass(frozen=True)
class ErrorRate(Measure):
    """Counts the errors per true unit of a text; a subclass says what a unit is.

    Formula:
        Σ (insertions + deletions + replacements) / Σ units of the labels

    Args:
        decode: `module:function` from the outputs to a text; "" for best path, blank 0.
        output: the output to read; "" for the only one.
    """

    higher_is_better: ClassVar[bool] = False
    needs_label: ClassVar[bool] = True

    decode: str = ""
    output: str = ""

    def units(self, text: str) -> Tokens:
        """Return what errors are counted in: the characters."""
        return text

    def row(self, seen: Observation) -> Any:
        """Return (errors, true units); class indices count as units where no names are known."""
        first = transcript(seen, seen.outputs, self.decode, self.output)
        second = truth_like(first, seen.label, seen.where)
        read, truth = (self.units(text) if isinstance(text, str) else text for text in (first, second))
        return edits(read, truth), len(truth)

    def value(self, sums: Array) -> Array:
        """Return errors / units; without any true one, the errors themselves."""
        return np.asarray(sums[..., 0] / np.maximum(sums[..., 1], 1.0))

    def room(self, value: float) -> float:
        """Return by how much the rate may rise: to one error per unit."""
        return abs(1.0 - value)
