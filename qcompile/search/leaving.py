"""In what a node computes that leaves int8: on 16-bit activations where these do and cost less, else in float32."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from qcompile.cost import NodeCosts
from qcompile.ir.graph import Graph, Node
from qcompile.search.sensitivity import Noise

_WEIGHTS_SHARE = 0.12
"""Noise of rounded weights that 16-bit activations may leave behind, as a share of all that is left: half a dB."""


@dataclass(frozen=True)
class Kept:
    """Nodes that leave int8, by the names of their results.

    Args:
        real: those that compute in float32.
        wide: those that compute on 16-bit activations.
    """

    real: tuple[str, ...] = ()
    wide: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.real or self.wide)


@dataclass(frozen=True)
class Leaving:
    """Chooses the precision of nodes that leave int8.

    Sixteen bits take away the noise of a node's activations, not that of its weights. They serve where they cost
    less than float32 on the target and the weights of all nodes that get them add little.

    Args:
        weights: noise of the rounded weights of each node for which 16 bits cost less than float32, by the name of
            its result, over the signal at the worst output.
    """

    weights: Mapping[str, float]

    @staticmethod
    def of(graph: Graph, noises: Sequence[Noise], costs: NodeCosts) -> Leaving:
        """Return the choice for a network.

        Args:
            graph: calibrated float graph whose nodes have a precision.
            noises: what each source adds at the outputs.
            costs: of nodes on the target.
        """
        weights = {node.outputs[0].name: 0.0 for node in graph.nodes if _wide_is_cheaper(node, costs)}
        for noise in noises:
            if noise.source.kind == "weights" and noise.source.node is not None:
                name = noise.source.node.outputs[0].name
                if name in weights:
                    weights[name] += max(noise.outputs, default=0.0)
        return Leaving(weights)

    def kept(self, names: Iterable[str], left: float) -> Kept:
        """Return how nodes that leave int8 compute.

        Args:
            names: of their results.
            left: noise that is allowed, or that their leaving leaves behind where that is more; the unit of `weights`.
        """
        names = tuple(names)
        allowed, wide = _WEIGHTS_SHARE * left, set()
        for name in sorted((n for n in names if n in self.weights), key=lambda n: (self.weights[n], n)):
            allowed -= self.weights[name]
            if allowed < 0.0:
                break
            wide.add(name)
        return Kept(tuple(n for n in names if n not in wide), tuple(n for n in names if n in wide))


def _wide_is_cheaper(node: Node, costs: NodeCosts) -> bool:
    if node.op.integer_obstacle(node) or node.op.int16_obstacle(node):
        return False
    return costs.node(node, "int16").ns < costs.node(node, "float32").ns
