"""Where a loop's region begins: what each iteration starts from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qcompile.ir.graph import Node
from qcompile.ir.opdef import Array, OpDef
from qcompile.ir.types import TensorType

COUNT = TensorType("int64", ())
"""Type of the number of an iteration."""

MOST_TRIPS = 2**31 - 1
"""Iterations of a loop that only its condition ends; the runtime counts in 32 bits."""


@dataclass(frozen=True)
class LoopBeginAttrs:
    """Attributes of loop_begin.

    Args:
        trips: how often the region runs at most, at least once.
    """

    trips: int = 1


class LoopBegin(OpDef):
    """(t, s…) = (0, s₀…) in the first iteration, (t + 1, what loop_end reads) in each one after it.

    Operands: the states before the first iteration. Results: the number of the iteration (int64 []), and the states as
    it starts. All nodes up to the loop_end that reads `t` are run again and again (`qcompile.ir.regions`).
    """

    name = "loop_begin"
    Attrs = LoopBeginAttrs
    region = "begin"

    def infer(self, attrs: LoopBeginAttrs, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the types of the number and the states."""
        if not 1 <= attrs.trips <= MOST_TRIPS:
            raise ValueError(f"{attrs.trips} iterations, at least 1 and at most {MOST_TRIPS} are possible")
        return (COUNT, *inputs)

    def evaluate(self, attrs: LoopBeginAttrs, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Return what the first iteration starts from."""
        return (np.zeros((), np.int64), *inputs)

    def lower(self, node: Node, context: Any) -> None:
        """Give the states memory, and fill it."""
        context.loop_begin(node)
