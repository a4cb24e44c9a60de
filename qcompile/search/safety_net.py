"""What the default recipe does where plain int8 is not accurate enough: a few nodes leave int8, and it says so.

Every int8 network is checked on some calibration samples. Where an output falls short of its target, the nodes that
spoil it most for the time they save leave int8, until the target is met or the price is too high: for 16-bit
activations where these do and cost less, else for float32. Targets are those of the outputs' use, as far as their
shapes tell it; an exact metric needs labels and `--accuracy auto`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

from qcompile.calibrate.layer_correction import spread
from qcompile.cost import NodeCosts
from qcompile.ir.graph import Graph, Node, Value
from qcompile.passmgr import PassContext, PassRecord
from qcompile.search.drop import is_classifier, single_shape
from qcompile.search.evaluation import Evaluator
from qcompile.search.leaving import Kept, Leaving
from qcompile.search.plan import Step, extra_ns, plan_steps
from qcompile.search.score import mac_shares
from qcompile.search.sensitivity import measure_noise
from qcompile.search.sources import find_sources

CLASSES_DB, STATE_DB, SIGNAL_DB = 25.0, 48.0, 48.0
"""SQNR to reach at class scores; at a state, whose error is fed back; at everything else, where noise shows."""

LEAST_DB = 20.0
"""SQNR to reach at any price."""

MOST_TIME, MOST_NS = 0.25, 20_000.0
"""Modelled time to add for the targets: this share, or so many nanoseconds, which nobody notices."""

CONV_MACS, OTHER_MACS = 0.05, 0.15
"""Share of the multiply-accumulates to take from int8 for the targets, in networks of convolutions and in others."""

CHECKED, MEASURED = 8, 2
"""Samples on which a network is checked, and on which the noise of each node is measured."""

_MACS, _LEAST_RUNS, _MOST_RUNS = 1e10, 8.0, 60.0
"""Multiply-accumulates to spend on one sample's measurements, and the runs of the network that this may be."""

_ROUNDING_DB = 20.0
"""What rounding weights by layer gains at most, as a rule."""

_FLAT_DB = 0.5
"""Steps at the end that gain less than this are taken back."""

_HALVINGS = 2
"""How often nodes that 16-bit activations do not serve are halved to find those that they do serve."""

_SHOWN = 4
"""Nodes named in a note."""

Run = Callable[[Kept, bool], tuple[Graph, list[PassRecord]]]
"""Quantizes, keeping nodes out of int8; False leaves out what takes long behind it."""


@dataclass(frozen=True)
class Protected:
    """A quantized network that was checked.

    Args:
        graph: final graph.
        records: of the passes that made it.
        kept: nodes that left int8.
    """

    graph: Graph
    records: list[PassRecord]
    kept: Kept


def targets(graph: Graph) -> list[float]:
    """Return the SQNR that each output should have, dB.

    Args:
        graph: an output of the same shape as an input that it depends on is a state; the one vector of a graph
            with nothing else holds class scores.
    """
    states, single = _states(graph), is_classifier(graph)
    found = []
    for value in graph.outputs:
        scores = single or _is_vector(single_shape(graph, value))
        found.append(STATE_DB if value in states else CLASSES_DB if scores else SIGNAL_DB)
    return found


def _states(graph: Graph) -> list[Value]:
    """Return the outputs that look like states: there are inputs like them, and another input."""
    given = {(value.shape, value.dtype) for value in graph.inputs if value.dtype == "float32"}
    return [value for value in graph.outputs if (value.shape, value.dtype) in given and len(graph.inputs) > 1]


def _is_vector(shape: Sequence[int]) -> bool:
    return sum(extent > 1 for extent in shape) <= 1


def protect(calibrated: Graph, run: Run, context: PassContext) -> Protected:
    """Quantize, check, and take nodes out of int8 where the targets are missed.

    Args:
        calibrated: float graph with ranges.
        run: quantizes it.
        context: holds the samples; without them nothing is checked, nor where caches grow: one sample says little of
            a sequence.
    """
    if context.samples is None or any(state.in_place for state in calibrated.states):
        return Protected(*run(Kept(), True), Kept())
    return _Net(calibrated, run, context).secured()


