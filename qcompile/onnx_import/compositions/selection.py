"""Operators that choose or repeat elements by a rule known at compile time, or by comparison with counters."""

from __future__ import annotations

import numpy as np

from qcompile.ir.graph import Value
from qcompile.ops.cast import dtype_of
from qcompile.ops.layout import axis_index
from qcompile.ops.onnx_node import OnnxNode
from qcompile.ops.open_part import open_expanded
from qcompile.ops.reshape import reshaped
from qcompile.ops.scatter import scattered
from qcompile.ops.sliced import sliced


def _trilu(node: OnnxNode) -> Value:
    x = node.value(0)
    offset = int(node.array(1, "k").reshape(-1)[0]) if node.has(1) else 0
    rows, columns = x.shape[-2:]
    upper = bool(node.attr("upper", 1))
    kept = np.tri(rows, columns, offset - 1 if upper else offset, dtype=np.bool_) ^ upper
    zero = node.constant("zero", np.zeros((), x.dtype))
    return node.add("where", [node.constant("kept", kept), x, zero])


def _tile(node: OnnxNode) -> Value:
    x, base = node.value(0), node.outputs[0]
    repeats = [int(r) for r in node.array(1, "repeats").reshape(-1)]
    if len(repeats) != len(x.shape):
        node.fail(f"{len(repeats)} repeats for {x.type}")
    if all(r == 1 for r in repeats):
        return x
    if all(r == 1 or extent == 1 for extent, r in zip(x.shape, repeats, strict=True)):
        shape = tuple(extent * r for extent, r in zip(x.shape, repeats, strict=True))
        return node.add("expand", [x], shape=shape) if node.open is None else open_expanded(node, x, shape)
    # Each axis gets one in front of it that is stretched: [d] → [1, d] → [r, d] → [r·d].
    narrow = [d for extent in x.shape for d in (1, extent)]
    wide = tuple(d for extent, r in zip(x.shape, repeats, strict=True) for d in (r, extent))
    apart = reshaped(node, x, narrow, f"{base}.apart")
    spread = node.add("expand", [apart], name=f"{base}.spread", shape=wide)
    return reshaped(node, spread, [d * r for d, r in zip(x.shape, repeats, strict=True)], base)


def _one_hot(node: OnnxNode) -> Value:
    indices, values, base = node.value(0), node.value(2), node.outputs[0]
    depth = int(node.array(1, "depth").reshape(-1)[0])
    rank = len(indices.shape) + 1
    axis = axis_index(int(node.attr("axis", -1)), rank)
    if indices.dtype != "int64":
        indices = node.add("cast", [indices], name=f"{base}.indices", dtype="int64")
    column = reshaped(node, indices, (*indices.shape[:axis], 1, *indices.shape[axis:]), f"{base}.column")
    counters = np.arange(depth, dtype=np.int64).reshape((depth,) + (1,) * (rank - 1 - axis))
    hits = [
        node.add("equal", [column, node.constant(f"counter{k}", counters - k * depth)], name=f"{base}.hit{k}")
        for k in (0, 1)
    ]
    either = node.add("logical_or", hits, name=f"{base}.hit")
    off, on = (
        reshaped(node, sliced(node, values, {0: slice(k, k + 1)}, f"{base}.{what}.part"), (), f"{base}.{what}")
        for k, what in enumerate(("off", "on"))
    )
    return node.add("where", [either, on, off])


def _hardmax(node: OnnxNode) -> Value:
    x, base = node.value(0), node.outputs[0]
    old = node.opset < 13
    axis = axis_index(int(node.attr("axis", 1 if old else -1)), len(x.shape))
    rows = x
    if old:
        # Before opset 13 the axes from `axis` on count as one.
        rows = reshaped(node, x, (int(np.prod(x.shape[:axis])), int(np.prod(x.shape[axis:]))), f"{base}.rows")
        axis = 1
    best = node.add("reduce_max", [rows], name=f"{base}.best", axes=(axis,), keepdims=True)
    place = node.add("first_index", [rows, best], name=f"{base}.place", axis=axis, keepdims=True)
    extent = rows.shape[axis]
    counters = np.arange(extent, dtype=np.int64).reshape((extent,) + (1,) * (len(rows.shape) - 1 - axis))
    hit = node.add("equal", [place, node.constant("counter", counters)], name=f"{base}.hit")
    y = node.add("cast", [hit], name=f"{base}.flat" if old else base, dtype=x.dtype)
    return reshaped(node, y, x.shape, base)


