"""Turn batch normalization into the weights of a neighbour."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from qcompile import ops
from qcompile.ir.graph import Graph, Node, Value
from qcompile.ir.rewrite import Rewriter
from qcompile.ops.batch_norm import channel_axis, folded
from qcompile.ops.elementwise import Unary
from qcompile.passmgr import AllClose, Pass, PassContext, Tolerance
from qcompile.passmgr.patterns import is_output, is_present, only_reader, per_channel

Array = npt.NDArray[Any]
_Stats = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]


@dataclass(frozen=True)
class FoldBatchnorm(Pass):
    """Fold batch_norm, and mul and add by a constant per channel, into a convolution or dense layer.

    Formula:
        batch_norm(x) = g·x + s, with g = γ / √(σ² + ε) and s = β − g·μ.
        Into the layer before, y = W·x + b: W' = g·W, b' = g·b + s, per output channel.
        Into the layer after, y = W·(g·x + s) + b: W' = W·g, b' = b + Σ W·s, per input channel.
        A factor in front of an addition in front of a layer that pads: W·(g·x + s) = (W·g)·(x + s/g).
        A batch_norm between neither, and mul and add in a row with factors that differ, become a depthwise 1×1
        convolution with weight g and bias s: one multiply-add per element, whose int8 form has a scale per channel.

    Before:
        %c = conv2d(%x, @w, @b) : f32[1,8,4,4]
        %y = batch_norm(%c, @gamma, @beta, @mean, @variance) : f32[1,8,4,4]
    After:
        %y = conv2d(%x, @w.folded, @b.folded) : f32[1,8,4,4]

    The result of a folded batch_norm remembers its trained mean β and standard deviation |γ| per channel
    (`Value.stats`), from which ranges can be had without data.

    Preconditions: constant parameters, weights and biases; run canonicalize first, which turns sub and div by
    constants into add and mul.

    Refusals: parameters or weights computed at run time; into the layer before: other readers of its result,
    a graph output, an activation or a residual in between; into the layers after: a reader that is no
    convolution or dense layer, or padding with s ≠ 0 (a padded zero is not g·0 + s). What fits nowhere and
    has one factor for all channels stays, and so does a mul where extents are open and the tensor is not 4-D, or in a
    model that is quantized already.
    """

    name: ClassVar[str] = "fold-batchnorm"
    tolerance: ClassVar[Tolerance] = AllClose(1e-5, 1e-6)

    def run(self, graph: Graph, context: PassContext) -> None:
        """Fold until nothing folds any more; then let the batch_norms that are left stand alone."""
        rewriter = context.rewriter(graph)
        folded = True
        while folded:
            folded = sum(_fold_neighbours(node, rewriter) for node in list(graph.nodes)) > 0
        for node in list(graph.nodes):
            if node.op.name != "batch_norm" or node.is_integer:
                continue
            affine = _affine(node)
            if affine is None:
                context.skip(node, "its parameters are computed at run time")
            else:
                reasons = f"{_obstacle_before(graph, node, affine)}; {_obstacle_after(graph, node, affine)}"
                context.skip(node, f"{reasons}; it becomes a depthwise convolution")
                _to_depthwise(rewriter, node, affine)
        # What a quantized model multiplies with has its scales already, and says how the layer before it divides.
        for node in [] if graph.is_quantized else list(graph.nodes):
            if is_present(node) and not node.is_integer and (row := _row(node, graph)) is not None:
                last, affine = row
                context.skip(node, f"{_obstacle_before(graph, node, affine)}; it becomes a depthwise convolution")
                _to_depthwise(rewriter, last, affine)
                rewriter.eliminate_dead()


def _fold_neighbours(node: Node, rewriter: Rewriter) -> bool:
    """Fold a node into the layer before it or those after it, and say whether that was possible."""
    if node.is_integer or node.op.name not in ("batch_norm", "mul", "add") or not is_present(node):
        return False
    affine = _affine(node)
    if affine is None:
        return False
    graph = rewriter.graph
    if _obstacle_before(graph, node, affine) is None:
        _fold_before(rewriter, node, affine)
        return True
    if _obstacle_after(graph, node, affine) is None:
        _fold_after(rewriter, node, affine)
        return True
    return _fold_through_addition(rewriter, node, affine)


@dataclass(frozen=True)
class _Affine:
    """y = factor[c]·x + offset[c].

    Args:
        x: the operand that is not constant.
        axis: the channel axis of x.
        factor: float64 [C].
        offset: float64 [C].
        stats: trained mean and standard deviation of y per channel, or None.
    """

    x: Value
    axis: int
    factor: Array
    offset: Array
    stats: _Stats | None


def _affine(node: Node) -> _Affine | None:
    x = node.inputs[0]
    if node.op.name == "batch_norm":
        if not all(v.is_constant for v in node.inputs[1:]):
            return None
        scale, bias, mean, variance = (v.constant() for v in node.inputs[1:])
        factor, offset = folded(scale, bias, mean, variance, node.attrs.epsilon)
        trained = bias.astype(np.float32), np.abs(scale).astype(np.float32)
        return _Affine(x, channel_axis(len(x.shape), node.attrs.layout), factor, offset, trained)
    constants = [k for k in (0, 1) if node.inputs[k].is_constant]
    if len(constants) != 1 or getattr(node.attrs, "activation", "none") != "none":
        return None
    x, constant = node.inputs[1 - constants[0]], node.inputs[constants[0]]
    axis = _channels_of_neighbour(x, node)
    if axis is None or x.shape != node.output.shape or x.dtype != "float32":
        return None
    vector = per_channel(constant.constant(), len(x.shape), axis, x.shape[axis])
    if vector is None:
        return None
    neutral = np.zeros(vector.shape), np.ones(vector.shape)
    factor, offset = (vector, neutral[0]) if node.op.name == "mul" else (neutral[1], vector)
    stats: _Stats | None = None
    if x.stats is not None:
        mean, std = x.stats
        stats = (mean * factor + offset).astype(np.float32), (std * np.abs(factor)).astype(np.float32)
    return _Affine(x, axis, factor, offset, stats)


def _row(node: Node, graph: Graph) -> tuple[Node, _Affine] | None:
    """Return the last mul or add by a constant per channel in a row that begins with a node, and what all compute.

    In int8 one scale would have to suit the constants of all channels; equal factors have no need of more.
    """
    if node.op.name not in ("mul", "add") or (found := _affine(node)) is None:
        return None
    last, factor, offset = node, found.factor, found.offset
    while (reader := only_reader(last.output, graph)) is not None and reader.op.name in ("mul", "add"):
        behind = _affine(reader)
        if behind is None or behind.x is not last.output or behind.axis != found.axis:
            break
        last, factor, offset = reader, factor * behind.factor, offset * behind.factor + behind.offset
    rank = len(found.x.shape)
    if np.ptp(factor) == 0 or found.axis not in (1, rank - 1) or (graph.symbols and rank != 4):
        return None
    return last, _Affine(found.x, found.axis, factor, offset, last.output.stats)


_LAYERS = ("conv2d", "conv_transpose2d", "dense")

_NEAR = 4
"""How many nodes away a layer may be that tells which axis the channels are on."""


def _channels_of_neighbour(x: Value, node: Node) -> int | None:
    """Return the channel axis that the nearest layer before or behind a node works on, x being what it reads.

    Between them may be what leaves every number, or the largest or the mean of some, in its channel.
    """
    before, behind, rank = [x], [node.output], len(x.shape)
    for _ in range(_NEAR):
        makers = [value.producer for value in before if value.producer is not None]
        readers = [user for value in behind for user in value.users()]
        for layer in (*makers, *readers):
            if layer.op.name in _LAYERS and len(layer.inputs[0].shape) == rank:
                return _layer_axis(layer)
        before = [maker.inputs[0] for maker in makers if _keeps_channels(maker)]
        behind = [reader.output for reader in readers if _keeps_channels(reader)]
    return None


def _keeps_channels(node: Node) -> bool:
    """Return whether each channel of the result comes from the same one of the operand."""
    names = ("add", "mul", "max_pool", "avg_pool", "resize")
    return len(node.outputs) == 1 and (isinstance(node.op, Unary) or node.op.name in names)


def _layer_axis(layer: Node) -> int:
    rank = len(layer.inputs[0].shape)
    return rank - 1 if layer.op.name == "dense" else channel_axis(rank, layer.attrs.layout)


def _obstacle_before(graph: Graph, node: Node, affine: _Affine) -> str | None:
    layer = affine.x.producer
    if layer is None or layer.op.name not in _LAYERS:
        return f"{affine.x.name} does not come from a convolution or dense layer"
    if len(affine.x.uses) > 1 or is_output(graph, affine.x):
        return f"{affine.x.name} has other readers"
    if layer.attrs.activation != "none" or layer.attrs.residual:
        return f"{layer} has an activation or residual"
    if not (layer.inputs[1].is_constant and layer.inputs[2].is_constant):
        return f"the weights of {layer} are computed at run time"
    if _layer_axis(layer) != affine.axis:
        return f"{layer} has its channels on another axis"
    return None


def _fold_before(rewriter: Rewriter, node: Node, affine: _Affine) -> None:
    layer = affine.x.producer
    assert layer is not None
    weight, bias = layer.inputs[1].constant(), layer.inputs[2].constant()
    new_weight = weight.astype(np.float64) * _along_outputs(layer, affine.factor)
    new_bias = bias.astype(np.float64) * affine.factor + affine.offset
    _set_weights(rewriter, layer, new_weight, new_bias)
    node.output.stats = affine.stats
    rewriter.absorb(layer, node)


def _along_outputs(layer: Node, vector: Array) -> Array:
    """Return a vector over output channels in a shape that broadcasts over the layer's weights."""
    return vector.reshape(-1, *[1] * (len(layer.inputs[1].shape) - 1))


