"""Add the residual in the epilogue of a float convolution."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from qcompile.ir.graph import Graph, Node, Value
from qcompile.ir.rewrite import Rewriter
from qcompile.passmgr import AllClose, Pass, PassContext, Tolerance


@dataclass(frozen=True)
class FuseResidual(Pass):
    """Merge a float addition into the conv2d or dense that computes its last operand.

    Before:
        %c = conv2d(%x, @w, @b) : f32[1,4,4,8]
        %y = add(%c, %r) {activation="relu"} : f32[1,4,4,8]
    After:
        %y = conv2d(%x, @w, @b, %r) {activation="relu", residual=true} : f32[1,4,4,8]

    Refusals: the convolution's result has other readers, has an activation already, or the addition broadcasts, or is
    in a loop that the convolution is before. Integer graphs are left to fuse-requantize, which knows the exact
    rounding.
    """

    name: ClassVar[str] = "fuse-residual"
    tolerance: ClassVar[Tolerance] = AllClose(1e-5, 1e-6)

    def run(self, graph: Graph, context: PassContext) -> None:
        """Fuse wherever the pattern holds."""
        rewriter = context.rewriter(graph)
        for node in list(graph.nodes):
            if node.op.name == "add" and not node.is_integer and node.inputs[0] is not node.inputs[1]:
                _fuse(rewriter, node, context)


def _fuse(rewriter: Rewriter, add: Node, context: PassContext) -> None:
    makers = [v.producer for v in add.inputs if v.producer is not None and _can_take(v.producer)]
    if not makers:
        return
    conv = max(makers, key=rewriter.graph.nodes.index) if len(makers) > 1 else makers[0]
    other = next(v for v in add.inputs if v is not conv.output)
    reason = _obstacle(rewriter.graph, conv, add, other)
    if reason is not None:
        context.skip(add, reason)
        return
    attrs = replace(
        conv.attrs, residual=True, activation=add.attrs.activation, alpha=add.attrs.alpha, beta=add.attrs.beta
    )
    fused = rewriter.insert(add, conv.op, [*conv.inputs, other], attrs, name=f"{add.output.name}.fused", loc=conv.loc)
    fused.precision = conv.precision
    rewriter.replace_node(add, [fused.output])
    rewriter.erase(conv)


def _can_take(node: Node) -> bool:
    return node.op.adds_residual and not node.is_integer


def _obstacle(graph: Graph, conv: Node, add: Node, other: Value) -> str | None:
    if conv.output.users() != [add] or conv.output in graph.outputs:
        return f"{conv.output.name} has other readers"
    if conv.attrs.residual or conv.attrs.activation != "none":
        return f"{conv} already has a residual or an activation"
    if graph.made_before_loop(conv.output, add):
        return f"{conv.output.name} is computed once, before a loop"
    if other.shape != conv.output.shape:
        return f"{other.name} is broadcast"
    return None
