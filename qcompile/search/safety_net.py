"""What the default recipe does where plain int8 is not accurate enough: a few nodes leave int8, and it says so.

Every int8 network is checked on some calibration samples, if possible on such as no weights were fitted to. Where an
output could be nearer to float for next to nothing, the nodes that spoil it leave int8. Where it falls short of its
target, those follow that spoil it most for the time they save, until the target is met or the price is too high: for
16-bit activations where these take the noise away and cost less, else for float32. Targets are those of the outputs'
use, as far as their shapes tell it; an exact metric needs labels and `--accuracy auto`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

from qcompile.calibrate.calibration_set import usual_count
from qcompile.calibrate.layer_moments import LAYERS
from qcompile.calibrate.sample_choice import FITTED, correct_all, judges, spread
from qcompile.cost import NodeCosts
from qcompile.ir.graph import Graph, Node
from qcompile.ir.regions import times_run
from qcompile.passmgr import PassContext, PassRecord
from qcompile.passmgr.likely_states import likely_states
from qcompile.search.evaluation import Evaluator
from qcompile.search.leaving import Kept
from qcompile.search.output_use import output_uses
from qcompile.search.plan import Limit, Step, plan_steps
from qcompile.search.score import mac_shares
from qcompile.search.sensitivity import measure_all
from qcompile.search.sources import WEIGHTS
from qcompile.search.targets import targets

LEAST_DB, GOOD_DB = 20.0, 48.0
"""SQNR to reach at any price, and to come near to for next to nothing."""

MOST_TIME, MOST_NS = 0.25, 20_000.0
"""Modelled time to add for the targets: this share, or so many nanoseconds, which nobody notices."""

CHEAP_TIME = 0.05
"""Share of the modelled time that is next to nothing."""

CONV_MACS, OTHER_MACS = 0.05, 0.15
"""Share of the multiply-accumulates to take from int8 for the targets, in networks of convolutions and in others."""

CHECKED, MEASURED = 8, 2
"""Samples on which a network is checked, and on which the noise of each node is measured; more of small networks."""

_MACS, _LEAST_RUNS, _MOST_RUNS = 1e10, 40.0, 60.0
"""Multiply-accumulates to spend on one sample's measurements, and the runs of the network that this may be."""

_ROUNDED = 0.25
"""Share of the noise of its weights that rounding them by layer leaves, as a rule."""

_FEW = 4
"""Fewer samples than these do not tell which nodes are noisy."""

_FLAT_DB, _WORTH_DB = 0.5, 1.0
"""Steps at the end that gain less are not taken; nor is what costs next to nothing, but gains less."""

_NEAR_DB = 6.0
"""What misses its targets by more than this, as predicted, is not tried with the slow passes."""

_TRIES = 2
"""Networks to make with the slow passes for the least SQNR, as long as each is better than the one before."""

_RESCUE_DB = 3.0
"""What the network must gain where none of them reaches it, and all that adds noise leaves int8."""

_CHOICES = ("first_index", "non_max_suppression", "place_of_rank", "rank")
"""Operations that choose among elements, or put them in order."""

_LESSER = 3
"""Networks to make with less of it out of int8, each with the room that the one before it fell short of."""

_RETURNS = 8
"""Layers, the largest ones, that are tried in int8 again at the end of that."""

_SHOWN = 4
"""Nodes named in a note."""

_REMEMBERED = 2**29
"""Bytes of constants of the networks without the slow passes that are remembered."""

Run = Callable[[Kept, bool], tuple[Graph, list[PassRecord]]]
"""Quantizes, keeping nodes out of int8; False leaves out what takes long behind it."""


@dataclass(frozen=True)
class Way:
    """A way to quantize a network, as far as its ranges.

    Args:
        calibrated: float graph with ranges.
        run: quantizes it.
        context: of its passes, with its statistics.
        records: of the passes that led to it.
    """

    calibrated: Graph
    run: Run
    context: PassContext
    records: list[PassRecord]


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


