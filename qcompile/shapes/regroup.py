"""How a reshape passes open extents on."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from qcompile.ir.opdef import Array
from qcompile.ir.symbol import JOINT, Axes, Extent, joined, joint_name, reduced
from qcompile.shapes.step import Step


def reshape(step: Step) -> list[Axes]:
    """Split both shapes into groups of equal size, and find the open axes of each.

    Where only the outermost axes of a group are open, the elements stay where they are. Otherwise they have other
    places at each size, and `Step.repack` is told.
    """
    x, y = step.node.inputs[0].shape, step.node.output.shape
    result: list[Extent | None] = [None] * len(y)
    moved = False
    for left, right in groups(x, y):
        opened = {a: extent for a in left if (extent := step.axes[0][a]) is not None}
        if not opened:
            continue
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


def _targets(step: Step, left: range, targets: list[int], opened: dict[int, Extent]) -> list[Extent | None]:
    """Return the open extents of the axes that a group becomes."""
    x, y = step.node.inputs[0].shape, step.node.output.shape
    tables = dict(zip(opened, _tables(step, list(opened.values())), strict=True))
    symbol = joint_name([extent.symbol for extent in opened.values()])
    total = np.ones((), np.int64)
    for axis in left:
        total = total * tables.get(axis, x[axis])
    sizes = [y[a] for a in targets]
    inner = math.prod(sizes[1:])
    if len(opened) == 1 and JOINT not in symbol and not (total % inner).any():
        return [Extent(symbol, tuple(int(n) for n in np.ravel(total // inner))), *[None] * (len(targets) - 1)]
    # Two open axes come of two, each as long as one that is known; or of one of which they are factors.
    names = set(symbol.split(JOINT))
    known = [e for e in step.known() if names >= set(e.symbol.split(JOINT))]
    choices = list(itertools.product(*([None, *(e for e in known if e.most == size)] for size in sizes)))
    # Rows and columns of an image that are many at one resolution may be as many as another one's tokens.
    choices.sort(key=_joints)
    products = []
    for chosen in choices:
        products.append(_product(step, symbol, sizes, chosen))
        if np.array_equal(products[-1], total):
            return list(chosen)
    for chosen, product in zip(choices, products, strict=True):
        found = _with_rest(step, symbol, total, sizes, chosen, product)
        if found is not None:
            return found
    first = next(iter(opened.values()))
    raise step.refuse(f"its elements cannot be regrouped at every size ({list(x)} to {list(y)})", first)


def _joints(chosen: Sequence[Extent | None]) -> int:
    """Return how many axes would follow several symbols together."""
    return sum(extent is not None and JOINT in extent.symbol for extent in chosen)


def _with_rest(
    step: Step, symbol: str, total: Array, sizes: Sequence[int], chosen: Sequence[Extent | None], product: Array
) -> list[Extent | None] | None:
    """Return extents of which one, the first that can be, takes what the others leave; None where none can.

    Args:
        step: knows the symbols.
        symbol: that everything follows from.
        total: elements of all axes together, for each value of the symbol.
        sizes: the axes' largest extents.
        chosen: extents of axes, None where they are fixed.
        product: elements of all axes as chosen, for each value of the symbol.
    """
    for place, size in enumerate(sizes):
        if chosen[place] is None and not (total % (product // size)).any():
            table = (total // (product // size)).tolist()
            return [*chosen[:place], reduced(Extent(symbol, tuple(table)), step.counts()), *chosen[place + 1 :]]
    return None


def _tables(step: Step, extents: Sequence[Extent]) -> list[Array]:
    """Return the extents at every combination of the symbols that any of them follows from."""
    try:
        return [np.array(extent.table, np.int64) for extent in joined(extents, step.counts())]
    except ValueError as error:
        raise step.refuse(f"it joins axes, but {error} (steps such as H:32..640:32 may help)", extents[0]) from error


def _product(step: Step, symbol: str, sizes: Sequence[int], chosen: Sequence[Extent | None]) -> Array:
    """Return how many elements axes have at every combination of the parts of a joint symbol.

    Args:
        step: knows the symbols.
        symbol: a joint one, or a plain one.
        sizes: the largest extents of the axes.
        chosen: the extents of those that are open.
    """
    count = math.prod(step.counts()[part] for part in symbol.split(JOINT))
    whole = Extent(symbol, (1,) * count)
    product = np.ones(count, np.int64)
    for size, extent in zip(sizes, chosen, strict=True):
        product = product * (size if extent is None else _tables(step, [extent, whole])[0])
    return product
