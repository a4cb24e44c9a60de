"""What noise in a channel of a tensor does to the outputs of a network, from the weights behind it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.ir.graph import Graph, Node, Value
from qcompile.passmgr.channel_links import LayerWeights
from qcompile.scaling.classes import ScaleClasses
from qcompile.scaling.statistics import ChannelStatistics

Array = npt.NDArray[Any]

_ALIGNED = ("add", "sub", "maximum", "minimum", "relu", "leaky_relu", "prelu", "identity", "abs", "neg", "pad")
_SELECTING = ("max_pool", "global_max_pool", "resize", "reduce_max", "reduce_min", "reduce_sum")
_AVERAGING = ("avg_pool", "global_avg_pool", "reduce_mean")
_VIEWS = ("concat", "split", "slice", "transpose", "reshape")
_RECTIFYING = ("relu", "clip", "hard_swish")

_TINY = 1e-30


class NoiseGains:
    """How much each channel's noise counts at the outputs, relative to their power; errors add up as if independent.

    Formula:
        g[v, c] = Σ_outputs E(∂y/∂v_c)² / E‖y‖² for one element of the channel, backwards through the graph:
        g[x, c] = Σ_{o, taps} w² · g[y, o] · E f'² · (elements of y / elements of x) through a layer y = f(w ∗ x);
        where the derivative is not known, noise keeps its ratio to the signal

    Args:
        graph: float, activations fused.
        classes: of the graph.
        statistics: of all of its tensors.
    """

    def __init__(self, graph: Graph, classes: ScaleClasses, statistics: ChannelStatistics) -> None:
        self._classes, self._power, self._positive = classes, statistics.power, statistics.positive
        self._gains = {value: np.zeros(self._shape(value)) for value in self._power}
        self._layers = {layer.node for layer in classes.layers}
        for value in graph.outputs:
            if value in self._gains:
                self._gains[value] += 1.0 / max(self._total(value), _TINY)
        for node in reversed(graph.nodes):
            self._hand_back(node)

    def of(self, value: Value) -> Array:
        """Return the gains of one element of each channel of a tensor, in the shape of its numbers."""
        return self._gains[value]

    def before(self, node: Node) -> Array:
        """Return the gains of the sums of a layer, before its activation."""
        gains = self._gains[node.output]
        rectified = getattr(node.attrs, "activation", "none") in _RECTIFYING
        return gains * self._positive[node.output] if rectified else gains

    def _shape(self, value: Value) -> tuple[int, ...]:
        return self._classes.numbers[value].shape

    def _total(self, value: Value) -> float:
        """Return the power of all elements of a tensor."""
        return float(self._power[value].mean()) * value.type.size

    def _hand_back(self, node: Node) -> None:
        """Add to the gains of what a node reads."""
        made = [value for value in node.outputs if value in self._gains]
        if not made:
            return
        read = list(dict.fromkeys(value for value in node.inputs if value in self._gains))
        if node.op.name in _VIEWS and self._has_handed_on(made, read):
            self._through_view(made, read)
            return
        for value in read:
            self._gains[value] += self._through(node, value, made)

    def _has_handed_on(self, made: list[Value], read: list[Value]) -> bool:
        """Return whether the elements that a node moved have kept their numbers; what it refused to follow has not."""
        before, after = ([self._classes.numbers[v].ravel() for v in values] for values in (read, made))
        return bool(before) and bool(np.isin(np.concatenate(after), np.concatenate(before)).all())

    def _through(self, node: Node, value: Value, made: list[Value]) -> Array:
        name, shape = node.op.name, self._shape(value)
        ratio = made[0].type.size / value.type.size
        if node in self._layers and value is node.inputs[0]:
            return self._through_layer(node, ratio)
        beside = _fits(self._gains[made[0]].shape, shape)
        if beside and name in (*_ALIGNED, *_SELECTING, *_AVERAGING):
            back = _fitted(self.before(node), shape)
            spread = ratio * ratio if name in _AVERAGING else ratio
            return np.asarray(back * spread)
        if beside and name == "mul" and value.shape == made[0].shape:
            other = next((v for v in node.inputs if v is not value), value)
            return np.asarray(_fitted(self._gains[made[0]], shape) * self._mean_power(other))
        noise = sum(float(self._gains[v].mean()) * self._total(v) for v in made)
        return np.full(shape, noise / max(self._total(value), _TINY))

    def _mean_power(self, value: Value) -> float:
        if value.is_constant:
            return float(np.mean(np.square(value.constant(), dtype=np.float64)))
        return float(self._power[value].mean()) if value in self._power else 1.0

    def _through_layer(self, node: Node, ratio: float) -> Array:
        weight = LayerWeights(node).weight
        groups, outputs = weight.shape[:2]
        behind = np.broadcast_to(self.before(node).reshape(-1), (groups * outputs,)).reshape(groups, outputs)
        channels = node.inputs[0].shape[-1]
        # What each pixel of x reaches: all taps, of which the stride of a convolution skips some.
        pixels = 1.0 if node.op.name == "conv_transpose2d" else ratio * channels / (groups * outputs)
        gains = np.einsum("goti,go->gi", np.square(weight), behind).reshape(-1) * pixels
        return _fitted(gains.reshape([1] * (len(node.inputs[0].shape) - 1) + [-1]), self._shape(node.inputs[0]))

    def _through_view(self, made: list[Value], read: list[Value]) -> None:
        """Bring gains back to where elements came from: they have kept their numbers."""
        sums = np.zeros(self._classes.count)
        for value in made:
            numbers, gains = self._classes.numbers[value], self._gains[value]
            np.add.at(sums, numbers.ravel(), gains.ravel() * (value.type.size / numbers.size))
        counts: Mapping[Value, Array] = {v: _counts(self._classes, v) for v in read}
        for value in read:
            numbers = self._classes.numbers[value]
            self._gains[value] += sums[numbers] / counts[value][numbers]


def _fits(gains: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Return whether axes that both tell apart have the same extents."""
    return len(gains) == len(shape) and all(a == b or 1 in (a, b) for a, b in zip(gains, shape, strict=True))


def _counts(classes: ScaleClasses, value: Value) -> Array:
    """Return how many elements of a tensor have each number."""
    numbers = classes.numbers[value]
    counts = np.bincount(numbers.ravel(), minlength=classes.count)
    return np.asarray(counts * (value.type.size / numbers.size))


def _fitted(gains: Array, shape: tuple[int, ...]) -> Array:
    """Return the mean gains over what a tensor does not tell apart, in its shape."""
    axes = tuple(axis for axis, extent in enumerate(shape) if extent == 1)
    return np.broadcast_to(gains.mean(axes, keepdims=True), shape)
