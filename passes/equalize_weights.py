"""Give the channels between two layers ranges that are alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt

from qcompile.ir.graph import Graph, Node
from qcompile.passmgr import AllClose, Bounds, Pass, PassContext, Tolerance
from qcompile.passmgr.channel_links import ChannelLink, LayerWeights, channel_links
from qcompile.passmgr.clip_reach import least_factors
from qcompile.passmgr.facts import FLOAT, Fact

Array = npt.NDArray[Any]

_CONVERGED = 1e-4
_WORTH = 0.05
_STEPS = 256.0
"""Steps of 8 bits: a channel whose bias is so many times what it varies by is constant."""


@dataclass(frozen=True)
class EqualizeWeights(Pass):
    """Divide each channel between two layers by a factor, and multiply it back in the layers that read it.

    Formula:
        W₂·f(W₁·x + b₁) = (W₂·S)·f(S⁻¹·W₁·x + S⁻¹·b₁) with f(s·x) = s·f(x) for s > 0, and
        s_i = √(r₁ᵢ · r₂ᵢ) / r₂ᵢ, r₁ᵢ = max |W₁[i, :]|, r₂ᵢ = max |W₂[:, i]|,
        so that both layers then have the range √(r₁ᵢ · r₂ᵢ) in channel i; repeated over all pairs until nothing
        moves. One scale for a whole tensor then serves each of its channels.

    Before:
        %a = conv2d(%x, @w1, @b1) {activation="relu"} : f32[1,4,4,8]
        %y = conv2d(%a, @w2, @b2) : f32[1,4,4,8]
    After:
        %a = conv2d(%x, @w1.1, @b1.1) {activation="relu"} : f32[1,4,4,8]
        %y = conv2d(%a, @w2.1, @b2) : f32[1,4,4,8]

    Between the layers there may be relu, leaky_relu, prelu, pooling, zero padding and a flattening reshape, and
    several layers may read the same tensor. No data is needed, and the real numbers stay the same.

    With `clips` a clip to [0, 6] stays where it is: a channel that meets it keeps its factor of 1, and one that never
    does is enlarged only so far that it still does not. Calibration samples, or the trained mean and deviation, tell
    which are which (`qcompile.passmgr.clip_reach`).

    Options:
        sweeps: over all pairs, at most.
        clips: whether to equalize, behind a clip, the channels that never meet it. Values beyond all that the samples
            showed then meet it, so this is off by default, and a means of `--accuracy auto`.
        spread: links whose factors s_i differ by less than this within the layer stay as they are; rounding one
            scale per output channel costs little there, and `round-weights` makes up for it.

    Preconditions: constant weights; run fold-batchnorm before.

    A channel that is nearly constant, as a dead one whose BatchNorm was folded, keeps its factor of 1: its bias would
    grow with its weights, and set the range of the tensor.

    Refusals: the result has another reader (a residual add, a concat) or is a graph output; an activation that
    does not scale with its operand (sigmoid; clip to [0, 6], unless `clips` is given, something is known of the
    tensor, and the clip is fused); a layer that adds a residual.

    Source:
        Nagel et al., "Data-free quantization through weight equalization and bias correction", 2019, §4.1.
    """

    name: ClassVar[str] = "equalize-weights"
    requires: ClassVar[tuple[Fact, ...]] = (FLOAT,)
    tolerance: ClassVar[Tolerance] = AllClose(1e-5, 1e-6)

    sweeps: Annotated[int, Bounds(0)] = 50
    spread: Annotated[float, Bounds(1.0)] = 16.0
    clips: bool = False

    def run(self, graph: Graph, context: PassContext) -> None:
        """Equalize every link."""
        links, others = channel_links(graph, clips=self.clips)
        for node, reason in others:
            context.skip(node, reason)
        weights = {n: LayerWeights(n) for link in links for n in (link.first, *(r for r, _ in link.readers))}
        links = [link for link in links if self._is_uneven(link, weights, context)]
        limits = _limits(links, graph, context)
        links = [link for link in links if link.bounds is None or link.first in limits]
        total = {link.first: np.ones(link.channels) for link in links}
        for _ in range(self.sweeps):
            moves = [self._equalize(link, weights, total[link.first], limits.get(link.first)) for link in links]
            moved = max(moves, default=0.0)
            if moved < _CONVERGED:
                break
        rewriter = context.rewriter(graph)
        for layer in dict.fromkeys(n for link in links for n in (link.first, *(r for r, _ in link.readers))):
            weights[layer].write(rewriter)
        for link in links:
            _scale_statistics(link, total[link.first])

    def _is_uneven(self, link: ChannelLink, weights: dict[Node, LayerWeights], context: PassContext) -> bool:
        """Return whether a link would gain, and say why not otherwise."""
        factor = _factors(link, weights)
        ratio = float(factor.max() / factor.min())
        # The second condition keeps a pass over its own result from moving the last digits.
        if ratio < self.spread or float(np.abs(np.log(factor)).max()) < _WORTH:
            context.skip(link.first, f"its channels differ by a factor of {ratio:.3g} only")
            return False
        return True

    def _equalize(
        self, link: ChannelLink, weights: dict[Node, LayerWeights], total: Array, least: Array | None
    ) -> float:
        """Equalize one link as far as its clip allows, and return how far it moved, as a logarithm."""
        factor = _factors(link, weights)
        if least is not None:
            allowed = np.where(np.isinf(least), 1.0, np.maximum(total * factor, least))
            factor = allowed / total
        weights[link.first].scale_outputs(1.0 / factor)
        for reader, channels in link.readers:
            weights[reader].scale_inputs(factor[channels])
        total *= factor
        return float(np.abs(np.log(factor)).max())


def _factors(link: ChannelLink, weights: dict[Node, LayerWeights]) -> Array:
    """Return s, float64 [channels]; 1 for a channel that nothing writes or nobody reads, or that is constant.

    Formula:
        constant where |b_i| / max |b| > 256 · r₁ᵢ / max r₁
    """
    first, bias = weights[link.first].output_peaks(), np.abs(weights[link.first].bias)
    second = np.zeros(link.channels)
    for reader, channels in link.readers:
        np.maximum.at(second, channels, weights[reader].input_peaks())
    constant = bias * first.max(initial=0.0) > _STEPS * first * bias.max(initial=0.0)
    alive = (first > 0) & (second > 0) & ~constant
    return np.sqrt(np.where(alive, first, 1.0) / np.where(alive, second, 1.0))


def _limits(links: list[ChannelLink], graph: Graph, context: PassContext) -> dict[Node, Array]:
    """Return the least factors of the layers with a clip, float64 [channels]; where they are not known, say so."""
    clipped = [link for link in links if link.bounds is not None]
    found = {}
    for link, least in zip(clipped, least_factors(clipped, graph, context), strict=True):
        if least is None:
            context.skip(link.first, "whether its channels meet their clip is not known")
        elif np.isinf(least).all():
            context.skip(link.first, "all of its channels meet their clip")
        else:
            found[link.first] = least
    return found


def _scale_statistics(link: ChannelLink, factor: Array) -> None:
    """Bring the trained mean and deviation of the tensors between to their new scale."""
    for value, channels in link.between:
        if value.stats is not None and value.stats[0].shape == channels.shape:
            mean, deviation = value.stats
            divisor = factor[channels].astype(np.float32)
            value.stats = (np.asarray(mean / divisor, np.float32), np.asarray(deviation / divisor, np.float32))