def protect(ways: Sequence[Way]) -> tuple[Way, Protected]:
    """Quantize in the best of some ways, check, and take nodes out of int8 where the targets are missed.

    That is the way with the highest mean output SQNR before the slow passes, which take long: these make up for much
    of what is seen then, but on eleven networks of twelve the way that led stayed ahead.

    Args:
        ways: of the same network, with the same samples, which several ways must have; of equal ones the first is
            taken. Of few samples some judge, and all correct the weights in the end. Without samples nothing is
            checked, nor where caches grow: one says little of a sequence.

    Returns:
        The way, and the network that it led to.
    """
    way = ways[0]
    grows = any(state.in_place for state in way.calibrated.states)
    if way.context.samples is None or (grows and len(ways) == 1):
        return way, _unchecked(way, Kept())
    for each in ways:
        each.context.judging = True
    try:
        nets = [_Net(each) for each in ways]
        best = max(nets, key=lambda net: net.decibels)
        made = None if grows else best.secured()
    finally:
        for each in ways:
            each.context.judging = False
    if made is None or correct_all(way.context.samples()):
        return best.way, _unchecked(best.way, Kept() if made is None else made.kept)
    return best.way, made


def _unchecked(way: Way, kept: Kept) -> Protected:
    return Protected(*way.run(kept, True), kept)


@dataclass(frozen=True)
class _Checked:
    """A network, the SQNR at each of its outputs, and that of each of their uses, dB."""

    made: Protected
    ratios: list[float]
    use: list[float]

    def margin(self, goals: Sequence[float]) -> float:
        """Return by how much the worst use of an output exceeds its goal, dB."""
        return _margin(self.use, goals)