def _compress(node: OnnxNode) -> Value:
    x, condition = node.value(0), node.value(1)
    if "axis" not in node.attributes:
        x = reshaped(node, x, (x.type.size,), f"{node.outputs[0]}.flat")
    axis = axis_index(int(node.attr("axis", 0)), len(x.shape))
    if condition.data is None or node.counted.touches([condition]):
        return node.add("gather", [x, node.counted.positions(node, condition)], axis=axis)
    chosen = np.flatnonzero(condition.data)
    if chosen.size and chosen[-1] >= x.shape[axis]:
        node.fail(f"the condition chooses index {int(chosen[-1])} of {x.shape[axis]}")
    return node.add("gather", [x, node.constant("chosen", chosen, "int64")], axis=axis)


def _reverse_sequence(node: OnnxNode) -> Value:
    x, lengths, base = node.value(0), node.value(1), node.outputs[0]
    time, batch = int(node.attr("time_axis", 0)), int(node.attr("batch_axis", 1))
    if {time, batch} != {0, 1}:
        node.fail(f"time axis {time} and batch axis {batch}; they must be 0 and 1")
    if lengths.dtype != "int64":
        lengths = node.add("cast", [lengths], name=f"{base}.steps", dtype="int64")
    rest = (1,) * (len(x.shape) - 2)
    count = reshaped(node, lengths, _column(x, batch, rest), f"{base}.count")
    shape = [1] * len(x.shape)
    shape[time] = x.shape[time]
    step = node.constant("step", np.arange(x.shape[time], dtype=np.int64).reshape(shape))
    one = node.constant("one", 1, "int64")
    last = node.add("sub", [count, one], name=f"{base}.last")
    mirrored = node.add("sub", [last, step], name=f"{base}.mirrored")
    inside = node.add("less", [step, count], name=f"{base}.inside")
    index = node.add("where", [inside, mirrored, step], name=f"{base}.index")
    if index.shape != x.shape:
        index = node.add("expand", [index], name=f"{base}.indices", shape=x.shape)
    return node.add("gather_elements", [x, index], axis=time)


def _column(x: Value, batch: int, rest: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape that lets one number per batch entry stretch over x."""
    return (1, x.shape[1], *rest) if batch else (x.shape[0], 1, *rest)


def _eye_like(node: OnnxNode) -> Value:
    x = node.value(0)
    dtype = dtype_of(int(node.attr("dtype"))) if "dtype" in node.attributes else x.dtype
    if dtype is None or len(x.shape) != 2:
        node.fail(f"a unit matrix like {x.type}")
    return node.constant("eye", np.eye(*x.shape, k=int(node.attr("k", 0)), dtype=dtype))


def _tensor_scatter(node: OnnxNode) -> Value:
    """Import TensorScatter: rows of a cache, written from an index per batch entry on."""
    cache, update, base = node.value(0), node.value(1), node.outputs[0]
    rank = len(cache.shape)
    axis = axis_index(int(node.attr("axis", -2)), rank)
    length, added = cache.shape[axis], update.shape[axis]
    batch, middle, row = cache.shape[0], int(np.prod(cache.shape[1:axis])), int(np.prod(cache.shape[axis + 1 :]))
    steps = np.arange(added, dtype=np.int64).reshape(1, 1, added)
    place = node.constant("steps", steps)
    if node.has(2):
        start = reshaped(node, node.value(2), (batch, 1, 1), f"{base}.start")
        if start.dtype != "int64":
            start = node.add("cast", [start], name=f"{base}.start64", dtype="int64")
        place = node.add("add", [start, place], name=f"{base}.place")
    if node.attr("mode", "linear") == "circular":
        place = node.add("mod", [place, node.constant("length", length, "int64")], name=f"{base}.round")
    first = np.arange(batch * middle, dtype=np.int64).reshape(batch, middle, 1) * length
    numbers = node.add("add", [place, node.constant("first", first)], name=f"{base}.numbers")
    return scattered(node, cache, numbers, update, row)


CONVERTERS = {
    "Compress": _compress,
    "EyeLike": _eye_like,
    "Hardmax": _hardmax,
    "OneHot": _one_hot,
    "ReverseSequence": _reverse_sequence,
    "TensorScatter": _tensor_scatter,
    "Tile": _tile,
    "Trilu": _trilu,
}
