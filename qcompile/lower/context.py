"""Turns expressions and workloads into steps, and knows where every tensor lies."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from qcompile.errors import LoweringError
from qcompile.ir.graph import Graph, Node, Value
from qcompile.ir.program import MAX_ARGS
from qcompile.ir.regions import regions
from qcompile.ir.symbol import Axes
from qcompile.ir.types import NARROW
from qcompile.kernels import expression as ex
from qcompile.kernels import isa as instruction_sets
from qcompile.kernels.conv_plan import ConvPlan
from qcompile.kernels.conv_workload import ConvWorkload
from qcompile.kernels.elementwise import MapWorkload, map_kernel
from qcompile.kernels.expression import Expr
from qcompile.kernels.kernel import Kernel
from qcompile.kernels.reduce import ReduceWorkload, accumulator, reduce_kernel
from qcompile.kernels.tuned import TunedPlans
from qcompile.lower.cuts import Cuts
from qcompile.lower.expressions import ExpressionBuilder
from qcompile.lower.fusion import loaded, may_inline, merge_constants, renumbered
from qcompile.lower.open_axes import OpenAxes
from qcompile.lower.sources import Pending, Sources, constant_value
from qcompile.lower.storage import Buffer, DraftLoop, DraftStep, Weights
from qcompile.lower.tensor_memory import TensorMemory, copy_of
from qcompile.targets import Target

Position = tuple[Expr, ...]


class LoweringContext(TensorMemory):
    """Collects the steps of one graph: what families of kernels need of it; `OperationContext` calls these.

    Args:
        graph: read only.
        target: machine to compile for.
        plans: measured cuts of layers; None for none.
        main: of the same network in another form, whose constants this one shares; None for none.
    """

    def __init__(
        self, graph: Graph, target: Target, plans: TunedPlans | None = None, main: LoweringContext | None = None
    ) -> None:
        self.graph, self.target = graph, target
        self._plans = plans or TunedPlans()
        self.isa = instruction_sets.load(target.isa)
        weights = Weights() if main is None else main.weights
        super().__init__(graph, Sources(self.isa, weights), weights)
        self.cuts: Cuts = Cuts(None if main is None else main.cuts)
        self.steps: list[DraftStep] = []
        self.loops: list[DraftLoop] = []
        self.regions = regions(graph.nodes)
        self.loop_starts: dict[Node, int] = {}
        self._outputs = set(graph.outputs)
        self._kernels: dict[Any, Kernel] = {}
        self.planes: dict[Value, tuple[Value, Value]] = {}
        self.codes: dict[Any, Value] = {}
        kept = [state.input for state in graph.states]
        given = [value.name for value in graph.inputs if value.name not in kept]
        self.open = OpenAxes(graph)
        for value in graph.inputs[:-1] if graph.extents else graph.inputs:
            space, names = ("state", kept) if value.name in kept else ("input", given)
            self.sources.buffers[value] = Buffer(value.type.nbytes, space, names.index(value.name))
            self.sources.at_boundary(value)
        if graph.extents:
            self.sources.buffers[graph.inputs[-1]] = Buffer(graph.inputs[-1].type.nbytes, "extents")

    # -- elementwise ----------------------------------------------------------------------------------------

    def map(self, node: Node, fn: Callable[[ExpressionBuilder, Position], Any], out: int = 0) -> None:
        """Compute each element of a result from its index.

        Args:
            node: gives the operands.
            fn: gets an expression builder and the index; returns the element's expression.
            out: which result.
        """
        output = node.outputs[out]
        if not self.wanted(output):
            return
        position = tuple(ex.index(n) for n in range(len(output.shape)))
        builder = ExpressionBuilder(node, output, self.sources)
        element = self.fused(output.type.size, lambda: fn(builder, position))
        # A reader with several results reads its operands once for each.
        if len(output.uses) == 1 and len(output.uses[0][0].outputs) == 1 and output not in self._outputs:
            emit = lambda: self._emit_pending(node, output)  # noqa: E731
            self.sources.pending[output] = Pending(output, ex.cast(element, output.dtype), emit)
        else:
            self.emit_map(node, element, self.result_buffer(output), output, output.shape)

    def wanted(self, value: Value) -> bool:
        """Return whether a result has elements and somebody reads it."""
        return value.type.size > 0 and bool(value.uses or value in self._outputs)

    def fused(self, size: int, build: Callable[[], Any], *, repeated: bool = False) -> Any:
        """Build an expression with those pending operands in place that are better there.

        Args:
            size: elements of the result.
            build: makes the expression; called again when operands are inlined.
            repeated: whether each operand element is read several times.
        """
        sources = self.sources
        sources.inline, sources.reads = frozenset(), []
        element = build()
        reads = sources.reads
        waiting = list(dict.fromkeys(value for value, _ in reads if value in sources.pending))
        chosen = [v for v in waiting if may_inline(v, sources.pending[v].element, size, reads, repeated=repeated)]
        operands = len({value for value, _ in reads}) - len(chosen)
        operands += sum(len(loaded(sources.pending[v].element)) for v in chosen)
        if operands >= MAX_ARGS:
            chosen = []
        for value in waiting:
            if value not in chosen:
                sources.pending[value].emit()
        if waiting:
            # What has memory only now may lie inside another tensor.
            sources.inline = frozenset(chosen)
            element = build()
            sources.inline = frozenset()
            for value in chosen:
                del sources.pending[value]
        return element

    def _emit_pending(self, node: Node, output: Value) -> None:
        element = self.sources.pending.pop(output).element
        self.emit_map(node, element, self.result_buffer(output), output, output.shape)

    def emit_map(
        self,
        node: Node,
        element: Expr,
        buffer: Buffer,
        output: Value,
        extents: Sequence[int],
        store: Expr | None = None,
        part: Value | None = None,
    ) -> None:
        """Append a step that stores an expression's elements.

        Args:
            node: for the report.
            element: in the IR's terms.
            buffer: what is written.
            output: decides element type and storage.
            extents: of the iteration space.
            store: offset in the buffer; by default the space is the tensor.
            part: as for `emit`.
        """
        stored, order = self._few_operands(node, self.sources.stored(output, element))
        if store is None:
            store = self.sources.offset(output, [ex.index(n) for n in range(len(extents))])
        values = [self.sources.value(number) for number in order]
        dtypes = (*_memory_dtypes(stored, order), self.sources.stored_dtype(output))
        work = MapWorkload(tuple(extents) or (1,), dtypes, renumbered(stored, order), store)
        buffers = [self.memory(v) for v in values]
        share = tuple(b for n, b in enumerate(buffers) if work.may_overwrite(n) and buffers.count(b) == 1)
        kernel = self.kernel(work, lambda: map_kernel(work, self.isa))
        made = (tuple(extents), self.open.walked(output))
        times = math.prod(work.extents)
        touched = (*_read(stored, order, times), times * ex.ITEMSIZE[dtypes[-1]])
        self.emit(node, kernel, [*buffers, buffer], len(buffers), share, made=made, part=part, touched=touched)

    def reduce(
        self,
        node: Node,
        extents: Sequence[int],
        body: Callable[[ExpressionBuilder, Position, Position], Any],
        combine: str,
        init: tuple[float, str],
        finish: Callable[[ExpressionBuilder, Expr, Position], Any],
    ) -> None:
        """Gather elements over a window or over axes.

        Args:
            node: has one result.
            extents: of the reduced axes.
            body: gets a builder, the output's index and the reduced index; returns the element to gather.
            combine: "sum", "max", "min" or "prod".
            init: start value and element type of the accumulator.
            finish: gets a builder, the accumulator and the output's index; returns the element to store.
        """
        output = node.output
        if not self.wanted(output):
            return
        rank = len(output.shape)
        result = self.result_buffer(output)
        position = tuple(ex.index(n) for n in range(rank))
        window = tuple(ex.index(rank + n) for n in range(len(extents)))
        builder = ExpressionBuilder(node, output, self.sources)
        start, dtype = init[0], "float32" if init[1] in NARROW else init[1]
        element = self.fused(output.type.size, lambda: body(builder, position, window), repeated=True)
        self.sources.inline = frozenset()
        last = self.sources.stored(output, finish(builder, accumulator(dtype), position))
        both, order = self._few_operands(node, ex.make("pair", dtype, (ex.cast(element, dtype), last)))
        values = [self.sources.value(number) for number in order]
        dtypes = (*_memory_dtypes(both, order), self.sources.stored_dtype(output))
        work = ReduceWorkload(
            output.shape,
            tuple(extents),
            dtypes,
            renumbered(both.args[0], order),
            combine,
            ex.constant(start, dtype),
            renumbered(both.args[1], order),
            self.sources.offset(output, position),
        )
        buffers = [self.memory(v) for v in values]
        kernel = self.kernel(work, lambda: reduce_kernel(work, self.isa))
        touched = (*_read(both, order, output.type.size * math.prod(extents)), result.nbytes)
        self.emit(node, kernel, [*buffers, result], len(buffers), touched=touched)

    def _few_operands(self, node: Node, element: Expr) -> tuple[Expr, list[int]]:
        """Return an expression that reads few enough tensors for one kernel, and their numbers."""
        order = loaded(element)
        if len(order) >= MAX_ARGS:
            element = merge_constants(element, self.sources)
            order = loaded(element)
        if len(order) >= MAX_ARGS:
            raise LoweringError(f"node {node}: {len(order)} operands, one kernel takes {MAX_ARGS - 1}")
        return element, order

    def constant(self, array: Any) -> Value:
        """Return a handle for `e.at` on an array that the program carries."""
        return constant_value("constant", np.asarray(array))

    # -- memory and steps -----------------------------------------------------------------------------------

    def kernel(self, key: Any, make: Callable[[], Kernel]) -> Kernel:
        """Return the kernel of a workload, generated once."""
        if key not in self._kernels:
            self._kernels[key] = make()
        return self._kernels[key]

    def plan(self, workload: ConvWorkload, output: Value, *, emitted: bool = False) -> ConvPlan | None:
        """Return how a layer is cut best, as measured; None leaves it to the kernel's estimate.

        Args:
            workload: of the layer.
            output: what it makes; along an open axis the cut is finer.
            emitted: the layer's step is made with it, so it counts as one more of its kind.
        """
        if emitted:
            self._plans.count(workload)
        found = self._plans.find(workload, self.isa)
        if any(self.open.of(output)):
            found = self.open.cut(workload, self.isa, self.target, found)
        return self.cuts.plan(workload, output, found, self.isa, self.target)

    def emit(
        self,
        node: Node,
        kernel: Kernel,
        args: Sequence[Buffer | None],
        output: int,
        share: tuple[Buffer, ...] = (),
        macs: int = 0,
        precision: str | None = None,
        made: tuple[tuple[int, ...], Axes] | None = None,
        part: Value | None = None,
        touched: tuple[int, ...] = (),
    ) -> None:
        """Append a step.

        Args:
            node: for the report.
            kernel: what runs.
            args: memory behind each pointer.
            output: which of them is written.
            share: operands that the output may overwrite.
            macs: multiply-accumulates.
            precision: what it computes in; by default "int8", or the element type of the result.
            made: extents of what is made, and which are open; by default those of the node's result.
            part: the operand that it copies to its place in the result, where that is all it does.
            touched: bytes of each argument that it reads or writes at most; () for all.
        """
        precision = precision or _precision(node)
        name = node.loc or node.outputs[0].name
        shape, axes = made or (node.outputs[0].shape, self.open.walked(node.outputs[0]))
        live = self.open.live(kernel, shape, axes) if len(shape) == len(axes) else None
        only = self.open.only(node.outputs if part is None else [part])
        facts = (name, node.op.name, precision, macs, live, only, node.outputs[0].name, touched)
        self.steps.append(DraftStep(kernel, tuple(args), output, share, *facts))

    def bind_outputs(self) -> None:
        """Let the graph's results be written to the caller's memory, directly where that is possible."""
        made = [state.output for state in self.graph.states]
        in_place = {state.output for state in self.graph.states if state.in_place}
        shown = [name for name in self.graph.output_names if name not in made]
        for name, value in zip(self.graph.output_names, self.graph.outputs, strict=True):
            if value.type.size == 0 or name in in_place:
                continue
            space, names = ("next", made) if name in made else ("output", shown)
            number = names.index(name)
            target = Buffer(value.type.nbytes, space, number)
            if value in self.sources.pending:
                self.sources.pending[value].emit()
            buffer = self.read_buffer(value)
            if buffer.space == "arena" and not buffer.overread and not self.sources.shifted(value):
                buffer.space, buffer.offset = space, number
                continue
            self._copy_out(value, target)

    def _copy_out(self, value: Value, target: Buffer) -> None:
        copy = copy_of(value)
        self.sources.at_boundary(copy.output)
        self.emit_map(copy, self.whole(value), target, copy.output, value.shape)


def _precision(node: Node) -> str:
    """Return what a node computes in, as reports say it."""
    if not node.is_integer:
        return "int16" if node.precision == "int16" else node.outputs[0].dtype
    return "int16" if "int16" in (node.precision, node.inputs[0].dtype) else "int8"


def _memory_dtypes(element: Expr, order: Sequence[int]) -> list[str]:
    """Return the element type in memory of each tensor that an expression reads."""
    dtypes = {node.data: node.dtype for node in ex.walk((element,)) if node.op in ("load", "load_or")}
    return [dtypes[number] for number in order]


def _read(element: Expr, order: Sequence[int], times: int) -> list[int]:
    """Return how many bytes of each tensor an expression reads at most when it is computed several times."""
    reads: Counter[int] = Counter()
    for node in ex.walk((element,)):
        if node.op in ("load", "load_or"):
            reads[node.data] += times * ex.ITEMSIZE[node.dtype]
    return [reads[number] for number in order]
