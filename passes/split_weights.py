"""Make sums of symmetric 8-bit weights out of a quantized model's asymmetric ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from qcompile import ops
from qcompile.calibrate.weights import constant_scales
from qcompile.ir.graph import Graph, Node, Value
from qcompile.ir.opdef import Quantization
from qcompile.ir.rewrite import Rewriter
from qcompile.ops.concat import ConcatAttrs
from qcompile.ops.gather import GatherAttrs
from qcompile.ops.resize import ResizeAttrs
from qcompile.passmgr import AllClose, Pass, PassContext, Tolerance

MOST = 127
"""Largest magnitude of a weight that every kernel takes, LSB."""

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class SplitWeights(Pass):
    """Multiply twice where a weight is more than 127 steps away from its zero point.

    Weights of uint8 with a zero point z lie on a grid of up to 255 steps on either side: q − z leaves int8. They are
    the sum of parts within ±127 steps, of which the second is mostly zero:

    Formula:
        Σ x·w = Σ x·w₁ + Σ x·w₂,  w₁ = s·clip(q − z, ±127),  w₂ = s·clip(q − z − w₁/s, ±127), …

    The layer reads those input channels again behind the others that have a second part. A grouped convolution reads
    each row of its input several times instead, with as many times the stride and rows of weights.

    Before:
        %xr = fake_quantize(%x) {scale=0.1} : f32[1,4]
        %y = dense(%xr, @w, @b) : f32[1,2]                           of w = s · [[200, 3, 0, −9], [1, 2, 3, 4]]
    After:
        %xr = fake_quantize(%x) {scale=0.1} : f32[1,4]
        %again = gather(%xr, [0]) : f32[1,1]
        %all = concat(%xr, %again) : f32[1,5]
        %xr.1 = fake_quantize(%all) {scale=0.1} : f32[1,5]
        %y = dense(%xr.1, @w.1, @b) : f32[1,2]                of w.1 = s · [[127, 3, 0, −9, 73], [1, 2, 3, 4, 0]]

    Preconditions: weights and layouts are final; absorb-qdq follows.

    Refusals: weights that lie on no grid of 255 steps (those stay in float); grouped transposed convolutions.
    """

    name: ClassVar[str] = "split-weights"
    tolerance: ClassVar[Tolerance] = AllClose(1e-5)

    def run(self, graph: Graph, context: PassContext) -> None:
        """Rewrite each layer that has such weights and rounded activations."""
        rewriter = context.rewriter(graph)
        for node in list(graph.nodes):
            if node.op.integer is not Quantization.ACCUMULATE:
                continue
            rounding = _rounding(node.inputs[0])
            parts = _parts(node.inputs[1]) if rounding is not None else None
            if rounding is None or parts is None:
                continue
            if getattr(node.attrs, "groups", 1) == 1:
                _repeat_channels(rewriter, node, parts, rounding)
            elif node.op.name != "conv2d":
                context.skip(node, "asymmetric weights of a grouped transposed convolution")
            else:
                _repeat_rows(rewriter, node, parts)


def _rounding(value: Value) -> Node | None:
    """Return the rounding that says on which grid of at most 16 bits a tensor lies, None where none does."""
    producer = value.producer
    while producer is not None and producer.op.integer is Quantization.SHARED:
        if producer.op.name == "resize" and producer.attrs.mode != "nearest":
            return None
        producer = producer.inputs[0].producer
    if producer is None or producer.op.name != "fake_quantize":
        return None
    return producer if producer.attrs.qmin >= -32768 and producer.attrs.qmax <= 32767 else None


def _parts(weight: Value) -> list[Array] | None:
    """Return the parts of a weight that one of int8 cannot hold, None for any other weight."""
    data = weight.data
    if data is None or not data.size or constant_scales(weight, 0, steps=MOST) is not None:
        return None
    scales = constant_scales(weight, 0, steps=255)
    if scales is None:
        return None
    scale = scales.astype(np.float64).reshape(-1, *[1] * (data.ndim - 1))
    left = np.rint(data / scale).astype(np.int32)
    parts = []
    while left.any():
        parts.append(np.clip(left, -MOST, MOST))
        left = left - parts[-1]
    return [np.asarray(part * scale, np.float32) for part in parts]


def _repeat_channels(rewriter: Rewriter, node: Node, parts: list[Array], rounding: Node) -> None:
    """Let a layer read the channels that have a second part once more."""
    x, weight = node.inputs[0], node.inputs[1]
    first = getattr(node.attrs, "layout", "NHWC") == "NCHW"
    axis, weight_axis = (1, 1) if first else (len(x.shape) - 1, len(weight.shape) - 1)
    others = tuple(a for a in range(len(weight.shape)) if a != weight_axis)
    chosen = [np.flatnonzero(part.any(axis=others)) for part in parts[1:]]
    wider = [parts[0]] + [np.take(p, c, weight_axis) for p, c in zip(parts[1:], chosen, strict=True)]
    indices = rewriter.constant(f"{weight.name}.channels", np.concatenate(chosen).astype(np.int64))
    again = _insert(rewriter, node, "gather", [x, indices], GatherAttrs(axis), f"{x.name}.again")
    both = _insert(rewriter, node, "concat", [x, again], ConcatAttrs(axis), f"{x.name}.all")
    rounded = _insert(rewriter, node, "fake_quantize", [both], rounding.attrs, f"{x.name}.all.rounded")
    rewriter.set_operand(node, 0, rounded)
    data = np.ascontiguousarray(np.concatenate(wider, weight_axis))
    rewriter.set_operand(node, 1, rewriter.constant(f"{weight.name}.parts", data))


def _repeat_rows(rewriter: Rewriter, node: Node, parts: list[Array]) -> None:
    """Let a grouped convolution read each row as often as there are parts."""
    x, weight, attrs, count = node.inputs[0], node.inputs[1], node.attrs, len(parts)
    first = attrs.layout == "NCHW"
    row = 2 if first else 1
    height, width = x.shape[row], x.shape[row + 1]
    repeat = ResizeAttrs(
        (height * count, width), (float(count), 1.0), coordinates="asymmetric", rounding="floor", layout=attrs.layout
    )
    repeated = _insert(rewriter, node, "resize", [x], repeat, f"{x.name}.rows")
    # Rows of a dilated filter no longer have equal distances: zeros fill those between.
    apart = attrs.dilations[0] * count
    shape = list(weight.shape)
    shape[row] = apart * (shape[row] - 1) + count
    data = np.zeros(shape, np.float32)
    for number, part in enumerate(parts):
        data[(slice(None),) * row + (slice(number, None, apart),)] = part
    top, left, bottom, right = attrs.pads
    rewriter.set_operand(node, 0, repeated)
    rewriter.set_operand(node, 1, rewriter.constant(f"{weight.name}.parts", data))
    strides, dilations = (attrs.strides[0] * count, attrs.strides[1]), (1, attrs.dilations[1])
    pads = (top * count, left, bottom * count, right)
    rewriter.set_attrs(node, strides=strides, dilations=dilations, pads=pads)


def _insert(rewriter: Rewriter, node: Node, op: str, inputs: list[Value], attrs: Any, name: str) -> Value:
    return rewriter.insert(node, ops.get(op), inputs, attrs, name=name, loc=node.loc).output
