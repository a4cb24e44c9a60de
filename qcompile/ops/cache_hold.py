"""The length of a sequence that the first run of another one reads, and later runs remember."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qcompile.ir.graph import Node
from qcompile.ir.opdef import Array, OpDef
from qcompile.ir.types import TensorType
from qcompile.ops.cache_advance import LENGTH, CacheAdvanceAttrs, added


class CacheHold(OpDef):
    """y = x.shape[axis], or extents[entry], where length = 0, else what was kept.

    Operands: kept int64 [1]; any tensor x, or the actual extents (int32); length int64 [1], the filled places of the
    growing sequence before the run.
    """

    name = "cache_hold"
    Attrs = CacheAdvanceAttrs
    activations = ()

    def infer(self, attrs: CacheAdvanceAttrs, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the type of a length."""
        kept, x, length = inputs
        if kept != LENGTH or length != LENGTH or not attrs.fits(x):
            raise ValueError(f"the length {kept} is not that of {x}")
        return (LENGTH,)

    def evaluate(self, attrs: CacheAdvanceAttrs, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Choose one."""
        kept, x, length = inputs
        return (kept.copy() if int(length[0]) else kept * 0 + attrs.of(x),)

    def lower(self, node: Node, context: Any) -> None:
        """Emit the choice."""

        def element(e: Any, i: Any) -> Any:
            return e.select(e.equal(e.load(2, *i), 0), added(node, e), e.load(0, *i))

        context.map(node, element)
