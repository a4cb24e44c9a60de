"""How the operations on growing sequences pass open extents on."""

from __future__ import annotations

from qcompile.ir.symbol import Axes, Extent
from qcompile.shapes.step import Rule, Step


def _places(step: Step, most: int) -> Extent:
    """Return the extent of an axis along all places so far."""
    return Extent(step.node.attrs.symbol, tuple(range(1, most + 1)))


def _append(step: Step) -> list[Axes]:
    attrs, results = step.node.attrs, []
    for value in step.node.outputs:
        axis = attrs.axis if value is step.node.outputs[0] else len(value.shape) - 1
        axes: list[Extent | None] = [None] * len(value.shape)
        axes[axis] = step.axes[1][-2] if attrs.once else _places(step, value.shape[axis])
        results.append(tuple(axes))
    return results


def _advance(step: Step) -> list[Axes]:
    extent = step.axes[1][step.node.attrs.axis]
    if extent is not None:
        step.count(extent)
    return [(None,)]


def _rows_at(step: Step) -> list[Axes]:
    attrs = step.node.attrs
    axes: list[Extent | None] = [None] * len(attrs.shape)
    axes[attrs.axis] = step.axes[-1][attrs.new]
    for axis in attrs.long:
        axes[axis] = _places(step, attrs.shape[axis])
    return [tuple(axes)]


def _scores(step: Step) -> list[Axes]:
    x, keys = step.axes[:2]
    if x[-1] is not None:
        raise step.refuse("the size of its heads is open", x[-1])
    return [(*x[:-1], keys[-1])]


def _mix(step: Step) -> list[Axes]:
    return [(*step.axes[0][:-1], None)]


CACHES: dict[str, Rule] = {
    "cache_append": _append,
    "cache_advance": _advance,
    "cache_hold": _advance,
    "rows_at": _rows_at,
    "causal_mask": _rows_at,
    "cache_scores": _scores,
    "cache_mix": _mix,
}
