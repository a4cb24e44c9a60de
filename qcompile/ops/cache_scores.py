"""Products of queries with all keys of a cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qcompile.ir.graph import Node
from qcompile.ir.opdef import Array, OpDef
from qcompile.ir.types import TensorType
from qcompile.ops.cache_advance import LENGTH
from qcompile.ops.cache_append import real
from qcompile.quant.cache_codes import LARGEST_CODE, row_codes


@dataclass(frozen=True)
class CacheProductAttrs:
    """Attributes of cache_scores and cache_mix.

    Args:
        integer: whether the first operand becomes codes, too, and the product is one of integers; for int8 caches.
    """

    integer: bool = False


class CacheScores(OpDef):
    """y[n, s, t] = Σ_d q[n, s, d] · k[n // r, d, t] for t < total; what lies past it is of no meaning.

    In integers, with queries as `row_codes` of largest 127, y = (Σ_d q · k · scale_k[t]) · scale_q[n, s].

    Operands: q [..., S, D] float32; the keys [..., D, M] as a cache keeps them; total int64 [1]; the scales [..., M] of
    an int8 cache. N = q's leading axes together are r times those of the cache: as many queries share a head's keys.
    """

    name = "cache_scores"
    Attrs = CacheProductAttrs
    activations = (0,)

    def infer(self, attrs: Any, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the type of the scores."""
        q, keys, total = inputs[:3]
        check_operands(attrs, q, keys, total, inputs[3:])
        if q.shape[-1] != keys.shape[-2]:
            raise ValueError(f"queries {q} and keys {keys}")
        return (TensorType("float32", (*q.shape[:-1], keys.shape[-1])),)

    def evaluate(self, attrs: Any, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Multiply."""
        q, keys = inputs[:2]
        scales = inputs[3] if len(inputs) > 3 else None
        if attrs.integer:
            codes, worth = row_codes(q, LARGEST_CODE)
            sums = np.matmul(codes.astype(np.float64), shared(keys.swapaxes(-1, -2), q).swapaxes(-1, -2))
            scaled = sums.astype(np.float32) * shared(inputs[3][..., None], q).swapaxes(-1, -2)
            return ((scaled * worth[..., None]).astype(np.float32),)
        rows = real(keys, scales, keys.ndim - 1)
        return (np.matmul(q, shared(rows, q).swapaxes(-1, -2)).astype(np.float32),)

    def macs(self, node: Node) -> int:
        """Return the multiply-accumulates at the largest size."""
        return node.output.type.size * node.inputs[0].shape[-1]

    def lower(self, node: Node, context: Any) -> None:
        """Emit the product with as many keys as there are."""
        context.cache_scores(node)


def check_operands(
    attrs: CacheProductAttrs, x: TensorType, cache: TensorType, total: TensorType, scales: Sequence[TensorType]
) -> None:
    """Check what products with caches have in common.

    Args:
        attrs: of the operation.
        x: new rows, float32.
        cache: their kept partners.
        total: the number of filled places.
        scales: of an int8 cache, one tensor; else none.

    Raises:
        ValueError: they do not fit together.
    """
    heads, kept = (int(np.prod(t.shape[:-2])) for t in (x, cache))
    if x.dtype != "float32" or x.rank < 2 or cache.rank < 3 or total != LENGTH or not kept or heads % kept:
        raise ValueError(f"{x} with a cache {cache}")
    if (len(scales) == 1) != (cache.dtype == "int8"):
        raise ValueError(f"a cache {cache} with {len(scales)} tensors of scales")
    if attrs.integer and cache.dtype != "int8":
        raise ValueError(f"a product of integers with a cache {cache}")


def shared(rows: Array, x: Array) -> Array:
    """Return a cache's rows [..., M, D] repeated for the leading axes of x."""
    flat = rows.reshape(-1, *rows.shape[-2:])
    heads = int(np.prod(x.shape[:-2]))
    return np.repeat(flat, heads // len(flat), axis=0).reshape(*x.shape[:-2], *rows.shape[-2:])
