"""Let layers multiply integers whose scale is found at run time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from qcompile import ops
from qcompile.calibrate.weights import weight_scales
from qcompile.errors import UsageError
from qcompile.ir.cost import modelled_ns
from qcompile.ir.graph import Graph, Node, Value
from qcompile.ir.rewrite import Rewriter
from qcompile.passmgr import MinSqnrDb, Pass, PassContext, Tolerance
from qcompile.passmgr.facts import CHANNELS_LAST, Fact
from qcompile.passmgr.float_reasons import KEPT
from qcompile.passmgr.selection import selected
from qcompile.quant.affine import quantize
from qcompile.quant.qparams import QParams
from qcompile.shapes.analysis import analyse


@dataclass(frozen=True)
class QuantizeDynamic(Pass):
    """Quantize the weights of layers to int8, and their activations at run time: no calibration data is needed.

    Each row of a dense layer's operand (a token, say) and each image of a convolution's has its own scale and zero
    point, from its extremes; weights have one scale per output channel, and sums are int32.

    Before:
        %y = dense(%x, @w, @b) : f32[1,64]
    After:
        %x.lo = reduce_min(%x) {axes=[1], keepdims=true} : f32[1,1]
        %x.hi = reduce_max(%x) {axes=[1], keepdims=true} : f32[1,1]
        %x.scale, %x.zero = dynamic_scale(%x.lo, %x.hi) : f32[1,1], i32[1,1]
        %x.q = dynamic_quantize(%x, %x.scale, %x.zero) : i8[1,128]
        %y.sums = dense_integer(%x.q, @w.q, %x.zero) : i32[1,64]
        %y = rescale(%y.sums, %x.scale, @w.scale, @b) : f32[1,64]

    Options:
        keep_float: nodes that stay in float32: names, globs, "/regular expressions/", "op:softmax", "from..to".
        weights: how scales of weights are chosen, "mse" or "max".

    Preconditions: to-nhwc ran.

    Refusals: a layer whose weights or bias are computed at run time, whose activation is fused, whose sums could
    leave int32, or for which the conversions would cost more than integers save; a convolution of open extents.
    """

    name: ClassVar[str] = "quantize-dynamic"
    requires: ClassVar[tuple[Fact, ...]] = (CHANNELS_LAST,)
    tolerance: ClassVar[Tolerance] = MinSqnrDb(10.0)

    keep_float: tuple[str, ...] = ()
    weights: str = "mse"

    def run(self, graph: Graph, context: PassContext) -> None:
        """Rewrite every layer for which it pays."""
        if self.weights not in ("mse", "max"):
            raise UsageError(f"no choice of weight scales '{self.weights}'", hint="mse or max")
        kept = selected(graph, self.keep_float, option="keep_float") if self.keep_float else set()
        opened = analyse(graph).axes if graph.symbols else {}
        builder = _Builder(context.rewriter(graph), self.weights)
        for node in list(graph.nodes):
            if node.op.name not in ("dense", "conv2d"):
                continue
            reason = KEPT if node in kept else _obstacle(node)
            if node.op.name == "conv2d" and any(opened.get(node.inputs[0], ())):
                reason = "an extent of its operand is open, and it would read past the actual end"
            if reason is None:
                builder.rewrite(node)
            else:
                context.skip(node, reason)


def _obstacle(node: Node) -> str | None:
    x, weight, bias = node.inputs[:3]
    if node.is_integer or x.dtype != "float32":
        return f"it reads {x.dtype}"
    if not weight.is_constant or not bias.is_constant:
        return "its weight or bias is computed at run time"
    if node.attrs.activation != "none" or node.attrs.residual:
        return f"{'a residual' if node.attrs.residual else node.attrs.activation} is fused to it; fuse it afterwards"
    if not np.isfinite(weight.constant()).all():
        return f"{weight.name} is not finite"
    terms = int(np.prod(weight.shape[1:]))
    if terms * 255 * 127 > 2**31 - 1:
        return f"a sum of {terms} products could leave int32"
    read, written, macs = x.type.size, node.output.type.size, node.op.macs(node)
    real = modelled_ns(macs, 4 * (read + weight.type.size + written), "float32")
    # Two looks at the extremes, one to quantize; int32 sums are written, and read again.
    conversions = modelled_ns(0, 13 * read + 8 * written, "float32")
    if modelled_ns(macs, read + weight.type.size + 4 * written, "int8") + conversions >= real:
        return "its conversions would cost more than integers save"
    return None


class _Builder:
    """Builds the integer form of layers; what several read is quantized once."""

    def __init__(self, rewriter: Rewriter, weights: str) -> None:
        self.rewriter, self.method = rewriter, weights
        self.codes: dict[tuple[Value, tuple[int, ...]], tuple[Value, Value, Value]] = {}

    def rewrite(self, node: Node) -> None:
        """Replace one layer."""
        x, weight, bias = node.inputs[:3]
        rank = len(x.shape)
        axes = (rank - 1,) if node.op.name == "dense" else tuple(range(1, rank))
        q, scale, zero = self._quantized(node, x, axes)
        method: Any = self.method
        chosen = weight_scales(weight.constant(), 0, method=method)
        params = QParams(tuple(chosen.tolist()), (0,), "int8", -127, 127, axis=0)
        codes = self.rewriter.constant(f"{weight.name}.q", quantize(weight.constant(), params))
        scales = self.rewriter.constant(f"{weight.name}.scale", np.asarray(params.scale, np.float32))
        attrs = None if node.op.name == "dense" else node.attrs
        sums = self._add(node, f"{node.op.name}_integer", [q, codes, zero], attrs, f"{node.output.name}.sums")
        self.rewriter.replace_op(node, ops.get("rescale"), [sums, scale, scales, bias])

    def _quantized(self, node: Node, x: Value, axes: tuple[int, ...]) -> tuple[Value, Value, Value]:
        """Return codes, scale and zero point of a tensor."""
        if (x, axes) not in self.codes:
            ends = []
            for op, name in (("reduce_min", "lo"), ("reduce_max", "hi")):
                attrs = ops.get(op).Attrs(axes=axes, keepdims=True)
                ends.append(self._add(node, op, [x], attrs, f"{x.name}.{name}"))
            made = self.rewriter.graph.add_node(
                ops.get("dynamic_scale"), ends, names=[f"{x.name}.scale", f"{x.name}.zero"], loc=node.loc, before=node
            )
            scale, zero = made.outputs
            q = self._add(node, "dynamic_quantize", [x, scale, zero], None, f"{x.name}.q")
            self.codes[x, axes] = (q, scale, zero)
        return self.codes[x, axes]

    def _add(self, node: Node, op: str, operands: list[Value], attrs: Any, name: str) -> Value:
        return self.rewriter.insert(node, ops.get(op), operands, attrs, name=name, loc=node.loc).output