def _obstacle_after(graph: Graph, node: Node, affine: _Affine) -> str | None:
    value = node.output
    if not value.uses or is_output(graph, value):
        return f"{value.name} is a graph output"
    for layer, operand in value.uses:
        if layer.op.name not in _LAYERS or operand != 0:
            return f"{value.name} is read by {layer}"
        if not (layer.inputs[1].is_constant and layer.inputs[2].is_constant):
            return f"the weights of {layer} are computed at run time"
        if _layer_axis(layer) != affine.axis:
            return f"{layer} has its channels on another axis"
        # At its borders a transposed convolution sums fewer taps, as one that pads does.
        borders = layer.op.name == "conv_transpose2d" or any(getattr(layer.attrs, "pads", ()))
        if borders and np.any(affine.offset):
            return f"{layer} pads with zeros"
    return None


def _fold_after(rewriter: Rewriter, node: Node, affine: _Affine) -> None:
    for layer, _ in list(node.output.uses):
        weight = layer.inputs[1].constant().astype(np.float64)
        factor, offset = (_along_inputs(layer, v) for v in (affine.factor, affine.offset))
        taps = tuple(range(1, weight.ndim))
        new_bias = layer.inputs[2].constant().astype(np.float64) + (weight * offset).sum(axis=taps)
        _set_weights(rewriter, layer, weight * factor, new_bias)
    rewriter.replace_node(node, [affine.x])


