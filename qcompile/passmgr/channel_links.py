"""Layers joined channel by channel: what one writes, only layers with weights read, and nothing mixes in between."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.ir.graph import Graph, Node, Value
from qcompile.ir.rewrite import Rewriter
from qcompile.passmgr.patterns import is_output

Array = npt.NDArray[Any]

LAYERS = ("conv2d", "dense")
"""Operations that a link joins."""

_POOLS = ("max_pool", "avg_pool", "global_avg_pool", "global_max_pool")
_HOMOGENEOUS = ("relu", "leaky_relu", "prelu", "identity", "pad", *_POOLS)


@dataclass(frozen=True)
class ChannelLink:
    """A layer and those that read its result, with operations between for which f(s·x) = s·f(x) if s > 0.

    Args:
        first: the layer that writes.
        between: values from the result of `first` to the operands of the readers, each with the channel of
            every index of its channel axis.
        readers: the layers that read, each with the channel of `first` behind every input channel.
        bounds: real bounds of a clip in `first`, which other factors than 1 would move; None where there is none.
    """

    first: Node
    between: tuple[tuple[Value, Array], ...]
    readers: tuple[tuple[Node, Array], ...]
    bounds: tuple[float, float] | None = None

    @property
    def channels(self) -> int:
        """Number of output channels of the first layer."""
        return int(self.first.inputs[2].shape[0])


def channel_links(graph: Graph, *, clips: bool = False) -> tuple[list[ChannelLink], list[tuple[Node, str]]]:
    """Find the links of a float graph.

    Args:
        graph: activations fused.
        clips: whether to return layers with a clip around zero too, with its bounds.

    Returns:
        The links in order of computation, and the other layers with the reason why they begin none.
    """
    links, others = [], []
    for node in graph.nodes:
        if node.op.name not in LAYERS or node.is_integer:
            continue
        found = _Follower(graph)
        bounds = _fused_clip(node) if clips else None
        reason = found.begin(node, clipped=bounds is not None)
        if reason is None:
            links.append(ChannelLink(node, tuple(found.between), tuple(found.readers), bounds))
        else:
            others.append((node, reason))
    return links, others


def _fused_clip(node: Node) -> tuple[float, float] | None:
    """Return the bounds of a layer's clip; None where it has none, or one that does not hold zero."""
    low, high = float(node.attrs.alpha), float(node.attrs.beta)
    clipped = node.attrs.activation == "clip" and low <= 0.0 < high and (low, high) != (0.0, math.inf)
    return (low, high) if clipped else None


