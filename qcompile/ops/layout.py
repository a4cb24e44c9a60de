"""Axes: counting from the end, and what stays of a shape."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np


def axis_index(axis: int, rank: int) -> int:
    """Return an axis counted from the front.

    Args:
        axis: −rank … rank − 1.
        rank: number of axes.

    Raises:
        ValueError: there is no such axis.
    """
    if not -rank <= axis < rank:
        raise ValueError(f"axis {axis} is out of range for {rank} axes")
    return axis + rank if axis < 0 else axis


def axis_indices(axes: Sequence[Any] | Any, rank: int) -> list[int]:
    """Return several axes counted from the front.

    Args:
        axes: integers, −rank … rank − 1.
        rank: number of axes.

    Raises:
        ValueError: an axis does not exist or is named twice.
    """
    indices = [axis_index(int(a), rank) for a in np.asarray(axes, np.int64).reshape(-1)]
    if len(set(indices)) != len(indices):
        raise ValueError(f"axes {indices} name one twice")
    return indices


def replace_axis(shape: Sequence[int], axis: int, extent: int) -> tuple[int, ...]:
    """Return a shape with another extent on one axis."""
    return (*shape[:axis], extent, *shape[axis + 1 :])


def resolve_shape(given: Sequence[int], shape: Sequence[int], *, zero_copies: bool = True) -> tuple[int, ...]:
    """Return the target of a reshape, with its placeholders filled in.

    Args:
        given: extents; −1 once for "what is left", 0 for "as the operand has it".
        shape: of the operand.
        zero_copies: whether 0 copies an extent; else it means an empty axis.

    Raises:
        ValueError: the placeholders cannot be filled in.

    Source:
        ONNX Reshape.
    """
    target = [int(d) for d in given]
    for axis, extent in enumerate(target):
        if extent == 0 and zero_copies:
            if axis >= len(shape):
                raise ValueError(f"shape {target} copies axis {axis} of an operand with {len(shape)} axes")
            target[axis] = shape[axis]
    if target.count(-1) > 1 or min(target, default=0) < -1:
        raise ValueError(f"shape {target} has more than one unknown extent")
    if -1 in target:
        rest = math.prod(d for d in target if d != -1)
        total = math.prod(shape)
        if rest == 0 or total % rest:
            raise ValueError(f"{total} elements do not fit shape {target}")
        target[target.index(-1)] = total // rest
    return tuple(target)
