"""What is the same all along an open axis: one element is enough, and is repeated later."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from qcompile import ops
from qcompile.ir.graph import Graph, Node, Value
from qcompile.ir.rewrite import Rewriter
from qcompile.ops.elementwise import Binary, Unary

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


def drop_expansions(graph: Graph, sizes: Collection[int]) -> None:
    """Compute what is repeated along an open axis once, up to where a reader stretches it itself.

    Exporters repeat a mask of keys for all new places, before they turn it into a bias.

    Args:
        graph: at the largest sizes; changed.
        sizes: of axes that are open.
    """
    rewriter = Rewriter(graph)
    narrow: dict[Value, Value] = {}
    for node in list(graph.nodes):
        if node.op.name == "expand":
            small = _before_expansion(rewriter, node, sizes)
            narrow.update({} if small is None else {node.output: small})
        elif any(v in narrow for v in node.inputs) and _is_elementwise(node):
            operands = [narrow.get(value, value) for value in node.inputs]
            if np.broadcast_shapes(*(v.shape for v in operands)) != node.output.shape:
                name = f"{node.output.name}.narrow"
                narrow[node.output] = rewriter.insert(
                    node, node.op, operands, node.attrs, name=name, loc=node.loc
                ).output
                continue
            for index, value in enumerate(operands):
                rewriter.set_operand(node, index, value)
    rewriter.eliminate_dead()


def _is_elementwise(node: Node) -> bool:
    return isinstance(node.op, (Unary, Binary)) or node.op.name in ("cast", "where")


def _before_expansion(rewriter: Rewriter, node: Node, sizes: Collection[int]) -> Value | None:
    """Return what an expand makes without repetition along open axes; None where it repeats along others only."""
    x, shape = node.inputs[0], list(node.output.shape)
    for axis, old in enumerate((1,) * (len(shape) - len(x.shape)) + x.shape):
        if old == 1 and shape[axis] in sizes:
            shape[axis] = 1
    if tuple(shape) == node.output.shape or tuple(shape) == x.shape:
        return None if tuple(shape) != x.shape else x
    op = ops.get("expand" if np.prod(shape) > x.type.size else "reshape")
    name = f"{node.output.name}.narrow"
    return rewriter.insert(node, op, [x], op.Attrs(shape=tuple(shape)), name=name, loc=node.loc).output


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
