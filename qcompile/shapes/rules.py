"""How each operation passes open extents on, by name; `qcompile.shapes.windows` has those with windows.

A rule returns the extents of each result's axes. It asks for masks where the operation sees elements past the end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from qcompile.ir.graph import Value
from qcompile.ir.symbol import Axes, Extent
from qcompile.shapes.growing import CACHES
from qcompile.shapes.regroup import reshape
from qcompile.shapes.selection import SELECTION
from qcompile.shapes.step import Rule, Step
from qcompile.shapes.windows import WINDOWS

_BINARY = ("add sub mul div minimum maximum pow mod where equal less less_or_equal greater greater_or_equal logical_and"
           " logical_or logical_xor bitwise_and bitwise_or bitwise_xor bit_shift prelu")  # fmt: skip
_UNARY = (
    "abs acos acosh asin asinh atan atanh ceil celu clip cos cosh elu erf exp floor gelu hard_sigmoid hard_swish"
    " leaky_relu log mish neg reciprocal relu round selu sigmoid sign silu sin sinh softplus softsign sqrt tan tanh"
    " logical_not bitwise_not is_inf is_nan cast bit_cast identity fake_quantize quantize dequantize requantize"
    " quantize_linear batch_norm mask_tail rescale_mean"
)


def derived(extent: Extent, table: Sequence[int]) -> Extent:
    """Return the extent with another table."""
    return Extent(extent.symbol, tuple(int(n) for n in table))


def _same(step: Step) -> list[Axes]:
    """Every element follows from the one at its place; the other operands have no open axis."""
    if any(any(axes) for axes in step.axes[1:]) and step.node.op.name not in ("mask_tail", "rescale_mean"):
        raise step.refuse("a parameter of it depends on the size")
    return [step.axes[0]]


def _broadcast(step: Step) -> list[Axes]:
    """Operands stretch to each other; constants of the largest size are used up to the end."""
    node = step.node
    rank = len(node.output.shape)
    whole = node.op.name in ("div", "mod") and node.output.dtype.startswith(("int", "uint")) and not node.is_integer
    if whole and any(step.axes[1]):
        raise step.refuse("it divides integers by what may be zero past the end")
    result: list[Extent | None] = [None] * rank
    for value, axes in zip(node.inputs, step.axes, strict=True):
        for axis, extent in enumerate(axes):
            place = axis + rank - len(value.shape)
            if extent is not None and result[place] not in (None, extent):
                raise step.refuse(
                    "its operands have different open extents on one axis (steps such as W:32..640:32 may help)", extent
                )
            result[place] = extent or result[place]
    for value in (value for value in node.inputs if value.is_constant):
        _open_square(step, value, result)
    for operand, value in enumerate(node.inputs):
        _match_constant(step, operand, result[rank - len(value.shape) :])
    return [tuple(result)]


def _open_square(step: Step, table: Value, result: list[Extent | None]) -> None:
    """Open the rows of a constant with as many as it has open columns, such as a bias of relative positions.

    Nothing but the constant decides that axis; a table that is no part of larger ones is found by the importer, which
    compares sizes.
    """
    first = len(result) - len(table.shape)
    others = [(1,) * (len(result) - len(v.shape)) + v.shape for v in step.node.inputs if v is not table]
    for axis, size in enumerate(table.shape):
        extent, place = step.extent_of(size), first + axis
        alone = result[place] is None and all(shape[place] == 1 for shape in others)
        if alone and extent is not None and extent in result[first:]:
            result[place] = extent


def _match_constant(step: Step, operand: int, wanted: Sequence[Extent | None]) -> None:
    """Cut a constant to open axes; refuse a computed operand of fixed extent there."""
    value, axes = step.node.inputs[operand], step.axes[operand]
    missing = [
        extent if extent is not None and axes[axis] is None and value.shape[axis] != 1 else None
        for axis, extent in enumerate(wanted)
    ]
    if not any(missing):
        return
    if not value.is_constant:
        raise step.refuse(f"operand {operand} has a fixed extent there", next(e for e in missing if e is not None))
    step.slice(operand, tuple(missing))


def _transpose(step: Step) -> list[Axes]:
    return [tuple(step.axes[0][axis] for axis in step.node.attrs.perm)]


def _expand(step: Step) -> list[Axes]:
    """An axis that is repeated to the largest size of a known open extent follows it."""
    x, y, fixed = step.node.inputs[0].shape, step.node.output.shape, step.node.attrs.fixed
    new: list[Extent | None] = [None] * (len(y) - len(x))
    axes = [*new, *step.axes[0]]
    old = (1,) * (len(y) - len(x)) + x
    follows = [old[axis] == 1 and y[axis] > 1 and axis not in fixed for axis in range(len(y))]
    return [tuple(e or (step.extent_of(y[a]) if follows[a] else None) for a, e in enumerate(axes))]


def _slice(step: Step) -> list[Axes]:
    attrs, result = step.node.attrs, list(step.axes[0])
    for axis, extent in enumerate(result):
        if extent is None:
            continue
        start, size, hop = attrs.starts[axis], attrs.sizes[axis], attrs.steps[axis]
        if max(start, start + (size - 1) * hop) < extent.least:
            result[axis] = None
        elif size > 1 and hop != 1:
            raise step.refuse(f"it takes every {abs(hop)}th element", extent)
        elif start + size == extent.most and start < extent.least:
            result[axis] = derived(extent, [n - start for n in extent.table])
        elif start == 0:
            cut = extent.most - size
            if cut >= extent.least:
                raise step.refuse(f"it takes {size} elements, and the smallest size has {extent.least}", extent)
            result[axis] = derived(extent, [n - cut for n in extent.table])
        else:
            raise step.refuse(f"it takes elements {start} to {start + size - 1} of {extent.most}", extent)
    return [tuple(result)]


def _open_slice(step: Step) -> list[Axes]:
    attrs, result = step.node.attrs, list(step.axes[0])
    sizes = Extent(attrs.symbol, attrs.sizes)
    result[attrs.axis] = sizes if sizes.least != sizes.most else None
    return [tuple(result)]


def _number(step: Step) -> list[Axes]:
    return [(None,)]


def _split_parts(step: Step) -> list[Axes]:
    axis = step.node.attrs.axis
    if step.axes[0][axis] is not None:
        raise step.refuse("it splits the open axis", step.axes[0][axis])
    return [step.axes[0]] * len(step.node.outputs)


def _concat(step: Step) -> list[Axes]:
    node, axis, rank = step.node, step.node.attrs.axis, len(step.node.output.shape)
    count = len(node.inputs) - (node.op.name == "open_concat")
    result: list[Extent | None] = [None] * rank
    for axes in step.axes[:count]:
        for place, extent in enumerate(axes):
            if extent is None or place == axis:
                continue
            if result[place] not in (None, extent):
                raise step.refuse("its operands have different open extents on one axis", extent)
            result[place] = extent
    for operand in range(count):
        _match_constant(step, operand, result)
    result[axis] = _length(step, [axes[axis] for axes in step.axes[:count]])
    return [tuple(result)]


def _length(step: Step, parts: Sequence[Extent | None]) -> Extent | None:
    """Return the extent of parts that follow each other; where an open one is not the last, their ends are needed."""
    opened = [part for part in parts if part is not None]
    if not opened:
        return None
    if len({part.symbol for part in opened}) > 1:
        raise step.refuse("it joins tensors of several open extents", opened[1])
    if any(parts[:-1]):
        step.join(tuple(parts))
    fixed = sum(v.shape[step.node.attrs.axis] for v, part in zip(step.node.inputs, parts, strict=False) if part is None)
    return derived(opened[0], [fixed + sum(lengths) for lengths in zip(*(p.table for p in opened), strict=True)])


def _append(step: Step) -> list[Axes]:
    """The second operand follows the actual end of the first."""
    axis, result = step.node.attrs.axis, list(step.axes[0])
    extent, more = result[axis], step.node.inputs[1].shape[axis]
    if extent is not None:
        result[axis] = derived(extent, [n + more for n in extent.table])
    return [tuple(result)]


def _pad(step: Step) -> list[Axes]:
    attrs, result = step.node.attrs, list(step.axes[0])
    for axis, (before, after) in enumerate(attrs.pairs()):
        extent = result[axis]
        if extent is None or not (before or after):
            continue
        if attrs.mode not in ("constant", "edge"):
            raise step.refuse(f"it pads the open axis in mode '{attrs.mode}'", extent)
        if after:
            step.mask(0, axis, None if attrs.mode == "edge" else attrs.value)
        result[axis] = derived(extent, [n + before + after for n in extent.table])
    return [tuple(result)]


def _gather(step: Step) -> list[Axes]:
    axis = step.node.attrs.axis
    return [(*step.axes[0][:axis], *step.axes[1], *step.axes[0][axis + 1 :])]


def _softmax(step: Step) -> list[Axes]:
    x = step.axes[0]
    step.mask(0, step.node.attrs.axis % len(x), -math.inf)
    return [x]


def _layer_norm(step: Step) -> list[Axes]:
    x = step.axes[0]
    over = x[step.node.attrs.axis % len(x) :]
    if any(over):
        step.normalize(over)
        for parameter in (1, 2):
            step.slice(parameter, over)
    return [x]


_NEUTRAL = {"reduce_max": -math.inf, "global_max_pool": -math.inf, "reduce_min": math.inf, "reduce_prod": 1.0}


def _reduction(step: Step) -> list[Axes]:
    node, x = step.node, step.axes[0]
    op, rank = node.op, len(x)
    axes, keepdims = op.reduced(node.attrs, rank)  # type: ignore[attr-defined]
    over = tuple(e for a in axes if (e := x[a]) is not None)
    for axis in axes:
        step.mask(0, axis, _NEUTRAL.get(op.name, 0.0))
    if over and op.name in ("reduce_mean", "global_avg_pool"):
        if node.is_integer:
            raise step.refuse("its mean over the open axis has no integer form; --keep-float keeps it real", over[0])
        step.average(over)
    return [tuple(None if a in axes else e for a, e in enumerate(x) if keepdims or a not in axes)]


def _first_index(step: Step) -> list[Axes]:
    attrs, x = step.node.attrs, step.axes[0]
    if x[attrs.axis] is not None and attrs.last:
        raise step.refuse("it looks for the last of equal elements", x[attrs.axis])
    return [tuple(None if a == attrs.axis else e for a, e in enumerate(x) if attrs.keepdims or a != attrs.axis)]


def _cumulative(step: Step) -> list[Axes]:
    attrs = step.node.attrs
    if attrs.reverse:
        step.mask(0, attrs.axis, 0.0 if attrs.combine == "sum" else 1.0)
    return [step.axes[0]]


def _matmul(step: Step) -> list[Axes]:
    a, b = step.axes
    if len(a) < 2 or len(b) < 2:
        raise step.refuse("one operand is a vector")
    inner = (a[-1], b[-2])
    if inner != (None, None):
        if inner[0] != inner[1]:
            raise step.refuse(
                "it adds up products along an axis that is open in one operand only", inner[0] or inner[1]
            )
        step.mask(0, len(a) - 1, 0.0)
        step.mask(1, len(b) - 2, 0.0)
    rank = max(len(a), len(b))
    outer: list[Extent | None] = [None] * (rank - 2)
    for axes in (a, b):
        for place, extent in enumerate(axes[:-2], rank - len(axes)):
            outer[place] = extent or outer[place]
    return [(*outer, a[-2], b[-1])]


def _dense(step: Step) -> list[Axes]:
    x = step.axes[0]
    if x[-1] is not None:
        raise step.refuse("its weights have a row for every place of the open axis", x[-1])
    if any(any(axes) for axes in step.axes[1:3]):
        raise step.refuse("its weights depend on the size")
    return [x]


def _at_run_time(step: Step) -> list[Axes]:
    """Steps of a layer that is quantized at run time: each place along an open axis has numbers of its own."""
    x = step.axes[0]
    if step.node.op.name == "dense_integer" and x[-1] is not None:
        raise step.refuse("its weights have a row for every place of the open axis", x[-1])
    return [x] * len(step.node.outputs)


_REDUCTIONS = ("reduce_max", "reduce_min", "reduce_sum", "reduce_mean", "reduce_prod", "global_avg_pool",
               "global_max_pool")  # fmt: skip

_RULES: dict[str, Rule] = {
    **dict.fromkeys(_BINARY.split(), _broadcast),
    **dict.fromkeys(_UNARY.split(), _same),
    **dict.fromkeys(_REDUCTIONS, _reduction),
    **dict.fromkeys(("softmax", "log_softmax"), _softmax),
    "transpose": _transpose, "reshape": reshape, "open_reshape": reshape, "expand": _expand, "slice": _slice,
    "split": _split_parts, "open_slice": _open_slice, "open_extent": _number,
    "concat": _concat, "open_concat": _concat, "append": _append, "pad": _pad, "gather": _gather,
    "layer_norm": _layer_norm, "first_index": _first_index, "cumulative": _cumulative, "matmul": _matmul,
    "dense": _dense,
    **dict.fromkeys(("dynamic_scale", "dynamic_quantize", "dense_integer", "rescale"), _at_run_time),
    **WINDOWS,
    **CACHES,
    **SELECTION,
}  # fmt: skip


def rule_for(op: str) -> Rule | None:
    """Return the rule of an operation, None where it has none."""
    return _RULES.get(op)
