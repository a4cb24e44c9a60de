"""Attention whose heads of queries share heads of keys, and the rotation of places that goes with it."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from qcompile.onnx_import.definitions.body import Body


def _slice(body: Body, x: str, start: int, end: int, axis: int) -> str:
    return body.add("Slice", [x, *(body.constant([n], "int64") for n in (start, end, axis))])


def _rotated(body: Body, x: str, cos: str, sin: str, sizes: tuple[int, int], *, interleaved: bool) -> str:
    """Rotate pairs of the first elements of each head by angles.

    Args:
        body: takes the nodes.
        x: [batch, heads, length, size].
        cos: [batch or 1, 1, length, turned / 2].
        sin: likewise.
        sizes: of a head, and how many of its elements are turned.
        interleaved: whether a pair lies side by side; else the second half has its partners.
    """
    size, turned = sizes
    part = _slice(body, x, 0, turned, 3) if turned < size else x
    if interleaved:
        pairs = body.reshape(part, (0, 0, -1, turned // 2, 2))
        last = body.constant([4], "int64")
        first, second = (body.add("Squeeze", [_slice(body, pairs, n, n + 1, 4), last]) for n in (0, 1))
    else:
        first, second = _slice(body, part, 0, turned // 2, 3), _slice(body, part, turned // 2, turned, 3)
    real = body.add("Sub", [body.add("Mul", [first, cos]), body.add("Mul", [second, sin])])
    imaginary = body.add("Add", [body.add("Mul", [second, cos]), body.add("Mul", [first, sin])])
    if interleaved:
        axis = body.constant([4], "int64")
        joined = body.add("Concat", [body.add("Unsqueeze", [v, axis]) for v in (real, imaginary)], axis=4)
        made = body.reshape(joined, (0, 0, -1, turned))
    else:
        made = body.add("Concat", [real, imaginary], axis=3)
    return body.add("Concat", [made, _slice(body, x, turned, size, 3)], axis=3) if turned < size else made


def _angles(body: Body, index: int, places: str, length: int) -> tuple[str, str]:
    """Look up the cosines and sines of places [batch or 1, length]; inputs `index` and the next are the tables."""
    half = body.shape(index)[1]
    found = (body.add("Gather", [body.input(index + n), places], axis=0) for n in (0, 1))
    cos, sin = (body.reshape(part, (-1, 1, length, half)) for part in found)
    return cos, sin


def _group_query(body: Body) -> None:
    """Define causal attention of projected operands.

    Inputs: query (or all three side by side), key, value, past key and value, lengths, cosines and sines.
    """
    heads, kept = int(body.attr("num_heads", 0)), int(body.attr("kv_num_heads", 0))
    if heads < 1 or kept < 1 or heads % kept or len(body.shape(0)) != 3:
        body.fail(f"{heads} heads of queries for {kept} of keys")
    for name, plain in (("local_window_size", -1), ("smooth_softmax", 0), ("softcap", 0.0), ("qk_output", 0)):
        if body.attr(name, plain) not in (plain, -1, 0):
            body.fail(f"{name} {body.attr(name)}")
    if any(body.has(n) for n in range(10, 14)):
        body.fail("an attention bias, a head sink or a scale of the cache")
    batch, length, columns = body.shape(0)
    size = columns // heads if body.has(1) else columns // (heads + 2 * kept)
    past = body.shape(3)[2] if body.has(3) else 0
    ends = _lengths(body, past, length)
    q, k, v = _operands(body, (batch, heads, kept, size))
    if body.attr("do_rotary", 0):
        places = body.input(9) if body.has(9) else body.constant(np.arange(past, past + length)[None], "int64")
        cos, sin = _angles(body, 7, places, length)
        turned = (size, 2 * body.shape(7)[1])
        interleaved = bool(body.attr("rotary_interleaved", 0))
        q, k = (_rotated(body, x, cos, sin, turned, interleaved=interleaved) for x in (q, k))
    k, v = (_appended(body, index, new, body.output(index - 2)) for index, new in ((3, k), (4, v)))
    k, v = (_shared(body, x, (batch, heads, kept, size), past + length) for x in (k, v))
    scale = float(body.attr("scale", 0.0) or 1.0 / math.sqrt(size))
    scores = body.add("MatMul", [q, body.add("Transpose", [k], perm=[0, 1, 3, 2])])
    scores = body.add("Mul", [scores, body.constant(scale)])
    later = np.arange(past + length)[None, :] > np.arange(past, past + length)[:, None]
    low = np.where(later, np.finfo(np.float32).min, 0.0)[None, None]
    scores = body.add("Add", [scores, body.constant(low)])
    if ends is not None:
        behind = body.add("Greater", [body.constant(np.arange(length).reshape(1, 1, 1, -1), "int64"), ends])
        scores = body.add("Where", [behind, body.constant(np.finfo(np.float32).min), scores])
    shares = body.add("Softmax", [scores], axis=-1)
    mixed = body.add("Transpose", [body.add("MatMul", [shares, v])], perm=[0, 2, 1, 3])
    body.add("Reshape", [mixed, body.constant([0, 0, -1], "int64")], body.output(0))


def _lengths(body: Body, past: int, length: int) -> str | None:
    """Return the last places of sequences of a batch that end at different ones, [batch, 1, 1, 1], else None.

    Without a past the rest of a sequence is padding. With one, new rows would have to go behind the actual end of each.
    """
    lengths = body.value(5).data if body.has(5) else None
    if lengths is not None and (np.asarray(lengths) == past + length - 1).all():
        return None
    if past or not body.has(5):
        body.fail(
            "lengths of sequences (seqlens_k) that differ, or are computed at run time, beside a past: all of a batch"
            " must be equally long; give the attention mask a value (--input-value attention_mask=1), or keep the"
            " caches of one sequence (--state auto)"
        )
    return body.reshape(body.cast(body.input(5), "int64"), (-1, 1, 1, 1))


def _operands(body: Body, sizes: tuple[int, int, int, int]) -> tuple[str, str, str]:
    """Return queries, keys and values by head."""
    batch, heads, kept, size = sizes
    parts = [body.input(0), *(body.input(n) for n in (1, 2) if body.has(n))]
    if len(parts) == 1:
        ends = [0, heads * size, (heads + kept) * size, (heads + 2 * kept) * size]
        parts = [_slice(body, parts[0], a, b, 2) for a, b in pairwise(ends)]
    q, k, v = (
        body.add("Transpose", [body.reshape(x, (batch, -1, n, size))], perm=[0, 2, 1, 3])
        for x, n in zip(parts, (heads, kept, kept), strict=True)
    )
    return q, k, v


def _appended(body: Body, index: int, new: str, present: str | None) -> str:
    """Return the past, an input, with new rows behind it."""
    if body.has(index):
        return body.add("Concat", [body.input(index), new], present, axis=2)
    return body.add("Identity", [new], present) if present else new


def _shared(body: Body, x: str, sizes: tuple[int, int, int, int], total: int) -> str:
    """Repeat each head of keys or values for its heads of queries."""
    batch, heads, kept, size = sizes
    if heads == kept:
        return x
    wide = body.constant([batch, kept, heads // kept, total, size], "int64")
    repeated = body.add("Expand", [body.add("Unsqueeze", [x, body.constant([2], "int64")]), wide])
    return body.reshape(repeated, (batch, heads, total, size))


def _rotary(body: Body) -> None:
    """Define the rotation of places; inputs: x, places, cosines, sines."""
    shape, heads = body.shape(0), int(body.attr("num_heads", 0))
    half = body.shape(2)[1]
    turned = int(body.attr("rotary_embedding_dim", 0)) or 2 * half
    if body.attr("is_packed_batching", 0) or body.attr("scale", 1.0) != 1.0 or turned != 2 * half:
        body.fail("packed batches, a scale, or tables that are not those of the part that is turned")
    if len(shape) == 3:
        size = shape[2] // heads if heads else 2 * half
        split = body.reshape(body.input(0), (0, 0, shape[2] // size, size))
        x, length = body.add("Transpose", [split], perm=[0, 2, 1, 3]), shape[1]
    else:
        x, size, length = body.input(0), shape[3], shape[2]
    places = body.input(1)
    if body.value(1).type.size == 1 and length > 1:
        offsets = body.constant(np.arange(length)[None], "int64")
        places = body.add("Add", [body.reshape(places, (1, 1)), offsets])
    cos, sin = _angles(body, 2, places, length)
    made = _rotated(body, x, cos, sin, (size, turned), interleaved=bool(body.attr("interleaved", 0)))
    if len(shape) == 3:
        back = body.add("Transpose", [made], perm=[0, 2, 1, 3])
        body.add("Reshape", [back, body.constant([0, 0, shape[2]], "int64")], body.output(0))
    else:
        body.add("Identity", [made], body.output(0))


DOMAIN = "com.microsoft"
DEFINITIONS = {"GroupQueryAttention": _group_query, "RotaryEmbedding": _rotary}
