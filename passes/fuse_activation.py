"""Apply an activation where its operand is computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from qcompile.ir.graph import Graph, Node
from qcompile.ir.opdef import Quantization
from qcompile.ir.rewrite import Rewriter
from qcompile.ops.arithmetic import ACTIVATIONS, CLAMPS, divided_activation
from qcompile.passmgr import AllClose, Pass, PassContext, Tolerance
from qcompile.quant.scaled import SCALED

Array = npt.NDArray[Any]

_PRODUCERS = ("conv2d", "conv_transpose2d", "dense", "add")
_DIVIDES = ("conv2d", "dense")


@dataclass(frozen=True)
class FuseActivation(Pass):
    """Move an activation into the conv2d, conv_transpose2d, dense or add that computes its operand.

    Formula:
        y = act(Σ x·w + b), with act one of relu, clip, leaky_relu, hard_swish, hard_sigmoid, sigmoid, tanh,
        silu, gelu

    Options:
        tables: whether to fuse what in int8 is a table, for which the range of the tensor in front must be
            measured first; fuse-requantize fuses it later. Without, only relu, clip, and what integer layers apply
            to their scaled accumulators: leaky_relu up to a slope of 1, and hard_swish, behind products; and a
            multiplication behind a clip from zero or hard_swish of conv2d and dense, with one positive constant for
            each channel, which then is 1 / divisors of channel_clip or channel_hard_swish.

    Before:
        %c = conv2d(%x, @w, @b) : f32[1,8,4,4]
        %y = clip(%c) {min=0.0, max=6.0} : f32[1,8,4,4]
    After:
        %y = conv2d(%x, @w, @b) {activation="clip", alpha=0.0, beta=6.0} : f32[1,8,4,4]

    Preconditions: float nodes; integer ones are the business of fuse-requantize.

    Refusals: the operand has other readers or is a graph output, its producer carries an activation already,
    a gelu is the tanh approximation, which the fused form does not have, or (without tables) a leaky_relu is
    steeper than 1 or follows an addition, or a factor for a channel is not positive.
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
            if not self.tables and producer is not None and (factors := _factors(producer, node)) is not None:
                reason = _use_obstacle(graph, producer) or _fuse_factors(rewriter, producer, node, factors)
                if reason is not None:
                    context.skip(node, reason)
                continue
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
    reason = _use_obstacle(graph, producer)
    if reason is None and getattr(node.attrs, "approximate", "none") != "none":
        return f"the {node.attrs.approximate} approximation of gelu has no fused form"
    return reason


def _use_obstacle(graph: Graph, producer: Node) -> str | None:
    """Return why a result cannot become another one: it is needed itself."""
    value = producer.output
    if len(value.uses) > 1:
        return f"{value.name} has other readers"
    return f"{value.name} is a graph output" if any(v is value for v in graph.outputs) else None


def _factors(producer: Node, node: Node) -> Array | None:
    """Return the constants, one for each channel, that a node multiplies what a layer's activation gives with."""
    if node.op.name != "mul" or producer.op.name not in _DIVIDES or not node.inputs[1].is_constant:
        return None
    attrs, constant, shape = producer.attrs, node.inputs[1].constant(), node.output.shape
    if producer.is_integer or attrs.residual or divided_activation(attrs) is None:
        return None
    axis = 1 if len(shape) == 4 and getattr(attrs, "layout", "NHWC") == "NCHW" else len(shape) - 1
    wanted = [shape[axis] if a == axis else 1 for a in range(len(shape))]
    known = [1] * (len(shape) - constant.ndim) + list(constant.shape)
    return constant.reshape(-1) if known == wanted and producer.output.shape == shape else None


def _fuse_factors(rewriter: Rewriter, producer: Node, node: Node, factors: Array) -> str | None:
    """Let a layer divide what its activation gives, each channel by 1 / its factor; return why not."""
    with np.errstate(divide="ignore", over="ignore"):
        divisors = (1.0 / factors.astype(np.float64)).astype(np.float32)
    if not np.all((divisors > 0.0) & np.isfinite(divisors)):
        return "a factor is not positive, or too large or small to divide by instead"
    # The shortest numbers that mean these float32 values.
    shortest = tuple(float(str(divisor)) for divisor in divisors)
    rewriter.set_attrs(producer, activation=divided_activation(producer.attrs), divisors=shortest)
    rewriter.absorb(producer, node)
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
