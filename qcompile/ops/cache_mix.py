"""Sums of the values of a cache, weighted by attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from qcompile.ir.graph import Node
from qcompile.ir.opdef import Array, OpDef
from qcompile.ir.types import TensorType
from qcompile.ops.cache_append import real
from qcompile.ops.cache_scores import CacheProductAttrs, check_operands, shared
from qcompile.quant.cache_codes import LARGEST_SHARE, SHARE_BLOCK, row_codes


class CacheMix(OpDef):
    """y[n, s, d] = Σ_{t < total} p[n, s, t] · v[n // r, t, d].

    In integers the weights p · scale_v, none below 0, become `row_codes` of largest 16383; the sums of 1024 places each
    are exact, and are added in float32, one after the other: y = (Σ_b float32(Σ_{t in b} w · v)) · scale_w[n, s].

    Operands: p [..., S, M] float32; the values [..., M, D] as a cache keeps them; total int64 [1]; the scales [..., M]
    of an int8 cache. N = p's leading axes together are r times those of the cache.
    """

    name = "cache_mix"
    Attrs = CacheProductAttrs
    activations = (0,)

    def infer(self, attrs: Any, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the type of the sums."""
        p, values, total = inputs[:3]
        check_operands(attrs, p, values, total, inputs[3:])
        if p.shape[-1] != values.shape[-2]:
            raise ValueError(f"weights {p} and values {values}")
        return (TensorType("float32", (*p.shape[:-1], values.shape[-1])),)

    def evaluate(self, attrs: Any, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Multiply."""
        p, values, total = inputs[:3]
        scales = inputs[3] if len(inputs) > 3 else None
        count = int(total[0])
        if attrs.integer:
            weights = p[..., :count] * shared(inputs[3][..., None], p)[..., :count, 0][..., None, :]
            return (_in_blocks(*row_codes(weights, LARGEST_SHARE, signed=False), shared(values, p)[..., :count, :]),)
        rows = shared(real(values, scales, values.ndim - 2), p)
        return (np.matmul(p[..., :count], rows[..., :count, :]).astype(np.float32),)

    def macs(self, node: Node) -> int:
        """Return the multiply-accumulates at the largest size."""
        return node.output.type.size * node.inputs[0].shape[-1]

    def lower(self, node: Node, context: Any) -> None:
        """Emit the sum over as many values as there are."""
        context.cache_mix(node)


def _in_blocks(codes: Array, worth: Array, values: Array) -> Array:
    """Multiply codes of weights by those of values, exactly within a block of places."""
    result = np.zeros((*codes.shape[:-1], values.shape[-1]), np.float32)
    for start in range(0, codes.shape[-1], SHARE_BLOCK):
        part = slice(start, start + SHARE_BLOCK)
        result += np.matmul(codes[..., part].astype(np.float64), values[..., part, :]).astype(np.float32)
    return result * worth[..., None]
