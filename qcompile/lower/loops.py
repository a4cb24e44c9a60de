"""Loops: each state has memory of its own, which the steps of an iteration read and its last steps fill anew."""

from __future__ import annotations

import numpy as np

from qcompile.ir.graph import Node, Value
from qcompile.ir.regions import Region
from qcompile.kernels import expression as ex
from qcompile.lower.context import LoweringContext
from qcompile.lower.storage import Buffer, DraftLoop
from qcompile.lower.tensor_memory import copy_of


def begin(context: LoweringContext, node: Node) -> None:
    """Fill the memory of the states; the steps of an iteration start behind that."""
    # What waits to be computed within its reader is none of the loop's.
    for value in list(context.sources.pending):
        context.memory(value)
    count = context.constant(np.zeros((), np.int64))
    for value, source in zip(node.outputs, (count, *node.inputs), strict=True):
        _fill(context, source, context.new_buffer(value), node)
    context.loop_starts[node] = len(context.steps)


def end(context: LoweringContext, node: Node) -> None:
    """Bring new states to where the next iteration reads them, and close the loop."""
    region = next(r for r in context.regions if r.end is node)
    states = region.states
    homes = {context.memory(old) for old, _, _ in states}

    def kept(value: Value, own: Buffer | None = None) -> Value:
        """Return a value that outlasts the filling: it may be, or lie in, what another state held so far."""
        memory = context.memory(value)
        return _moved(context, value) if memory.whole in homes and memory is not own else value

    condition = None if region.condition is None else context.read_buffer(kept(region.condition))
    for source, home in [(kept(new, context.memory(old)), context.memory(old)) for old, new, _ in states]:
        if context.memory(source) is not home:
            _fill(context, source, home, region.end)
    _count(context, region)
    for old, _, left in states:
        context.sources.buffers[left] = context.memory(old)
    first = context.loop_starts[region.begin]
    context.loops.append(DraftLoop(first, len(context.steps) - 1, region.trips, condition))


def _count(context: LoweringContext, region: Region) -> None:
    """Add one to the number of the iteration, which after the last is how many there were."""
    number, after = region.begin.outputs[0], region.end.outputs[0]
    buffer = context.memory(number)
    context.sources.buffers[after] = buffer
    context.emit_map(region.end, context.whole(number) + 1, buffer, after, after.shape)


def _moved(context: LoweringContext, value: Value) -> Value:
    """Return a copy of a value in memory of its own."""
    copy = copy_of(value).output
    buffer = context.new_buffer(copy)
    context.emit_map(copy_of(value), context.whole(value), buffer, copy, value.shape)
    return copy


def _fill(context: LoweringContext, source: Value, buffer: Buffer, end: Node) -> None:
    """Copy a tensor to the memory of a state; `end` of the loop names the step in reports."""
    step = copy_of(source)
    step.loc = end.loc or step.loc
    element = context.whole(source)
    if source.data is not None and source.data.size > 1 and (source.data == source.data.flat[0]).all():
        # What collects the results of iterations starts with zeros, of which the weights need none.
        element = ex.constant(source.data.flat[0].item(), source.dtype)
    if source.type.size:
        context.emit_map(step, element, buffer, step.output, source.shape)


def written_in_place(node: Node) -> bool:
    """Return whether operand 0 is a state, in any shape, that nothing else reads, and the result what it becomes."""
    old, new = node.inputs[0], node.output
    while old.producer is not None and old.producer.op.name == "reshape" and len(old.uses) == 1:
        old = old.producer.inputs[0]
    begin = old.producer
    if begin is None or begin.op.region != "begin" or len(old.uses) != 1 or old is begin.outputs[0]:
        return False
    end = begin.outputs[0].users()[-1]
    made = end.inputs[begin.outputs.index(old) + int(end.attrs.conditional)]
    while made is not new and made.producer is not None and made.producer.op.name == "reshape":
        made = made.producer.inputs[0]
    return made is new
