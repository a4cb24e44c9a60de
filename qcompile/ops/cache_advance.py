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

    def fits(self, x: TensorType) -> bool:
        """Return whether a tensor has what these point to."""
        return self.entry < x.size if self.entry >= 0 else 0 <= self.axis < x.rank

    def of(self, x: Array) -> int:
        """Return the number of places that a tensor has, or says."""
        return int(x.reshape(-1)[self.entry]) if self.entry >= 0 else x.shape[self.axis]


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
        if length != LENGTH or not attrs.fits(x):
            raise ValueError(f"the length {length} cannot advance by {x}")
        return (LENGTH,)

    def evaluate(self, attrs: CacheAdvanceAttrs, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Add the extent."""
        length, x = inputs
        return (length + np.int64(attrs.of(x)),)

    def lower(self, node: Node, context: Any) -> None:
        """Emit one addition."""
        context.map(node, lambda e, i: e.load(0, *i) + added(node, e))


def added(node: Node, e: Any) -> Any:
    """Return the places that the second operand has, in code."""
    attrs, x = node.attrs, node.inputs[1]
    return e.cast(e.load(1, attrs.entry), "int64") if attrs.entry >= 0 else x.shape[attrs.axis]


LENGTH = TensorType("int64", (1,))
"""The type of a length."""
