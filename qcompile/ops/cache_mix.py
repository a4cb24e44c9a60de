"""Sums of the values of a cache, weighted by attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from qcompile.ir.graph import Node
from qcompile.ir.opdef import Array, OpDef
from qcompile.ir.types import TensorType
from qcompile.ops.cache_append import real
from qcompile.ops.cache_scores import check_operands, shared


class CacheMix(OpDef):
    """y[n, s, d] = Σ_{t < total} p[n, s, t] · v[n // r, t, d].

    Operands: p [..., S, M] float32; the values [..., M, D] as a cache keeps them; total int64 [1]; the scales [..., M]
    of an int8 cache. N = p's leading axes together are r times those of the cache.
    """

    name = "cache_mix"
    activations = (0,)

    def infer(self, attrs: Any, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the type of the sums."""
        p, values, total = inputs[:3]
        check_operands(p, values, total, inputs[3:])
        if p.shape[-1] != values.shape[-2]:
            raise ValueError(f"weights {p} and values {values}")
        return (TensorType("float32", (*p.shape[:-1], values.shape[-1])),)

    def evaluate(self, attrs: Any, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Multiply."""
        p, values, total = inputs[:3]
        scales = inputs[3] if len(inputs) > 3 else None
        count = int(total[0])
        rows = shared(real(values, scales, values.ndim - 2), p)
        return (np.matmul(p[..., :count], rows[..., :count, :]).astype(np.float32),)

    def macs(self, node: Node) -> int:
        """Return the multiply-accumulates at the largest size."""
        return node.output.type.size * node.inputs[0].shape[-1]

    def lower(self, node: Node, context: Any) -> None:
        """Emit the sum over as many values as there are."""
        context.cache_mix(node)
