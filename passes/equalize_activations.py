"""Give the channels of activations ranges that suit the one scale of their tensor."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt

from qcompile.calibrate.calibration_set import usual_count
from qcompile.calibrate.sample_choice import some_samples
from qcompile.ir.graph import Graph, Node, Value
from qcompile.ir.opdef import Quantization
from qcompile.ir.regions import computed_bytes
from qcompile.ir.rewrite import Rewriter
from qcompile.ops.arithmetic import divided_activation
from qcompile.parallel import threads_within
from qcompile.passmgr import AllClose, Bounds, Pass, PassContext, Tolerance
from qcompile.passmgr.channel_links import LayerWeights
from qcompile.passmgr.facts import FLOAT, Fact
from qcompile.scaling.classes import PLAIN, ScaleClasses, ScaledLayer
from qcompile.scaling.factors import ChannelFactors, RoundedTensor, RoundedWeights
from qcompile.scaling.noise import NoiseGains
from qcompile.scaling.statistics import ChannelStatistics

Array = npt.NDArray[Any]

_FOLLOWED = 8
"""Samples on which noise is followed to the outputs, of networks that take long."""

_MOST_BYTES = 2**32
"""Of all tensors of one sample, which are held while noise is followed through them."""

_GRID = 16
"""Factors are powers of 2^(1/16), so that they do not depend on how a machine rounds the sums they come from."""


@dataclass(frozen=True)
class EqualizeActivations(Pass):
    """Divide each channel of the tensors between layers by a factor, and multiply it back in the layers that read it.

    Formula:
        W₂·f(W₁·x + b₁) = (W₂·S)·(S⁻¹·f(W₁·x + b₁)), where f(s·x) = s·f(x): = (W₂·S)·f(S⁻¹·W₁·x + S⁻¹·b₁);
        S = argmin Σ_tensors Σ_c g_c · s_c² · step² / 12 + r · Σ_weights Σ_o g_o · step_o² / 12 · Σ_c p_c / s_c²,
        step = (max_c high_c / s_c + max_c low_c / s_c) / 255, step_o = max_c |w_oc| · s_c / 127

    What rounding a tensor to 8 bits costs is known from its ranges by channel (`qcompile.scaling.statistics`) and
    from what noise in each channel does to the outputs (`qcompile.scaling.noise`): a channel that reaches far makes
    the step of all others coarse, and one that counts for little can bear a coarser one. Behind a clip or hard_swish
    the layer divides after its activation, which costs nothing: an integer layer has multipliers by channel anyway.

    Before:
        %a = conv2d(%x, @w1, @b1) {activation="hard_swish"} : f32[1,4,4,8]
        %y = conv2d(%a, @w2, @b2) : f32[1,4,4,8]
    After:
        %a = conv2d(%x, @w1, @b1) {activation="channel_hard_swish", divisors=[…]} : f32[1,4,4,8]
        %y = conv2d(%a, @w2.1, @b2) : f32[1,4,4,8]

    The channels of tensors that are added have the same factors; concatenations, splits, shuffles, poolings and
    resizings hand theirs on (`qcompile.scaling.classes`).

    Options:
        samples: calibration samples to use at most, and up to eight times as many of networks that take little time.
        gain: noise must become this many times smaller, as predicted; else everything stays as it is.
        rounded: share of the noise of weights that rounding them by layer leaves, r.
        synthetic: samples to make up where no calibration set is given; 0 leaves the graph as it is.

    Refusals: no calibration samples; tensors of more than 4 GiB; too small a gain; channels that meet an operation
    which does not scale with its operand, a graph input or a graph output.

    Source:
        the idea of Nagel et al., "Data-free quantization through weight equalization and bias correction", 2019, with
        ranges and sensitivities of activations instead of ranges of weights.
    """

    name: ClassVar[str] = "equalize-activations"
    requires: ClassVar[tuple[Fact, ...]] = (FLOAT,)
    tolerance: ClassVar[Tolerance] = AllClose(1e-4, 1e-5)

    samples: Annotated[int, Bounds(1)] = 32
    gain: Annotated[float, Bounds(0.0)] = 1.15
    rounded: Annotated[float, Bounds(0.0)] = 1.0
    synthetic: Annotated[int, Bounds(0)] = 0

    def run(self, graph: Graph, context: PassContext) -> None:
        """Find the factors of all channels, and apply them."""
        classes = ScaleClasses(graph)
        roots, places = np.unique([classes.root(n) for n in range(classes.count)], return_inverse=True)
        free = ~np.isin(roots, list(classes.frozen))
        if not free.any():
            context.skip(None, "no channel may be scaled")
            return
        if computed_bytes(graph) > _MOST_BYTES:
            size = computed_bytes(graph) / 2**30
            context.skip(None, f"its tensors take {size:.1f} GiB, too much to hold all of a sample's at once")
            return
        useful = _useful(graph, classes, places, free)
        statistics = ChannelStatistics({value: classes.numbers[value] for value in useful})
        count = usual_count(graph, self.samples)
        samples = some_samples(graph, context, count, self.synthetic)
        statistics.gather(graph, samples, lambda n: context.progress(n, count, "looking at channels"), context.threads)
        if not statistics.samples:
            context.skip(None, "there are no calibration samples")
            return
        gains = self._gains(graph, context, classes, statistics, useful)
        found = self._factors(gains, classes, statistics, places, free)
        gain = found.before / found.after if found.after else 1.0
        if gain < self.gain:
            context.skip(None, f"its channels are even enough: {gain:.2f} times less noise only")
            return
        _Scaling(context.rewriter(graph), classes, found.factors[places]).apply()

    def _gains(
        self,
        graph: Graph,
        context: PassContext,
        classes: ScaleClasses,
        statistics: ChannelStatistics,
        tensors: Collection[Value],
    ) -> NoiseGains:
        """Follow noise from some tensors to the outputs, on some of the samples."""
        gains, count = NoiseGains(graph, classes, statistics, tensors), usual_count(graph, _FOLLOWED)
        samples = some_samples(graph, context, count, self.synthetic)
        threads = threads_within(context.threads, computed_bytes(graph))
        gains.gather(samples, lambda n: context.progress(n, count, "following noise"), threads)
        return gains

    def _factors(
        self, gains: NoiseGains, classes: ScaleClasses, statistics: ChannelStatistics, places: Array, free: Array
    ) -> ChannelFactors:
        """Find the factors of all classes.

        Args:
            gains: of the tensors that matter.
            classes: of its channels.
            statistics: of them.
            places: index of the class of each number.
            free: whether each class may change.
        """
        tensors, weights = [], []
        for value in statistics.power:
            indices = places[classes.numbers[value].ravel()]
            if not _is_rounded(value) or not free[indices].any():
                continue
            low, high = (end.ravel() for end in statistics.reach(value))
            own = gains.of(value).ravel() * (value.type.size / len(indices))
            tensors.append(RoundedTensor(indices, low, high, own))
        for layer in classes.layers:
            indices = places[layer.inputs]
            if free[indices].any():
                weights += _rounded_weights(layer, indices, gains.before(layer.node) * self.rounded, statistics)
        return ChannelFactors(tensors, weights, free)


def _useful(graph: Graph, classes: ScaleClasses, places: Array, free: Array) -> set[Value]:
    """Return the tensors of which ranges, powers or gains decide about factors; arguments as for `_factors`."""
    found = {value for value in graph.outputs if value in classes.numbers}
    for value, numbers in classes.numbers.items():
        if _is_rounded(value) and free[places[numbers.ravel()]].any():
            found.add(value)
    for layer in classes.layers:
        if free[places[layer.inputs]].any():
            found.update((layer.node.inputs[0], layer.node.output))
    return found


def _is_rounded(value: Value) -> bool:
    """Return whether a tensor has a step of its own."""
    return value.producer is not None and value.producer.op.integer is not Quantization.SHARED


def _rounded_weights(
    layer: ScaledLayer, indices: Array, gains: Array, statistics: ChannelStatistics
) -> list[RoundedWeights]:
    """Return the weights of a layer, those of each group; none where each output has one input only."""
    node = layer.node
    weight = LayerWeights(node).weight
    groups, outputs, taps, inputs = weight.shape
    if inputs == 1:
        return []
    if node.op.name == "conv_transpose2d":
        taps = taps / math.prod(node.attrs.strides)  # each result is a sum over some
    power = statistics.power[node.inputs[0]]
    power = power.mean(axis=tuple(range(power.ndim - 1)))  # places whose channels are told apart count alike
    powers = np.broadcast_to(power, (groups * inputs,)) * taps
    behind = np.broadcast_to(gains.reshape(-1), (groups * outputs,)) * (node.output.type.size / (groups * outputs))
    return [
        RoundedWeights(
            indices.reshape(groups, inputs)[group],
            np.abs(weight[group]).max(axis=1).astype(np.float32),
            powers.reshape(groups, inputs)[group],
            behind.reshape(groups, outputs)[group],
        )
        for group in range(groups)
    ]


class _Scaling:
    """Writes factors into a graph.

    Args:
        rewriter: of the graph.
        classes: of its channels.
        factors: of each number.
    """

    def __init__(self, rewriter: Rewriter, classes: ScaleClasses, factors: Array) -> None:
        self._rewriter, self._classes = rewriter, classes
        self._factors = np.exp2(np.rint(np.log2(factors) * _GRID) / _GRID)

    def apply(self) -> None:
        """Scale all layers, the constants beside tensors, and what is known of tensors."""
        for layer in self._classes.layers:
            self._scale_layer(layer.node, self._factors[layer.inputs], self._factors[layer.outputs])
        for item in self._classes.constants:
            old = item.node.inputs[item.operand]
            scaled = (old.constant() / self._factors[item.numbers]).astype(old.dtype)
            if not np.array_equal(scaled, np.broadcast_to(old.constant(), scaled.shape)):
                self._rewriter.set_operand(item.node, item.operand, self._rewriter.constant(old.name, scaled))
        for value, numbers in self._classes.numbers.items():
            if value.stats is not None and value.stats[0].size == numbers.size:
                divisor = self._factors[numbers].ravel()
                mean, deviation = (part / divisor.reshape(part.shape) for part in value.stats)
                value.stats = (np.asarray(mean, np.float32), np.asarray(deviation, np.float32))

    def _scale_layer(self, node: Node, inputs: Array, outputs: Array) -> None:
        weights = LayerWeights(node)
        weights.scale_inputs(inputs)
        if node.attrs.activation in PLAIN:
            weights.scale_outputs(1.0 / outputs)
        elif (outputs != 1.0).any():
            divisors = tuple(float(str(factor)) for factor in outputs.astype(np.float32))
            self._rewriter.set_attrs(node, activation=divided_activation(node.attrs), divisors=divisors)
        weights.write(self._rewriter)
