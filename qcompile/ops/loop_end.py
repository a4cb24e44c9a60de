"""Where a loop's region ends: whether it runs again, and what it leaves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qcompile.ir.graph import Node
from qcompile.ir.opdef import Array, OpDef
from qcompile.ir.types import TensorType
from qcompile.ops.loop_begin import COUNT


@dataclass(frozen=True)
class LoopEndAttrs:
    """Attributes of loop_end.

    Args:
        conditional: whether operand 1 says if there is another iteration; else the trips of loop_begin run.
    """

    conditional: bool = False


class LoopEnd(OpDef):
    """Go back to loop_begin with the new states, or leave the loop with them.

    Operands: the number of the iteration, from loop_begin; with `conditional` whether to go on (bool, one element); the
    new states, of the same types as loop_begin's. Results: how many iterations there were (int64 []), and the states.
    """

    name = "loop_end"
    Attrs = LoopEndAttrs
    region = "end"

    def infer(self, attrs: LoopEndAttrs, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the types of the count and the states."""
        first = 2 if attrs.conditional else 1
        if len(inputs) < first or inputs[0] != COUNT:
            raise ValueError("the number of the iteration is missing")
        if attrs.conditional and (inputs[1].dtype != "bool" or inputs[1].size != 1):
            raise ValueError(f"a condition {inputs[1]}; it must be one truth value")
        return (COUNT, *inputs[first:])

    def evaluate(self, attrs: LoopEndAttrs, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Return what the loop leaves if this is the last iteration."""
        return (np.asarray(inputs[0] + 1, np.int64), *inputs[2 if attrs.conditional else 1 :])

    def lower(self, node: Node, context: Any) -> None:
        """Bring the new states to where the next iteration reads them."""
        context.loop_end(node)
