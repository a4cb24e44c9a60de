"""Operations whose kernels are more than an expression: look-ups, normalizations, products of activations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from qcompile.errors import LoweringError
from qcompile.ir.graph import Node, Value
from qcompile.kernels import expression as ex
from qcompile.kernels.conv_packing import pack_table
from qcompile.kernels.matmul import matmul_kernel
from qcompile.kernels.matmul_workload import MatmulWorkload
from qcompile.kernels.positions import PositionsWorkload, positions_kernel
from qcompile.kernels.reduce import accumulator
from qcompile.kernels.rows import RowsWorkload, rows_kernel
from qcompile.kernels.scatter import ScatterWorkload, scatter_kernel
from qcompile.kernels.suppression import SuppressionWorkload, suppression_kernel
from qcompile.kernels.table import TableWorkload, table_kernel
from qcompile.lower.context import LoweringContext
from qcompile.lower.expressions import ExpressionBuilder
from qcompile.lower.loops import written_in_place
from qcompile.quant import requantize as rq


def concat(context: LoweringContext, node: Node) -> None:
    """Copy or requantize each part to its place in the result."""
    output, axis, offset = node.output, node.attrs.axis, 0
    if not context.wanted(output):
        return
    buffer = context.joined(output)
    builder = ExpressionBuilder(node, output, context.sources)
    for number, part in enumerate(node.inputs):
        position = tuple(ex.index(n) for n in range(len(part.shape)))
        # A part that is not better computed here gets its memory now, which may be its place in the result.
        element = context.fused(part.type.size, _part(builder, number, position)) if part.type.size else None
        if element is not None and not context.in_place(part, node, offset):
            there = (*position[:axis], position[axis] + offset, *position[axis + 1 :])
            store = context.sources.offset(output, there)
            context.emit_map(node, element, buffer, output, part.shape, store, part)
        offset += part.shape[axis]


def _part(e: ExpressionBuilder, number: int, position: Sequence[ex.Expr]) -> ex.Build:
    """Return what builds the element of a part: a copy where the grids are the same."""
    x, y = e.node.inputs[number].qparams, e.output.qparams
    if x is None or y is None:
        return lambda: e.load(number, *position)
    if x.same_grid(y) and x.qmin >= y.qmin and x.qmax <= y.qmax:
        return lambda: e.load(number, *position)
    m = float(rq.multiplier(x.scalar_scale, y.scalar_scale))
    return lambda: e.requantize(e.centred(number, *position), m)


def table(context: LoweringContext, node: Node) -> None:
    """Map codes through a table made from the operation's exact function."""
    x, y = node.inputs[0].qparams, node.output.qparams
    if x is None or y is None:
        raise LoweringError(f"node {node}: a table needs a quantized operand and result")
    if not context.wanted(node.output):
        return
    op, attrs = node.op, node.attrs
    entries = rq.table(lambda real: op.function(attrs, real), x, y)
    look_up(context, node, node.inputs[0], entries)


def look_up(context: LoweringContext, node: Node, operand: Value, entries: npt.NDArray[np.int8]) -> None:
    """Append a step that maps every code of a tensor to the node's result.

    Args:
        context: takes the step.
        node: gives the result.
        operand: the codes; its memory may become the result's.
        entries: 256 codes, by q + 128.
    """
    source = context.own_buffer(operand)
    result = context.new_buffer(node.output)
    work = TableWorkload(node.output.type.size)
    kernel = context.kernel(work, lambda: table_kernel(work, context.isa))
    packed = context.weights.add(pack_table(entries, context.isa))
    context.emit(node, kernel, [source, packed, result], 2, (source,))


def softmax(context: LoweringContext, node: Node) -> None:
    """Normalize exponentials along an axis; log_softmax takes the logarithm."""
    x = node.inputs[0]
    axis = node.attrs.axis % max(1, len(x.shape))
    before, after = math.prod(x.shape[:axis]), math.prod(x.shape[axis + 1 :])
    _rows(context, node, RowsWorkload(node.op.name, before, x.shape[axis] if x.shape else 1, after))


def layer_norm(context: LoweringContext, node: Node) -> None:
    """Normalize the last axes to zero mean and unit variance."""
    x = node.inputs[0]
    axis = node.attrs.axis % len(x.shape)
    before, length = math.prod(x.shape[:axis]), math.prod(x.shape[axis:])
    _rows(context, node, RowsWorkload("layer_norm", before, length, 1, node.attrs.epsilon), node.inputs[1:])


def _rows(context: LoweringContext, node: Node, work: RowsWorkload, parameters: Sequence[Value] = ()) -> None:
    if node.is_integer or node.output.dtype != "float32":
        raise LoweringError(
            f"target '{context.target.name}' has no kernel for '{node.op.name}' of {node.inputs[0].type} ({node})",
            hint=f"keep it in float32 with --keep-float {node.loc or node.output.name}",
        )
    if not context.wanted(node.output):
        return
    if work.inner == 1:
        work = replace(work, block=context.open.block(node.output, work.length))
    source = context.read_buffer(node.inputs[0])
    extra = [context.read_buffer(value) for value in parameters]
    kernel = context.kernel(work, lambda: rows_kernel(work, context.isa))
    context.emit(node, kernel, [source, context.new_buffer(node.output), *extra], 1, (source,))


