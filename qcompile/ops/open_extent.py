"""The actual extent of an open axis, as a number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qcompile.ir.graph import Node
from qcompile.ir.opdef import Array
from qcompile.ir.sized import Sized
from qcompile.ir.types import TensorType


@dataclass(frozen=True)
class OpenExtentAttrs:
    """Attributes of open_extent.

    Args:
        symbol: the open extent that it follows from.
        table: the number for each value of the symbol, from the least on.
        at: which of them holds, where the graph has one size; the largest by default.
        entry: which number of the operand it is, where there is one.
    """

    symbol: str
    table: tuple[int, ...]
    at: int = -1
    entry: int = 0


class OpenExtent(Sized):
    """y = [table[at]], or [extents[entry]].

    Operands: none while the graph has one size at a time; the actual extents (int32) in its final form.
    """

    name = "open_extent"
    Attrs = OpenExtentAttrs
    activations = ()

    def infer(self, attrs: OpenExtentAttrs, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the type of one int64 number."""
        if inputs and (inputs[0].dtype != "int32" or not 0 <= attrs.entry < inputs[0].size):
            raise ValueError(f"entry {attrs.entry} of {inputs[0]}")
        return (TensorType("int64", (1,)),)

    def evaluate(self, attrs: OpenExtentAttrs, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Return the number."""
        found = inputs[0].reshape(-1)[attrs.entry] if inputs else attrs.table[attrs.at]
        return (np.array([found], np.int64),)

    def lower(self, node: Node, context: Any) -> None:
        """Emit a conversion."""
        context.map(node, lambda e, i: e.cast(e.load(0, node.attrs.entry), "int64"))
