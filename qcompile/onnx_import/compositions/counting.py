"""Operators that count what occurs in a text of numbers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from qcompile.ir.graph import Value
from qcompile.ir.opdef import Array
from qcompile.ops.onnx_node import OnnxNode
from qcompile.ops.reshape import reshaped

MODES = ("TF", "IDF", "TFIDF")
MOST_COLUMNS = 1 << 24
"""Elements of a row of counts."""


def _vectorized(node: OnnxNode) -> Value:
    """Import TfIdfVectorizer of numbers: how often each sequence of a few tokens occurs, or whether, times a weight."""
    x, base, mode = node.value(0), node.outputs[0], str(node.attr("mode"))
    if mode not in MODES or "pool_strings" in node.attributes or not 1 <= len(x.shape) <= 2:
        node.fail(f"mode {mode} on {x.type}; tokens must be numbers, one text or a batch of them")
    columns = np.asarray(node.attr("ngram_indexes"), np.int64)
    width = int(columns.max()) + 1
    if columns.min() < 0 or width > MOST_COLUMNS:
        node.fail(f"its sequences count for elements {columns.min()} to {width - 1}, beyond 0 to {MOST_COLUMNS - 1}")
    rows = reshaped(node, x, (1, *x.shape)[-2:], f"{base}.rows")
    used, parts = [], []
    for first, grams in _grams(node, columns.size):
        used.append(columns[first : first + len(grams)])
        parts.append(_occurrences(node, rows, grams))
    if np.unique(columns).size < columns.size or not used:
        node.fail("two of its sequences count for the same element, or none does for any")
    counted = np.concatenate(used)
    place = np.full(width, counted.size, np.int64)
    place[counted] = np.arange(counted.size)
    parts.append(node.constant("never", np.zeros((rows.shape[0], 1), np.float32)))
    counts = node.add("concat", parts, f"{base}.parts", axis=1)
    y = node.add("gather", [counts, node.constant("place", place)], f"{base}.counts", axis=1)
    return reshaped(node, _weighted(node, y, columns, mode), (*x.shape[:-1], width))


def _grams(node: OnnxNode, count: int) -> Iterator[tuple[int, Array]]:
    """Yield the sequences of each length that counts, with the number of the first one."""
    pool = np.asarray(node.attr("pool_int64s"), np.int64)
    starts = [int(n) for n in node.attr("ngram_counts")]
    ends = [*starts[1:], pool.size]
    number = 0
    for length, (start, end) in enumerate(zip(starts, ends, strict=True), 1):
        if not 0 <= start <= end <= pool.size or (end - start) % length:
            node.fail(f"ngram_counts {starts} do not divide a pool of {pool.size} numbers")
        grams = pool[start:end].reshape(-1, length)
        if len(grams) and int(node.attr("min_gram_length")) <= length <= int(node.attr("max_gram_length")):
            yield number, grams
        number += len(grams)
    if number != count:
        node.fail(f"{count} ngram_indexes for {number} sequences")


def _occurrences(node: OnnxNode, rows: Value, grams: Array) -> Value:
    """Return how often sequences occur in each row, their tokens next to each other or a few apart: float32 [B, G]."""
    base, (batch, tokens) = node.outputs[0], rows.shape
    count, length = grams.shape
    known = node.constant(f"grams{length}", grams.reshape(1, 1, count, length), rows.dtype)
    total = node.constant(f"none{length}", np.zeros((batch, count), np.float32))
    for stride in range(1, 2 + (int(node.attr("max_skip_count")) if length > 1 else 0)):
        windows = tokens - (length - 1) * stride
        if windows < 1:
            break
        places = np.arange(windows)[:, None] + stride * np.arange(length)
        seen = node.add("gather", [rows, node.constant("places", places, "int64")], f"{base}.seen", axis=1)
        seen = reshaped(node, seen, (batch, windows, 1, length), f"{base}.windows")
        hits = node.add("cast", [node.add("equal", [seen, known], f"{base}.same")], f"{base}.hits", dtype="float32")
        whole = node.add("reduce_min", [hits], f"{base}.whole", axes=(3,), keepdims=False)
        found = node.add("reduce_sum", [whole], f"{base}.found", axes=(1,), keepdims=False)
        total = node.add("add", [total, found], f"{base}.total")
    return total


def _weighted(node: OnnxNode, counts: Value, columns: Array, mode: str) -> Value:
    base = node.outputs[0]
    if mode == "TF":
        return counts
    weights = np.ones(counts.shape[1], np.float32)
    weights[columns] = np.asarray(node.attr("weights", [1.0] * columns.size), np.float32)
    if mode == "IDF":
        zero = node.constant("zero", 0, "float32")
        there = node.add("greater", [counts, zero], f"{base}.there")
        counts = node.add("cast", [there], f"{base}.once", dtype="float32")
    return node.add("mul", [counts, node.constant("weights", weights)], f"{base}.weighted")


CONVERTERS = {"TfIdfVectorizer": _vectorized}
