"""Builds and measures candidates; each only once."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from qcompile.cost import NodeCosts
from qcompile.ir.graph import Graph
from qcompile.passmgr import Pass, PassContext, PassManager, PassRecord, PassRegistry, parse_pipeline, print_pipeline
from qcompile.progress import Progress
from qcompile.search.evaluation import Evaluator, Split
from qcompile.search.plan import Plan, plan_steps
from qcompile.search.recipe import Recipe
from qcompile.search.score import Score
from qcompile.search.sensitivity import measure_all, sensitivities
from qcompile.search.sources import REST
from qcompile.search.state import SearchState
from qcompile.search.user_metric import UserMetric

FEW = 4
"""Samples on which sensitivities are measured."""

CALIBRATE, ASSIGN = "calibrate", "assign-precision"

_MOST_BEGUN, _MOST_CALIBRATED, _MOST_MADE = 12, 2, 3
"""Graphs that are kept: most candidates share what is before and the calibrated one; a late one is likely the last."""


@dataclass(frozen=True)
class Made:
    """What a recipe made of the simplified float graph.

    Args:
        graph: the last one.
        records: of its passes.
        context: of its passes, with what they noted.
        digest: of all that its score depends on besides the samples.
    """

    graph: Graph
    records: tuple[PassRecord, ...]
    context: PassContext
    digest: str

    def handed_over(self, context: PassContext) -> tuple[Graph, list[PassRecord]]:
        """Return graph and records, and tell a context what it would know if the passes had run in it."""
        context.statistics, context.reference = self.context.statistics, self.context.reference
        for note in self.context.notes:
            context.note(note)
        return self.graph, list(self.records)


class Candidates:
    """The candidates of one search.

    Args:
        graph: simplified float graph that every recipe starts from.
        context: of the compilation; its notes stay as they are.
        split: the user's samples.
        registry: where passes come from.
        state: measurements.
        jobs: processes.
        metric: the user's, or None.
    """

    def __init__(
        self,
        graph: Graph,
        context: PassContext,
        split: Split,
        registry: PassRegistry,
        state: SearchState,
        jobs: int,
        metric: UserMetric | None = None,
    ) -> None:
        self._metric = metric
        self.registry = registry
        self._graph = graph
        self._context = context
        self._split = split
        self._state = state
        self._jobs = jobs
        self._evaluator: Evaluator | None = None
        self._begun: OrderedDict[str, Made] = OrderedDict()
        self._calibrated: OrderedDict[str, Made] = OrderedDict()
        self._made: OrderedDict[str, Made] = OrderedDict()
        self._scores: dict[str, Score] = {}
        self._prefix = ""
        self._memory: dict[str, Any] = {}

    def estimate(self, recipe: Recipe, what: str) -> Score:
        """Return the score of a recipe whose drop is estimated even where the user has a metric; that takes less time.

        Args:
            recipe: from the simplified float graph to the final one.
            what: of the measurement, for the progress report.
        """
        return self._known("estimate" if self._metric is not None else "score", recipe, what)

    def score(self, recipe: Recipe, what: str) -> Score:
        """Return the score of a recipe.

        Args:
            recipe: from the simplified float graph to the final one.
            what: of the measurement, for the progress report.
        """
        return self._known("score", recipe, what)

    def on_all_samples(self) -> Candidates:
        """Return the same candidates, calibrated on the samples kept for verification too."""
        made = Candidates(
            self._graph, self._context, self._split.whole(), self.registry, self._state, self._jobs, self._metric
        )
        made._evaluator, made._prefix = self._measuring(), "all samples "
        return made

    @property
    def has_metric(self) -> bool:
        """Whether drops are those of the user's metric, which takes longer than an estimate."""
        return self._metric is not None

    def _known(self, kind: str, recipe: Recipe, what: str) -> Score:
        """Return a measurement; graphs that are equal are measured once."""
        stored = self._prefix + kind
        known = self._state.get(stored, recipe.text)
        if known is not None:
            return Score.from_json(known)
        if not self._calibrated:
            self._up_to_calibration(recipe)  # most candidates share it: its time tells nothing of theirs
        started = time.monotonic()
        digest = f"{kind}{self._digest(self._up_to_calibration(recipe), recipe)}"
        if digest not in self._scores:
            graph = self.made(recipe).graph
            if kind == "estimate":
                self._scores[digest] = self._measuring().estimate(graph, what)
            else:
                estimate = self._state.get(f"{self._prefix}estimate", recipe.text)
                known = Score.from_json(estimate) if estimate is not None else None
                self._scores[digest] = self._measuring().score(graph, what, known)
        found = replace(self._scores[digest], seconds=round(time.monotonic() - started, 1))
        self._state.put(stored, recipe.text, {**found.to_json(), "seconds": found.seconds})
        return found

    def progress(self, done: int, total: int, what: str) -> None:
        """Report how far the search has come."""
        self._context.progress(done, total, what)

    def _measuring(self) -> Evaluator:
        if self._evaluator is None:
            self._evaluator = Evaluator(
                self._context.original or self._graph,
                self._split.verification,
                jobs=self._jobs,
                costs=NodeCosts.of(self._context),
                progress=self._context.progress,
                metric=self._metric,
            )
        return self._evaluator

    def plan(self, recipe: Recipe) -> Plan:
        """Return what each node does to the outputs, in which order nodes leave int8, and in what they then compute.

        Args:
            recipe: whose ranges and precisions count; passes behind quantization do not.
        """
        known = self._state.get("sensitivity", recipe.text)
        if known is None:
            known = self._measured_plan(recipe).to_json()
            self._state.put("sensitivity", recipe.text, known)
        return Plan.from_json(known)

    def _measured_plan(self, recipe: Recipe) -> Plan:
        calibrated = self._up_to_calibration(recipe)
        graph, context = calibrated.graph, _copied(calibrated.context)
        before, _ = Recipe(recipe.split(CALIBRATE)[1]).split(ASSIGN)
        assigned = PassManager(before, (), self.registry).run(graph, context)
        integer = PassManager(parse_pipeline("quantize", self.registry), (), self.registry).run(assigned, context)
        noises = measure_all(assigned, integer, self._split.few(FEW), jobs=self._jobs, progress=self._context.progress)
        steps = plan_steps(assigned, noises, NodeCosts.of(context))
        rows = sensitivities([noise for noise in noises if noise.source.kind != REST])
        titles = {n.outputs[0].name: f"{n.op.name} {n.loc or n.outputs[0].name}" for n in assigned.nodes}
        return Plan(tuple(rows), steps, titles)

    def made(self, recipe: Recipe) -> Made:
        """Return what a recipe makes of the float graph; a few of the latest are kept."""
        calibrated = self._up_to_calibration(recipe)
        digest = self._digest(calibrated, recipe)
        if digest not in self._made:
            manager = PassManager(recipe.split(CALIBRATE)[1], (), self.registry)
            context = _copied(calibrated.context)
            graph = manager.run(calibrated.graph, context)
            self._made[digest] = Made(graph, (*calibrated.records, *manager.records), context, digest)
        return _latest(self._made, digest, _MOST_MADE)

    def _digest(self, calibrated: Made, recipe: Recipe) -> str:
        """Return a digest of a candidate: passes that change nothing before calibration make no other one."""
        return f"{calibrated.digest}{print_pipeline(recipe.split(CALIBRATE)[1])}"

    def _up_to_calibration(self, recipe: Recipe) -> Made:
        """Return the calibrated graph; the latest are kept, since most candidates share one."""
        passes = recipe.split(CALIBRATE)[0]
        observed = self._after(passes[:-1])
        digest = f"{observed.digest}{print_pipeline(passes[-1:])}"
        if digest not in self._calibrated:
            self._calibrated[digest] = self._one_more(observed, passes[-1])
        return _latest(self._calibrated, digest, _MOST_CALIBRATED)

    def _after(self, passes: Sequence[Pass]) -> Made:
        """Return the float graph after some passes; the latest are kept, pass by pass."""
        if not passes:
            return Made(self._graph, (), self._fresh_context(), "")
        text = print_pipeline(passes)
        if text not in self._begun:
            self._begun[text] = self._one_more(self._after(passes[:-1]), passes[-1])
        return _latest(self._begun, text, _MOST_BEGUN)

    def _one_more(self, made: Made, item: Pass) -> Made:
        """Return what one more pass makes."""
        context, manager = _copied(made.context), PassManager((item,), (), self.registry)
        graph = manager.run(made.graph, context)
        # Recipes name nodes by their results.
        names = [value.name for node in graph.nodes for value in node.outputs]
        digest = f"{graph.structural_hash()}{names}"
        return Made(graph, (*made.records, *manager.records), context, digest)

    def _fresh_context(self) -> PassContext:
        report: Progress = self._context.progress
        return replace(
            self._context,
            samples=self._split.calibration,
            statistics={},
            memory=self._memory,
            reference=None,
            on_progress=report,
            notes=[],
            skips=[],
        )


def _latest(kept: OrderedDict[str, Made], key: str, most: int) -> Made:
    """Return an entry as the latest, and drop those that are too old."""
    kept.move_to_end(key)
    while len(kept) > most:
        kept.popitem(last=False)
    return kept[key]


def _copied(context: PassContext) -> PassContext:
    """Return a context for the passes behind calibration that leaves the given one as it is."""
    return replace(context, notes=list(context.notes), skips=[], statistics=dict(context.statistics))