class _Follower:
    """Follows a layer's result to its readers."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.between: list[tuple[Value, Array]] = []
        self.readers: list[tuple[Node, Array]] = []

    def begin(self, node: Node, *, clipped: bool = False) -> str | None:
        """Follow the result of a layer, whose clip may be none of our business; return what stands in the way."""
        if not (node.inputs[1].is_constant and node.inputs[2].is_constant):
            return "its weights are computed at run time"
        if node.attrs.residual:
            return "it adds a residual"
        attrs = node.attrs
        reason = None if clipped else _activation_obstacle(attrs.activation, attrs.alpha, attrs.beta)
        rank = len(node.output.shape)
        axis = rank - 1 if getattr(attrs, "layout", "NHWC") == "NHWC" or rank != 4 else 1
        return reason or self.follow(node.output, axis, np.arange(node.output.shape[axis]))

    def follow(self, value: Value, axis: int, channels: Array) -> str | None:
        """Visit every reader of a value."""
        if is_output(self.graph, value) or not value.uses:
            return f"{value.name} is a graph output"
        self.between.append((value, channels))
        for reader, operand in value.uses:
            reason = self._visit(reader, operand, value, axis, channels)
            if reason is not None:
                return reason
        return None

    def _visit(self, reader: Node, operand: int, value: Value, axis: int, channels: Array) -> str | None:
        name = reader.op.name
        if operand != 0 or reader.is_integer:
            return f"{value.name} is read by {reader}"
        if name in LAYERS:
            return self._end(reader, value, axis, channels)
        if name == "clip":
            reason = _activation_obstacle("clip", reader.attrs.min, reader.attrs.max)
            return reason or self.follow(reader.output, axis, channels)
        if name == "pad" and not (reader.attrs.mode == "constant" and reader.attrs.value == 0.0):
            return f"{reader} pads with something else than zero"
        if name == "pad" and (reader.attrs.pads[axis] or reader.attrs.pads[axis - len(value.shape)]):
            return f"{reader} adds channels"
        if name == "reshape":
            return self._flatten(reader, value, axis, channels)
        if name not in _HOMOGENEOUS:
            return f"{value.name} is read by {reader}"
        return self.follow(reader.output, axis, channels)

    def _end(self, reader: Node, value: Value, axis: int, channels: Array) -> str | None:
        if not (reader.inputs[1].is_constant and reader.inputs[2].is_constant):
            return f"the weights of {reader} are computed at run time"
        rank = len(value.shape)
        expected = 1 if reader.op.name == "conv2d" and reader.attrs.layout == "NCHW" else rank - 1
        if axis != expected:
            return f"{reader} has its channels on another axis"
        self.readers.append((reader, channels))
        return None

    def _flatten(self, reader: Node, value: Value, axis: int, channels: Array) -> str | None:
        """Follow a reshape of [N, …] to [N, all the rest]."""
        shape = value.shape
        if reader.output.shape != (shape[0], math.prod(shape[1:])) or axis == 0:
            return f"{reader} does not flatten"
        grid = channels.reshape([-1 if a == axis else 1 for a in range(1, len(shape))])
        return self.follow(reader.output, 1, np.broadcast_to(grid, shape[1:]).reshape(-1))


def _activation_obstacle(activation: str, alpha: float, beta: float) -> str | None:
    if activation in ("none", "relu", "leaky_relu") or (activation == "clip" and (alpha, beta) == (0.0, math.inf)):
        return None
    if activation == "clip":
        return f"the clamp to [{alpha:g}, {beta:g}] would need other bounds for each channel"
    return f"{activation} does not scale with its operand"


class LayerWeights:
    """Weights and bias of a dense, conv2d or conv_transpose2d in float64, to be changed and written back once.

    Args:
        node: the layer, with constant weights.

    Attributes:
        weight: [groups, outputs per group, taps, inputs per group], real units.
        bias: [outputs], real units.
    """

    def __init__(self, node: Node) -> None:
        self.node = node
        weight = node.inputs[1].constant()
        if node.op.name == "dense":
            view = weight[None, :, None, :]
        else:
            if node.attrs.layout == "NCHW":
                weight = weight.transpose(0, 2, 3, 1)
            groups, inputs = node.attrs.groups, weight.shape[3]
            view = weight.reshape(groups, weight.shape[0] // groups, -1, inputs)
        self.weight = view.astype(np.float64)
        self.bias = node.inputs[2].constant().astype(np.float64)

    def output_peaks(self) -> Array:
        """Return max |w| of each output channel, float64 [outputs]."""
        return np.asarray(np.abs(self.weight).max(axis=(2, 3)).reshape(-1))

    def input_peaks(self) -> Array:
        """Return max |w| of each input channel, float64 [inputs]."""
        return np.asarray(np.abs(self.weight).max(axis=(1, 2)).reshape(-1))

    def scale_outputs(self, factor: Array) -> None:
        """Multiply every output channel by a factor [outputs]."""
        self.weight *= factor.reshape(self.weight.shape[0], -1)[:, :, None, None]
        self.bias *= factor

    def scale_inputs(self, factor: Array) -> None:
        """Make every input channel count a factor more, [inputs]."""
        self.weight *= factor.reshape(self.weight.shape[0], -1)[:, None, None, :]

    def response(self, offset: Array) -> Array:
        """Return what a constant offset of each input channel [inputs] adds to the outputs where nothing is padded."""
        grouped = offset.reshape(self.weight.shape[0], -1)
        return np.asarray((self.weight * grouped[:, None, None, :]).sum(axis=(2, 3)).reshape(-1))

    def write(self, rewriter: Rewriter) -> None:
        """Give the node new constants where they differ."""
        old_weight, old_bias = self.node.inputs[1], self.node.inputs[2]
        weight = self.weight
        if self.node.op.name != "dense" and self.node.attrs.layout == "NCHW":
            o, i, kh, kw = old_weight.shape
            weight = weight.reshape(o, kh, kw, i).transpose(0, 3, 1, 2)
        for index, old, data in ((1, old_weight, weight), (2, old_bias, self.bias)):
            new = np.ascontiguousarray(data.reshape(old.shape)).astype(old.dtype)
            if not np.array_equal(new, old.constant()):
                self.rewrite(rewriter, index, old, new)

    def rewrite(self, rewriter: Rewriter, index: int, old: Value, data: Array) -> None:
        """Replace one constant of the node."""
        value = rewriter.constant(old.name, data)
        value.qspec = old.qspec
        rewriter.set_operand(self.node, index, value)
