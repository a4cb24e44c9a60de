"""A tensor that the first run of a sequence computes, and later runs read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from qcompile.ir.graph import Node
from qcompile.ir.opdef import Array, NoAttrs, OpDef
from qcompile.ir.types import TensorType
from qcompile.ops.cache_advance import LENGTH


class CacheFill(OpDef):
    """y = x where length = 0, else the cache as it is.

    Operands: the cache and x, of one type; length int64 [1], the filled places before the run. A compiled cache is
    changed in place, and what only x depends on is computed in the first run alone.
    """

    name = "cache_fill"
    activations = ()

    def infer(self, attrs: NoAttrs, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the type of the cache."""
        cache, x, length = inputs
        if cache != x or length != LENGTH:
            raise ValueError(f"a cache {cache} filled with {x} at {length}")
        return (cache,)

    def evaluate(self, attrs: NoAttrs, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Choose one."""
        cache, x, length = inputs
        return (np.array(cache if int(length[0]) else x),)

    def lower(self, node: Node, context: Any) -> None:
        """Emit the copy; the result is the cache's own memory."""
        context.cache_fill(node)
