"""Climbs from the cheapest means against a loss of accuracy to the dearest, until the goal is met."""

from __future__ import annotations

from qcompile.search.candidates import Candidates
from qcompile.search.goal import Goal
from qcompile.search.mixed_precision import MOST_CHECKS, Choice, PrefixSearch
from qcompile.search.plan import Step
from qcompile.search.recipe import Recipe
from qcompile.search.result import Attempt, SearchResult
from qcompile.search.rung import Rung
from qcompile.search.score import Score
from qcompile.search.sensitivity import Sensitivity

QUANTIZED = "fuse-requantize"
"""Passes behind this one work on integers, layer by layer, and take long."""

RUNGS: tuple[Rung, ...] = (
    Rung("ranges from minimum to maximum", "insert-observers", {"observer": "minmax"}),
    Rung("ranges without the rarest values", "insert-observers", {"observer": "percentile{percentile=99.99}"}),
    Rung("the best range for each tensor", "insert-observers", {"observer": "auto"}),
    Rung("weight equalization", "equalize-weights", after="fuse-activation"),
    Rung(
        "weight equalization of channels that never meet their clip",
        "equalize-weights",
        {"clips": True},
        after="fuse-activation",
    ),
    Rung("absorption of biases far above zero", "absorb-bias", after="equalize-weights"),
    Rung("bias correction", "correct-bias", after=QUANTIZED),
    Rung("rounding of weights by layer", "round-weights", after=QUANTIZED, instead_of=("correct-bias",)),
    Rung(
        "rounding of weights by block",
        "reconstruct-blocks",
        after=QUANTIZED,
        instead_of=("correct-bias", "round-weights"),
    ),
)
"""Means in order of cost; those that need more time on the device, int16 or float32 for some nodes, come last."""

INT16, FLOAT = "int16", "float32"

KEEPING = {INT16: Recipe.keeping_int16, FLOAT: Recipe.keeping_float}
"""How a recipe keeps nodes out of int8, by what they compute in instead; the cheaper first."""

MOST_SLOW_CHECKS = 5
"""Candidates with such passes that are measured at most, once nodes stay in float32."""

WORTH_DB = 0.1
"""A means is kept where it brings the goal nearer by at least this."""