def suppression(context: LoweringContext, node: Node) -> None:
    """Select the best boxes of each class."""
    if not context.wanted(node.output):
        return
    boxes, scores = node.inputs
    attrs = node.attrs
    batch, classes, count = scores.shape
    work = SuppressionWorkload(batch, classes, count, attrs.most, attrs.overlap, attrs.least, attrs.centred)
    kernel = context.kernel(work, lambda: suppression_kernel(work, context.isa))
    operands = [context.read_buffer(boxes), context.read_buffer(scores)]
    context.emit(node, kernel, [*operands, context.new_buffer(node.output)], 2)


def positions(context: LoweringContext, node: Node) -> None:
    """Find the flags that are set."""
    if not context.wanted(node.output):
        return
    (flags,) = node.inputs
    work = PositionsWorkload(flags.type.size)
    kernel = context.kernel(work, lambda: positions_kernel(work, context.isa))
    context.emit(node, kernel, [context.read_buffer(flags), context.new_buffer(node.output)], 1)


def scatter(context: LoweringContext, node: Node) -> None:
    """Copy operand 0, unless only a loop needs it, then write the rows of operand 2 at the numbers of operand 1."""
    x, numbers, updates = node.inputs
    output = node.output
    if not context.wanted(output):
        return
    if node.is_integer:
        raise LoweringError(f"node {node}: rows are scattered in float only")
    if written_in_place(node):
        buffer = context.sources.buffers[output] = context.read_buffer(x)
    else:
        position = tuple(ex.index(n) for n in range(len(x.shape)))
        builder = ExpressionBuilder(node, output, context.sources)
        element = context.fused(output.type.size, lambda: builder.load(0, *position))
        buffer = context.new_buffer(output)
        context.emit_map(node, element, buffer, output, output.shape)
    if not numbers.type.size:
        return
    work = ScatterWorkload(x.shape[0], numbers.shape[0], x.shape[1], x.dtype, node.attrs.reduction)
    kernel = context.kernel(work, lambda: scatter_kernel(work, context.isa))
    context.emit(node, kernel, [context.read_buffer(numbers), context.read_buffer(updates), buffer], 2)


def matmul(context: LoweringContext, node: Node) -> None:
    """Multiply two activations, batch by batch."""
    a, b = node.inputs
    if not context.wanted(node.output):
        return
    rows = a.shape[-2] if len(a.shape) > 1 else 1
    columns = b.shape[-1] if len(b.shape) > 1 else 1
    batch = node.output.shape[: max(0, max(len(a.shape), len(b.shape)) - 2)]
    inner = a.shape[-1]
    left, right = context.read_buffer(a), context.read_buffer(b)
    stored = tuple(context.sources.stored_dtype(v) for v in (a, b, node.output))
    work = MatmulWorkload(
        batch,
        _steps(a.shape[:-2], batch, rows * inner),
        _steps(b.shape[:-2], batch, inner * columns),
        rows,
        inner,
        columns,
        (stored[0], stored[1], stored[2]),
    )
    if node.is_integer:
        work = _integer_product(context, node, work)
    elif node.output.dtype != "float32":
        raise LoweringError(f"node {node}: no kernel multiplies matrices of {node.output.dtype}")
    kernel = context.kernel(work, lambda: matmul_kernel(work, context.isa))
    macs = node.output.type.size * inner
    context.emit(node, kernel, [left, right, context.new_buffer(node.output)], 2, (), macs)


def _integer_product(context: LoweringContext, node: Node, work: MatmulWorkload) -> MatmulWorkload:
    from qcompile.ops.mul import product_multiplier

    a, b, y = (v.qparams for v in (*node.inputs, node.output))
    if a is None or b is None or y is None:
        raise LoweringError(f"node {node}: both operands and the result must be quantized, or none")
    e = ExpressionBuilder(node, node.output, context.sources)
    finish = e.requantize(accumulator("int32"), float(product_multiplier(a, b, y)))
    shifts = [128 if dtype == "uint8" else 0 for dtype in work.stored]
    zero_points = (a.scalar_zero_point + shifts[0], b.scalar_zero_point + shifts[1])
    return replace(work, zero_points=zero_points, finish=context.sources.stored(node.output, finish))


def _steps(shape: Sequence[int], batch: Sequence[int], matrix: int) -> tuple[int, ...]:
    """Return the elements from one index of each batch axis to the next, 0 where the operand is repeated."""
    steps = [0] * len(batch)
    step = matrix
    for back in range(1, len(shape) + 1):
        if shape[-back] > 1:
            steps[-back] = step
        step *= shape[-back]
    return tuple(steps)
