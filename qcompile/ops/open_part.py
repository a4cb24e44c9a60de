"""Slices and picked elements along open axes, as a model asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from qcompile.ir.graph import Value
from qcompile.ir.symbol import Extent
from qcompile.ops.onnx_node import OnnxNode
from qcompile.ops.reshape import reshaped
from qcompile.ops.sliced import sliced


def open_sliced(node: OnnxNode, x: Value, ranges: dict[int, slice], bounds: Sequence[Value | None]) -> Value:
    """Return a part of x where extents are open.

    Args:
        node: the ONNX node that asks for it.
        x: any tensor.
        ranges: what to take of each axis at the largest sizes, in Python's terms, in the order of `bounds`.
        bounds: vectors of starts and of ends, one entry per range; None where these are constants.
    """
    plain: dict[int, slice] = {}
    for place, (axis, taken) in enumerate(ranges.items()):
        found = _open_range(node, x, axis, taken, place, bounds)
        if found is None:
            plain[axis] = taken
        else:
            symbol, starts, sizes = found
            name = f"{node.outputs[0]}.axis{axis}"
            part: dict[str, Any] = {"symbol": symbol, "axis": axis, "starts": starts, "sizes": sizes}
            x = node.add("open_slice", [x], name, step=taken.step, **part)
    return sliced(node, x, plain)


def _open_range(
    node: OnnxNode, x: Value, axis: int, taken: slice, place: int, bounds: Sequence[Value | None]
) -> tuple[str, tuple[int, ...], tuple[int, ...]] | None:
    """Return symbol, starts and sizes of a range; None where it is an ordinary slice at every size."""
    extent = node.open.extent(x, axis)
    symbols = set() if extent is None else {extent.symbol}
    symbols = symbols.union(*(node.open.symbols(value, place) for value in bounds))
    if not symbols:
        return None
    if len(symbols) > 1:
        node.fail(f"its bounds on axis {axis} depend on several open extents ({', '.join(sorted(symbols))})")
    symbol = symbols.pop()
    lengths = [x.shape[axis]] * node.open.count(symbol) if extent is None else list(extent.table)
    first, last = (
        [given] * len(lengths) if value is None else [int(a[place]) for a in node.open.table(value, symbol)]
        for given, value in zip((taken.start, taken.stop), bounds, strict=True)
    )
    found = [slice(a, b, taken.step).indices(n) for a, b, n in zip(first, last, lengths, strict=True)]
    starts, sizes = tuple(f[0] for f in found), tuple(len(range(*f)) for f in found)
    if _is_plain(x, extent, starts, sizes, taken.step):
        return None
    _check_longest(node, axis, symbol, sizes)
    return symbol, tuple(a if n else 0 for a, n in zip(starts, sizes, strict=True)), sizes


def open_expanded(node: OnnxNode, x: Value, shape: Sequence[int]) -> Value:
    """Return a tensor repeated to a shape that may depend on open extents.

    Args:
        node: the ONNX node that asks for it, with the wanted shape as its operand 1.
        x: any tensor.
        shape: of the result at the largest sizes.
    """
    wanted, rank = node.value(1), len(shape)
    before = (1,) * (rank - len(x.shape)) + x.shape
    repeated = [axis for axis in range(rank) if before[axis] == 1 and shape[axis] > 1]
    extents = {axis: node.open.wanted(wanted, axis - rank + wanted.type.size) for axis in repeated}
    cut = {a: e for a, e in extents.items() if e is not None and e != node.open.only_extent(shape[a])}
    fixed = tuple(axis for axis in repeated if extents[axis] is None or axis in cut)
    told = any(node.open.extent(x, axis) is not None for axis in range(len(x.shape)))
    opens = () if told else tuple(axis for axis in repeated if axis not in fixed)
    y = node.add("expand", [x], shape=tuple(shape), fixed=fixed, opens=opens)
    same_at_run_time = node.open.live(y) is y
    if y.is_constant and same_at_run_time:
        node.open.lead(y, tuple(extents.get(axis) for axis in range(rank)))
        return y
    for axis, extent in cut.items():
        ended: Value = node.open.cut(y, axis, extent)
        y = ended
    return y


def _check_longest(node: OnnxNode, axis: int, symbol: str, sizes: Sequence[int]) -> None:
    """Refuse a part that is longest elsewhere than at the largest size: memory is planned for that."""
    if sizes[-1] != max(sizes):
        node.fail(f"axis {axis} of its result is not longest at the largest '{symbol}'")


def _is_plain(x: Value, extent: Extent | None, starts: Sequence[int], sizes: Sequence[int], step: int) -> bool:
    """Return whether a slice of the largest tensor has its first elements right at every size."""
    if len(set(starts)) > 1:
        return False
    if x.is_constant or (extent is None and len(set(sizes)) == 1):
        return True
    if extent is None or step != 1:
        return False
    cuts = {n - size for n, size in zip(extent.table, sizes, strict=True)}
    fixed = len(set(sizes)) == 1 and starts[0] + sizes[0] <= extent.least
    to_end = cuts == {starts[0]} and starts[0] < extent.least
    return fixed or to_end or (starts[0] == 0 and len(cuts) == 1 and cuts.pop() < extent.least)


def open_split(
    node: OnnxNode, x: Value, axis: int, sizes: Value | None, count: int, names: Sequence[str]
) -> tuple[Value, ...] | None:
    """Return x cut along an open axis.

    Args:
        node: the ONNX node that asks for it.
        x: any tensor.
        axis: of x, counted from the front.
        sizes: vector of the parts' extents; None for equal ones, of which the last may be smaller.
        count: of the parts.
        names: of the results.

    Returns:
        None where the axis is fixed.
    """
    extent = node.open.extent(x, axis)
    if extent is None:
        return None
    if sizes is None:
        each = [-(-n // count) for n in extent.table]
        lengths = [[max(0, min(s, n - k * s)) for n, s in zip(extent.table, each, strict=True)] for k in range(count)]
    else:
        tables = node.open.table(sizes, extent.symbol)
        lengths = [[int(array.reshape(-1)[k]) for array in tables] for k in range(count)]
    starts, parts = [0] * len(extent.table), []
    for own, name in zip(lengths, names, strict=True):
        if _is_plain(x, extent, starts, own, 1):
            parts.append(sliced(node, x, {axis: slice(starts[-1], starts[-1] + own[-1])}, name))
        else:
            _check_longest(node, axis, extent.symbol, own)
            part: dict[str, Any] = {"symbol": extent.symbol, "axis": axis, "starts": tuple(starts), "sizes": tuple(own)}
            parts.append(node.add("open_slice", [x], name, **part))
        starts = [a + n for a, n in zip(starts, own, strict=True)]
    if starts != list(extent.table):
        node.fail(f"its parts are not as long as axis {axis} at every '{extent.symbol}'")
    return tuple(parts)


def open_gathered(node: OnnxNode, x: Value, indices: Value, axis: int) -> Value | None:
    """Return elements of x picked along an open axis, where negative indices count from its actual end.

    Args:
        node: the ONNX node that asks for them.
        x: any tensor.
        indices: int32 or int64.
        axis: of x, counted from the front.

    Returns:
        None where they are an ordinary gather.
    """
    extent = node.open.extent(x, axis)
    known = node.open.live(indices) is indices and indices.is_constant
    if extent is None:
        return None
    if known:
        # A loop over the axis has an iteration for every index, of which a run makes those that exist.
        bound = extent.most if extent.symbol in node.open.looping else extent.least
        outside = [i for i in indices.constant().reshape(-1).tolist() if not -extent.least <= i < bound]
        if outside:
            node.fail(f"index {outside[0]} is out of range where '{extent.symbol}' is smallest")
        if (indices.constant() >= 0).all():
            return None
    name = node.outputs[0]
    if known and indices.constant().size == 1:
        starts = tuple(n + int(indices.constant().reshape(-1)[0]) for n in extent.table)
        attrs: dict[str, Any] = {"symbol": extent.symbol, "axis": axis, "starts": starts, "sizes": (1,) * len(starts)}
        part = node.add("open_slice", [x], f"{name}.last", **attrs)
        return reshaped(node, part, (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]), name)
    front = _wrapped(node, indices, node.open.number(extent), (1,) if indices.shape else ())
    return node.add("gather", [x, front], name, axis=axis)


def open_places(node: OnnxNode, x: Value, indices: Value, axes: Sequence[int]) -> Value:
    """Return indices of which those into open axes count from the front.

    Args:
        node: the ONNX node that asks for the elements.
        x: any tensor.
        indices: int32 or int64; into several axes, one for each along the last axis.
        axes: of x.
    """
    extents: list[Extent | None] = [node.open.extent(x, axis) for axis in axes]
    opened = [(k, extent) for k, extent in enumerate(extents) if extent is not None]
    if not opened:
        return indices
    known = node.open.live(indices) is indices and indices.is_constant
    if known:
        places = [(indices.constant()[..., k] if len(axes) > 1 else indices.constant(), e) for k, e in opened]
        for taken, extent in places:
            if ((taken < -extent.least) | (taken >= extent.least)).any():
                node.fail(f"it takes an element that there is not where '{extent.symbol}' is smallest")
        if all((taken >= 0).all() for taken, _ in places):
            return indices
    ends: list[Value] = [
        node.constant(f"end{k}", [x.shape[axis]], "int64") if extent is None else node.open.number(extent)
        for k, (axis, extent) in enumerate(zip(axes, extents, strict=True))
    ]
    whole = ends[0] if len(ends) == 1 else node.add("concat", ends, f"{node.outputs[0]}.ends", axis=0)
    return _wrapped(node, indices, whole, whole.shape)


def open_padded(node: OnnxNode, x: Value, before: list[int], after: list[int], mode: str) -> Value:
    """Return x with what lies beyond the ends of open axes, so that these need no padding any more.

    Args:
        node: the ONNX node that asks for it.
        x: any tensor.
        before: elements to add in front of each axis; open axes are set to 0.
        after: elements to add behind, likewise.
        mode: "reflect" or "wrap".
    """
    for axis in range(len(x.shape)):
        extent = node.open.extent(x, axis)
        if extent is None or not (before[axis] or after[axis]):
            continue
        front, back, name = before[axis], after[axis], f"{node.outputs[0]}.axis{axis}"
        if max(front, back) > extent.least - (mode == "reflect"):
            node.fail(f"it pads {max(front, back)} elements where '{extent.symbol}' is smallest")
        ends = [slice(front, 0, -1), slice(-2, -2 - back, -1)]
        if mode == "wrap":
            ends = [slice(-front, None, 1), slice(0, back, 1)]
        parts = [x]
        if front:
            parts.insert(0, _end(node, x, axis, ends[0], f"{name}.front"))
        if back:
            parts.append(_end(node, x, axis, ends[1], f"{name}.back"))
        x = node.add("concat", parts, f"{name}.padded", axis=axis)
        before[axis] = after[axis] = 0
    return x


def _end(node: OnnxNode, x: Value, axis: int, taken: slice, name: str) -> Value:
    """Return some of the first or last elements of an open axis."""
    extent: Extent = node.open.extent(x, axis)
    found = [taken.indices(n) for n in extent.table]
    starts, sizes = tuple(f[0] for f in found), tuple(len(range(*f)) for f in found)
    if len(set(starts)) == 1:
        return sliced(node, x, {axis: taken}, name)
    part: dict[str, Any] = {"symbol": extent.symbol, "axis": axis, "starts": starts, "sizes": sizes}
    return node.add("open_slice", [x], name, step=taken.step, **part)


def _wrapped(node: OnnxNode, indices: Value, count: Value, shape: Sequence[int]) -> Value:
    """Return indices of which the negative ones are brought to the actual end.

    Args:
        node: the ONNX node that takes the elements.
        indices: any integers.
        count: elements up to the end, int64, one number of a shape that stretches to the indices'.
        shape: that shape.
    """
    name = f"{node.outputs[0]}.index"
    if indices.dtype != "int64":
        count = node.add("cast", [count], f"{name}.count", dtype=indices.dtype)
    count = reshaped(node, count, shape, f"{name}.number")
    moved = node.add("add", [indices, count], f"{name}.moved")
    negative = node.add("less", [indices, node.constant("zero", np.zeros((), indices.dtype))], f"{name}.negative")
    return node.add("where", [negative, moved, indices], name)