def _fold_through_addition(rewriter: Rewriter, node: Node, affine: _Affine) -> bool:
    """Fold g where W·(g·x + s) pads with zeros: W·(g·x + s) = (W·g)·(x + s/g), and zeros stay zeros."""
    addition = only_reader(node.output, rewriter.graph)
    if node.op.name != "mul" or addition is None or addition.op.name != "add":
        return False
    shift = _affine(addition)
    small = np.abs(affine.factor) <= 1e-3 * np.abs(affine.factor).max(initial=0.0)
    if shift is None or shift.x is not node.output or shift.axis != affine.axis or small.any():
        return False
    scale = _Affine(shift.x, shift.axis, affine.factor, np.zeros_like(affine.offset), None)
    if _obstacle_after(rewriter.graph, addition, scale) is not None:
        return False
    for layer, _ in list(addition.output.uses):
        weight = layer.inputs[1].constant().astype(np.float64)
        bias = layer.inputs[2].constant().astype(np.float64)
        _set_weights(rewriter, layer, weight * _along_inputs(layer, affine.factor), bias)
    shape = [1] * len(affine.x.shape)
    shape[affine.axis] = -1
    quotient = (shift.offset / affine.factor).astype(np.float32)
    quotient = quotient[:1] if (quotient == quotient[0]).all() else quotient.reshape(shape)
    index = next(k for k in (0, 1) if addition.inputs[k].is_constant)
    rewriter.set_operand(addition, index, rewriter.constant(f"{addition.inputs[index].name}.scaled", quotient))
    addition.output.stats = None
    rewriter.replace_node(node, [affine.x])
    return True


def _along_inputs(layer: Node, vector: Array) -> Array:
    """Return a vector over input channels in a shape that broadcasts over the layer's weights."""
    if layer.op.name == "dense":
        return vector.reshape(1, -1)
    groups = layer.attrs.groups
    outputs = layer.inputs[1].shape[0]
    rows = np.repeat(vector.reshape(groups, -1), outputs // groups, axis=0)
    return rows[:, :, None, None] if layer.attrs.layout == "NCHW" else rows[:, None, None, :]


def _set_weights(rewriter: Rewriter, layer: Node, weight: Array, bias: Array) -> None:
    for index, data in ((1, weight), (2, bias)):
        name = layer.inputs[index].name
        base = name if name.endswith(".folded") else f"{name}.folded"
        rewriter.set_operand(layer, index, rewriter.constant(base, data.astype(np.float32)))


def _to_depthwise(rewriter: Rewriter, node: Node, affine: _Affine) -> None:
    """Compute the result of a node by a depthwise 1×1 convolution, between reshapes unless it is 4-D."""
    x, layout = affine.x, "NCHW" if affine.axis == 1 else "NHWC"
    channels = affine.factor.size
    weight = (channels, 1, 1, 1)
    constants = [
        rewriter.constant(f"{node.output.name}.weight", affine.factor.astype(np.float32).reshape(weight)),
        rewriter.constant(f"{node.output.name}.bias", affine.offset.astype(np.float32)),
    ]
    conv, reshape = ops.get("conv2d"), ops.get("reshape")
    attrs = conv.Attrs(groups=channels, layout=layout)
    node.output.stats = affine.stats
    if len(x.shape) == 4:
        rewriter.replace_op(node, conv, [x, *constants], attrs)
        return
    rest = math.prod(x.shape) // max(1, x.shape[0] * channels)
    shape = (x.shape[0], channels, rest, 1) if layout == "NCHW" else (x.shape[0], rest, 1, channels)
    flat = rewriter.insert(node, reshape, [x], reshape.Attrs(shape=shape), name=f"{x.name}.4d", loc=node.loc)
    result = rewriter.insert(node, conv, [flat.output, *constants], attrs, loc=node.loc)
    result.output.stats = affine.stats
    rewriter.replace_op(node, reshape, [result.output], reshape.Attrs(shape=x.shape))
