"""Sequences of tensors: which tensors one holds is known when the model is imported, so that nothing is left of it.

Where a loop puts a tensor into a sequence in each iteration, its iterations are unrolled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qcompile.ir.graph import Value
from qcompile.onnx_import.open_steps import steps_along
from qcompile.ops.layout import axis_index
from qcompile.ops.onnx_node import OnnxNode
from qcompile.ops.reshape import reshaped
from qcompile.ops.sliced import sliced


@dataclass(frozen=True)
class Tensors:
    """A sequence.

    Args:
        items: its tensors.
    """

    items: tuple[Value, ...] = ()


def convert_sequence(node: OnnxNode, operands: Sequence[Any]) -> Value | Tensors:
    """Return the result of a node of one of OPERATORS, or of an Identity of a sequence.

    Args:
        node: gives attributes, constants and errors; of sequences it knows nothing.
        operands: tensors and sequences, None for one left out.

    Raises:
        UnsupportedOpError: what a sequence holds is decided at run time, or the operator takes no sequence there.
    """
    reads = node.op_type not in _MAKERS
    for index, operand in enumerate(operands):
        if isinstance(operand, Tensors) != (reads and not index):
            node.fail(f"its input {index} is {'a' if isinstance(operand, Tensors) else 'no'} sequence")
    return _CONVERTERS[node.op_type](node, operands)


def _place(node: OnnxNode, index: int, count: int, default: int) -> int:
    """Return a constant position, counted from the front."""
    if not node.has(index):
        return default
    place = int(node.array(index, "its position").reshape(-1)[0])
    if not -count <= place < count:
        node.fail(f"position {place} of a sequence of {count} tensors")
    return place % count if count else 0


def _at(node: OnnxNode, operands: Sequence[Any]) -> Value:
    items: tuple[Value, ...] = operands[0].items
    return items[_place(node, 1, len(items), 0)]


def _insert(node: OnnxNode, operands: Sequence[Any]) -> Tensors:
    items: tuple[Value, ...] = operands[0].items
    count = len(items)
    at = count
    if node.has(2) and int(node.array(2, "its position").reshape(-1)[0]) != count:
        at = _place(node, 2, count, count)
    return Tensors((*items[:at], node.value(1), *items[at:]))


def _erase(node: OnnxNode, operands: Sequence[Any]) -> Tensors:
    items: tuple[Value, ...] = operands[0].items
    at = _place(node, 1, len(items), len(items) - 1)
    return Tensors((*items[:at], *items[at + 1 :]))


def _length(node: OnnxNode, operands: Sequence[Any]) -> Value:
    return node.graph.add_constant(node.outputs[0], np.asarray(len(operands[0].items), np.int64))


def _split(node: OnnxNode, operands: Sequence[Any]) -> Tensors:
    x = node.value(0)
    axis = axis_index(int(node.attr("axis", 0)), len(x.shape))
    extent = x.shape[axis]
    given = node.array(1, "its split") if node.has(1) else None
    if steps_along(node, x, axis) is not None:
        node.fail(f"axis {axis} of its operand has an open extent, which decides how many tensors there are")
    if given is not None and given.ndim:
        sizes = [int(n) for n in given]
    else:
        most = 1 if given is None else int(given)
        sizes = [min(most, extent - begin) for begin in range(0, extent, most)] if most > 0 else []
    if sum(sizes) != extent or min(sizes, default=1) < 0:
        node.fail(f"parts of {sizes} elements do not make up axis {axis} of {x.type}")
    items, begin = [], 0
    for k, size in enumerate(sizes):
        part = sliced(node, x, {axis: slice(begin, begin + size)}, f"{node.outputs[0]}.{k}")
        begin += size
        if given is None and not node.attr("keepdims", 1):
            part = reshaped(node, part, (*x.shape[:axis], *x.shape[axis + 1 :]), f"{node.outputs[0]}.{k}.single")
        items.append(part)
    return Tensors(tuple(items))


def _concatenate(node: OnnxNode, operands: Sequence[Any]) -> Value:
    items: tuple[Value, ...] = operands[0].items
    if not items:
        node.fail("it joins the tensors of an empty sequence")
    new = int(node.attr("new_axis", 0))
    axis = axis_index(int(node.attr("axis")), len(items[0].shape) + new)
    if new:
        shapes = [(*item.shape[:axis], 1, *item.shape[axis:]) for item in items]
        items = tuple(
            reshaped(node, item, shape, f"{node.outputs[0]}.{k}")
            for k, (item, shape) in enumerate(zip(items, shapes, strict=True))
        )
    return items[0] if len(items) == 1 else node.add("concat", items, axis=axis)


_CONVERTERS: dict[str, Callable[[OnnxNode, Sequence[Any]], Value | Tensors]] = {
    "ConcatFromSequence": _concatenate,
    "Identity": lambda node, operands: Tensors(operands[0].items),
    "SequenceAt": _at,
    "SequenceConstruct": lambda node, operands: Tensors(tuple(operands)),
    "SequenceEmpty": lambda node, operands: Tensors(),
    "SequenceErase": _erase,
    "SequenceInsert": _insert,
    "SequenceLength": _length,
    "SplitToSequence": _split,
}
_MAKERS = ("SplitToSequence", "SequenceConstruct", "SequenceEmpty")
"""Operators that read no sequence."""

OPERATORS = tuple(sorted(set(_CONVERTERS) - {"Identity"}))
"""Operators that read or make sequences."""
