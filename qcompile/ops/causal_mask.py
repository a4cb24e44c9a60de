"""Which places of a growing sequence each new place may see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qcompile.ir.graph import Node
from qcompile.ir.opdef import Array, OpDef
from qcompile.ir.types import TensorType
from qcompile.ops.cache_advance import LENGTH


@dataclass(frozen=True)
class CausalMaskAttrs:
    """Attributes of causal_mask.

    Args:
        axis: of the result, along the new places.
        shape: of the result; 1 but on two axes.
        new: axis of the second operand that has as many places.
        long: the axis along all places, as a tuple; open as the symbol is.
        symbol: the open extent that their number is.
    """

    axis: int = 0
    shape: tuple[int, ...] = ()
    new: int = 0
    long: tuple[int, ...] = ()
    symbol: str = "length"


class CausalMask(OpDef):
    """y[..., s, ..., t, ...] = (t ≤ length + s).

    Operands: length int64 [1], and a tensor that has as many new places on the axis `new`.
    """

    name = "causal_mask"
    Attrs = CausalMaskAttrs
    activations = ()

    def infer(self, attrs: CausalMaskAttrs, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the type of the mask."""
        length, like = inputs
        rank = len(attrs.shape)
        fits = len(attrs.long) == 1 and {attrs.axis, *attrs.long} <= set(range(rank)) and 0 <= attrs.new < like.rank
        if not fits or attrs.axis in attrs.long or length != LENGTH or attrs.shape[attrs.axis] != like.shape[attrs.new]:
            raise ValueError(f"a causal mask {list(attrs.shape)} for {like}")
        return (TensorType("bool", attrs.shape),)

    def evaluate(self, attrs: CausalMaskAttrs, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Compare places."""
        rank, long = len(attrs.shape), attrs.long[0]
        rows, columns = (
            np.arange(attrs.shape[a]).reshape([-1 if b == a else 1 for b in range(rank)]) for a in (attrs.axis, long)
        )
        return (np.broadcast_to(columns <= rows + inputs[0][0], attrs.shape).copy(),)

    def lower(self, node: Node, context: Any) -> None:
        """Emit the comparison."""
        axis, long = node.attrs.axis, node.attrs.long[0]
        context.map(node, lambda e, i: e.cast(i[long] <= i[axis] + e.load(0, 0), "bool"))
