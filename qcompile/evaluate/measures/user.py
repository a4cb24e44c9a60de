"""A measure of the user's own."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial
from typing import Any, ClassVar

import numpy as np

from qcompile.calibrate.python_function import load_function
from qcompile.errors import UsageError, with_line
from qcompile.evaluate.classes import class_index, named_classes, written_number
from qcompile.evaluate.measure import Array, Measure, Observation, quotient

_loaded = cache(partial(load_function, refusal=UsageError))

_CALL = (
    "it is called with (outputs, label, reference): arrays by output name, the sample's label or None, the float "
    "model's outputs or None; it returns a number"
)


@dataclass(frozen=True)
class User(Measure):
    """Return the mean of what a function says of each sample; more is better.

    The function is called with (outputs, label, reference): outputs by name, the label or None, the float
    model's outputs or None; it returns a number. A label that is a text (in a list of files, an array of texts, or
    from a function) and says a number or the name of a class is given as its index, another text as it is.

    Args:
        function: `package.module:function` or `file.py:function`.
    """

    name: ClassVar[str] = "user"

    function: str = ""

    def __post_init__(self) -> None:
        _loaded(self.function)  # a function that is not there is refused before anything runs

    @property
    def title(self) -> str:
        """The function as it was given."""
        return self.function

    def row(self, seen: Observation) -> Any:
        """Return (number, 1)."""
        function: Any = _loaded(self.function)
        try:
            number = float(function(dict(seen.outputs), self._label(seen), seen.reference))
        except (Exception, SystemExit) as error:
            problem = f"metric '{self.function}' raised {with_line(error)}"
            raise UsageError(problem, loc=seen.where, hint=_CALL) from error
        if not np.isfinite(number):
            hint = "return a finite number for every sample"
            raise UsageError(f"metric '{self.function}' returned {number}", loc=seen.where, hint=hint)
        return number, 1.0

    @staticmethod
    def _label(seen: Observation) -> Any:
        """Return a text that is a number or the name of a class as its index."""
        if not isinstance(seen.label, str):
            return seen.label
        number = written_number(seen.label)
        if number is not None and str(number) != seen.label and not named_classes(seen.label, seen.names or ()):
            return seen.label  # as numbers "007" and "-03" would lose their zeros
        index = class_index(seen.label, seen.names)
        return seen.label if index is None else index

    def value(self, sums: Array) -> Array:
        """Return the mean."""
        return quotient(sums)
