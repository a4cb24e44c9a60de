"""Sorting: the place of each element, and where the first places stand."""

from __future__ import annotations

import math
from collections.abc import Sequence

from qcompile.ir.graph import Node
from qcompile.kernels.ranking import RANKED, PlaceWorkload, RankWorkload, place_kernel, rank_kernel
from qcompile.lower.context import LoweringContext


def rank(context: LoweringContext, node: Node) -> bool:
    """Sort by merging; return False for what that has no kernel for."""
    (x,) = node.inputs
    dtype = context.sources.stored_dtype(x)
    if dtype not in RANKED or any(context.open.of(node.output)):
        return False
    if context.wanted(node.output):
        work = RankWorkload(*_around(x.shape, node.attrs.axis), dtype, node.attrs.largest)
        kernel = context.kernel(work, lambda: rank_kernel(work, context.isa))
        context.emit(node, kernel, [context.read_buffer(x), context.new_buffer(node.output)], 1)
    return True


def place_of_rank(context: LoweringContext, node: Node) -> bool:
    """Write each index to its place; return False where extents are open, for which there is no kernel."""
    (ranks,) = node.inputs
    if any(context.open.of(node.output)) or any(context.open.of(ranks)):
        return False
    if context.wanted(node.output):
        work = PlaceWorkload(*_around(ranks.shape, node.attrs.axis), node.attrs.count)
        kernel = context.kernel(work, lambda: place_kernel(work, context.isa))
        context.emit(node, kernel, [context.read_buffer(ranks), context.new_buffer(node.output)], 1)
    return True


def _around(shape: Sequence[int], axis: int) -> tuple[int, int, int]:
    """Return the extents before an axis, multiplied, its own, and those behind it."""
    return math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])
