"""The number of places of a growing sequence that are filled after a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qcompile.ir.graph import Node
from qcompile.ir.opdef import Array, OpDef
from qcompile.ir.types import TensorType


@dataclass(frozen=True)
class CacheAdvanceAttrs:
    """Attributes of cache_advance.

    Args:
        axis: of the second operand, along which it holds what is new.
        entry: which number of the actual extents that is, where the second operand holds these; -1 where it does not.
    """

    axis: int = 0
    entry: int = -1


class CacheAdvance(OpDef):
    """total = length + x.shape[axis], or length + extents[entry].

    Operands: length int64 [1], and any tensor x, or the actual extents (int32).
    """

    name = "cache_advance"
    Attrs = CacheAdvanceAttrs
    activations = ()

    def infer(self, attrs: CacheAdvanceAttrs, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the type of a length."""
        length, x = inputs
        fits = attrs.entry < x.size if attrs.entry >= 0 else 0 <= attrs.axis < x.rank
        if length != LENGTH or not fits:
            raise ValueError(f"the length {length} cannot advance by {x}")
        return (LENGTH,)

    def evaluate(self, attrs: CacheAdvanceAttrs, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Add the extent."""
        length, x = inputs
        new = x.reshape(-1)[attrs.entry] if attrs.entry >= 0 else x.shape[attrs.axis]
        return (length + np.int64(new),)

    def lower(self, node: Node, context: Any) -> None:
        """Emit one addition."""
        attrs, x = node.attrs, node.inputs[1]

        def element(e: Any, i: Any) -> Any:
            new = e.cast(e.load(1, attrs.entry), "int64") if attrs.entry >= 0 else x.shape[attrs.axis]
            return e.load(0, *i) + new

        context.map(node, element)


LENGTH = TensorType("int64", (1,))
"""The type of a length."""
