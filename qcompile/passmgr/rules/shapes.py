"""Operations that move or select elements: those that do nothing go, those in a row become one."""

from __future__ import annotations

import numpy as np

from qcompile.ir.graph import Node, Value
from qcompile.ir.rewrite import Rewriter
from qcompile.passmgr.patterns import RuleTable, bypass, made_by, only_reader, replace


def same_shape(node: Node, rewriter: Rewriter) -> bool:
    """A reshape, expand, cast, identity or one-part concat whose result has its operand's type is no operation."""
    single = len(node.inputs) == 1 or node.op.name == "expand"
    unchanged = node.output.type == node.inputs[0].type
    return single and unchanged and bypass(rewriter, node, node.inputs[0])


def reshape_of_reshape(node: Node, rewriter: Rewriter) -> bool:
    """reshape(reshape(x)) = reshape(x).

    With open extents only where one of the two adds and takes away axes of one element: the shape between them tells
    which of the others is open.
    """
    inner = made_by(node.inputs[0], "reshape")
    if inner is None:
        return False
    shapes = [[d for d in v.shape if d != 1] for v in (inner.inputs[0], inner.output, node.output)]
    if rewriter.graph.symbols and shapes[1] not in (shapes[0], shapes[2]):
        return False
    return replace(rewriter, node, "reshape", inner.inputs, shape=node.attrs.shape)


def identity_transpose(node: Node, rewriter: Rewriter) -> bool:
    """A transpose that keeps the order is no operation."""
    return node.attrs.perm == tuple(range(len(node.attrs.perm))) and bypass(rewriter, node, node.inputs[0])


def transpose_of_transpose(node: Node, rewriter: Rewriter) -> bool:
    """transpose(transpose(x, p), q) = transpose(x, p[q])."""
    inner = made_by(node.inputs[0], "transpose")
    if inner is None:
        return False
    perm = tuple(inner.attrs.perm[axis] for axis in node.attrs.perm)
    return replace(rewriter, node, "transpose", inner.inputs, perm=perm)


def whole_slice(node: Node, rewriter: Rewriter) -> bool:
    """A slice that takes everything, forwards, is no operation."""
    attrs = node.attrs
    whole = attrs.sizes == node.inputs[0].shape and not any(attrs.starts)
    forward = all(step > 0 for step, size in zip(attrs.steps, attrs.sizes, strict=True) if size > 1)
    return whole and forward and bypass(rewriter, node, node.inputs[0])


def single_split(node: Node, rewriter: Rewriter) -> bool:
    """A split into one part is no operation."""
    return len(node.outputs) == 1 and bypass(rewriter, node, node.inputs[0])


def nested_concat(node: Node, rewriter: Rewriter) -> bool:
    """concat(concat(a, b), c) = concat(a, b, c) along the same axis, where nobody else reads the inner one."""
    parts: list[Value] = []
    for value in node.inputs:
        inner = made_by(value, "concat")
        same = inner is not None and inner.attrs == node.attrs
        if inner is not None and same and only_reader(value, rewriter.graph) is node:
            parts += inner.inputs
        else:
            parts.append(value)
    return len(parts) != len(node.inputs) and replace(rewriter, node, "concat", parts, axis=node.attrs.axis)


def expand_of_operand(node: Node, rewriter: Rewriter) -> bool:
    """expand(x) + y = x + y where the sum stretches x by itself; likewise for the other binary operations."""
    for index, value in enumerate(node.inputs):
        inner = made_by(value, "expand")
        if inner is None:
            continue
        shapes = [v.shape for v in node.inputs]
        shapes[index] = inner.inputs[0].shape
        if np.broadcast_shapes(*shapes) == node.output.shape:
            rewriter.set_operand(node, index, inner.inputs[0])
            return True
    return False


_BINARY = ("add", "sub", "mul", "div", "pow", "minimum", "maximum")

RULES: RuleTable = {
    "reshape": (same_shape, reshape_of_reshape),
    "transpose": (identity_transpose, transpose_of_transpose),
    "slice": (whole_slice,),
    "split": (single_split,),
    "concat": (same_shape, nested_concat),
    "expand": (same_shape,),
    "cast": (same_shape,),
    "identity": (same_shape,),
    **dict.fromkeys(_BINARY, (expand_of_operand,)),
}
"""Rules for shapes."""
