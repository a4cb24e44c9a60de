"""If whose condition the data decide: both branches are run, and each result is chosen from theirs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qcompile.ir.graph import Value
from qcompile.ops.onnx_node import OnnxNode
from qcompile.ops.reshape import reshaped


def chosen(
    view: OnnxNode, condition: Value, yes: Sequence[Value | None], no: Sequence[Value | None]
) -> tuple[Value | None, ...]:
    """Return the results of an If.

    Args:
        view: the node.
        condition: one truth value.
        yes: what the branch makes that runs where it holds; None for a result that could not be converted.
        no: what the other one makes.

    Raises:
        UnsupportedOpError: the branches make tensors of different shapes, none of them empty.
    """
    view.graph.notes.append(f"the data decide which branch of {view.name} counts: both are run")
    flag = reshaped(view, condition, (), f"{view.name}.condition")
    pairs = enumerate(zip(yes, no, strict=True))
    return tuple(None if a is None or b is None else _either(view, flag, a, b, k) for k, (a, b) in pairs)


def _either(view: OnnxNode, flag: Value, yes: Value, no: Value, output: int) -> Value:
    name = view.outputs[output] if output < len(view.outputs) and view.outputs[output] else f"{view.name}.{output}"
    if yes.dtype == no.dtype and yes.shape == no.shape and view.counted.axes(yes) == view.counted.axes(no):
        return view.add("where", [flag, yes, no], name)
    if yes.dtype == no.dtype and yes.type.size == no.type.size == 1 and not view.counted.touches([yes, no]):
        # A number, or a row of one: which of them it is matters to nobody who may get either.
        shape = max(yes.shape, no.shape, key=len)
        parts = [reshaped(view, value, shape, f"{name}.{k}") for k, value in enumerate((yes, no))]
        return view.add("where", [flag, *parts], name)
    for empty, full, holds in ((yes, no, True), (no, yes, False)):
        axes = [a for a, (d, e) in enumerate(zip(empty.shape, full.shape, strict=False)) if d != e]
        fits = len(empty.shape) == len(full.shape) and empty.dtype == full.dtype and len(axes) == 1
        if fits and empty.shape[axes[0]] == 0 and full.shape[axes[0]] > 1:
            return _some_or_none(view, flag, full, axes[0], holds, name)
    return view.fail(f"its branches make {yes.type} and {no.type}, and the data decide which of them is run")


def _some_or_none(view: OnnxNode, flag: Value, full: Value, axis: int, holds: bool, name: str) -> Value:
    """Return a tensor that is empty along an axis where the flag says so.

    Args:
        view: the node.
        flag: one truth value.
        full: what the tensor is elsewhere.
        axis: along which it is empty.
        holds: what the flag is where it is.
        name: of the result.
    """
    counted = view.counted
    own = list(counted.axes(full))
    most = full.shape[axis]
    none = view.graph.add_constant(f"{name}.none", np.zeros(1, np.int64))
    extent = own[axis]
    size = view.graph.add_constant(f"{name}.all", np.array([most])) if extent is None else counted.number(extent)
    count = view.add("where", [flag, none, size] if holds else [flag, size, none], f"{name}.count")
    own[axis] = counted.new(view, count, most)
    result: Value = counted.renewed(full, tuple(own), name)
    return result
