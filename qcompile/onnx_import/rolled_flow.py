"""Loop and Scan that stay loops: the body is converted once.

What the body passes on unchanged is no state but a value from outside, as weights are that an exporter lists among the
states. A state that the body does not read starts from nothing: it may have another type before the first iteration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qcompile.errors import UnsupportedOpError
from qcompile.ir.graph import Value
from qcompile.ir.types import TensorType
from qcompile.onnx_graph import reads
from qcompile.onnx_import.bodies import Host, convert_body
from qcompile.onnx_import.counters import Counters
from qcompile.onnx_import.rolled import RolledLoop, stacked
from qcompile.ops.layout import axis_index
from qcompile.ops.loop_begin import MOST_TRIPS
from qcompile.ops.onnx_node import OnnxNode
from qcompile.ops.reshape import reshaped


@dataclass(frozen=True)
class ScanForm:
    """Which way a Scan goes.

    Args:
        axes: along which it runs, of each operand.
        reverse: whether it runs backwards, of each operand.
        placed: along which results are put together, of each.
        backwards: whether the last one comes first, of each result.
    """

    axes: Sequence[int]
    reverse: Sequence[int]
    placed: Sequence[int]
    backwards: Sequence[int]


def rolled_loop(view: OnnxNode, host: Host, body: Any, counters: Counters) -> tuple[Value | None, ...]:
    """Convert the body of a Loop once.

    Args:
        view: the Loop, which runs at least once.
        host: the conversion.
        body: GraphProto.
        counters: what is known of all iterations.

    Raises:
        UnsupportedOpError: a state changes its type from one iteration to the next, or extents are open.
    """
    starts = [view.value(k) for k in range(2, len(view.inputs))]
    loop = RolledLoop(view, counters.trips or MOST_TRIPS, f"{view.name}/body")
    running = view.graph.add_constant(f"{view.name}/running", np.asarray(True))
    form = ScanForm((), (), [0] * len(body.output), [0] * len(body.output))
    rolled = _Rolled(view, loop, body, starts, form, counters)
    return tuple(rolled.convert(host, [loop.iteration, running], [], 1))


def rolled_scan(
    view: OnnxNode,
    host: Host,
    body: Any,
    starts: Sequence[Value],
    sources: Sequence[Value],
    form: ScanForm,
    prefix: str,
) -> list[Value | None]:
    """Convert the body of a Scan once.

    Args:
        view: the Scan.
        host: the conversion.
        body: GraphProto.
        starts: of its states.
        sources: what it cuts.
        form: which way it goes.
        prefix: of its names.

    Raises:
        UnsupportedOpError: as for `rolled_loop`.
    """
    loop = RolledLoop(view, sources[0].shape[form.axes[0]], f"{prefix}/body")
    parts = [
        loop.element(value, axis, f"{loop.name}/slice{k}", backward=bool(backward))
        for k, (value, axis, backward) in enumerate(zip(sources, form.axes, form.reverse, strict=True))
    ]
    return _Rolled(view, loop, body, starts, form, Counters(loop.trips)).convert(host, [], parts, 0)


class _Rolled:
    """One loop during its conversion.

    Args:
        view: the ONNX node.
        loop: just begun.
        body: GraphProto.
        starts: of the states.
        form: how results of all iterations are put together.
        counters: what is known of all iterations.
    """

    def __init__(
        self,
        view: OnnxNode,
        loop: RolledLoop,
        body: Any,
        starts: Sequence[Value],
        form: ScanForm,
        counters: Counters,
    ) -> None:
        self._view, self._loop, self._body, self._starts, self._form = view, loop, body, starts, form
        self._tables, self._exact = counters.tables, counters.exact
        self._pairs: dict[Value, Value] = {}

    def convert(self, host: Host, before: Sequence[Value], behind: Sequence[Value], first: int) -> list[Value | None]:
        """Convert the body and return what the ONNX node does.

        Args:
            host: the conversion.
            before: operands of the body before the states.
            behind: and after them.
            first: which result of the body is the first state; one before that is the condition.
        """
        view, loop, body = self._view, self._loop, self._body
        passed = self._passed(len(before), first)
        unread = self._unread(len(before)) - passed - set(self._tables)
        states = [
            loop.entry(self._tables[k][:-1], f"counter{k}")
            if k in self._tables
            else start
            if k in passed | unread
            else loop.state(start, f"state{k}")
            for k, start in enumerate(self._starts)
        ]
        host.loops.append(loop)
        found = convert_body(view, host, body, [*before, *states, *behind], len(body.output), f"{loop.name}/")
        host.loops.pop()
        results = [value for value in found if value is not None]
        if len(results) < len(found):
            # What could not be converted is reported by its own name.
            loop.close([])
            return [None] * (len(found) - first)
        try:
            self._check(results)
            condition = results[0] if first and not self._always(results[0]) else None
            ends = {
                k: self._end(k, results[first + k], states[k], k in passed, k in unread)
                for k in sorted(set(range(len(states))) - set(self._tables), key=unread.__contains__)
            }
            rows = [self._rows(k, part) for k, part in enumerate(results[first + len(states) :])]
        except UnsupportedOpError:
            loop.close([])
            raise
        count, left = loop.close(list(self._pairs.items()), condition)
        finals: list[Value | None] = [
            self._counted(k, count, condition) if k in self._tables else left.get(ends[k], ends[k])
            for k in range(len(states))
        ]
        for k, (state, part) in enumerate(zip(rows, results[first + len(states) :], strict=True)):
            finals.append(None if state is None else self._stacked(k, left[state], part, count, condition))
        return finals

    def _passed(self, before: int, first: int) -> set[int]:
        """Return the states that the body passes on unchanged."""
        same = {node.output[0]: node.input[0] for node in self._body.node if node.op_type == "Identity"}

        def origin(name: str) -> str:
            while name in same:
                name = same[name]
            return name

        names = [value.name for value in self._body.input]
        return {k for k in range(len(self._starts)) if origin(self._body.output[first + k].name) == names[before + k]}

    def _unread(self, before: int) -> set[int]:
        """Return the states that the body does not read."""
        read = {name for node in self._body.node for name in reads(node)} | {v.name for v in self._body.output}
        return {k for k in range(len(self._starts)) if self._body.input[before + k].name not in read}

    def _check(self, results: Sequence[Value]) -> None:
        counted = self._view.counted
        if counted is not None and counted.touches([*self._starts, *results]):
            self._view.fail("the data decide extents of its states or results, and it is not unrolled")

    def _always(self, condition: Value) -> bool:
        return self._exact or (condition.data is not None and bool(condition.data.all()))

    def _end(self, k: int, result: Value, state: Value, passed: bool, unread: bool) -> Value:
        """Return what stands for a state after the loop: the state, or a value from outside."""
        if passed:
            return state
        if not unread:
            self._pairs[state] = self._fitting(k, result, state.type)
            return state
        if not self._loop.makes(result):
            return result
        twins = [old for old, new in self._pairs.items() if new is result]
        if twins:
            return twins[0]
        nothing = self._view.graph.add_constant(f"{self._loop.name}/nothing{k}", np.zeros(result.shape, result.dtype))
        state = self._loop.state(nothing, f"state{k}")
        self._pairs[state] = result
        return state

    def _counted(self, k: int, count: Value, condition: Value | None) -> Value:
        """Return what a state that follows from the iteration alone is after the loop."""
        table, name = self._tables[k], f"{self._loop.name}/counter{k}.last"
        if condition is None:
            return self._view.graph.add_constant(name, table[-1])
        rows = self._view.graph.add_constant(f"{name}.all", table)
        return self._view.add("gather", [rows, count], name, axis=0)

    def _fitting(self, k: int, result: Value, type: TensorType) -> Value:
        if result.dtype != type.dtype or result.type.size != type.size:
            self._view.fail(f"its state {k} is {type} before an iteration and {result.type} after it")
        return reshaped(self._view, result, type.shape, f"{self._loop.name}/new{k}")

    def _rows(self, k: int, part: Value) -> Value | None:
        """Return the state that collects a result of all iterations, None where nobody reads it."""
        output = len(self._starts) + k
        if output >= len(self._view.outputs) or not self._view.outputs[output]:
            return None
        before, after = self._loop.written(part, f"rows{k}", backward=bool(self._form.backwards[k]))
        self._pairs[before] = after
        return before

    def _stacked(self, k: int, rows: Value, part: Value, count: Value, condition: Value | None) -> Value:
        """Return a result of all iterations, of which a condition lets a run make the first ones only."""
        view = self._view
        axis = axis_index(int(self._form.placed[k]), len(part.shape) + 1)
        name = view.outputs[len(self._starts) + k]
        whole = stacked(view, rows, part, axis, name)
        if condition is None:
            return whole
        number = reshaped(view, count, (1,), f"{name}.count")
        extent = view.counted.new(view, number, self._loop.trips)
        declared: Value = view.counted.declare(whole, (extent, *[None] * len(part.shape)))
        return declared
