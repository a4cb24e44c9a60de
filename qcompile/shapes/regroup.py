"""How a reshape passes open extents on."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from qcompile.ir.symbol import Axes, Extent
from qcompile.shapes.analysis import Step


def reshape(step: Step) -> list[Axes]:
    """Split both shapes into groups of equal size, and find the open axes of each.

    Where only the outermost axes of a group are open, the elements stay where they are. Otherwise they have other
    places at each size, and `Step.repack` is told.
    """
    x, y = step.node.inputs[0].shape, step.node.output.shape
    result: list[Extent | None] = [None] * len(y)
    moved = False
    for left, right in groups(x, y):
        opened = [extent for a in left if (extent := step.axes[0][a]) is not None]
        if not opened:
            continue
        if len({extent.symbol for extent in opened}) > 1:
            names = " and ".join(dict.fromkeys(f"'{extent.symbol}'" for extent in opened))
            raise step.refuse(f"it joins axes of the open extents {names} ({list(x)} to {list(y)})", opened[0])
        targets = [a for a in right if y[a] != 1]
        found = _targets(step, left, targets, opened)
        for axis, extent in zip(targets, found, strict=True):
            result[axis] = extent
        outermost = next(a for a in left if x[a] != 1)
        moved |= len(opened) > 1 or step.axes[0][outermost] is None or found[0] is None or any(found[1:])
    if moved:
        step.repack(tuple(result))
    return [tuple(result)]


def groups(x: Sequence[int], y: Sequence[int]) -> list[tuple[range, range]]:
    """Return the smallest groups of axes of two shapes that hold the same number of elements."""
    found, start = [], [0, 0]
    while start[0] < len(x):
        end = _group(x, y, start)
        found.append((range(start[0], end[0]), range(start[1], end[1])))
        start = end
    return found


def _group(x: Sequence[int], y: Sequence[int], start: list[int]) -> list[int]:
    """Return the ends of the smallest groups from some axes on."""
    end, left, right = [start[0] + 1, start[1]], x[start[0]], 1
    while left != right or (end[0] < len(x) and x[end[0]] == 1) or (end[1] < len(y) and y[end[1]] == 1):
        if left > right or (left == right and end[1] < len(y) and y[end[1]] == 1):
            right *= y[end[1]]
            end[1] += 1
        else:
            left *= x[end[0]]
            end[0] += 1
    if end[0] == len(x):
        end[1] = len(y)
    return end


def _targets(step: Step, left: range, targets: list[int], opened: list[Extent]) -> list[Extent | None]:
    """Return the open extents of the axes that a group becomes."""
    x, y, symbol = step.node.inputs[0].shape, step.node.output.shape, opened[0].symbol
    total = np.ones(len(opened[0].table), np.int64)
    for axis in left:
        extent = step.axes[0][axis]
        total = total * (x[axis] if extent is None else np.array(extent.table, np.int64))
    fixed = math.prod(y[a] for a in targets[1:])
    if len(opened) == 1 and not (total % fixed).any():
        return [Extent(symbol, tuple((total // fixed).tolist())), *[None] * (len(targets) - 1)]
    # Two open axes come of two, each as long as one that is known; or of one of which they are factors.
    known = [e for e in step.known() if e.symbol == symbol]
    choices = [[None, *(e for e in known if e.most == y[a])] for a in targets]
    for chosen in itertools.product(*choices):
        parts = [y[a] if e is None else np.array(e.table, np.int64) for a, e in zip(targets, chosen, strict=True)]
        if np.array_equal(np.prod(np.broadcast_arrays(total, *parts)[1:], axis=0), total):
            return list(chosen)
    if not (total % fixed).any():
        return [Extent(symbol, tuple((total // fixed).tolist())), *[None] * (len(targets) - 1)]
    raise step.refuse(f"its elements cannot be regrouped at every size ({list(x)} to {list(y)})", opened[0])
