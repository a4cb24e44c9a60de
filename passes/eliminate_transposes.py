"""Cancel transposes against each other, and turn those that move nothing into reshapes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from qcompile import ops
from qcompile.ir.graph import Graph, Node, Value
from qcompile.ir.rewrite import Rewriter
from qcompile.passmgr import AllClose, Pass, PassContext, Tolerance
from qcompile.passmgr.layouts import (
    Perm,
    broadcast_operands,
    commuted,
    inverse,
    moves_units_only,
    permuted_constant,
    reshape_before_transpose,
)
from qcompile.passmgr.patterns import Rule, apply_rules, emit, is_output, made_by, only_reader, replace
from qcompile.passmgr.rules import shapes

_GROWTH = 2
"""How much larger, in bytes, than its transposed operands a result may be that is transposed instead."""


@dataclass(frozen=True)
class EliminateTransposes(Pass):
    """Push transposes towards the outputs until they meet their inverse, a reshape, a dense layer or a constant.

    Formula:
        T₂(T₁(x)) = T(x), none if T is the identity; T(x) = reshape(x) where only axes of extent 1 move
        op(T(a), T(b), …) = T(op'(a, b, …)) for elementwise operations, concat, split, slice, pad, softmax,
        reductions and gather, constants being transposed at once
        reshape(T(x)) = T'(reshape'(x)) where the reshape merges only neighbours
        dense(reshape(T(x)), W) = dense(reshape(x), W') with the columns of W in the order of x

    Before:
        %t = transpose(%x) {perm=[0, 3, 1, 2]} : f32[1,8,4,4]
        %r = relu(%t) : f32[1,8,4,4]
        %y = transpose(%r) {perm=[0, 2, 3, 1]} : f32[1,4,4,8]
    After:
        %r = relu(%x) : f32[1,4,4,8]

    Preconditions: none; nodes in integer form are left alone.

    Refusals: a transpose with several readers is not pushed, since it would be paid for several times; nor is
    one past an operation whose other operand would need a new transpose, or whose result is more than twice as
    large as its operands.
    """

    name: ClassVar[str] = "eliminate-transposes"
    tolerance: ClassVar[Tolerance] = AllClose(1e-6, 1e-6)

    def run(self, graph: Graph, context: PassContext) -> None:
        """Apply the rules until none matches, then say why the transposes that are left are needed."""
        apply_rules(context.rewriter(graph), _rules())
        for node in graph.nodes:
            if node.op.name == "transpose" and not node.is_integer:
                context.skip(node, _need(node, graph))


def _need(node: Node, graph: Graph) -> str:
    value, users = node.output, node.output.users()
    if is_output(graph, value):
        return f"{value.name} is a graph output"
    if len(users) > 1:
        return f"{value.name} has {len(users)} readers"
    return f"{users[0]} needs its order of axes, or a transpose of another operand"


def _rules() -> dict[str, tuple[Rule, ...]]:
    sinks = {name: (_sink,) for name in ops.all_ops() if name not in ("transpose", "reshape")}
    return {
        **sinks,
        "dense": (_permute_columns,),
        "reshape": (*shapes.RULES["reshape"], _sink_through_reshape),
        "transpose": (*shapes.RULES["transpose"], _to_constant, _to_reshape),
    }


def _to_constant(node: Node, rewriter: Rewriter) -> bool:
    """Transpose a constant at compile time."""
    source = node.inputs[0]
    if source.data is None:
        return False
    moved = rewriter.moved(node.output.name, source, lambda data: data.transpose(node.attrs.perm))
    rewriter.replace_node(node, [moved])
    return True


def _to_reshape(node: Node, rewriter: Rewriter) -> bool:
    """Write a transpose that moves only axes of extent 1 as a reshape."""
    x = node.inputs[0]
    return moves_units_only(x.shape, node.attrs.perm) and replace(
        rewriter, node, "reshape", [x], shape=node.output.shape
    )


def _sink(node: Node, rewriter: Rewriter) -> bool:
    """op(T(a), T(b), …) = T(op'(a, b, …))."""
    perm = _common_perm(node, rewriter.graph)
    attrs = None if perm is None else commuted(node, perm)
    if perm is None or attrs is None:
        return False
    operands = [_before(value, node, index, perm, rewriter) for index, value in enumerate(node.inputs)]
    names = [value.name for value in node.outputs]
    graph = rewriter.graph
    earlier = graph.add_node(node.op, operands, attrs, names=names, loc=node.loc, before=node)
    earlier.precision = node.precision
    results = []
    for old, new in zip(node.outputs, earlier.outputs, strict=True):
        new.name, old.name = old.name, new.name
        new.stats, new.qspec = old.stats, old.qspec
        results.append(emit(rewriter, node, "transpose", [new], f"{new.name}.moved", perm=perm))
    rewriter.replace_node(node, results)
    return True


def _common_perm(node: Node, graph: Graph) -> Perm | None:
    """Return the perm of the transposes that make all operands but constants and single numbers."""
    perms: set[Perm] = set()
    paid = 0
    for index, value in enumerate(node.inputs):
        if (node.op.name == "gather" and index == 1) or value.is_constant or _is_number(value, node):
            continue
        transpose = made_by(value, "transpose")
        if transpose is None or _only_user(value, graph) is not node:
            return None
        perms.add(tuple(transpose.attrs.perm))
        paid += value.type.nbytes
    grown = sum(value.type.nbytes for value in node.outputs) > _GROWTH * paid
    return perms.pop() if len(perms) == 1 and not grown else None


def _only_user(value: Value, graph: Graph) -> Node | None:
    """Return the one node that reads a value, however often, or None."""
    users = value.users()
    return users[0] if len(users) == 1 and not any(v is value for v in graph.outputs) else None


def _is_number(value: Value, node: Node) -> bool:
    return broadcast_operands(node) and value.type.size == 1 and len(value.shape) <= 1


def _before(value: Value, node: Node, index: int, perm: Perm, rewriter: Rewriter) -> Value:
    """Return the operand that op' reads in place of a value."""
    if (node.op.name == "gather" and index == 1) or _is_number(value, node):
        return value
    if not value.is_constant:
        transpose = made_by(value, "transpose")
        assert transpose is not None
        return transpose.inputs[0]
    return rewriter.moved(f"{value.name}.moved", value, partial(permuted_constant, perm=perm))


def _sink_through_reshape(node: Node, rewriter: Rewriter) -> bool:
    """reshape(T(x)) = T'(reshape'(x)), or one reshape where T' is the identity."""
    transpose = made_by(node.inputs[0], "transpose")
    if transpose is None or only_reader(node.inputs[0], rewriter.graph) is not node:
        return False
    x = transpose.inputs[0]
    found = reshape_before_transpose(x.shape, transpose.attrs.perm, node.attrs.shape)
    if found is None:
        return False
    shape, perm = found
    if perm == tuple(range(len(perm))):
        return replace(rewriter, node, "reshape", [x], shape=shape)
    # The reshape is what readers know; the transpose behind it may yet vanish.
    earlier = emit(rewriter, node, "reshape", [x], f"{node.output.name}.moved", shape=shape)
    earlier.name, node.output.name = node.output.name, earlier.name
    return replace(rewriter, node, "transpose", [earlier], perm=perm)


def _permute_columns(node: Node, rewriter: Rewriter) -> bool:
    """dense(reshape(T(x)), W) = dense(reshape(x), W')."""
    flat = made_by(node.inputs[0], "reshape")
    transpose = None if flat is None else made_by(flat.inputs[0], "transpose")
    weight = node.inputs[1]
    if flat is None or transpose is None or weight.data is None:
        return False
    x, perm = transpose.inputs[0], transpose.attrs.perm
    rows = _kept_axes(flat.inputs[0].shape, flat.output.shape[:-1])
    if rows is None or perm[:rows] != tuple(range(rows)):
        return False
    rest = tuple(axis - rows for axis in perm[rows:])
    apart, order = (-1, *flat.inputs[0].shape[rows:]), (0, *(1 + a for a in inverse(rest)))
    shape = weight.shape
    columns = rewriter.moved(
        f"{weight.name}.columns", weight, lambda w: w.reshape(apart).transpose(order).reshape(shape)
    )
    flattened = emit(rewriter, node, "reshape", [x], f"{flat.output.name}.before", shape=flat.output.shape)
    rewriter.set_operand(node, 0, flattened)
    rewriter.set_operand(node, 1, columns)
    return True


def _kept_axes(shape: Sequence[int], rows: Sequence[int]) -> int | None:
    """Return how many leading axes of a shape have as many elements as the rows, or None."""
    total = math.prod(rows)
    for count in range(len(shape)):
        if math.prod(shape[:count]) == total and count > 0:
            return count
    return None
