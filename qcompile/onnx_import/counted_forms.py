"""Operators whose conversion is another one where the data decide an extent of their operands."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from qcompile import ops
from qcompile.ir.graph import Value
from qcompile.ir.symbol import Extent
from qcompile.onnx_import.counted import MOST, Counts
from qcompile.onnx_import.shape_numbers import combined, from_table
from qcompile.ops.layout import axis_index, axis_indices, resolve_shape
from qcompile.ops.onnx_node import FOLDED_LIMIT, OnnxNode
from qcompile.ops.reshape import reshaped
from qcompile.ops.scatter import overwrites

Form = Callable[[OnnxNode], Any]


def counted_form(counted: Counts, op_type: str, operands: Sequence[Value | None]) -> Form | None:
    """Return the conversion of a node of which the data decide an extent; None where it is the usual one.

    Args:
        counted: of the import.
        op_type: operator of ONNX's own domain.
        operands: the node's.
    """
    return _FORMS.get(op_type) if counted.touches(operands) else None


def _numbers(node: OnnxNode, index: int, what: str) -> list[Any]:
    """Return the integers and extents that an operand holds."""
    found = node.counted.shape_numbers(node.value(index))
    return list(node.array(index, what).reshape(-1).tolist() if found is None else found.reshape(-1))


def _most(number: Any) -> int:
    return number.most if isinstance(number, Extent) else int(number)


def _extent(number: Any) -> Extent | None:
    return number if isinstance(number, Extent) else None


def _own(node: OnnxNode, x: Value) -> list[Any]:
    """Return the extent of each axis of a tensor: an Extent, or an int."""
    return [e or d for e, d in zip(node.counted.axes(x), x.shape, strict=True)]


def _declared(node: OnnxNode, x: Value | None, y: Value, sizes: Sequence[Any]) -> Value:
    """Say what extents a result has; one that is the operand itself becomes another tensor where its own differ."""
    axes = tuple(_extent(size) for size in sizes)
    if y is x and axes == node.counted.axes(y):
        return y
    found: Value = node.counted.renewed(x, axes, node.outputs[0]) if y is x else node.counted.declare(y, axes)
    return found


def _object_array(numbers: Sequence[Any]) -> Any:
    array = np.empty(len(numbers), object)
    array[:] = list(numbers)
    return array


# -- shapes -----------------------------------------------------------------------------------------------


def _shape(node: OnnxNode) -> Value:
    sizes = _own(node, node.value(0))
    start, end, _ = slice(node.attr("start", 0), node.attr("end", len(sizes))).indices(len(sizes))
    return _shape_value(node, sizes[start:end])


def _shape_value(node: OnnxNode, sizes: Sequence[Any], name: str = "") -> Value:
    """Return integers and extents as a vector."""
    if all(isinstance(size, int) for size in sizes):
        return node.constant("value", sizes, "int64")
    parts = [
        node.counted.number(size) if isinstance(size, Extent) else node.constant(f"part{k}", [size], "int64")
        for k, size in enumerate(sizes)
    ]
    whole = parts[0] if len(parts) == 1 else node.add("concat", parts, name or node.outputs[0], axis=0)
    node.counted.declare_shape(whole, _object_array(sizes))
    return whole


def _size(node: OnnxNode) -> Value:
    total: Any = 1
    for size in _own(node, node.value(0)):
        total = combined("mul", total, size)
    if total is None:
        node.fail("several extents of its operand are numbers that the data decide")
    return reshaped(node, _shape_value(node, [total]), ())


def _constant_of_shape(node: OnnxNode) -> Value:
    sizes = _numbers(node, 0, "shape")
    fill = np.asarray(node.attr("value", np.zeros(1, np.float32))).reshape(-1)[0]
    shape = [_most(s) for s in sizes]
    if min(shape) < 0 or math.prod(shape) * fill.itemsize > FOLDED_LIMIT:
        node.fail(f"a constant of shape {shape} cannot be made")
    whole = node.constant("value", np.full(shape, fill))
    return _declared(node, None, whole, sizes)


def _range(node: OnnxNode) -> Value:
    start, limit, delta = (_numbers(node, k, what)[0] for k, what in enumerate(("start", "limit", "delta")))
    if not (isinstance(start, int) and isinstance(delta, int) and delta > 0):
        node.fail("its start or step is a number that the data decide")
    table = np.array(limit.table) if isinstance(limit, Extent) else np.array([limit])
    if (_most(limit) - start) // delta > MOST:
        node.fail(f"numbers from {start} to {_most(limit)}; at most {MOST} are supported")
    steps = from_table(limit, np.maximum(-((start - table) // delta), 0))
    whole = node.constant("value", start + delta * np.arange(_most(steps)), node.type(1).dtype)
    return _declared(node, None, whole, [steps])


def _reshape(node: OnnxNode) -> Value:
    x, sizes = node.value(0), _numbers(node, 1, "shape")
    target = resolve_shape([_most(s) for s in sizes], x.shape, zero_copies=not node.attr("allowzero", 0))
    y = reshaped(node, x, target)
    found = node.counted.axes(y)
    if any(isinstance(s, Extent) and s != found[a] for a, s in enumerate(sizes)):
        node.fail("the data decide the shape that it is to have, and it has other elements")
    return y


def _expand(node: OnnxNode) -> Value:
    x, sizes = node.value(0), _numbers(node, 1, "shape")
    own = _own(node, x)
    rank = max(len(own), len(sizes))
    own, sizes = [1] * (rank - len(own)) + own, [1] * (rank - len(sizes)) + sizes
    result = [a if b == 1 or a == b else b for a, b in zip(own, sizes, strict=True)]
    if any(a not in (1, r) for a, r in zip(own, result, strict=True)):
        node.fail("its operand and the shape have different extents, of which the data decide one")
    shape = tuple(_most(r) for r in result)
    y = reshaped(node, x, shape) if np.prod(shape) == x.type.size else node.add("expand", [x], shape=shape)
    return _declared(node, x, y, result)


# -- parts ------------------------------------------------------------------------------------------------


def _slice(node: OnnxNode) -> Value:
    x = node.value(0)
    rank = len(x.shape)
    if "starts" in node.attributes:
        starts, ends = list(node.attributes["starts"]), list(node.attributes["ends"])
        axes, steps = node.attr("axes"), None
    else:
        starts, ends = _numbers(node, 1, "starts"), _numbers(node, 2, "ends")
        axes, steps = node.array_or_none(3, "axes"), node.array_or_none(4, "steps")
    places = list(range(len(starts))) if axes is None else axis_indices(axes, rank)
    strides = [1] * len(starts) if steps is None else [int(step) for step in steps]
    sizes, first, step = _own(node, x), [0] * rank, [1] * rank
    for place, start, end, stride in zip(places, starts, ends, strides, strict=True):
        first[place], sizes[place] = _part(node, sizes[place], start, end, stride)
        step[place] = stride
    shape = tuple(_most(size) for size in sizes)
    y = x
    if shape != x.shape or any(k != 1 for k in step):
        # Masks are not needed: each element of the part is one of x, or lies past its end.
        op = ops.get("slice")
        attrs = op.Attrs(starts=tuple(first), steps=tuple(step), sizes=shape)
        y = node.graph.add_node(op, [x], attrs, names=[node.outputs[0]], loc=node.name).output
    return _declared(node, x, y, sizes)


def _part(node: OnnxNode, size: Any, start: Any, end: Any, step: int) -> tuple[int, Any]:
    """Return the first element of a range of an axis and how many it has.

    Args:
        node: for its errors.
        size: extent of the axis.
        start: of the range, as ONNX has it.
        end: of it.
        step: of it.
    """
    opened = [n for n in (size, start, end) if isinstance(n, Extent)]
    if not opened:
        taken = range(*slice(start, end, step).indices(size))
        return (taken[0] if taken else 0), len(taken)
    if len({n.symbol for n in opened}) > 1 or step < 1:
        node.fail("the data decide several numbers of its range, or it goes backwards")
    length = len(opened[0].table)
    lengths, starts, ends = (
        np.array(n.table, np.int64) if isinstance(n, Extent) else np.full(length, n) for n in (size, start, end)
    )
    low, high = (np.clip(np.where(n < 0, n + lengths, n), 0, lengths) for n in (starts, ends))
    count = np.maximum(-((low - high) // step), 0)
    used = np.unique(low[count > 0])
    if used.size > 1:
        node.fail("the data decide where its range begins")
    return int(used[0]) if used.size else 0, from_table(opened[0], count)


def _gather(node: OnnxNode) -> Value:
    x, indices = node.value(0), node.value(1)
    axis = axis_index(int(node.attr("axis", 0)), len(x.shape))
    name = {"Gather": "gather", "GatherElements": "gather_elements"}[node.op_type]
    return node.add(name, [x, _from_front(node, indices, [_own(node, x)[axis]])], axis=axis)


def _gather_nd(node: OnnxNode) -> Any:
    from qcompile.onnx_import.support import converters

    x, indices = node.value(0), node.value(1)
    batch, deep = int(node.attr("batch_dims", 0)), indices.shape[-1]
    indices = _from_front(node, indices, _own(node, x)[batch : batch + deep])
    return converters()[node.op_type](replace(node, inputs=[x, indices]))


def _from_front(node: OnnxNode, indices: Value, extents: Sequence[Any]) -> Value:
    """Return indices into counted axes, those below 0 counted from the actual end.

    Args:
        node: what takes the elements.
        indices: of any shape.
        extents: of the axis; of several, whose indices lie along the last axis.
    """
    fixed = not any(isinstance(extent, Extent) for extent in extents)
    if fixed or (indices.data is not None and (indices.data >= 0).all()):
        return indices
    base = node.outputs[0]
    if indices.dtype != "int64":
        indices = node.add("cast", [indices], f"{base}.indices", dtype="int64")
    negative = node.add("less", [indices, node.constant("zero", 0, "int64")], f"{base}.negative")
    end = reshaped(node, _shape_value(node, extents, f"{base}.end"), (len(extents),) if len(extents) > 1 else ())
    return node.add("where", [negative, node.add("add", [indices, end], f"{base}.shifted"), indices], f"{base}.front")


def _scatter(node: OnnxNode) -> Any:
    """Import ScatterElements and ScatterND: elements keep their places where the first axis alone is counted."""
    from qcompile.onnx_import.support import converters

    x, indices, updates = (node.value(k) for k in range(3))
    first, *others = node.counted.axes(x)
    elements = node.op_type == "ScatterElements"
    alike = node.counted.axes(x) == node.counted.axes(indices) == node.counted.axes(updates)
    if elements and alike and overwrites(node):
        return updates
    inner = node.counted.axes(indices)[1:] if elements else ()
    if any(others) or any(inner) or (first is not None and not elements):
        node.fail("the data decide an extent of what it writes to, or an inner one of its indices")
    if first is not None and int(node.attr("axis", 0)) in (0, -len(x.shape)):
        indices = _from_front(node, indices, [first])
    return converters()[node.op_type](replace(node, inputs=[x, indices, *node.inputs[2:]]))


# -- several tensors --------------------------------------------------------------------------------------


def _concat(node: OnnxNode) -> Value:
    parts = [node.value(k) for k in range(len(node.inputs))]
    parts = [p for p in parts if p.type.size] or parts[:1]
    axis = axis_index(int(node.attr("axis")), len(parts[0].shape))
    if not any(node.counted.axes(part)[axis] for part in parts):
        return node.add("concat", parts, axis=axis) if len(parts) > 1 else parts[0]
    if len(parts) == 1:
        return parts[0]
    joined: Value = node.counted.joined(node, parts, axis)
    return joined


# -- sorting ----------------------------------------------------------------------------------------------


def _top_k(node: OnnxNode) -> tuple[Value, Value]:
    x = node.value(0)
    axis = axis_index(int(node.attr("axis", -1)), len(x.shape))
    count, size = _numbers(node, 1, "k")[0], _own(node, x)[axis]
    if count != size and combined("minimum", count, size) != count:
        node.fail("it takes more elements than the data may leave")
    base = node.outputs[0] or node.name
    place = node.add("rank", [x], name=f"{base}.rank", axis=axis, largest=bool(node.attr("largest", 1)))
    name = node.outputs[1] if len(node.outputs) > 1 and node.outputs[1] else f"{base}.index"
    found = node.add("place_of_rank", [place], name=name, axis=axis, count=_most(count))
    axes: list[Extent | None] = list(node.counted.axes(x))
    axes[axis] = _extent(count)
    index = node.counted.declare(found, tuple(axes))
    return node.add("gather_elements", [x, index], name=base, axis=axis), index


_FORMS: dict[str, Form] = {
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Expand": _expand,
    "Gather": _gather,
    "GatherElements": _gather,
    "GatherND": _gather_nd,
    "Range": _range,
    "Reshape": _reshape,
    "ScatterElements": _scatter,
    "ScatterND": _scatter,
    "Shape": _shape,
    "Size": _size,
    "Slice": _slice,
    "TopK": _top_k,
}
"""Conversions by ONNX operator."""
