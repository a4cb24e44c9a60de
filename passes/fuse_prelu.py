"""Apply a parametric rectifier to the accumulators that it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from qcompile.ir.graph import Graph, Node, Value
from qcompile.ir.origin import original_name
from qcompile.ir.rewrite import Rewriter
from qcompile.passmgr import MinSqnrDb, Pass, PassContext, Tolerance
from qcompile.passmgr.facts import INTEGER, Fact
from qcompile.quant.qparams import INT_RANGE

_LAYERS = ("conv2d", "dense")


@dataclass(frozen=True)
class FusePrelu(Pass):
    """Merge an int8 prelu into the conv2d or dense before it, so that the result is rounded once.

    Formula:
        q = rne(max(s, s·slope[c])), s = float32(acc)·m, in the place of one rounding before the prelu and one behind

    Before:
        %acc = conv2d(%x, @w, @b) : i32[…] q(scale=[…], axis=3, dtype=int32)
        %t = requantize(%acc) : i8[…] q(scale=…, zp=…)
        %y = prelu(%t, @slope) {layout="NHWC"} : i8[…] q(scale=…, zp=…)
    After:
        %y = conv2d(%x, @w, @b) {layout="NHWC", activation="prelu", slopes=[…]} : i8[…] q(scale=…, zp=…)

    A leaky_relu, with one slope for all channels, is fused in float already (fuse-activation).

    Preconditions: `quantize` ran, and `fuse-requantize` not yet.

    Refusals: an intermediate with other readers, or one that is a graph output; channels that are not the last axis;
    a clamp of the layer's own, which the rounding between does; a slope above 1.
    """

    name: ClassVar[str] = "fuse-prelu"
    requires: ClassVar[tuple[Fact, ...]] = (INTEGER,)
    tolerance: ClassVar[Tolerance] = MinSqnrDb(10.0)

    def run(self, graph: Graph, context: PassContext) -> None:
        """Fuse wherever the pattern holds."""
        rewriter = context.rewriter(graph)
        known = {value.name: value for value in context.reference.values()} if context.reference is not None else None
        for node in list(graph.nodes):
            if node.op.name != "prelu" or not node.is_integer:
                continue
            rounding = node.inputs[0].producer
            layer = rounding.inputs[0].producer if rounding is not None and rounding.op.name == "requantize" else None
            if layer is None or layer.op.name not in _LAYERS or rounding is None:
                context.skip(node, "it does not read the rounded accumulator of a convolution or dense layer")
            elif (reason := _obstacle(graph, layer, rounding, node) or _clamp(rounding, known)) is not None:
                context.skip(node, reason)
            else:
                _fuse(rewriter, layer, node)


def _obstacle(graph: Graph, layer: Node, rounding: Node, node: Node) -> str | None:
    for value in (layer.output, rounding.output):
        if len(value.uses) > 1 or value in graph.outputs:
            return f"{value.name} has other readers"
    acc = layer.output.qparams
    if acc is None or layer.output.dtype != "int32" or acc.axis != len(layer.output.shape) - 1:
        return f"the channels of {layer.output.name} are not its last axis"
    if len(layer.output.shape) > 2 and node.attrs.layout != "NHWC":
        return "its channels are not the last axis"
    steepest = float(np.max(node.inputs[1].constant(), initial=0.0))
    return f"its slope {steepest:g} is steeper than 1" if steepest > 1.0 else None


def _clamp(rounding: Node, known: Mapping[str, Value] | None) -> str | None:
    """Return why a rounding may not be left out: it also cuts off what the layer's own activation does.

    Args:
        rounding: of a layer's sums.
        known: tensors of the float graph by name, which tell the activation; None where that graph is not known.
    """
    if known is not None:
        value = known.get(original_name(rounding.output.name, known))
        attrs = value.producer.attrs if value is not None and value.producer is not None else None
        clamps = getattr(attrs, "activation", "none") != "none"
    else:
        q = rounding.output.qparams
        clamps = q is None or (q.qmin, q.qmax) != INT_RANGE[q.dtype] or q.scalar_zero_point in (q.qmin, q.qmax)
    return f"{rounding.output.name} is clamped before it" if clamps else None


def _fuse(rewriter: Rewriter, layer: Node, node: Node) -> None:
    # The shortest numbers that mean these float32 values.
    slopes = tuple(float(str(slope)) for slope in node.inputs[1].constant().astype(np.float32))
    attrs = replace(layer.attrs, activation="prelu", slopes=slopes)
    rewriter.merge(layer, node, layer.inputs, attrs)
    rewriter.eliminate_dead()
