"""Decides which elementwise results are computed within their only reader instead of in memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from qcompile.ir.graph import Value
from qcompile.kernels import expression as ex
from qcompile.kernels.expression import Expr
from qcompile.kernels.space import Space
from qcompile.kernels.transpose import contiguous_elsewhere
from qcompile.lower.offsets import flat_offset
from qcompile.lower.sources import Sources, constant_value

_FREE = {"load", "load_or", "index", "const", "flip", "cast", "add", "select", "lt", "le", "and"}
"""Operations that cost next to nothing when repeated."""

_DEEPEST = 100
"""Nodes below one another in an expression that goes on in its reader: code is made by recursion, in a few of Python's
thousand frames for each. What is deeper gets memory, which costs little beside that many operations."""


def is_cheap(element: Expr) -> bool:
    """Return whether computing an element again costs no more than reading it."""
    stack, operations = [element], 0
    while stack:
        node = stack.pop()
        operations += node.op in ("add", "select", "lt", "le", "and")
        if node.op not in _FREE or operations > 2:
            return False
        stack.extend(node.args[1:] if node.op in ("load", "load_or") else node.args)
    return True


def turns(value: Value, element: Expr) -> bool:
    """Return whether an element is read from a tensor whose contiguous axis is another one."""
    extents = value.shape or (1,)
    offset = flat_offset(value.shape, [ex.index(n) for n in range(len(value.shape))])
    space = Space(extents, len(extents), (element,), offset).simplified()
    return contiguous_elsewhere(space) is not None


def may_inline(
    value: Value,
    element: Expr,
    result_size: int,
    reads: Sequence[tuple[Value, tuple[Expr, ...]]],
    *,
    repeated: bool = False,
) -> bool:
    """Return whether a pending value should be computed within its reader.

    Args:
        value: the pending value.
        element: its expression.
        result_size: elements that the reader computes.
        reads: what the reader reads, and where.
        repeated: whether it reads each element several times (a reduction window).
    """
    if element.depth > _DEEPEST:
        return False
    times = len({position for other, position in reads if other is value})
    once = times == 1 and value.type.size >= result_size and not repeated
    if not (once or is_cheap(element)):
        return False
    others = {other for other, _ in reads if other is not value and not other.is_constant}
    return not (others or repeated) or not turns(value, element)


def loaded(element: Expr) -> list[int]:
    """Return the numbers of the tensors that an expression reads, in a deterministic order."""
    return list(dict.fromkeys(node.data for node in ex.walk((element,)) if node.op in ("load", "load_or")))


def renumbered(element: Expr, order: Iterable[int]) -> Expr:
    """Return the expression with tensors numbered by their position in `order`."""
    places = {number: place for place, number in enumerate(order)}

    def change(node: Expr, args: tuple[Expr, ...]) -> Expr | None:
        if node.op in ("load", "load_or"):
            return ex.make(node.op, node.dtype, args, places[node.data])
        return None

    return ex.rebuild(element, change)


def merge_constants(element: Expr, sources: Sources) -> Expr:
    """Return the expression with its constants of one element type laid end to end, so that they need one pointer."""
    groups: dict[str, list[Value]] = {}
    for number in loaded(element):
        value = sources.value(number)
        if value.is_constant:
            groups.setdefault(value.dtype, []).append(value)
    places: dict[int, tuple[int, int]] = {}
    for values in groups.values():
        if len(values) < 2:
            continue
        joined = constant_value("constants", np.concatenate([v.constant().reshape(-1) for v in values]))
        offset = 0
        for value in values:
            places[sources.number(value)] = (sources.number(joined), offset)
            offset += value.type.size

    def change(node: Expr, args: tuple[Expr, ...]) -> Expr | None:
        if node.op not in ("load", "load_or") or node.data not in places:
            return None
        number, offset = places[node.data]
        return ex.make(node.op, node.dtype, (args[0] + offset, *args[1:]), number)

    return ex.rebuild(element, change)
