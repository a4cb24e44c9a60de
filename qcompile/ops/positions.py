"""Where a row of flags is set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from qcompile.ir.graph import Node
from qcompile.ir.opdef import Array, NoAttrs, OpDef
from qcompile.ir.types import TensorType


class Positions(OpDef):
    """y[0] = the number of flags that are set; y[1 …] = their indices in order; zeros follow.

    Operand: flags [N], bool. The result is [N + 1] in int64, its largest size: how many flags are set depends on the
    data, and `qcompile.onnx_import.counted` knows that y[0] counts the others.

    Source:
        ONNX NonZero and Compress, whose results have as many elements as flags are set.
    """

    name = "positions"
    activations = ()

    def infer(self, attrs: NoAttrs, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the type of the largest result."""
        (flags,) = inputs
        if flags.rank != 1 or flags.dtype != "bool":
            raise ValueError(f"flags {flags} are no row of truth values")
        return (TensorType("int64", (flags.size + 1,)),)

    def evaluate(self, attrs: NoAttrs, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Find the flags that are set."""
        found = np.flatnonzero(inputs[0])
        y = np.zeros(inputs[0].size + 1, np.int64)
        y[0] = found.size
        y[1 : 1 + found.size] = found
        return (y,)

    def lower(self, node: Node, context: Any) -> None:
        """Emit a loop over the flags."""
        context.positions(node)
