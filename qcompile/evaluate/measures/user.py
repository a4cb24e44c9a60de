"""A measure of the user's own."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np

from qcompile.calibrate.python_function import load_function
from qcompile.errors import UsageError
from qcompile.evaluate.measure import Array, Measure, Observation

_loaded = cache(load_function)


@dataclass(frozen=True)
class User(Measure):
    """Return the mean of what a function says of each sample; more is better.

    The function is called with (outputs, label, reference): outputs by name, the label or None, the float
    model's outputs or None; it returns a number.

    Args:
        function: `package.module:function` or `file.py:function`.
    """

    name: ClassVar[str] = "user"

    function: str = ""

    def row(self, seen: Observation) -> Any:
        """Return (number, 1)."""
        function: Any = _loaded(self.function)
        try:
            number = float(function(dict(seen.outputs), seen.label, seen.reference))
        except Exception as error:
            problem = f"metric '{self.function}' raised {type(error).__name__}: {error}"
            raise UsageError(problem, loc=seen.where) from error
        if not np.isfinite(number):
            raise UsageError(f"metric '{self.function}' returned {number}", loc=seen.where)
        return number, 1.0

    def value(self, sums: Array) -> Array:
        """Return the mean."""
        return np.asarray(sums[..., 0] / sums[..., 1])
