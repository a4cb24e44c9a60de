"""Move the part of a bias that never gets to zero into the next layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt

from qcompile.ir.graph import Graph, Node
from qcompile.passmgr import Bounds, MinSqnrDb, Pass, PassContext, Tolerance
from qcompile.passmgr.channel_links import ChannelLink, LayerWeights, channel_links
from qcompile.passmgr.facts import FLOAT, Fact

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class AbsorbBias(Pass):
    """Lower each channel in front of a relu by what it always exceeds, and add that to the bias behind.

    Formula:
        relu(x) = relu(x − c) + c where x ≥ c ≥ 0, so with c_i = max(0, β_i − deviations · γ_i):
        b₁' = b₁ − c, b₂' = b₂ + W₂·c, β, γ the trained mean and deviation of the channel (of a folded BatchNorm)

    Before:
        %a = conv2d(%x, @w1, @b1) {activation="relu"} : f32[1,4,4,8]
        %y = conv2d(%a, @w2, @b2) : f32[1,4,4,8]
    After:
        %a = conv2d(%x, @w1, @b1.1) {activation="relu"} : f32[1,4,4,8]
        %y = conv2d(%a, @w2, @b2.1) : f32[1,4,4,8]

    The channels that equalize-weights enlarged otherwise set the range of the whole tensor.

    Options:
        deviations: how far below its mean a channel is taken to reach; 3 holds for 99.865 % of a normal one.

    Preconditions: run equalize-weights before; needless where no channel stays far above zero.

    Refusals: no trained mean and deviation are known; another activation than relu; anything else than layers
    reads the result; a layer behind pads with zeros, which are no part of x − c.

    Source:
        Nagel et al., "Data-free quantization through weight equalization and bias correction", 2019, §4.1.3.
    """

    name: ClassVar[str] = "absorb-bias"
    requires: ClassVar[tuple[Fact, ...]] = (FLOAT,)
    tolerance: ClassVar[Tolerance] = MinSqnrDb(20.0)

    deviations: Annotated[float, Bounds(0.0)] = 3.0

    def run(self, graph: Graph, context: PassContext) -> None:
        """Absorb wherever there is something to absorb."""
        rewriter = context.rewriter(graph)
        links, others = channel_links(graph)
        for node, reason in others:
            context.skip(node, reason)
        for link in links:
            absorbed, reason = self._excess(link)
            if absorbed is None:
                context.skip(link.first, reason)
                continue
            first = LayerWeights(link.first)
            first.bias -= absorbed
            first.write(rewriter)
            for reader, channels in link.readers:
                weights = LayerWeights(reader)
                weights.bias += weights.response(absorbed[channels])
                weights.write(rewriter)
            for value, _ in link.between:
                if value.stats is not None:
                    value.stats = (value.stats[0] - absorbed.astype(np.float32), value.stats[1])

    def _excess(self, link: ChannelLink) -> tuple[Array | None, str]:
        """Return c, float64 [channels], or None and why there is none."""
        before = link.first.output
        if before.stats is None:
            return None, f"the trained mean of {before.name} is not known"
        if not _is_relu(link):
            return None, f"something else than a relu is between {before.name} and its readers"
        for reader, _ in link.readers:
            if any(getattr(reader.attrs, "pads", ())):
                return None, f"{reader} pads with zeros"
        mean, deviation = (s.astype(np.float64) for s in before.stats)
        excess = np.maximum(0.0, mean - self.deviations * deviation)
        if not excess.any():
            return None, f"no channel of {before.name} stays above zero"
        return excess, ""


def _is_relu(link: ChannelLink) -> bool:
    """Return whether exactly one relu, fused or not, and nothing else is between the layers."""
    makers = [value.producer for value, _ in link.between]
    fused = link.first.attrs.activation
    if fused == "relu":
        return len(makers) == 1
    return fused == "none" and len(makers) == 2 and _made_by_relu(makers[1])


def _made_by_relu(node: Node | None) -> bool:
    return node is not None and node.op.name == "relu"
