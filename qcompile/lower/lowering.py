"""Integer graph to program: each operation emits its steps, then memory is planned and kernels are compiled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from qcompile.errors import LoweringError
from qcompile.ir.graph import Graph, Node, Value
from qcompile.ir.initial import initial_array, state_input
from qcompile.ir.missing_values import may_miss
from qcompile.ir.opdef import OpDef
from qcompile.ir.program import BufferRef, Loop, Program, Single, StateInfo, Step, TensorInfo
from qcompile.ir.state import State
from qcompile.kernels.tuned import TunedPlans
from qcompile.lower.arena import ArenaPlan, plan_arena
from qcompile.lower.context import LoweringContext
from qcompile.lower.objects import compile_kernels
from qcompile.lower.operations import OperationContext
from qcompile.lower.storage import Buffer, DraftLoop, DraftStep
from qcompile.progress import Progress
from qcompile.shapes.first_run import needed_first
from qcompile.targets import Target


def lower_graph(
    graph: Graph,
    target: Target,
    *,
    progress: Progress | None = None,
    jobs: int = 2,
    plans: TunedPlans | None = None,
    single: Graph | None = None,
) -> Program:
    """Generate and compile the code of a graph.

    Args:
        graph: channels last; float, integer or mixed; read only.
        target: machine to compile for.
        progress: called with (done, total, what) as kernels are compiled.
        jobs: threads to compile on; the result does not depend on it.
        plans: measured cuts of layers; None for none.
        single: the same graph for one new place of a growing sequence, where that is to have steps of its own.

    Raises:
        LoweringError: an operation, or this form of it, has no code; the message names the node.
    """
    context = generate(graph, target, plans)
    plan = plan_arena(context.steps, context.loops)
    other = generate(single, target, plans, context) if single is not None else None
    other_plan = plan_arena(other.steps) if other is not None else plan
    kernels = [step.kernel for step in (*context.steps, *(other.steps if other is not None else []))]
    read, made = {state.input for state in graph.states}, {state.output for state in graph.states}
    given = [v for v in (graph.inputs[:-1] if graph.extents else graph.inputs) if v.name not in read]
    first, missing = needed_first(graph), may_miss(graph)
    shown = {n: v for n, v in zip(graph.output_names, graph.outputs, strict=True) if n not in made}
    objects = compile_kernels(kernels, target, jobs=jobs, progress=progress)
    return Program(
        name=graph.name,
        inputs=tuple(
            replace(_info(value.name, value), first_run=value in first, missing=value in missing) for value in given
        ),
        outputs=tuple(_info(name, value) for name, value in shown.items()),
        steps=tuple(_finished(step, plan, _repeats(context.loops, n)) for n, step in enumerate(context.steps)),
        arena_bytes=max(plan.size, other_plan.size),
        scratch_bytes=max((kernel.scratch_bytes for kernel in kernels), default=0),
        weights=context.weights.blob(),
        objects=objects,
        target=target,
        states=tuple(_state(graph, state) for state in graph.states),
        symbols=graph.symbols,
        extents=tuple(context.open.extents),
        open_inputs=context.open.places(given),
        open_outputs=context.open.places(list(shown.values())),
        counted=graph.counted,
        single=_single(other, other_plan),
        loops=tuple(_loop(loop, plan) for loop in context.loops),
    )


def _repeats(loops: Sequence[DraftLoop], step: int) -> int:
    """Return how often a step runs at most."""
    return next((loop.trips for loop in loops if loop.first <= step <= loop.last), 1)


def _loop(loop: DraftLoop, plan: ArenaPlan) -> Loop:
    return Loop(loop.first, loop.last, loop.trips, _reference(loop.condition, plan))


def _single(context: LoweringContext | None, plan: ArenaPlan) -> Single | None:
    if context is None:
        return None
    return Single(tuple(_finished(step, plan) for step in context.steps), tuple(context.open.extents))


def generate(
    graph: Graph, target: Target, plans: TunedPlans | None = None, main: LoweringContext | None = None
) -> LoweringContext:
    """Return the steps of a graph, their kernels generated but not compiled."""
    context = OperationContext(graph, target, plans, main)
    for node in graph.nodes:
        _lower_node(node, context)
    context.bind_outputs()
    return context


def _lower_node(node: Node, context: LoweringContext) -> None:
    where = node.loc or node.outputs[0].name
    if type(node.op).lower is OpDef.lower:
        raise LoweringError(
            f"target '{context.target.name}' has no kernel for '{node.op.name}' (node {where})",
            hint=f"keep it in float with --keep-float {where}" if node.is_integer else None,
        )
    try:
        node.op.lower(node, context)
    except LoweringError as error:
        if where in error.message:
            raise
        raise LoweringError(f"node {where} ({node.op.name}): {error.message}", hint=error.hint) from error


def _finished(step: DraftStep, plan: ArenaPlan, times: int = 1) -> Step:
    return Step(
        kernel=step.kernel.name,
        args=tuple(_reference(buffer, plan) for buffer in step.args),
        tiles=step.kernel.tiles,
        grain=step.grain,
        loc=step.loc,
        op=step.op,
        precision=step.precision,
        macs=step.macs * times,
        bytes=step.bytes_of(times),
        live=step.live,
        only=step.only,
        makes=step.makes,
    )


def _reference(buffer: Buffer | None, plan: ArenaPlan) -> BufferRef:
    if buffer is None:
        return BufferRef("none")
    if buffer.space == "arena":
        return BufferRef("arena", plan.offsets[buffer.whole] + buffer.start)
    return buffer.ref()


def _info(name: str, value: Value) -> TensorInfo:
    params = value.qparams
    quantized = params is not None and not params.per_channel
    return TensorInfo(
        name=name,
        dtype=value.dtype,
        shape=value.shape,
        scale=params.scalar_scale if params is not None and quantized else None,
        zero_point=params.scalar_zero_point if params is not None and quantized else None,
        layout=_layout(value),
    )


def _state(graph: Graph, state: State) -> StateInfo:
    data = initial_array(graph, state).tobytes()
    short = data[:1] or b"\0" if len(set(data)) <= 1 else data
    return StateInfo(_info(state.input, state_input(graph, state)), state.output, short, state.in_place)


_SEEN_THROUGH = ("quantize", "dequantize", "identity")


def _layout(value: Value) -> str:
    """Return "NCHW" for an image: a pass turns it to or from channels last, or a spatial operation reads it so."""
    if len(value.shape) != 4:
        return ""
    made = value.producer
    while made is not None and made.op.name in _SEEN_THROUGH:
        made = made.inputs[0].producer
    back = made is not None and made.op.name == "transpose" and made.attrs.perm == (0, 3, 1, 2)
    return "NCHW" if back or any(_reads_image(node) for node in value.users()) else ""


def _reads_image(node: Node) -> bool:
    if node.op.name in _SEEN_THROUGH:
        return any(_reads_image(user) for user in node.output.users())
    if node.op.name == "transpose":
        return bool(node.attrs.perm == (0, 2, 3, 1))
    return getattr(node.attrs, "layout", "") == "NCHW"
