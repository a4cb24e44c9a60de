"""Caches that a bundle keeps and changes where they lie: appending to them, attention over them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from qcompile.errors import LoweringError
from qcompile.ir.graph import Node, Value
from qcompile.kernels.cache import AppendWorkload, append_kernel, cache_kernel
from qcompile.kernels.cache_workload import CacheWorkload

if TYPE_CHECKING:
    from qcompile.lower.context import LoweringContext
    from qcompile.lower.storage import Buffer


def append(context: LoweringContext, node: Node) -> None:
    """Write new rows to a cache; the results are the memory of the operands."""
    cache, new, length, total = node.inputs[:4]
    scales = node.inputs[4] if len(node.inputs) > 4 else None
    kept = [cache, *([scales] if scales is not None else [])]
    for value in kept:
        _check_kept(context, node, value)
    transposed = node.attrs.axis == len(cache.shape) - 1
    size, places = cache.shape[-2:] if transposed else cache.shape[:-3:-1]
    heads = math.prod(cache.shape[:-2])
    work = AppendWorkload(heads, new.shape[-2], places, size, cache.dtype, transposed, node.attrs.once)
    kernel = context.kernel(work, lambda: append_kernel(work, context.isa))
    buffers: list[Buffer | None] = [context.read_buffer(value) for value in (new, cache, total, length)]
    buffers.append(context.read_buffer(scales) if scales is not None else None)
    context.emit(node, kernel, buffers, 1, part=new if node.attrs.once else None)
    for value, result in zip(kept, node.outputs, strict=True):
        context.sources.buffers[result] = context.read_buffer(value)
        context.sources.at_boundary(result)


def _check_kept(context: LoweringContext, node: Node, value: Value) -> None:
    """Refuse to change what is not kept in place, or what others read."""
    kept = {state.input for state in context.graph.states if state.in_place}
    if value.name not in kept:
        raise LoweringError(f"node {node}: '{value.name}' is no tensor that is kept in place")
    if value.users() != [node]:
        raise LoweringError(f"node {node}: '{value.name}' is read by others, who would see it changed")


def product(context: LoweringContext, node: Node, kind: str) -> None:
    """Multiply new rows with the filled places of a cache.

    Args:
        context: takes the step.
        node: cache_scores or cache_mix.
        kind: "scores" or "mix".
    """
    if not context.wanted(node.output):
        return
    x, cache, total = node.inputs[:3]
    scales = context.read_buffer(node.inputs[3]) if len(node.inputs) > 3 else None
    size, places = cache.shape[-2:] if kind == "scores" else cache.shape[:-3:-1]
    heads, kept = math.prod(x.shape[:-2]), math.prod(cache.shape[:-2])
    work = CacheWorkload(kind, heads, heads // kept, x.shape[-2], places, size, cache.dtype, node.attrs.integer)
    kernel = context.kernel(work, lambda: cache_kernel(work, context.isa))
    counted = next((other for other in context.graph.nodes if other.op.name == "cache_advance"), None)
    if counted is None:
        raise LoweringError(f"node {node}: nothing says how many places are new")
    before, after = counted.inputs[0], counted.output
    buffers: list[Buffer | None] = [context.read_buffer(value) for value in (x, cache, total, before)]
    buffers += [scales, context.new_buffer(node.output), context.read_buffer(after)]
    context.emit(node, kernel, buffers, 5, (), node.op.macs(node))