class _Net:
    def __init__(self, calibrated: Graph, run: Run, context: PassContext) -> None:
        assert context.samples is not None
        self._calibrated, self._run, self._context = calibrated, run, context
        self._samples = spread(context.samples(), CHECKED)
        self._evaluator = Evaluator(calibrated, self._samples)
        self._targets = targets(calibrated)
        self._costs = NodeCosts.of(context)
        self._ratios: dict[Kept, list[float]] = {}

    def _margin(self, graph: Graph, least: float | None = None) -> float:
        """Return by how much the worst output exceeds its target, dB."""
        return self._least_margin(self._evaluator.output_db(graph), least)

    def _least_margin(self, ratios: Sequence[float], least: float | None) -> float:
        return min(db - (least if least is not None else goal) for db, goal in zip(ratios, self._targets, strict=True))

    def secured(self) -> Protected:
        """Return the network as it is, or a better one."""
        plain = self._quick(Kept())
        quick = self._margin(plain)
        gain, best = 0.0, None
        if quick >= -_ROUNDING_DB:
            best = Protected(*self._run(Kept(), True), Kept())
            margin = self._margin(best.graph)
            if margin >= 0.0:
                return best
            gain = margin - quick
        # What is too far from its targets for the slow passes goes through them only once, with what it needs.
        steps = self._plan()
        affordable = self._within_budget(steps, plain)
        best = self._better(best, self._shortest(affordable, gain) if len(affordable) > 1 else Kept())
        if self._margin(best.graph, LEAST_DB) < 0.0:
            best = self._better(best, self._at_any_price(steps, best))
        self._report(best, plain)
        return best

    def _quick(self, kept: Kept) -> Graph:
        return self._run(kept, False)[0]

    def _quick_margin(self, kept: Kept, least: float | None = None) -> float:
        """Return the margin without the slow passes; several searches ask for that of the same nodes."""
        if kept not in self._ratios:
            self._ratios[kept] = self._evaluator.output_db(self._quick(kept))
        return self._least_margin(self._ratios[kept], least)

    def _better(self, known: Protected | None, kept: Kept) -> Protected:
        """Return the network with nodes out of int8, if it is more accurate than the one known."""
        found = self._settled(kept)
        return found if known is None or self._margin(found.graph) > self._margin(known.graph) else known

    def _settled(self, kept: Kept) -> Protected:
        """Return the network with nodes out of int8: all in float32 where 16 bits lose more behind the slow passes.

        Rounding weights takes away most noise of the layers that stay; that of the weights behind 16 bits then shows.
        """
        found = Protected(*self._run(kept, True), kept)
        if not kept.wide:
            return found
        real = Kept((*kept.real, *kept.wide))
        other = Protected(*self._run(real, True), real)
        return found if self._margin(found.graph) >= self._margin(other.graph) - _FLAT_DB else other

    def _plan(self) -> list[Step]:
        """Return the order in which nodes leave int8; noises are relative to what the targets allow."""
        assigned, integer = self._assigned()
        macs = max(1, sum(node.op.macs(node) for node in assigned.nodes))
        noises = measure_noise(
            assigned,
            find_sources(assigned, integer),
            spread(self._samples, MEASURED),
            work=min(max(_MACS / macs, _LEAST_RUNS), _MOST_RUNS),
            progress=self._context.progress,
        )
        allowed = [10 ** (-goal / 10) for goal in self._targets]
        relative = [
            replace(noise, outputs=tuple(n / a for n, a in zip(noise.outputs, allowed, strict=True)))
            for noise in noises
        ]
        self._nodes = {node.outputs[0].name: node for node in assigned.nodes}
        self._leaving = Leaving.of(assigned, relative, self._costs)
        return plan_steps(assigned, relative, partial(extra_ns, costs=self._costs))

    def _assigned(self) -> tuple[Graph, Graph]:
        from qcompile.passmgr import PassManager

        context = replace(self._context, notes=[], skips=[])
        assigned = PassManager("assign-precision").run(self._calibrated, context)
        return assigned, PassManager("quantize").run(assigned, context)

    def _within_budget(self, steps: Sequence[Step], graph: Graph) -> list[Step]:
        """Return the steps that the budget allows, the first of which keeps nothing in float32."""
        budget = max(MOST_TIME * self._costs.graph_ms(graph) * 1e6, MOST_NS)
        macs = sum(node.op.macs(node) for node in self._nodes.values())
        convolved = sum(node.op.macs(node) for node in self._nodes.values() if node.op.name.startswith("conv"))
        share = CONV_MACS if not _states(self._calibrated) and convolved > macs / 2 else OTHER_MACS
        chosen = [Step((), steps[0].noise)]
        for before, step in pairwise(steps):
            names = set(chosen[-1].names) | (set(step.names) - set(before.names))
            # At the price of float32: where 16 bits serve is seen once the nodes are known.
            real = tuple(n for n in step.names if n in names)
            # One that costs too much is left out; what comes behind may be cheaper.
            if self._extra_ns(real) <= budget and self._macs(real) <= share * macs:
                chosen.append(Step(real, step.noise))
        return chosen

    def _extra_ns(self, names: Sequence[str]) -> float:
        """Return how much longer nodes take in float32 than in int8, nanoseconds."""
        return sum(max(0.0, extra_ns(self._nodes[name], self._costs)) for name in names)

    def _macs(self, names: Sequence[str]) -> int:
        return sum(self._nodes[name].op.macs(self._nodes[name]) for name in names)

    def _shortest(self, steps: Sequence[Step], gain: float) -> Kept:
        """Return the shortest step that meets the targets, or comes as near to them as the last."""
        reached = self._quick_margin(Kept(steps[-1].names)) + gain
        wanted = min(reached - _FLAT_DB, 0.0)
        return self._cheapest(self._first(steps, wanted - gain, None), wanted - gain, None)

    def _at_any_price(self, steps: Sequence[Step], best: Protected) -> Kept:
        """Return the shortest step that meets the least SQNR."""
        gain = max(0.0, self._margin(best.graph) - self._quick_margin(best.kept))
        return self._cheapest(self._first(steps, -gain, LEAST_DB), -gain, LEAST_DB)

    def _first(self, steps: Sequence[Step], wanted: float, least: float | None) -> Step:
        """Return the shortest step that has a margin with its nodes in float32; the last where none is known to."""
        low, high = 0, len(steps) - 1
        while high - low > 1:
            middle = (low + high) // 2
            if self._quick_margin(Kept(steps[middle].names), least) >= wanted:
                high = middle
            else:
                low = middle
        return steps[high]

    def _cheapest(self, step: Step, wanted: float, least: float | None) -> Kept:
        """Return the nodes of a step, as many of them on 16-bit activations as leave it its margin."""
        wide = self._leaving.kept(step.names, max(1.0, step.noise)).wide
        if not wide:
            return Kept(step.names)
        enough = min(wanted, self._quick_margin(Kept(step.names), least)) - _FLAT_DB

        def widened(more: Sequence[str], known: Kept, halvings: int) -> Kept:
            """Give some nodes 16 bits, or else those of their halves that leave the margin."""
            chosen = {*known.wide, *more}
            trial = Kept(tuple(n for n in step.names if n not in chosen), tuple(n for n in step.names if n in chosen))
            if self._quick_margin(trial, least) >= enough:
                return trial
            if not halvings or len(more) < 2:
                return known
            middle = len(more) // 2
            return widened(more[middle:], widened(more[:middle], known, halvings - 1), halvings - 1)

        return widened(wide, Kept(step.names), _HALVINGS)

    def _report(self, best: Protected, plain: Graph) -> None:
        """Tell the user what left int8, what that gives and what it costs."""
        before, after = (min(self._evaluator.output_db(graph)) for graph in (plain, best.graph))
        if best.kept:
            time = self._costs.graph_ms(best.graph) / self._costs.graph_ms(plain) - 1
            shares = [f"{100 * s:.1f} % in {p}" for p, s in mac_shares(best.graph).items() if s or p == "int8"]
            self._context.note(
                f"{self._named(best.kept)} for accuracy: SQNR {before:.1f} → {after:.1f} dB at the worst output, "
                f"MACs {', '.join(shares)}, {100 * time:+.0f} % modelled time"
            )
        if after < LEAST_DB:
            self._context.note(
                f"the worst output has an SQNR of {after:.1f} dB only: `qcompile analyze` shows why, and "
                "--accuracy auto searches further"
            )

    def _named(self, kept: Kept) -> str:
        """Return which nodes left int8, in words."""
        parts = []
        for names, where in ((kept.wide, "16-bit activations"), (kept.real, "float32")):
            shown = ", ".join(_title(self._nodes[name]) for name in names[:_SHOWN])
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            count = f"{len(names)} node{'s' if len(names) > 1 else ''}"
            if names:
                parts.append(f"{count} ({shown}{more}) went {'to' if names is kept.wide else 'back to'} {where}")
        return " and ".join(parts)


def _title(node: Node) -> str:
    return f"{node.op.name} {node.loc or node.outputs[0].name}"
