"""If, Loop and Scan: the branch that is taken, the iterations one after the other.

Trip counts must be known at compile time; with static shapes those that exporters write usually are. Where the data
decide a condition, both branches are run (`branches`). Short loops are unrolled; others stay loops (`rolled_flow`),
whose iterations share scales and code, unless they do what a loop cannot, such as to change a type from one iteration
to the next: these are unrolled as well, if they are not too long.
Where the number of steps follows from an open extent, a run makes the actual ones (`open_steps`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from qcompile.ir.graph import Value
from qcompile.onnx_import.bodies import Host, convert_body
from qcompile.onnx_import.branches import chosen
from qcompile.onnx_import.counters import find_counters
from qcompile.onnx_import.inline import subgraph
from qcompile.onnx_import.open_steps import OpenSteps, steps_along, steps_counted
from qcompile.onnx_import.rolled import RolledLoop
from qcompile.onnx_import.rolled_flow import ScanForm, rolled_loop, rolled_scan
from qcompile.onnx_import.sequences import Tensors
from qcompile.ops.layout import axis_index
from qcompile.ops.onnx_node import OnnxNode
from qcompile.ops.reshape import reshaped

CONTROL_FLOW = ("If", "Loop", "Scan")
"""Operators with bodies."""

SHORT = 256
"""Nodes that unrolling a loop makes at most where it might stay one."""

UNROLLED_LIMIT = 50_000
"""Nodes that unrolling one loop may make at all; more would take minutes to compile."""


def expand_control_flow(node: Any, view: OnnxNode, host: Host) -> tuple[Value | None, ...]:
    """Convert the bodies that run, and return the results; None for one that could not be converted.

    Args:
        node: NodeProto of one of CONTROL_FLOW.
        view: the same node for its operands, attributes and errors.
        host: the conversion.

    Raises:
        UnsupportedOpError: what runs is decided at run time, or the loop is too long.
    """
    return {"If": _if, "Loop": _loop, "Scan": _scan}[node.op_type](node, view, host)


def _if(node: Any, view: OnnxNode, host: Host) -> tuple[Value | None, ...]:
    given = view.value(0)
    if given.data is None and given.producer is None:
        hint = f"fix it with --input-value {given.name}=1 or {given.name}=0; --state auto does where caches grow"
        view.fail(f"its condition is computed at run time: input '{given.name}' decides which branch is run", hint=hint)
    names = ("then_branch", "else_branch")
    if given.data is None:
        branches = [
            convert_body(view, host, subgraph(node, n), (), len(node.output), f"{view.name}/{n}/") for n in names
        ]
        if any(isinstance(value, Tensors) for branch in branches for value in branch):
            view.fail("its condition is computed at run time, and a branch makes a sequence")
        return chosen(view, given, *branches)
    branch = subgraph(node, names[0] if given.data.reshape(-1)[0] else names[1])
    return tuple(convert_body(view, host, branch, (), len(node.output), f"{view.name}/"))


def _is_long(view: OnnxNode, body: Any, trips: int) -> bool:
    """Return whether iterations are too many to unroll, which those along an open axis have to be."""
    long = trips * max(1, len(body.node)) > UNROLLED_LIMIT
    if long and view.open is not None:
        view.fail(
            f"{trips} iterations of {len(body.node)} nodes are too many to unroll",
            hint="give shorter input shapes with --input-shape",
        )
    return long


def _stays(view: OnnxNode, body: Any, trips: Callable[[], int]) -> bool:
    """Return whether a loop that could be unrolled stays one: it can, and is not short."""
    return trips() * len(body.node) > SHORT and RolledLoop.fits(view)


def _loop(node: Any, view: OnnxNode, host: Host) -> tuple[Value | None, ...]:
    body = subgraph(node, "body")
    trips = int(view.array(0, "its trip count").reshape(-1)[0]) if view.has(0) else None
    running = bool(view.array(1, "its condition").reshape(-1)[0]) if view.has(1) else True
    counted = steps_counted(view, 0) if view.has(0) else None
    opened = None if counted is None or not running else OpenSteps(view, counted, view.name)
    starts: list[Any] = [view.value(k) for k in range(2, len(view.inputs))]
    states: list[Any] = list(starts)
    sequences = any(isinstance(start, Tensors) for start in starts)
    carried = len(states)
    history: list[list[Value | None]] = []
    collected: list[list[Value | None]] = [[] for _ in range(len(body.output) - 1 - carried)]
    counters = cache(lambda: find_counters(body, starts, trips, host.look_up, view.opset))
    if running and not sequences and _stays(view, body, lambda: counters().trips or 0):
        return rolled_loop(view, host, body, counters())
    iteration = 0
    while running and (trips is None or iteration < trips):
        if _is_long(view, body, iteration + 1 if trips is None else trips):
            _refuse(view, sequences)
            return rolled_loop(view, host, body, counters())
        known = [s for s in states if s is not None]
        if len(known) != carried:
            break
        prefix = f"{view.name}/{iteration}/"
        handed = [
            view.graph.add_constant(f"{prefix}iteration", np.asarray(iteration, np.int64)),
            view.graph.add_constant(f"{prefix}condition", np.asarray(True)),
        ]
        results = _iteration(view, host, body, [*handed, *known], prefix, opened)
        goes_on = results[0]
        if goes_on is not None and goes_on.data is None and iteration + 1 != trips:
            _refuse(view, sequences)
            return rolled_loop(view, host, body, counters())
        running = goes_on is not None and goes_on.data is not None and bool(goes_on.data.reshape(-1)[0])
        states = results[1 : 1 + carried]
        history.append(states)
        for part, value in zip(collected, results[1 + carried :], strict=True):
            part.append(value)
        iteration += 1
    if collected and not iteration:
        view.fail("a loop that never runs collects nothing; tensors without elements have no code")
    ended = all(s is not None for s in states) and opened is not None and iteration < opened.extent.most
    if opened is not None and ended:
        view.fail(f"its number of iterations follows from '{opened.extent.symbol}', and its condition ends it earlier")
    if opened is not None:
        states = _last(opened, history)
    stacked = [_stacked(view, parts, 0, carried + k, opened) for k, parts in enumerate(collected)]
    return (*states, *stacked)


def _refuse(view: OnnxNode, sequences: bool) -> None:
    """Refuse a loop that stays one and carries sequences, whose lengths the data decide then."""
    if sequences:
        view.fail("it carries a sequence, and how often it runs is decided at run time, or too often to unroll it")


def _iteration(
    view: OnnxNode, host: Host, body: Any, inputs: Sequence[Value], prefix: str, steps: OpenSteps | None
) -> list[Value | None]:
    """Convert one copy of the body of a loop, which may run along an open extent."""
    if steps is None:
        return convert_body(view, host, body, inputs, len(body.output), prefix)
    view.open.looping.append(steps.extent.symbol)
    try:
        return convert_body(view, host, body, inputs, len(body.output), prefix)
    finally:
        view.open.looping.pop()


def _last(steps: OpenSteps, history: Sequence[Sequence[Value | None]]) -> list[Value | None]:
    """Return the states after the last actual step."""
    found: list[Value | None] = []
    for k, made in enumerate(zip(*history, strict=True)):
        known = [value for value in made if value is not None]
        found.append(steps.last(known, f"{steps.node.name}.last{k}") if len(known) == len(made) else None)
    return found


def _stacked(
    view: OnnxNode,
    parts: Sequence[Value | None],
    axis: int,
    output: int,
    steps: OpenSteps | None = None,
    backward: bool = False,
) -> Value | None:
    """Return the results of all iterations along a new axis, of an open number the actual ones."""
    if backward and steps is None:
        parts = parts[::-1]
    known = [p for p in parts if p is not None]
    if len(known) != len(parts):
        return None
    name = view.outputs[output] if output < len(view.outputs) and view.outputs[output] else f"{view.name}.{output}"
    wide = []
    for index, part in enumerate(known):
        at = axis_index(axis, len(part.shape) + 1)
        shape = (*part.shape[:at], 1, *part.shape[at:])
        wide.append(reshaped(view, part, shape, name=f"{name}.{index}"))
    if steps is None:
        return wide[0] if len(wide) == 1 else view.add("concat", wide, name=name, axis=at)
    whole = view.add("concat", wide, name=f"{name}.all", axis=at)
    return steps.trimmed(whole, at, name, backward=backward)


def _scan(node: Any, view: OnnxNode, host: Host) -> tuple[Value | None, ...]:
    body, batched = subgraph(node, "body"), view.opset < 9
    count, first = int(view.attr("num_scan_inputs")), int(batched)
    carried = len(view.inputs) - first - count
    outputs = len(body.output) - carried
    states = [view.value(first + k) for k in range(carried)]
    sources = [view.value(first + carried + k) for k in range(count)]
    if batched:
        return _scan_batch(view, host, body, states, sources)
    given = view.attr("scan_input_axes") or [0] * count
    form = ScanForm(
        [axis_index(int(a), len(v.shape)) for a, v in zip(given, sources, strict=True)],
        view.attr("scan_input_directions") or [0] * count,
        view.attr("scan_output_axes") or [0] * outputs,
        view.attr("scan_output_directions") or [0] * outputs,
    )
    return tuple(_scan_over(view, host, body, states, sources, form, view.name))


def _scan_batch(
    view: OnnxNode, host: Host, body: Any, states: Sequence[Value], sources: Sequence[Value]
) -> tuple[Value | None, ...]:
    """Convert Scan of operator set 8: each entry of a batch is a run of its own."""
    if view.has(0):
        view.fail("its sequences have lengths of their own", hint="export the model with opset 9 or newer")
    outputs = len(body.output) - len(states)
    reverse = view.attr("directions") or [0] * len(sources)
    form = ScanForm([0] * len(sources), reverse, [0] * outputs, [0] * outputs)
    entries = []
    for entry in range(sources[0].shape[0]):
        prefix = f"{view.name}/{entry}"
        own = [_element(view, v, 0, entry, f"{prefix}/own{k}") for k, v in enumerate((*states, *sources))]
        entries.append(_scan_over(view, host, body, own[: len(states)], own[len(states) :], form, prefix))
    return tuple(_stacked(view, parts, 0, k) for k, parts in enumerate(zip(*entries, strict=True)))


def _scan_over(
    view: OnnxNode,
    host: Host,
    body: Any,
    given: Sequence[Value],
    sources: Sequence[Value],
    form: ScanForm,
    prefix: str,
) -> list[Value | None]:
    """Convert the steps of a Scan, and return the states after the last and what all made."""
    trips, carried = sources[0].shape[form.axes[0]], len(given)
    extent = steps_along(view, sources[0], form.axes[0])
    steps = None if extent is None else OpenSteps(view, extent, view.name)
    if _stays(view, body, lambda: trips) or _is_long(view, body, trips):
        return rolled_scan(view, host, body, given, sources, form, prefix)
    states: list[Value | None] = list(given)
    history: list[list[Value | None]] = []
    collected: list[list[Value | None]] = [[] for _ in form.placed]
    for step in range(trips):
        known = [s for s in states if s is not None]
        if len(known) != carried:
            break
        slices = [
            _scanned(view, steps, value, axis, (step, trips, bool(backward)), f"{prefix}/{step}/slice{k}")
            for k, (value, axis, backward) in enumerate(zip(sources, form.axes, form.reverse, strict=True))
        ]
        results = convert_body(view, host, body, [*known, *slices], len(body.output), f"{prefix}/{step}/")
        states = results[:carried]
        history.append(states)
        for part, value in zip(collected, results[carried:], strict=True):
            part.append(value)
    if steps is not None:
        states = _last(steps, history)
    stacked = [
        _stacked(view, parts, int(form.placed[k]), carried + k, steps, bool(form.backwards[k]))
        for k, parts in enumerate(collected)
    ]
    return [*states, *stacked]


def _scanned(
    view: OnnxNode, steps: OpenSteps | None, value: Value, axis: int, at: tuple[int, int, bool], name: str
) -> Value:
    """Return what a step of a Scan sees of an operand: step, number of steps, whether it goes backwards."""
    step, trips, backward = at
    if steps is None:
        return _element(view, value, axis, trips - 1 - step if backward else step, name)
    return steps.element(value, axis, step, name, backward=backward)


def _element(view: OnnxNode, value: Value, axis: int, at: int, name: str) -> Value:
    """Return one slice along an axis, without the axis."""
    rank = len(value.shape)
    starts = tuple(at if a == axis else 0 for a in range(rank))
    sizes = tuple(1 if a == axis else d for a, d in enumerate(value.shape))
    part = view.add("slice", [value], name=f"{name}.part", starts=starts, steps=(1,) * rank, sizes=sizes)
    return reshaped(view, part, (*value.shape[:axis], *value.shape[axis + 1 :]), name=name)
