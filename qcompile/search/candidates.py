"""Builds and measures candidates; each only once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from qcompile.cost import NodeCosts
from qcompile.ir.graph import Graph
from qcompile.passmgr import PassContext, PassManager, PassRegistry, parse_pipeline
from qcompile.search.evaluation import Evaluator, Split
from qcompile.search.plan import Step, extra_ns, plan_steps
from qcompile.search.recipe import Recipe
from qcompile.search.score import Score
from qcompile.search.sensitivity import Sensitivity, measure_noise, sensitivities
from qcompile.search.sources import find_sources
from qcompile.search.state import SearchState
from qcompile.search.user_metric import UserMetric

FEW = 4
"""Samples on which sensitivities are measured."""

CALIBRATE, ASSIGN = "calibrate", "assign-precision"


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
        self._calibrated: tuple[str, Graph, PassContext] | None = None

    def score(self, recipe: Recipe, what: str) -> Score:
        """Return the score of a recipe.

        Args:
            recipe: from the simplified float graph to the final one.
            what: of the measurement, for the progress report.
        """
        known = self._state.get("score", recipe.text)
        if known is not None:
            return Score.from_json(known)
        if self._evaluator is None:
            self._evaluator = Evaluator(
                self._graph,
                self._split.verification,
                jobs=self._jobs,
                costs=NodeCosts.of(self._context),
                progress=self._context.progress,
                metric=self._metric,
            )
        found = self._evaluator.score(self._build(recipe), what)
        self._state.put("score", recipe.text, found.to_json())
        return found

    def sensitivity(self, recipe: Recipe) -> tuple[list[Sensitivity], list[Step]]:
        """Return what each node does to the outputs, and the plan in which order nodes leave int8.

        Args:
            recipe: whose ranges and precisions count; passes behind quantization do not.
        """
        known = self._state.get("sensitivity", recipe.text)
        if known is None:
            known = self._measure_sensitivity(recipe)
            self._state.put("sensitivity", recipe.text, known)
        rows = [Sensitivity(**row) for row in known["nodes"]]
        return rows, [Step(tuple(step["names"]), step["noise"]) for step in known["plan"]]

    def _measure_sensitivity(self, recipe: Recipe) -> dict[str, Any]:
        graph, context = self._up_to_calibration(recipe)
        before, _ = Recipe(recipe.split(CALIBRATE)[1]).split(ASSIGN)
        assigned = PassManager(before, (), self.registry).run(graph, context)
        integer = PassManager(parse_pipeline("quantize", self.registry), (), self.registry).run(assigned, context)
        noises = measure_noise(
            assigned,
            find_sources(assigned, integer),
            self._split.few(FEW),
            jobs=self._jobs,
            progress=self._context.progress,
        )
        costs = NodeCosts.of(context)
        return {
            "nodes": [asdict(row) for row in sensitivities(noises)],
            "plan": [asdict(step) for step in plan_steps(assigned, noises, partial(extra_ns, costs=costs))],
        }

    def _build(self, recipe: Recipe) -> Graph:
        graph, context = self._up_to_calibration(recipe)
        return PassManager(recipe.split(CALIBRATE)[1], (), self.registry).run(graph, context)

    def _up_to_calibration(self, recipe: Recipe) -> tuple[Graph, PassContext]:
        """Return the calibrated graph with its context; the latest is kept, since most candidates share it."""
        passes, _ = recipe.split(CALIBRATE)
        text = Recipe(passes).text
        if self._calibrated is None or self._calibrated[0] != text:
            self._calibrated = None
            context = self._fresh_context()
            self._calibrated = (text, PassManager(passes, (), self.registry).run(self._graph, context), context)
        _, graph, context = self._calibrated
        return graph, replace(context, notes=[], skips=[], statistics=dict(context.statistics))

    def _fresh_context(self) -> PassContext:
        report: Callable[[int, int, str], None] = self._context.progress
        return replace(
            self._context,
            samples=self._split.calibration,
            statistics={},
            reference=None,
            on_progress=report,
            notes=[],
            skips=[],
        )