class _Net:
    """A way under examination.

    Args:
        way: its context has samples.
    """

    def __init__(self, way: Way) -> None:
        self.way = way
        calibrated, context = way.calibrated, way.context
        assert context.samples is not None
        self._calibrated, self._run, self._context = calibrated, way.run, context
        checked, fitted = (usual_count(calibrated, count) for count in (CHECKED, FITTED))
        new, mixed = judges(context.samples(), checked, fitted)
        # What rounding a node does shows on any sample, if on enough of them.
        self._samples, self._has_new = mixed if len(new) < _FEW else new, bool(new)
        self._evaluators = [Evaluator(calibrated, some, threads=context.threads) for some in (new, mixed) if some]
        self._targets = targets(calibrated)
        self._parts = [index for index, use in enumerate(output_uses(calibrated)) if use.places is not None]
        self._costs = NodeCosts.of(context)
        self._quickly: dict[Kept, tuple[Graph, list[PassRecord], Graph | None]] = {}
        self._plain = self._checked(Kept(), whole=False)
        self._quick = {Kept(): self._plain.use}
        self._made: dict[Kept, _Checked] = {}

    @property
    def decibels(self) -> float:
        """SQNR of plain int8, the mean over all outputs."""
        return sum(self._plain.use) / len(self._plain.use)

    def _checked(self, kept: Kept, *, whole: bool = True) -> _Checked:
        if whole and kept in self._made:
            return self._made[kept]
        made = Protected(*(self._run(kept, True) if whole else self._run_quickly(kept)), kept)
        ratios, use = zip(*(evaluator.use_db(made.graph) for evaluator in self._evaluators), strict=True)
        found = _Checked(made, *([min(of) for of in zip(*some, strict=True)] for some in (ratios, use)))
        if whole:
            self._made[kept] = found
        return found

    def _run_quickly(self, kept: Kept) -> tuple[Graph, list[PassRecord]]:
        """Return the network without the slow passes, and make its float graph the reference again.

        The latest ones are remembered, as far as memory allows.
        """
        if kept not in self._quickly:
            made = self._run(kept, False)
            self._quickly[kept] = (*made, self._context.reference)
            most = _REMEMBERED // max(1, sum(value.type.nbytes for value in made[0].constants()))
            while len(self._quickly) > max(1, most):
                self._quickly.pop(next(iter(self._quickly)))
        graph, records, self._context.reference = self._quickly[kept]
        return graph, records

    def secured(self) -> Protected:
        """Return the network as it is, or a better one."""
        good, least = ([db] * len(self._targets) for db in (GOOD_DB, LEAST_DB))
        if self._plain.margin(good) >= 0.0:
            return self._checked(Kept()).made
        self._measure()
        cheap = self._worthwhile(self._affordable(good, CHEAP_TIME))
        steps = self._affordable(self._targets, MOST_TIME, MOST_NS, start=cheap)
        best = None
        # What is predicted to be far from its targets goes through the slow passes only with what it needs.
        if steps[0].noise <= _power(_NEAR_DB):
            best = self._checked(cheap)
        if best is None or best.margin(self._targets) < 0.0:
            best = self._better(best, steps[self._shortest(steps, best)].kept, self._targets)
        if best.margin(least) < 0.0:
            best = self._extended(best, self._steps(least, start=best.made.kept), least)
        before = self._checked(Kept())
        if best.made.kept and not self._gains(before, best):
            best = before
        self._report(before, best)
        return best.made

    def _gains(self, before: _Checked, after: _Checked) -> bool:
        """Return whether what left int8 is worth it, once the slow passes did for both networks what they can."""
        if before.margin(self._targets) < 0.0 <= after.margin(self._targets):
            return True
        # The use furthest from its target need not be the noisiest one: scores are good at 26 dB, a state is not at 40.
        good = [GOOD_DB] * len(self._targets)
        at_worst, at_targets = (after.margin(goals) - before.margin(goals) for goals in (good, self._targets))
        return at_targets >= _FLAT_DB or (at_worst >= _FLAT_DB and at_targets > -_FLAT_DB)

    def _better(self, known: _Checked | None, kept: Kept, goals: Sequence[float]) -> _Checked:
        """Return the network with nodes out of int8, if it is more accurate than the one known."""
        if known is not None and kept == known.made.kept:
            return known
        found = self._checked(kept)
        return found if known is None or found.margin(goals) > known.margin(goals) else known

    def _measure(self) -> None:
        """Learn what each node costs, and what its rounding does to the outputs."""
        from qcompile.passmgr import PassManager

        context = replace(self._context, notes=[], skips=[])
        self._assigned = PassManager("assign-precision").run(self._calibrated, context)
        self._nodes = {node.outputs[0].name: node for node in self._assigned.nodes}
        times = times_run(self._assigned)
        self._macs = {name: times[node] * node.op.macs(node) for name, node in self._nodes.items()}
        work = _MACS / max(1, sum(self._macs.values()))
        self._noises = measure_all(
            self._assigned,
            PassManager("quantize").run(self._assigned, context),
            spread(self._samples, usual_count(self._calibrated, MEASURED)),
            threads=context.threads,
            work=min(max(work, _LEAST_RUNS), _MOST_RUNS),
            uses=True,
            progress=self._context.progress,
        )

    def _steps(self, goals: Sequence[float], limit: Limit | None = None, start: Kept | None = None) -> list[Step]:
        """Return the order in which nodes leave int8; noises are relative to what the goals allow."""
        relative = []
        for noise in self._noises:
            node = noise.source.node
            rounded = noise.source.kind == WEIGHTS and node is not None and node.op.name in LAYERS
            left = _ROUNDED if rounded else 1.0
            outputs = tuple(left * n * _power(goal) for n, goal in zip(noise.outputs, goals, strict=True))
            relative.append(replace(noise, outputs=outputs))
        return plan_steps(self._assigned, relative, self._costs, limit, start)

    def _affordable(
        self, goals: Sequence[float], time: float, ns: float = 0.0, start: Kept | None = None
    ) -> list[Step]:
        """Return the steps that add no more than a share of the time, or so many nanoseconds, and leave enough int8."""
        most = max(time * self._costs.graph_ms(self._plain.made.graph) * 1e6, ns)
        share = CONV_MACS if self._convolves() else OTHER_MACS
        steps = self._steps(goals, Limit(most, share * sum(self._macs.values())), start)
        # The plan knows nothing of conversions, which cost as well, and of nodes that move along with their neighbours.
        fits, exceeds = 0, len(steps) - 1
        if exceeds == 0 or self._fits(steps[exceeds].kept, most, share):
            return steps
        while exceeds - fits > 1:
            middle = (fits + exceeds) // 2
            fits, exceeds = (middle, exceeds) if self._fits(steps[middle].kept, most, share) else (fits, middle)
        return steps[:exceeds]

    def _fits(self, kept: Kept, ns: float, share: float) -> bool:
        before, after = self._plain.made.graph, self._run_quickly(kept)[0]
        added = (self._costs.graph_ms(after) - self._costs.graph_ms(before)) * 1e6
        taken = mac_shares(before)["int8"] - mac_shares(after)["int8"]
        return added <= ns and taken <= share

    def _convolves(self) -> bool:
        """Return whether this is a network of convolutions without states."""
        convolved = sum(macs for name, macs in self._macs.items() if self._nodes[name].op.name.startswith("conv"))
        return not likely_states(self._calibrated) and convolved > sum(self._macs.values()) / 2

    def _worthwhile(self, steps: Sequence[Step]) -> Kept:
        """Return the shortest of the steps that comes near to its goals in integers, if that surely gains enough."""
        if not self._has_new:
            return Kept()
        steps = list(takewhile(lambda step: not step.kept.real, steps))
        step = steps[self._needed(steps, 1.0)]
        return step.kept if step.noise <= steps[0].noise * _power(-_WORTH_DB) else Kept()

    def _needed(self, steps: Sequence[Step], noise: float) -> int:
        """Return the shortest step whose predicted noise is low enough, or hardly above that of the last."""
        enough = max(noise, steps[-1].noise * _power(_FLAT_DB))
        return next(index for index, step in enumerate(steps) if step.noise <= enough)

    def _shortest(self, steps: Sequence[Step], known: _Checked | None) -> int:
        """Return the shortest step that meets the targets, or comes as near to them as the last.

        Both must say so: the prediction, which knows nothing of how errors act together, and a check without the slow
        passes, in which the weights may hide what activations cost.

        Args:
            steps: of a plan for the targets.
            known: network of the first step, if it was made.
        """
        noise, gain = 1.0, 0.0
        if known is not None:
            margin = known.margin(self._targets)
            noise, gain = steps[0].noise * _power(margin), margin - self._quick_margin(steps[0].kept, self._targets)
        kept, low = [step.kept for step in steps], self._needed(steps, noise)
        enough = min(self._quick_margin(kept[-1], self._targets) - _FLAT_DB, -gain)
        if self._quick_margin(kept[low], self._targets) >= enough:
            return low
        return self._first(kept, low, self._targets, enough)

    def _first(self, kept: Sequence[Kept], low: int, goals: Sequence[float], enough: float) -> int:
        """Return the first index behind a low one with enough margin to goals, by halving; the last has it."""
        high = len(kept) - 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self._quick_margin(kept[middle], goals) >= enough else (middle, high)
        return high

    def _quick_margin(self, kept: Kept, goals: Sequence[float]) -> float:
        """Return the margin to goals without the slow passes; each network is made once for it."""
        if kept not in self._quick:
            self._quick[kept] = self._checked(kept, whole=False).use
        return _margin(self._quick[kept], goals)

    def _extended(self, known: _Checked, steps: Sequence[Step], goals: Sequence[float]) -> _Checked:
        """Return the network with more nodes out of int8, the fewest that meet goals, as long as that makes it better.

        Args:
            known: network of the first step.
            steps: of a plan for the goals.
            goals: one for each output.
        """
        best, index = known, 0
        for _ in range(_TRIES):
            # What was predicted is right up to a factor, which the network made last tells.
            following = self._needed(steps, steps[index].noise * _power(best.margin(goals)))
            if best.margin(goals) >= 0.0 or following <= index:
                break
            found = self._checked(steps[following].kept)
            if found.margin(goals) < min(0.0, best.margin(goals) + _FLAT_DB):
                break
            best, index = found, following
        if best.margin(goals) >= 0.0 or _chooses(self._calibrated):
            return best
        return self._rescued(best, steps[index:], goals)

    def _rescued(self, known: _Checked, steps: Sequence[Step], goals: Sequence[float]) -> _Checked:
        """Return the network with all that adds noise out of int8, or the least of it that is enough.

        Predictions fail where errors act together: rounded scales, norms of uneven tokens, roundings that a model has
        of its own.

        Args:
            known: network of the first step.
            steps: of a plan for the goals.
            goals: one for each output.
        """
        kept = [step.kept for step in steps]
        if self._quick_margin(kept[-1], goals) < 0.0:
            # The rest that 16 bits leave of a noise may be too much, too.
            kept = [Kept(real=one.names) for one in kept]
        last = self._better(known, kept[-1], goals)
        if last.margin(goals) < known.margin(goals) + _RESCUE_DB:
            return known
        room, most = 0.0, self._quick_margin(kept[-1], goals) - _FLAT_DB
        for _ in range(_LESSER):
            enough = min(room, most)
            least = kept[self._first(kept, 0, goals, enough)]
            found = self._checked(self._with_layers(least, goals, enough))
            short = min(0.0, last.margin(goals) - _FLAT_DB) - found.margin(goals)
            if short <= 0.0:
                return found
            room += short + _FLAT_DB
        return last

    def _with_layers(self, kept: Kept, goals: Sequence[float], enough: float) -> Kept:
        """Return what is still out of int8 once the layers are back that do no harm, all at once or one by one."""
        layers = sorted((name for name in kept.names if self._macs.get(name)), key=lambda name: -self._macs[name])
        for back in (set(layers), *({name} for name in layers[:_RETURNS])):
            real, wide = (tuple(name for name in names if name not in back) for names in (kept.real, kept.wide))
            left = Kept(real=real, wide=wide)
            if left != kept and self._quick_margin(left, goals) >= enough:
                kept = left
        return kept

    def _report(self, plain: _Checked, best: _Checked) -> None:
        """Tell the user what left int8, what that gives and what it costs."""
        before, after = min(plain.ratios), min(best.ratios)
        if best.made.kept:
            # The slow passes change tables, too, which says nothing of the nodes that left int8.
            graph = self._run_quickly(best.made.kept)[0]
            took = self._costs.graph_ms(graph)
            time = took / self._costs.graph_ms(self._plain.made.graph) - 1
            shares = [f"{100 * s:.1f} % in {p}" for p, s in mac_shares(graph).items() if s or p == "int8"]
            self._context.note(
                f"{self._named(best.made.kept)} for accuracy: SQNR {before:.1f} → {after:.1f} dB at the worst output, "
                f"{self._at_parts(plain, best)}MACs {', '.join(shares)}, {100 * time:+.0f} % modelled time"
            )
            if took >= self._costs.graph_ms(self._calibrated):
                self._context.note("so many nodes left int8 that --fp32 should be as fast, and is exact")
        if min(best.use) < LEAST_DB:
            part = best.use.index(min(best.use)) in self._parts
            where, db = ("part of an output", min(best.use)) if part else ("output", after)
            self._context.note(f"the worst {where} has an SQNR of {db:.1f} dB only: {self._advice()}")

    def _advice(self) -> str:
        """Return what to do about a low SQNR, in words."""
        if _chooses(self._calibrated):
            return (
                "the data decide which elements the outputs hold and in what order, and one in another place counts as "
                "wrong; `qcompile eval` with your metric tells how good the answers are"
            )
        return "`qcompile analyze` shows why, and --accuracy auto searches further"

    def _at_parts(self, plain: _Checked, best: _Checked) -> str:
        """Return what became of the worst part of an output, in words; nothing where none has parts."""
        if not self._parts:
            return ""
        before, after = (min(checked.use[index] for index in self._parts) for checked in (plain, best))
        return f"{before:.1f} → {after:.1f} dB at the worst part of one, "

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


def _chooses(graph: Graph) -> bool:
    """Return whether the data decide what the outputs hold: one choice that differs is more than all noise."""
    return bool(graph.counted) or any(node.op.name in _CHOICES for node in graph.nodes)


def _margin(use: Sequence[float], goals: Sequence[float]) -> float:
    return min(db - goal for db, goal in zip(use, goals, strict=True))


def _title(node: Node) -> str:
    return f"{node.op.name} {node.loc or node.outputs[0].name}"


def _power(db: float) -> float:
    """Return the ratio of two powers that so many decibels are."""
    return float(10 ** (db / 10))
