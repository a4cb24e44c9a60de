"""Apply an activation where its operand is computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qcompile.ir.graph import Graph, Node
from qcompile.ir.opdef import Quantization
from qcompile.ir.rewrite import Rewriter
from qcompile.ops.arithmetic import ACTIVATIONS, CLAMPS
from qcompile.passmgr import AllClose, Pass, PassContext, Tolerance
from qcompile.quant.scaled import SCALED

_PRODUCERS = ("conv2d", "conv_transpose2d", "dense", "add")


@dataclass(frozen=True)
class FuseActivation(Pass):
    """Move an activation into the conv2d, conv_transpose2d, dense or add that computes its operand.

    Formula:
        y = act(Σ x·w + b), with act one of relu, clip, leaky_relu, hard_swish, hard_sigmoid, sigmoid, tanh,
        silu, gelu

    Options:
        tables: whether to fuse what in int8 is a table, for which the range of the tensor in front must be
            measured first; fuse-requantize fuses it later. Without, only relu, clip, and what integer layers apply
            to their scaled accumulators: leaky_relu up to a slope of 1, and hard_swish, behind products.

    Before:
        %c = conv2d(%x, @w, @b) : f32[1,8,4,4]
        %y = clip(%c) {min=0.0, max=6.0} : f32[1,8,4,4]
    After:
        %y = conv2d(%x, @w, @b) {activation="clip", alpha=0.0, beta=6.0} : f32[1,8,4,4]

    Preconditions: float nodes; integer ones are the business of fuse-requantize.

    Refusals: the operand has other readers or is a graph output, its producer carries an activation already,
    a gelu is the tanh approximation, which the fused form does not have, or (without tables) a leaky_relu is
    steeper than 1 or follows an addition.
    """

    name: ClassVar[str] = "fuse-activation"
    tolerance: ClassVar[Tolerance] = AllClose(1e-6, 1e-6)

    tables: bool = True

    def run(self, graph: Graph, context: PassContext) -> None:
        """Fuse in topological order."""
        rewriter = context.rewriter(graph)
        names = [name for name in ACTIVATIONS if self.tables or name in (*CLAMPS, *SCALED)]
        for node in list(graph.nodes):
            producer = node.inputs[0].producer if node.inputs else None
            if node.op.name not in names or producer is None or producer.op.name not in _PRODUCERS:
                continue
            reason = _obstacle(graph, producer, node) or (None if self.tables else _table_obstacle(producer, node))
            if reason is not None:
                context.skip(node, reason)
            else:
                _fuse(rewriter, producer, node)


def _obstacle(graph: Graph, producer: Node, node: Node) -> str | None:
    value = producer.output
    if producer.is_integer or node.is_integer:
        return "it is in integer form"
    if producer.attrs.activation != "none":
        return f"{value.name} already has the activation '{producer.attrs.activation}'"
    if len(value.uses) > 1:
        return f"{value.name} has other readers"
    if any(v is value for v in graph.outputs):
        return f"{value.name} is a graph output"
    if getattr(node.attrs, "approximate", "none") != "none":
        return f"the {node.attrs.approximate} approximation of gelu has no fused form"
    return None


def _table_obstacle(producer: Node, node: Node) -> str | None:
    """Return why an activation would need a table behind integers."""
    if node.op.name not in SCALED:
        return None
    if producer.op.integer is not Quantization.ACCUMULATE or producer.attrs.residual:
        return f"behind the sum {producer} it is a table"
    if node.op.name == "leaky_relu" and node.attrs.alpha > 1.0:
        return f"its slope {node.attrs.alpha:g} is steeper than 1"
    return None


def _fuse(rewriter: Rewriter, producer: Node, node: Node) -> None:
    alpha, beta = _parameters(node)
    rewriter.set_attrs(producer, activation=node.op.name, alpha=alpha, beta=beta)
    rewriter.absorb(producer, node)


def _parameters(node: Node) -> tuple[float, float]:
    """Return the activation's parameters in the order of `qcompile.ops.arithmetic.ACTIVATIONS`."""
    attrs = node.attrs
    if node.op.name == "clip":
        return attrs.min, attrs.max
    if node.op.name == "leaky_relu":
        return attrs.alpha, 0.0
    if node.op.name == "hard_sigmoid":
        return attrs.alpha, attrs.beta
    return 0.0, 0.0
