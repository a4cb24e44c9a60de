"""How operations and reshapes change places with transposes.

A perm lists, for each axis of the result of a transpose, the axis of its operand: z = T(x) has
z.shape[i] = x.shape[perm[i]].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from dataclasses import replace as replace_fields
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.ir.graph import Node
from qcompile.ops.elementwise import Binary, Unary

Array = npt.NDArray[Any]
Perm = tuple[int, ...]

_ELEMENTWISE = ("relu", "cast", "where", "identity")
_ONE_AXIS = ("concat", "split", "softmax", "log_softmax")
_REDUCTIONS = ("reduce_mean", "reduce_max", "reduce_min", "reduce_sum")


def inverse(perm: Perm) -> Perm:
    """Return the perm that undoes another."""
    return tuple(perm.index(axis) for axis in range(len(perm)))


def moves_units_only(shape: Sequence[int], perm: Perm) -> bool:
    """Return whether a transpose keeps the order of the elements, so that a reshape does the same.

    Args:
        shape: of the transpose's operand.
        perm: of the transpose.
    """
    order = [axis for axis in perm if shape[axis] != 1]
    return order == sorted(order) or 0 in shape


def commuted(node: Node, perm: Perm) -> Any | None:
    """Return the attributes with which an operation can come before a transpose of its operands.

    Formula:
        op(T(x), …) = T(op'(x, …)), with the same perm on every operand and result

    Args:
        node: reads tensors of len(perm) axes, or ones that broadcast to it.
        perm: of the transpose.

    Returns:
        Attributes of op', or None where the operation does not allow it.
    """
    name, attrs, rank = node.op.name, node.attrs, len(perm)
    if any(len(value.shape) != rank for value in node.outputs):
        return None
    if name in _ELEMENTWISE or (isinstance(node.op, (Unary, Binary)) and not _has_layout(attrs)):
        return attrs
    if name in _ONE_AXIS:
        return replace_fields(attrs, axis=perm[attrs.axis])
    if name == "gather" and node.inputs[1].is_constant and len(node.inputs[1].shape) == 1:
        return replace_fields(attrs, axis=perm[attrs.axis])
    if name == "slice":
        spread = {f: _spread(getattr(attrs, f), perm) for f in ("starts", "steps", "sizes")}
        return replace_fields(attrs, **spread)
    if name == "pad":
        before, after = attrs.pads[:rank], attrs.pads[rank:]
        return replace_fields(attrs, pads=(*_spread(before, perm), *_spread(after, perm)))
    if name == "expand" and len(node.inputs[0].shape) == rank:
        places = {f: tuple(sorted(perm[a] for a in getattr(attrs, f))) for f in ("fixed", "opens")}
        return replace_fields(attrs, shape=_spread(attrs.shape, perm), **places)
    if name in _REDUCTIONS and attrs.keepdims:
        return replace_fields(attrs, axes=tuple(sorted(perm[a] for a in attrs.axes)))
    return None


def _has_layout(attrs: Any) -> bool:
    return any(field.name == "layout" for field in fields(attrs))


def _spread(values: Sequence[Any], perm: Perm) -> tuple[Any, ...]:
    """Return per-axis values of a transpose's result in the order of its operand's axes."""
    return tuple(values[perm.index(axis)] for axis in range(len(perm)))


def broadcast_operands(node: Node) -> bool:
    """Return whether operands of fewer axes take part by broadcasting."""
    return node.op.name == "where" or isinstance(node.op, Binary)


def permuted_constant(data: Array, perm: Perm) -> Array:
    """Return c' with T(c') = c, for a constant that broadcasts to len(perm) axes; a single number stays.

    Args:
        data: c.
        perm: of T.
    """
    if data.size == 1 and data.ndim <= 1:
        return data
    full = data.reshape((1,) * (len(perm) - data.ndim) + data.shape)
    return np.ascontiguousarray(full.transpose(inverse(perm)))


def _groups(fine: Sequence[int], coarse: Sequence[int]) -> list[tuple[list[int], list[int]]] | None:
    """Match runs of axes with the same number of elements on both sides of a reshape, leaving out extents of 1."""
    a = [axis for axis, extent in enumerate(fine) if extent != 1]
    b = [axis for axis, extent in enumerate(coarse) if extent != 1]
    if 0 in fine or math.prod(fine) != math.prod(coarse):
        return None
    groups = []
    while a:
        left, right = [a.pop(0)], [b.pop(0)]
        while (p := math.prod(fine[i] for i in left)) != (q := math.prod(coarse[i] for i in right)):
            (left if p < q else right).append((a if p < q else b).pop(0))
        groups.append((left, right))
    return groups


def reshape_before_transpose(shape: Sequence[int], perm: Perm, target: Sequence[int]) -> tuple[Perm, Perm] | None:
    """Move a transpose behind the reshape that follows it.

    Formula:
        reshape(T(x), target) = T'(reshape(x, shape'))

    Args:
        shape: of x.
        perm: of T.
        target: shape of the reshape's result.

    Returns:
        (shape', perm of T'), or None where the reshape merges axes that are no neighbours in x.
    """
    groups = _groups([shape[axis] for axis in perm], target)
    if groups is None:
        return None
    kept = [axis for axis, extent in enumerate(shape) if extent != 1]
    sources = []
    for left, right in groups:
        source = [kept.index(perm[axis]) for axis in left]
        if source != list(range(source[0], source[0] + len(source))):
            return None
        sources.append((source[0], right))
    order = [axis for _, right in sorted(sources) for axis in right]
    return _with_units(order, target)


def _with_units(order: list[int], target: Sequence[int]) -> tuple[Perm, Perm]:
    """Place axes of extent 1 as in the target: in front, else each behind the axis that it follows there."""
    front: list[int] = []
    runs: dict[int, list[int]] = {}
    latest = front
    for axis, extent in enumerate(target):
        if extent != 1:
            latest = runs[axis] = []
        latest.append(axis)
    placed = [*front, *(axis for head in order for axis in runs[head])]
    shape = tuple(target[axis] for axis in placed)
    return shape, tuple(placed.index(axis) for axis in range(len(target)))


def rearranged(
    shape: Sequence[int], fine: Sequence[int], perm: Perm, target: Sequence[int], order: Perm
) -> tuple[Perm, Perm, Perm] | None:
    """Do a channel shuffle, depth-to-space or the like on axes in another order.

    Formula:
        reshape(T(reshape(x, fine)), target), where each axis of x is split into axes of `fine`, and each axis
        of the target is made of axes of T; on x' and y' whose axes are those of x and y in the given order

    Args:
        shape: of x.
        fine: of the first reshape.
        perm: of T.
        target: of the result, as many axes as x.
        order: x'.shape[i] = x.shape[order[i]], and likewise for the result.

    Returns:
        (shape of the first reshape, perm, shape of the result) for x', or None where the axes do not fit.
    """
    parts = _split_axes(shape, fine)
    moved = [fine[axis] for axis in perm]
    merged = _split_axes(target, moved)
    if parts is None or merged is None:
        return None
    before = [axis for o in order for axis in parts[o]]
    after = [perm[position] for o in order for position in merged[o]]
    new_fine = tuple(fine[axis] for axis in before)
    new_perm = tuple(before.index(axis) for axis in after)
    return new_fine, new_perm, tuple(target[o] for o in order)


def _split_axes(coarse: Sequence[int], fine: Sequence[int]) -> list[list[int]] | None:
    """Return, for each axis of a shape, the axes of a finer shape that make it up, or None."""
    parts: list[list[int]] = []
    position = 0
    for extent in coarse:
        part: list[int] = []
        while math.prod(fine[i] for i in part) != extent or not part:
            if position == len(fine) or math.prod(fine[i] for i in part) > extent:
                return None
            part.append(position)
            position += 1
        parts.append(part)
    # Axes of extent 1 left over belong to the last part.
    if any(fine[i] != 1 for i in range(position, len(fine))):
        return None
    parts[-1] += range(position, len(fine))
    return parts
