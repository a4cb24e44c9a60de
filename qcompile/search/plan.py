"""In which order nodes leave int8, and for what, so that each step takes away the most noise for its time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import inf
from typing import Any

import numpy as np

from qcompile.cost import NodeCosts
from qcompile.ir.graph import Graph
from qcompile.ir.opdef import Quantization
from qcompile.ir.regions import times_run
from qcompile.search.leaving import Kept, Prices
from qcompile.search.sensitivity import Noise, Sensitivity
from qcompile.search.sources import INT8, TENSOR

_LEAST_NS = 1.0
"""Time counted for a node that costs the same in both precisions: no step is free."""

_FEW = 8
"""Bits of a number that are found faster one by one than all at once."""


@dataclass(frozen=True)
class Step:
    """A prefix of the plan.

    Args:
        kept: all nodes that left int8 so far, in order of computation.
        noise: predicted noise over signal at the worst output.
    """

    kept: Kept
    noise: float


@dataclass(frozen=True)
class Limit:
    """What a plan may cost.

    Args:
        ns: time to add at most, nanoseconds.
        macs: multiply-accumulates to take from int8 at most.
    """

    ns: float = inf
    macs: float = inf


@dataclass(frozen=True)
class Plan:
    """All that is known of nodes that may leave int8.

    Args:
        sensitivities: what each node does to the outputs, the most harmful first.
        steps: in which order nodes leave int8, and for what.
        titles: operation and ONNX name of each node, by the name of its result.
    """

    sensitivities: tuple[Sensitivity, ...]
    steps: list[Step]
    titles: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {
            "nodes": [asdict(row) for row in self.sensitivities],
            "steps": [asdict(step) for step in self.steps],
            "titles": dict(self.titles),
        }

    @staticmethod
    def from_json(fields: dict[str, Any]) -> Plan:
        """Return the plan that `to_json` wrote."""
        kept = [{where: tuple(names) for where, names in step["kept"].items()} for step in fields["steps"]]
        steps = [Step(Kept(**names), step["noise"]) for names, step in zip(kept, fields["steps"], strict=True)]
        rows = tuple(Sensitivity(**row) for row in fields["nodes"])
        return Plan(rows, steps, fields["titles"])


def plan_steps(
    graph: Graph, noises: Sequence[Noise], costs: NodeCosts, limit: Limit | None = None, start: Kept | None = None
) -> list[Step]:
    """Return the steps from everything in int8 to nothing that adds noise.

    Each step removes one source, with all nodes that must leave int8 for that; of all sources the one that takes
    the most noise from the worst output for the time it costs, noises that vanish along with it included. Nodes
    leave for 16-bit activations where these take away the noise and cost less than float32: they leave that of the
    weights, and a rest of that of tensors, for which a later step may bring them to float32. Noises are taken as
    independent, so that their powers add.

    Args:
        graph: calibrated float graph whose nodes have a precision.
        noises: what each source adds at the outputs.
        costs: of nodes on the target.
        limit: of all steps together; a step that would exceed it is left out.
        start: nodes that have left int8 before the first step.

    Returns:
        Steps, the first of which is the start.
    """
    return _Planner(graph, noises, costs, limit or Limit(), start or Kept()).steps()


@dataclass(frozen=True)
class _Places:
    """Where nodes are, each a bit.

    Args:
        out: those that left int8.
        real: those of them that compute in float32.
    """

    out: int
    real: int

    def without(self, other: _Places) -> _Places:
        return _Places(self.out & ~other.out, self.real & ~other.real)

    def along_with(self, other: _Places) -> _Places:
        return _Places(self.out | other.out, self.real | other.real)

    def __bool__(self) -> bool:
        return bool(self.out or self.real)


@dataclass(frozen=True)
class _Need:
    """Where nodes must be for a noise to vanish.

    A layer on int8 gives 16 bits to a reader that asks for them, and stays unless all its readers go to float32.

    Args:
        places: of the nodes that always count.
        maker: of the layer, none for other noises.
        readers: bits of the readers that can ask for 16 bits.
    """

    places: _Places
    maker: _Places = _Places(0, 0)
    readers: int = 0

    def missing(self, places: _Places) -> _Places:
        """Return where nodes must go, of those that are elsewhere."""
        needed = self.places
        if not self.readers & ~(places.real | needed.real):
            needed = needed.along_with(self.maker)
        return needed.without(places)


@dataclass(frozen=True)
class _Move:
    """What a noise is worth: known until a node moves that it has to do with.

    Args:
        way: where nodes go.
        ns: what that costs, nanoseconds.
        macs: that it takes from int8.
        gone: noise that vanishes, at each output.
        asks: bits of the nodes on which all this depends.
    """

    way: _Places
    ns: float
    macs: int
    gone: tuple[float, ...]
    asks: int


class _Planner:
    """Takes one step after the other; what a noise is worth is found again only after a node moved that it depends on.

    Attributes:
        _left: whether each noise is still there.
        _unknown: noises to be looked at before the next step.
        _asking: noises whose worth depends on a node, by its bit's place; some may do so no more.
        _ways: where nodes go for a noise to vanish.
        _ns, _given, _gone: time, multiply-accumulates and noise of these ways.
    """

    def __init__(self, graph: Graph, noises: Sequence[Noise], costs: NodeCosts, limit: Limit, start: Kept) -> None:
        self._nodes = [node for node in graph.nodes if node.precision == INT8]
        self._bit = {node: 1 << index for index, node in enumerate(self._nodes)}
        times = times_run(graph)
        self._prices = [Prices.of(node, costs, times[node]) for node in self._nodes]
        self._macs = [times[node] * node.op.macs(node) for node in self._nodes]
        self._limit = limit
        width = len(noises[0].outputs) if noises else len(graph.outputs)
        self._noise = np.array([n.outputs for n in noises], np.float64).reshape(len(noises), width)
        self._needs = [self._need(noise) for noise in noises]
        self._touching: dict[int, list[int]] = {}
        for index, need in enumerate(self._needs):
            for node in _bits(need.places.out | need.maker.out):
                self._touching.setdefault(node, []).append(index)
        self._ways: dict[int, _Places] = {}
        self._unknown = set(range(len(noises)))
        self._asking: dict[int, set[int]] = {}
        self._ns, self._gone = np.zeros(len(noises)), np.zeros_like(self._noise)
        self._given = np.zeros(len(noises))
        self._names = [node.outputs[0].name for node in self._nodes]
        named = {name: 1 << index for index, name in enumerate(self._names)}
        out, real = (sum(named[name] for name in names if name in named) for names in (start.names, start.real))
        self._left = np.array([bool(need.places) for need in self._needs], np.bool_)
        self._places = _Places(0, 0)
        self._move(_Places(out, real))

    def _need(self, noise: Noise) -> _Need:
        source, made = noise.source, noise.source.value.producer
        out = sum(self._bit[node] for node in source.removal if node in self._bit)
        if source.kind != TENSOR:
            return _Need(_Places(out, out))
        widened = sum(1 << index for index in _bits(out) if self._prices[index].wide is not None)
        own = self._bit.get(made, 0) & out if made is not None else 0
        if made is None or made.op.integer is not Quantization.ACCUMULATE or not out & ~own:
            return _Need(_Places(out, out & ~widened))
        rest = out & ~own
        return _Need(_Places(rest, rest & ~widened), _Places(own, own & ~widened), rest & widened)

    def steps(self) -> list[Step]:
        made = [self._step()]
        while (found := self._best()) is not None:
            self._move(self._ways[found])
            made.append(self._step())
        return made

    def _move(self, need: _Places) -> None:
        self._limit = self._rest_of_limit(need.without(self._places))
        self._places = self._places.along_with(need)
        for index in self._touched(need):
            self._left[index] = self._left[index] and bool(self._needs[index].missing(self._places))
        for node in _bits(need.out | need.real):
            self._unknown |= self._asking.pop(node, set())

    def _rest_of_limit(self, moved: _Places) -> Limit:
        return Limit(self._limit.ns - self._price(moved), self._limit.macs - self._taken(moved))

    def _taken(self, moved: _Places) -> int:
        """Return the multiply-accumulates that nodes take from int8."""
        return sum(self._macs[index] for index in _bits(moved.out))

    def _price(self, moved: _Places) -> float:
        """Return what it costs to move nodes, nanoseconds."""
        total = 0.0
        for index in _bits(moved.out | moved.real):
            price, bit = self._prices[index], 1 << index
            paid = (price.wide or 0.0) if not moved.out & bit else 0.0
            total += max((price.real if moved.real & bit or price.wide is None else price.wide) - paid, _LEAST_NS)
        return total

    def _step(self) -> Step:
        real, wide = self._places.real, self._places.out & ~self._places.real
        kept = (tuple([self._names[index] for index in _bits(bits)]) for bits in (real, wide))
        return Step(Kept(*kept), float(self._total().max(initial=0.0)))

    def _total(self) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        return np.asarray(self._noise[self._left].sum(axis=0), np.float64)

    def _best(self) -> int | None:
        """Return the source whose removal is worth the most of those that may still be paid; None for none.

        Of those that are worth the same for their time the cheapest, and of equals the first.
        """
        for index in sorted(self._unknown):
            if self._left[index]:
                self._look_at(index)
        self._unknown.clear()
        left = np.flatnonzero(self._left)
        paid = left[(self._ns[left] <= self._limit.ns) & (self._given[left] <= self._limit.macs)]
        if not paid.size:
            return None
        worth = self._gone[paid, int(self._total().argmax())] / self._ns[paid]
        if np.isnan(worth).all():
            return None
        most = paid[worth == np.nanmax(worth)]
        return int(most[self._ns[most].argmin()])

    def _look_at(self, index: int) -> None:
        """Find out what a noise is worth, and remember it."""
        move = self._priced(self._way(index))
        self._ways[index], self._ns[index], self._given[index], self._gone[index] = (
            move.way,
            move.ns,
            move.macs,
            move.gone,
        )
        for node in _bits(move.asks):
            self._asking.setdefault(node, set()).add(index)

    def _priced(self, way: _Places) -> _Move:
        """Return what it gives and takes to move nodes."""
        after, touched = self._places.along_with(way), self._touched(way)
        gone = [i for i in sorted(touched) if self._left[i] and not self._needs[i].missing(after)]
        asks = way.out | way.real
        for index in touched:
            need = self._needs[index]
            asks |= need.places.out | need.maker.out
        noise = tuple(float(column[gone].sum()) for column in self._noise.T)
        return _Move(way, self._price(way), self._taken(way), noise, asks)

    def _way(self, index: int) -> _Places:
        """Return where nodes go for a noise to vanish, and for none of those to come back that are gone."""
        moved = self._needs[index].missing(self._places)
        while True:
            after = self._places.along_with(moved)
            back = [self._needs[i].missing(after) for i in self._touched(moved) if not self._left[i]]
            if not any(back):
                return moved
            for missing in back:
                moved = moved.along_with(missing)

    def _touched(self, moved: _Places) -> set[int]:
        """Return the noises that nodes have to do with."""
        return {i for node in _bits(moved.out | moved.real) for i in self._touching.get(node, ())}


def _bits(number: int) -> list[int]:
    """Return the places of the bits that are set, ascending."""
    places: list[int] = []
    if number.bit_count() > _FEW:
        octets = np.frombuffer(number.to_bytes(-(-number.bit_length() // 8), "little"), np.uint8)
        places += np.flatnonzero(np.unpackbits(octets, bitorder="little")).tolist()
        return places
    while number:
        places.append((number & -number).bit_length() - 1)
        number &= number - 1
    return places
