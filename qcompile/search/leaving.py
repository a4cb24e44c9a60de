"""In what a node computes that leaves int8: on 16-bit activations where these do and cost less, else in float32."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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


class Leaving:
    """Chooses the precision of nodes that leave int8.

    Sixteen bits take away the noise of a node's activations, not that of its weights. They serve where they cost
    less than float32 on the target and the weights of all nodes that get them add little.

    Args:
        graph: calibrated float graph whose nodes have a precision.
        noises: what each source adds at the outputs.
        costs: of nodes on the target.
    """

    def __init__(self, graph: Graph, noises: Sequence[Noise], costs: NodeCosts) -> None:
        self._nodes = {node.outputs[0].name: node for node in graph.nodes}
        self._costs = costs
        self._weights: dict[str, float] = {}
        for noise in noises:
            if noise.source.kind == "weights" and noise.source.node is not None:
                name = noise.source.node.outputs[0].name
                self._weights[name] = self._weights.get(name, 0.0) + max(noise.outputs, default=0.0)
        self._cheaper = {name for name, node in self._nodes.items() if self._wide_is_cheaper(node)}

    def _wide_is_cheaper(self, node: Node) -> bool:
        if node.op.integer_obstacle(node) or node.op.int16_obstacle(node):
            return False
        return self._costs.node(node, "int16").ns < self._costs.node(node, "float32").ns

    def kept(self, names: Iterable[str], left: float) -> Kept:
        """Return how nodes that leave int8 compute.

        Args:
            names: of their results.
            left: noise over what is allowed that their leaving leaves behind; below 1 the targets are met.
        """
        names = tuple(names)
        allowed, wide = _WEIGHTS_SHARE * max(1.0, left), set()
        for name in sorted((n for n in names if n in self._cheaper), key=lambda n: (self._weights.get(n, 0.0), n)):
            allowed -= self._weights.get(name, 0.0)
            if allowed < 0.0:
                break
            wide.add(name)
        return Kept(tuple(n for n in names if n not in wide), tuple(n for n in names if n in wide))

    def cost_ns(self, kept: Kept) -> float:
        """Return how much longer these nodes take than in int8, nanoseconds."""
        total = 0.0
        for names, precision in ((kept.real, "float32"), (kept.wide, "int16")):
            nodes = [self._nodes[name] for name in names]
            total += sum(max(0.0, self._costs.node(n, precision).ns - self._costs.node(n, "int8").ns) for n in nodes)
        return total