class Ladder:
    """One search.

    Args:
        candidates: builds and measures.
        goal: targets.
        rungs: means to try, in order; None for RUNGS.
    """

    def __init__(self, candidates: Candidates, goal: Goal, rungs: tuple[Rung, ...] | None = None) -> None:
        self._candidates = candidates
        self._goal = goal
        self._rungs = RUNGS if rungs is None else rungs
        self._attempts: list[Attempt] = []
        self._sensitivities: list[Sensitivity] = []

    def climb(self, recipe: Recipe, sizes: tuple[int, int], *, means: bool = True) -> SearchResult:
        """Search for the cheapest recipe that meets the goal.

        Args:
            recipe: what to start from; without `means` also what to change nothing of but precisions.
            sizes: number of samples for calibration and for verification.
            means: whether to try the rungs; otherwise only float32 for some nodes is.

        Returns:
            The recipe, and how it was found.
        """
        if means:
            recipe = self._stripped(recipe)
        score = self._candidates.score(recipe, "checking the start")
        self._attempts.append(Attempt("plain int8" if means else "int8", "start", score))
        if means and not self._goal.is_accurate(score):
            recipe, score = self._try_rungs(recipe, score)
        kept: tuple[str, ...] = ()
        wide: tuple[str, ...] = ()
        if not self._goal.is_accurate(score):
            found = self._keep(recipe, score, INT16)
            if found is not None:
                recipe, score, wide = found
            else:
                recipe, score, kept = self._keep_float(recipe, score)
        met = (self._goal.is_accurate(score) or not self._goal.has_accuracy) and self._goal.is_fast(score)
        return SearchResult(
            self._goal, recipe, score, met, self._reason(score, kept, wide), tuple(self._attempts), kept,
            tuple(self._sensitivities), *sizes, kept_int16=wide,
        )  # fmt: skip

    def _stripped(self, recipe: Recipe) -> Recipe:
        """Return the recipe without the passes that are rungs, since each must show that it helps."""
        return recipe.without([rung.name for rung in self._rungs if rung.after is not None])

    def _try_rungs(self, recipe: Recipe, score: Score) -> tuple[Recipe, Score]:
        """Try each means on the best recipe so far, until the goal is met."""
        registry = self._candidates.registry
        for rung in self._rungs:
            if not rung.is_available(registry):
                continue
            candidate = rung.applied(recipe, registry)
            if candidate == recipe:
                continue
            found = self._candidates.score(candidate, rung.title)
            kept = self._helps(score, found)
            self._attempts.append(Attempt(rung.title, "kept" if kept else "dropped", found))
            if kept:
                recipe, score = candidate, found
            if self._goal.is_accurate(score):
                break
        return recipe, score

    def _helps(self, before: Score, after: Score) -> bool:
        """Return whether a means brings the goal nearer, or helps the other outputs where the worst stays as it is.

        What spoils the worst output often hides what is done about the others, until its nodes are in float32.
        """
        gain = self._goal.shortfall_db(before) - self._goal.shortfall_db(after)
        if self._goal.is_accurate(after) or abs(gain) >= WORTH_DB:
            return gain > 0
        return after.mean_db - before.mean_db >= WORTH_DB

    def _keep_float(self, recipe: Recipe, score: Score) -> tuple[Recipe, Score, tuple[str, ...]]:
        """Keep nodes in float32, the most harmful for their time first."""
        found = self._keep(recipe, score, FLOAT)
        assert found is not None
        return found

    def _keep(self, recipe: Recipe, score: Score, precision: str) -> tuple[Recipe, Score, tuple[str, ...]] | None:
        """Keep nodes out of int8, the most harmful for their time first.

        Where passes behind quantization take long, the search is made without them, towards a goal that is easier
        by as much as they gain, and only its end with them. Sixteen bits do nothing for what weights lose: where
        not even all nodes of the plan reach the goal with them, the answer is None after one measurement.
        """
        self._sensitivities, steps = self._candidates.sensitivity(recipe)
        slow = [rung.name for rung in self._rungs if rung.after == QUANTIZED and recipe.has(rung.name)]
        quick, easier = recipe.without(slow), self._goal
        if slow:
            plain = self._candidates.score(quick, "checking without the slow passes")
            easier = self._goal.relaxed(self._goal.shortfall_db(plain) - self._goal.shortfall_db(score), score)
        what = " before " + slow[-1] if slow else ""
        if precision == INT16 and not self._is_enough(quick, steps[-1], easier, what):
            return None
        start = self._search(quick, steps, easier, precision, what).index if slow else 0
        most = MOST_SLOW_CHECKS if slow else MOST_CHECKS
        chosen = self._search(recipe, steps, self._goal, precision, "", start, most)
        if precision == INT16 and not self._goal.is_accurate(chosen.score):
            return None
        names = steps[chosen.index].names
        return KEEPING[precision](recipe, names), chosen.score, names

    def _is_enough(self, recipe: Recipe, step: Step, goal: Goal, what: str) -> bool:
        """Return whether 16-bit activations in all nodes of a plan meet a goal."""
        score = self._candidates.score(recipe.keeping_int16(step.names), _title(step, INT16) + what)
        enough = goal.is_accurate(score) and goal.is_fast(score)
        if not enough:
            self._attempts.append(Attempt(_title(step, INT16) + what, "dropped", score))
        return enough

    def _search(
        self,
        recipe: Recipe,
        steps: list[Step],
        goal: Goal,
        precision: str,
        what: str,
        start: int = 0,
        most: int = MOST_CHECKS,
    ) -> Choice:
        """Search for the shortest prefix of the plan that meets a goal, and remember what was measured."""
        keeping = KEEPING[precision]

        def measure(index: int) -> Score:
            return self._candidates.score(keeping(recipe, steps[index].names), _title(steps[index], precision) + what)

        search = PrefixSearch(steps, goal, measure, start=start, most=most)
        chosen = search.run()
        for choice in search.measured:
            if choice.index:
                outcome = "chosen" if choice.index == chosen.index and not what else "checked"
                step = steps[choice.index]
                count = len(step.names) if precision == FLOAT else 0
                self._attempts.append(Attempt(_title(step, precision) + what, outcome, choice.score, count))
        return chosen

    def _reason(self, score: Score, kept: tuple[str, ...], wide: tuple[str, ...] = ()) -> str:
        """Return why the search stopped."""
        accurate = self._goal.is_accurate(score) or not self._goal.has_accuracy
        if not self._goal.is_fast(score):
            fastest = min(a.score.ms for a in self._attempts)
            return f"the goal, {self._goal.text()}, is out of reach: the fastest candidate takes {fastest:.3f} ms"
        if accurate and self._goal.has_accuracy:
            by = f" with {_nodes(len(kept), FLOAT)}" if kept else f" with {_nodes(len(wide), INT16)}" if wide else ""
            return f"the goal, {self._goal.text()}, is met{by}: {score.text()}"
        if accurate:
            return f"this is the most accurate within {self._goal.max_ms:g} ms: {score.text()}"
        missing = f"it is missed by {self._goal.shortfall_db(score):.1f} dB: {score.text()}"
        limit = "within the time" if self._goal.max_ms is not None else "at all"
        return f"the goal, {self._goal.text()}, cannot be met {limit}; {missing}"


def _title(step: Step, precision: str) -> str:
    return _nodes(len(step.names), precision)


def _nodes(count: int, precision: str) -> str:
    return f"{count} node{'s' if count != 1 else ''} in {precision}"
