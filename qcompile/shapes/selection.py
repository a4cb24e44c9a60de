"""How operations that select, sort and write elements by number pass open extents on."""

from __future__ import annotations

import math
from collections.abc import Sequence

from qcompile.ir.symbol import Axes, Extent
from qcompile.shapes.step import Rule, Step


def _fixed(step: Step, operand: int, axes: Sequence[int], what: str) -> None:
    """Refuse an operand that is open along some axes."""
    opened = [e for a in axes if (e := step.axes[operand][a]) is not None]
    if opened:
        raise step.refuse(what, opened[0])


def _rank(step: Step) -> list[Axes]:
    """What lies past the end comes last."""
    attrs = step.node.attrs
    step.mask(0, attrs.axis, -math.inf if attrs.largest else math.inf)
    return [step.axes[0]]


def _place_of_rank(step: Step) -> list[Axes]:
    axis, result = step.node.attrs.axis, list(step.axes[0])
    result[axis] = None
    return [tuple(result)]


def _gather_elements(step: Step) -> list[Axes]:
    axis, (x, indices) = step.node.attrs.axis, step.axes
    for place, (a, b) in enumerate(zip(x, indices, strict=True)):
        if place != axis and a is not None and a != b:
            raise step.refuse("its operands have different extents on one axis", a)
    return [indices]


def _gather_nd(step: Step) -> list[Axes]:
    x, indices = step.axes[:2]
    deep, batch = step.node.inputs[1].shape[-1], step.node.attrs.batch_dims
    _fixed(step, 1, (len(indices) - 1,), "the number of axes that it indexes is open")
    _fixed(step, 0, range(batch), "its batch is open")
    return [(*indices[:-1], *x[batch + deep :])]


def _roi_align(step: Step) -> list[Axes]:
    x, boxes = step.axes[:2]
    _fixed(step, 0, range(len(x)), "its image is open")
    result: list[Extent | None] = [None] * len(step.node.output.shape)
    result[0] = boxes[0]
    return [tuple(result)]


def _grid_sample(step: Step) -> list[Axes]:
    """Each place of the grid is sampled by itself; coordinates are parts of the image's extents."""
    x, grid = step.axes
    _fixed(step, 0, range(2, len(x)), "its image is open")
    return [(x[0] or grid[0], x[1], *grid[1:-1])]


def _scatter(step: Step) -> list[Axes]:
    """What has a number of −1 is not written."""
    _fixed(step, 0, (1,), "the length of its rows is open")
    step.mask(1, 0, -1.0)
    return [step.axes[0]]


def _positions(step: Step) -> list[Axes]:
    step.mask(0, 0, 0.0)
    return [(None,)]


def _suppression(step: Step) -> list[Axes]:
    """What lies past the end has the least of all scores; `NonMaxSuppression` leaves it out of what stays."""
    _fixed(step, 0, (0,), "the number of images is open")
    _fixed(step, 1, (0, 1), "the number of images or classes is open")
    step.mask(1, 2, -math.inf)
    return [(None, None)]


SELECTION: dict[str, Rule] = {
    "rank": _rank,
    "place_of_rank": _place_of_rank,
    "gather_elements": _gather_elements,
    "gather_nd": _gather_nd,
    "roi_align": _roi_align,
    "grid_sample": _grid_sample,
    "scatter": _scatter,
    "positions": _positions,
    "non_max_suppression": _suppression,
}
"""Rules by operation."""
