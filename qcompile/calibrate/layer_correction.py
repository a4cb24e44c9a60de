"""What the passes that correct integer layers share: the walk, and the new constants."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from qcompile.calibrate.layer_moments import LAYERS, LayerMoments, layer_weights, ungrouped_weights
from qcompile.calibrate.paired_run import LayerPair, PairInputs, pair_layers, pair_recurring, run_side_by_side
from qcompile.calibrate.recurring_layers import SharedLayer, batches, observe, shared_layers
from qcompile.calibrate.sample_choice import calibration_samples
from qcompile.ir.graph import Graph, Node
from qcompile.ir.rewrite import Rewriter
from qcompile.quant.qparams import QParams

if TYPE_CHECKING:
    from qcompile.passmgr import PassContext

Array = npt.NDArray[Any]

_MOMENT_BYTES = 2**30  # of moments of layers that are observed in one run
MOST_GAIN = 1.1
"""Largest factor of the variance that makes up for noise on the input of a layer."""

BIAS_LIMIT = 2**30
"""Largest magnitude of an integer bias, LSB; the rest of int32 is left to the products."""


class LayerData:
    """A layer under correction, in real units and grouped: see `grouped_weights`.

    Args:
        pair: the integer layer and its float original.
        moments: of what both read.
        alone: whether the moments are those of the float network: they do not tell what the integer layer reads.

    Attributes:
        weight: of the float layer, float64 [groups, outputs, terms].
        integers: of the integer layer, LSB, the same shape.
        scale: of the integers, float64 [groups, outputs].
        shared_scale: whether all outputs have one scale.
        bias: of the float layer, float64 [groups, outputs].
    """

    def __init__(self, pair: LayerPair, moments: LayerMoments, *, alone: bool = False) -> None:
        self.pair, self.moments, self.alone = pair, moments, alone
        node, groups = pair.node, moments.groups
        params = node.inputs[1].qparams
        assert params is not None
        self.weight = layer_weights(pair.reference).astype(np.float64)
        self.integers = layer_weights(node).astype(np.float64)
        scale = np.broadcast_to(np.asarray(params.scale, np.float64), (moments.outputs,))
        self.scale = scale.reshape(groups, -1)
        self.shared_scale = params.axis is None
        self.bias = pair.reference.inputs[2].constant().astype(np.float64).reshape(groups, -1)

    def steepened(self, integers: Array, scale: Array) -> Array:
        """Return scales that take back what noise on the input takes from the variance of each output, float32 values.

        The least squared error is found by a result ẑ that follows the float layer's z with a slope below 1, because
        a part of what it reads is noise; from layer to layer the largest values, which networks act on, shrink. At a
        slope of 1 the noise would grow instead. Between the two, ẑ of the best fit varies as much as z.

        Formula:
            s' = s / √ρ, ρ = min(max(cov(z, ẑ) / var z, 1 / 1.1), 1), z = W·p, ẑ = s·v·q

        Args:
            integers: new weights v, LSB, [groups, outputs, terms].
            scale: of them, real units per LSB, [groups, outputs].
        """
        own, cross, _ = self.moments.covariances
        # cov(p, q) = cov(q, q) + cov(p − q, q)
        along = np.matmul(self.weight, own + cross)
        shared = (along * (integers * scale[:, :, None])).sum(axis=2)
        slope = np.divide(shared, self.moments.variances, out=np.ones_like(shared), where=self.moments.variances > 0.0)
        steeper = scale / np.sqrt(np.clip(slope, 1.0 / MOST_GAIN, 1.0))
        return np.asarray(steeper.astype(np.float32).astype(np.float64))

    @property
    def least_scale(self) -> Array:
        """Smallest scale per output for which the integer bias fits, real units per LSB."""
        x = self.pair.node.inputs[0].qparams
        assert x is not None
        return np.abs(self.centred_bias()) / (x.scalar_scale * BIAS_LIMIT / 2)

    def centred_bias(self) -> Array:
        """Return the bias for which the mean of every channel is that of the float layer, real units."""
        return self.moments.centred_bias(self.bias, self.weight, self.integers * self.scale[:, :, None])


def replace_weights(rewriter: Rewriter, data: LayerData, integers: Array, scale: Array) -> None:
    """Give an integer layer other weights and scales, and the bias that goes with them.

    Args:
        rewriter: of the graph.
        data: the layer; takes the new values over.
        integers: LSB, [groups, outputs, terms].
        scale: real units per LSB, [groups, outputs].
    """
    node = data.pair.node
    old = node.inputs[1].qparams
    assert old is not None
    flat = scale.reshape(-1)
    if old.axis is None:
        flat = flat[:1]
    params = replace(old, scale=tuple(flat.tolist()))
    replace_constant(rewriter, node, 1, ungrouped_weights(node, integers).astype(np.int8), params)
    data.integers, data.scale = integers, scale
    _replace_bias_for(rewriter, data, params)


def _share_weights(rewriter: Rewriter, source: LayerData, data: LayerData) -> None:
    """Give an integer layer the weights that another one got, and the bias that goes with them."""
    weight = source.pair.node.inputs[1]
    assert weight.qparams is not None
    rewriter.set_operand(data.pair.node, 1, weight)
    data.integers, data.scale = source.integers, source.scale
    _replace_bias_for(rewriter, data, weight.qparams)


def _replace_bias_for(rewriter: Rewriter, data: LayerData, weights: QParams) -> None:
    """Give an integer layer the bias that goes with its new weights."""
    x, bias = data.pair.node.inputs[0].qparams, data.pair.node.inputs[2].qparams
    assert x is not None
    assert bias is not None
    steps = np.float64(x.scalar_scale) * np.asarray(weights.scale, np.float64)
    replace_bias(rewriter, data, data.centred_bias(), replace(bias, scale=tuple(steps.tolist())))


def replace_bias(rewriter: Rewriter, data: LayerData, bias: Array, params: QParams | None = None) -> None:
    """Give an integer layer another bias.

    Args:
        rewriter: of the graph.
        data: the layer.
        bias: real units, [groups, outputs].
        params: of its integers; None keeps them.
    """
    node = data.pair.node
    params = params or node.inputs[2].qparams
    assert params is not None
    steps = np.rint(bias.reshape(-1) / np.asarray(params.scale, np.float64))
    replace_constant(rewriter, node, 2, np.clip(steps, -BIAS_LIMIT, BIAS_LIMIT).astype(np.int32), params)


def replace_constant(rewriter: Rewriter, node: Node, index: int, data: Array, params: QParams) -> None:
    """Give a node another constant, unless it is the same.

    Args:
        rewriter: of the graph.
        node: the reader.
        index: of the operand.
        data: codes of the new constant.
        params: what they mean.
    """
    old = node.inputs[index]
    if old.qparams == params and np.array_equal(old.constant(), data):
        return
    new = rewriter.constant(old.name, data)
    new.qparams = params
    rewriter.set_operand(node, index, new)


def correct_layers(
    graph: Graph,
    context: PassContext,
    *,
    limit: int,
    synthetic: int,
    what: str,
    correct: Callable[[LayerData], None],
    means_only: bool = False,
) -> None:
    """Show every integer layer, in order, with the moments of what it reads, to a function that corrects it.

    Layers in loops and behind them, and those that share their weights, come last, with the moments of what they read
    in the float network; of those with the same weights only the first is shown, and the others get what it got.

    Args:
        graph: in integer form.
        context: holds the float graph and the calibration samples.
        limit: calibration samples to use at most.
        synthetic: samples to make up where there are none; with 0 the graph stays as it is.
        what: the work, for progress.
        correct: may replace the constants of the layer.
        means_only: whether it needs the means of the moments alone.
    """
    samples = calibration_samples(graph, context, limit, synthetic)
    if context.reference is None or not samples:
        reason = "there are no calibration samples" if not samples else "the float graph is not known"
        context.skip(None, reason)
        return
    pairs, strangers = pair_layers(context.reference, graph)
    for node in strangers:
        context.skip(node, "no layer of the float graph has its operands")
    recurring = pair_recurring(context.reference, graph)
    for pair in (*pairs, *recurring):
        if pair.node.op.name not in LAYERS:
            context.skip(pair.node, f"{pair.node.op.name} is not corrected")
    pairs, recurring = ([p for p in found if p.node.op.name in LAYERS] for found in (pairs, recurring))
    digests = {pair: pair.reference.inputs[1].content_digest() for pair in (*pairs, *recurring)}
    readers = Counter(digests.values())
    single = [pair for pair in pairs if readers[digests[pair]] == 1]
    groups = shared_layers([pair for pair in pairs if readers[digests[pair]] > 1] + recurring)
    done = 0

    def report() -> None:
        nonlocal done
        done += 1
        context.progress(done, len(single) + len(groups), what)

    def visit(pair: LayerPair, inputs: PairInputs) -> None:
        moments = LayerMoments.of(pair, len(samples), context.seed, means_only=means_only)
        moments.fill(inputs, context.threads)
        correct(LayerData(pair, moments))
        report()

    run_side_by_side(context.reference, graph, single, samples, visit, context.threads)
    for some in batches(groups, _MOMENT_BYTES):
        layers = [SharedLayer(g, len(samples), context.seed, means_only=means_only) for g in some]
        observe(context.reference, layers, samples)
        for layer in layers:
            _correct_shared(context.rewriter(graph), layer, correct)
            report()


def _correct_shared(rewriter: Rewriter, layer: SharedLayer, correct: Callable[[LayerData], None]) -> None:
    """Show the first of some layers with the same weights to a function, and give all what that makes of them."""
    known = [(p, m) for p, m in zip(layer.pairs, layer.own, strict=True) if m.count]
    if not known or layer.moments.means_only:
        for pair, moments in known:
            correct(LayerData(pair, moments, alone=True))
        return
    data = LayerData(known[0][0], layer.moments, alone=True)
    correct(data)
    for pair, moments in known:
        _share_weights(rewriter, data, LayerData(pair, moments, alone=True))
