"""In which order nodes leave int8, so that each step takes away the most noise for its time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from qcompile.cost import NodeCosts
from qcompile.ir.graph import Graph, Node
from qcompile.search.leaving import Leaving
from qcompile.search.sensitivity import Noise, Sensitivity
from qcompile.search.sources import INT8

_LEAST_NS = 1.0
"""Time counted for a node that costs the same in both precisions: no step is free."""


@dataclass(frozen=True)
class Step:
    """A prefix of the plan.

    Args:
        names: results of all nodes kept out of int8 so far, in order of computation.
        noise: predicted noise over signal at the worst output.
    """

    names: tuple[str, ...]
    noise: float


@dataclass(frozen=True)
class Plan:
    """All that is known of nodes that may leave int8.

    Args:
        sensitivities: what each node does to the outputs, the most harmful first.
        steps: in which order nodes leave int8.
        leaving: in what they then compute.
        titles: operation and ONNX name of each node, by the name of its result.
    """

    sensitivities: tuple[Sensitivity, ...]
    steps: list[Step]
    leaving: Leaving
    titles: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {
            "nodes": [asdict(row) for row in self.sensitivities],
            "steps": [asdict(step) for step in self.steps],
            "wide": dict(self.leaving.weights),
            "titles": dict(self.titles),
        }

    @staticmethod
    def from_json(fields: dict[str, Any]) -> Plan:
        """Return the plan that `to_json` wrote."""
        steps = [Step(tuple(step["names"]), step["noise"]) for step in fields["steps"]]
        rows = tuple(Sensitivity(**row) for row in fields["nodes"])
        return Plan(rows, steps, Leaving(fields["wide"]), fields["titles"])


def plan_steps(graph: Graph, noises: Sequence[Noise], extra: Callable[[Node], float]) -> list[Step]:
    """Return the steps from everything in int8 to nothing that adds noise.

    Each step removes one source, with all nodes that must leave int8 for that; of all sources the one that takes
    the most noise from the worst output for the time it costs, noises that vanish along with it included. Noises
    are taken as independent, so that their powers add.

    Args:
        graph: calibrated float graph whose nodes have a precision.
        noises: what each source adds at the outputs.
        extra: how much longer a node takes where it leaves int8, nanoseconds.

    Returns:
        Steps, the first of which keeps everything in int8.
    """
    return _Planner(graph, noises, extra).steps()


class _Planner:
    def __init__(self, graph: Graph, noises: Sequence[Noise], extra: Callable[[Node], float]) -> None:
        self._nodes = [node for node in graph.nodes if node.precision == INT8]
        bit = {node: 1 << index for index, node in enumerate(self._nodes)}
        self._cost = [max(extra(node), _LEAST_NS) for node in self._nodes]
        self._removal = [sum(bit[node] for node in n.source.removal if node in bit) for n in noises]
        self._noise = np.array([n.outputs for n in noises], np.float64).reshape(len(noises), len(graph.outputs))
        self._touching: dict[int, list[int]] = {}
        for index, nodes in enumerate(self._removal):
            for node in _bits(nodes):
                self._touching.setdefault(node, []).append(index)
        self._left = {index for index, nodes in enumerate(self._removal) if nodes}
        self._float = 0

    def steps(self) -> list[Step]:
        made = [self._step()]
        while self._left:
            self._float |= self._removal[self._best()]
            self._left = {i for i in self._left if self._removal[i] & ~self._float}
            made.append(self._step())
        return made

    def _step(self) -> Step:
        chosen = [node for index, node in enumerate(self._nodes) if self._float >> index & 1]
        return Step(tuple(node.outputs[0].name for node in chosen), float(self._total().max(initial=0.0)))

    def _total(self) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        return np.asarray(self._noise[sorted(self._left)].sum(axis=0), np.float64)

    def _best(self) -> int:
        """Return the source whose removal is worth the most."""
        worst = int(self._total().argmax())
        left = sorted(self._left)

        def worth(index: int) -> tuple[float, float]:
            after = self._float | self._removal[index]
            moved = list(_bits(self._removal[index] & ~self._float))
            touched = sorted({i for node in moved for i in self._touching[node]})
            gone = [i for i in touched if i in self._left and not self._removal[i] & ~after]
            cost = sum(self._cost[node] for node in moved)
            return float(self._noise[gone, worst].sum()) / cost, -cost

        return max(left, key=worth)


def _bits(number: int) -> Iterator[int]:
    """Yield the places of the bits that are set, ascending."""
    while number:
        lowest = number & -number
        yield lowest.bit_length() - 1
        number ^= lowest


def extra_ns(node: Node, costs: NodeCosts) -> float:
    """Return how much longer a node takes in float32 than in int8, nanoseconds."""
    return costs.node(node, "float32").ns - costs.node(node, INT8).ns
