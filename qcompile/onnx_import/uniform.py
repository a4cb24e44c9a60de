"""Constants as long as an open axis that are the same all along it: one element is enough, and is repeated later."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from qcompile import ops
from qcompile.ir.graph import Graph, Node, Value
from qcompile.ir.rewrite import Rewriter

_BINARY = frozenset({"add", "sub", "mul", "div", "minimum", "maximum"})


def spread_uniform(graph: Graph, sizes: Collection[int]) -> None:
    """Let what stretches a tensor to an open axis by a constant of one value there do it by repetition.

    Exporters write a bias of zeros of all places (ConstantOfShape) and add a mask to it. The sum then has the largest
    size; repeated, it follows the open extent.

    Args:
        graph: at the largest sizes; changed.
        sizes: of axes that are open.
    """
    rewriter = Rewriter(graph)
    for node in list(graph.nodes):
        if node.op.name not in _BINARY or [v.is_constant for v in node.inputs].count(True) != 1:
            continue
        which = 0 if node.inputs[0].is_constant else 1
        small = _shrunk(node, which, sizes)
        if small is None:
            continue
        value = node.inputs[which]
        inputs = list(node.inputs)
        inputs[which] = rewriter.constant(f"{value.name}.one", small)
        name = node.output.name
        made = rewriter.insert(node, node.op, inputs, node.attrs, name=f"{name}.one", loc=node.loc)
        result = made.output
        if not _stretches(graph, node.output, result.shape):
            expand = ops.get("expand")
            attrs = expand.Attrs(shape=node.output.shape)
            result = rewriter.insert(node, expand, [result], attrs, name=f"{name}.wide", loc=node.loc).output
        rewriter.replace_value(node.output, result)
        rewriter.erase(node)


def _stretches(graph: Graph, value: Value, shape: tuple[int, ...]) -> bool:
    """Return whether all readers of a tensor give the same with one of fewer elements, which they stretch."""
    for user in value.users():
        others = [shape if v is value else v.shape for v in user.inputs]
        if user.op.name not in (*_BINARY, "where") or np.broadcast_shapes(*others) != user.output.shape:
            return False
    return value not in graph.outputs


def _shrunk(node: Node, which: int, sizes: Collection[int]) -> Any:
    """Return one operand without repetitions along axes that only it gives the result; None where it has none."""
    data, other, rank = node.inputs[which].constant(), node.inputs[1 - which].shape, len(node.output.shape)
    found = data
    for axis in range(data.ndim):
        place = axis + rank - data.ndim - (rank - len(other))
        alone = place < 0 or other[place] == 1
        if alone and data.shape[axis] > 1 and data.shape[axis] in sizes:
            first = found.take([0], axis)
            if np.array_equal(np.broadcast_to(first, found.shape), found, equal_nan=found.dtype.kind == "f"):
                found = first
    return None if found is data else np.ascontiguousarray(found)
