"""Rows appended to a cache that a bundle keeps between runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qcompile.ir.graph import Node
from qcompile.ir.opdef import Array, OpDef
from qcompile.ir.types import TensorType
from qcompile.ops.cache_advance import LENGTH
from qcompile.quant.cache_codes import LARGEST_CODE, row_codes

STORAGE = ("float32", "float16", "int8")
"""What a cache may hold."""

_LARGEST_HALF = np.float32(65504.0)


@dataclass(frozen=True)
class CacheAppendAttrs:
    """Attributes of cache_append.

    Args:
        axis: along which the cache grows, counted from the front; the rank less two, or less one where it is
            transposed.
        rows: places of the result, all of the cache's except in a graph of one size.
        symbol: the open extent that the actual number of places is.
        once: whether the run that starts a sequence writes all rows, and others none.
    """

    axis: int = 2
    rows: int = 1
    symbol: str = "length"
    once: bool = False


class CacheAppend(OpDef):
    """cache[..., length + s, :] = new[..., s, :] for all length + s < total; with `once`, where length is 0 alone.

    Operands: cache [..., M, D] or, transposed, [..., D, M]; new [..., S, D] float32; length and total int64 [1]; for an
    int8 cache its scales [..., M] float32. Results: the cache, and its scales. A compiled cache is changed in place.

    Formula:
        float16: round to nearest even, numbers beyond ±65504 become these; int8: scale = max |row| · float32(1 / 127),
        q = rne(clamp(x · (127 / max(max |row|, 2^−100)), −127, 127)), all in float32.
    """

    name = "cache_append"
    Attrs = CacheAppendAttrs
    activations = (1,)

    def infer(self, attrs: CacheAppendAttrs, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the types of the cache and of its scales."""
        cache, new, length, total = inputs[:4]
        rank = cache.rank
        transposed = attrs.axis == rank - 1
        expected = (*cache.shape[: rank - 2], *((new.shape[-2], cache.shape[-2]) if transposed else new.shape[-2:]))
        if rank < 3 or attrs.axis not in (rank - 1, rank - 2) or new.shape != expected or new.dtype != "float32":
            raise ValueError(f"{new} cannot be appended to {cache} along axis {attrs.axis}")
        if cache.dtype not in STORAGE or length != LENGTH or total != LENGTH:
            raise ValueError(f"a cache {cache} with lengths {length} and {total}")
        if not transposed and new.shape[-1] != cache.shape[-1]:
            raise ValueError(f"{new} cannot be appended to {cache}")
        if (len(inputs) == 5) != (cache.dtype == "int8"):
            raise ValueError(f"a cache {cache} with {len(inputs) - 4} tensors of scales")
        shape = list(cache.shape)
        shape[attrs.axis] = attrs.rows
        result = (cache.with_shape(tuple(shape)),)
        if len(inputs) == 4:
            return result
        if inputs[4] != TensorType("float32", (*cache.shape[:-2], cache.shape[attrs.axis])):
            raise ValueError(f"scales {inputs[4]} of a cache {cache}")
        return (*result, inputs[4].with_shape((*cache.shape[:-2], attrs.rows)))

    def evaluate(self, attrs: CacheAppendAttrs, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Write the rows into a copy."""
        cache, new, length, total = inputs[:4]
        start, count = int(length[0]), int(total[0] - length[0])
        if attrs.once:
            start, count = 0, int(total[0]) if start == 0 else 0
        codes, scales = stored(new[..., :count, :], cache.dtype.name)
        transposed = attrs.axis == cache.ndim - 1
        made = np.swapaxes(cache, -1, -2).copy() if transposed else cache.copy()
        made[..., start : start + count, :] = codes
        made = made[..., : attrs.rows, :]
        result = np.ascontiguousarray(np.swapaxes(made, -1, -2)) if transposed else made
        if scales is None:
            return (result,)
        kept = inputs[4].copy()
        kept[..., start : start + count] = scales
        return (result, kept[..., : attrs.rows])

    def lower(self, node: Node, context: Any) -> None:
        """Emit the write; the results are the cache's own memory."""
        context.cache_append(node)


def stored(new: Array, dtype: str) -> tuple[Array, Array | None]:
    """Return rows as a cache holds them, and the scales of those in int8.

    Args:
        new: float32 [..., S, D].
        dtype: one of STORAGE.
    """
    if dtype == "float16":
        return np.clip(new, -_LARGEST_HALF, _LARGEST_HALF).astype(np.float16), None
    if dtype == "float32":
        return new, None
    codes, scales = row_codes(new, LARGEST_CODE)
    return codes.astype(np.int8), scales


def real(cache: Array, scales: Array | None, axis: int) -> Array:
    """Return what a cache holds as float32 [..., rows, D].

    Args:
        cache: as kept.
        scales: of an int8 cache, else None.
        axis: along which it grows.
    """
    rows = cache.astype(np.float32)
    rows = np.swapaxes(rows, -1, -2) if axis == cache.ndim - 1 else rows
    return rows if scales is None else rows * scales[..., None]
