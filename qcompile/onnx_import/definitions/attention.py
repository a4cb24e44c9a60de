"""Attention as one node: its projections, its mask and its state."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from qcompile.onnx_import.definitions.body import Body


def _heads(body: Body, x: str, length: int, heads: int, batch: int) -> str:
    """Return [batch, length, heads · size] as [batch, heads, length, size]."""
    return body.add("Transpose", [body.reshape(x, (batch, length, heads, -1))], perm=[0, 2, 1, 3])


def _appended(body: Body, past: str | None, new: str, present: str | None) -> str:
    if past is not None:
        return body.add("Concat", [past, new], present, axis=2)
    return body.add("Identity", [new], present) if present else new


def _attended(body: Body, q: str, k: str, v: str, size: int, biases: list[str]) -> None:
    """Append softmax(scale · q · kᵀ + Σ biases) · v, its heads side by side."""
    scale = float(body.attr("scale", 0.0) or 1.0 / math.sqrt(size))
    scores = body.add("MatMul", [q, body.add("Transpose", [k], perm=[0, 1, 3, 2])])
    scores = body.add("Mul", [scores, body.constant(scale)])
    for bias in biases:
        scores = body.add("Add", [scores, bias])
    mixed = body.add("MatMul", [body.add("Softmax", [scores], axis=-1), v])
    body.add("Reshape", [body.add("Transpose", [mixed], perm=[0, 2, 1, 3]), body.constant([0, 0, -1], "int64")],
             body.output(0))  # fmt: skip


def _key_mask(body: Body, index: int, batch: int, total: int) -> list[str]:
    """Return what a mask of keys adds to the scores: 0 where it is 1, a large negative number where it is 0."""
    if not body.has(index):
        return []
    shape = body.shape(index)
    places: dict[tuple[int, ...], tuple[int, ...]] = {(batch, total): (batch, 1, 1, total)}
    if len(shape) == 3 and shape[0] == batch and shape[2] == total:
        places[shape] = (batch, 1, shape[1], total)
    if shape not in places:
        body.fail(f"a mask of shape {list(shape)} for {total} keys is not supported")
    mask = body.reshape(body.cast(body.input(index), "float32"), places[shape])
    low = float(body.attr("mask_filter_value", -10000.0))
    return [body.add("Mul", [body.add("Sub", [body.constant(1.0), mask]), body.constant(low)])]


def _causal(body: Body, length: int, total: int) -> list[str]:
    """Return what keeps positions from those after them."""
    if not body.attr("unidirectional", 0) or length == 1:
        return []
    later = np.arange(total)[None, :] > np.arange(total - length, total)[:, None]
    return [body.constant(np.where(later, np.finfo(np.float32).min, 0.0)[None, None])]


def _attention(body: Body) -> None:
    """Define self-attention with its input projection; inputs: x, weights, bias, mask, past, attention bias."""
    columns = body.shape(1)[1]
    sizes = [int(s) for s in body.attr("qkv_hidden_sizes", [])] or [columns // 3] * 3
    product = body.add("MatMul", [body.input(0), body.input(1)])
    if body.has(2):
        product = body.add("Add", [product, body.input(2)])
    attend_projected(body, product, sizes, mask=3, past=4, bias=5)


def attend_projected(
    body: Body, product: str, sizes: Sequence[int], mask: int, past: int, bias: int | None = None
) -> None:
    """Append attention of queries, keys and values that lie side by side in one tensor.

    Args:
        body: input 0 of its node is what was projected, [batch, length, …].
        product: name of the projection, [batch, length, Σ sizes].
        sizes: columns of queries, keys and values.
        mask: index of the mask of keys among the inputs.
        past: index of the state, [2, batch, heads, past, size].
        bias: index of what is added to the scores.

    Raises:
        UnsupportedOpError: no heads, or a mask of another shape.
    """
    (batch, length, _), heads = body.shape(0), int(body.attr("num_heads", 0))
    if heads < 1:
        body.fail(f"num_heads {heads}")
    parts, start = [], 0
    for size in sizes:
        ends = [body.constant([n], "int64") for n in (start, start + size, 2)]
        parts.append(_heads(body, body.add("Slice", [product, *ends]), length, heads, batch))
        start += size
    q, k, v = parts
    total = length
    if body.has(past) or body.output(1):
        k, v, total = _with_state(body, k, v, length, past)
    biases = _key_mask(body, mask, batch, total) + _causal(body, length, total)
    biases += [body.input(bias)] if bias is not None and body.has(bias) else []
    _attended(body, q, k, v, sizes[0] // heads, biases)


def _with_state(body: Body, k: str, v: str, length: int, past: int) -> tuple[str, str, int]:
    """Append keys and values to those of the state [2, batch, heads, past, size]; the new state is output 1."""
    total = length
    if body.has(past):
        first, second = (body.add("Gather", [body.input(past), body.constant(i, "int64")], axis=0) for i in (0, 1))
        k, v = _appended(body, first, k, None), _appended(body, second, v, None)
        total += body.shape(past)[3]
    if body.output(1):
        axis = body.constant([0], "int64")
        body.add("Concat", [body.add("Unsqueeze", [part, axis]) for part in (k, v)], body.output(1), axis=0)
    return k, v, total


def _multi_head(body: Body) -> None:
    """Define attention of projected operands; inputs: query, key, value, bias, key mask, bias of scores, past k, v."""
    heads = int(body.attr("num_heads", 0))
    if heads < 1 or not body.has(1) or not body.has(2) or len(body.shape(0)) != 3:
        body.fail("query, key and value must be three tensors, the query of three axes")
    batch, length, hidden = body.shape(0)
    operands = [body.input(i) for i in range(3)]
    if body.has(3):
        start = 0
        for i in range(3):
            size = body.shape(i)[-1]
            ends = [body.constant([n], "int64") for n in (start, start + size)]
            operands[i] = body.add("Add", [operands[i], body.add("Slice", [body.input(3), *ends])])
            start += size
    keys = body.shape(1)[-2]
    q = _heads(body, operands[0], length, heads, batch)
    k, v = (_heads(body, operands[i], keys, heads, batch) if len(body.shape(i)) == 3 else operands[i] for i in (1, 2))
    k = _appended(body, body.input(6) if body.has(6) else None, k, body.output(1))
    v = _appended(body, body.input(7) if body.has(7) else None, v, body.output(2))
    total = keys + (body.shape(6)[2] if body.has(6) else 0)
    biases = _key_mask(body, 4, batch, total) + _causal(body, length, total)
    biases += [body.input(5)] if body.has(5) else []
    _attended(body, q, k, v, hidden // heads, biases)


DOMAIN = "com.microsoft"
DEFINITIONS = {"Attention": _attention, "MultiHeadAttention": _multi_head}
