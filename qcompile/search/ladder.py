"""Climbs from the cheapest means against a loss of accuracy to the dearest, until the goal is met."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from qcompile.search.candidates import Candidates
from qcompile.search.goal import Goal
from qcompile.search.leaving import Kept
from qcompile.search.mixed_precision import Choice, PrefixSearch
from qcompile.search.plan import Plan, Step
from qcompile.search.reason import count_text, reason
from qcompile.search.recipe import Recipe
from qcompile.search.result import Attempt, SearchResult
from qcompile.search.rung import Rung
from qcompile.search.score import Score

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
        most_db=2.0,
    ),
)
"""Means in order of cost; those that need more time on the device, int16 or float32 for some nodes, come last."""

MOST_SLOW_CHECKS = 4
"""Candidates with such passes that are measured at most, once nodes leave int8."""

WORTH_DB = 0.1
"""A means is kept where it brings the goal nearer by at least this."""

USUAL, PLAIN = "the usual recipe", "plain int8"

Form = Callable[[Step], Kept]
"""In what the nodes of a step compute."""


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
        self._left_out: list[str] = []
        self._plan: Plan | None = None

    def climb(self, recipe: Recipe, sizes: tuple[int, int], *, means: bool = True) -> SearchResult:
        """Search for the recipe that meets the goal in the least time on the device.

        Args:
            recipe: the usual one, to start from; without `means` also what to change nothing of but precisions.
            sizes: number of samples for calibration and for verification.
            means: whether to try the rungs; otherwise nodes only leave int8.

        Returns:
            The recipe, and how it was found.
        """
        score = self._candidates.score(recipe, f"checking {USUAL}")
        self._attempts.append(Attempt(USUAL, "start", score))
        if means and not self._goal.is_accurate(score):
            recipe, score = self._try_means(recipe, score)
        whole, kept = score, Kept()
        if not self._goal.is_accurate(score):
            recipe, score, kept = self._leave(recipe, score)
        met = (self._goal.is_accurate(score) or not self._goal.has_accuracy) and self._goal.is_fast(score)
        why = reason(self._goal, score, whole, kept, self._attempts, self._plan)
        rows = tuple(self._plan.sensitivities) if self._plan is not None else ()
        return SearchResult(
            self._goal, recipe, score, met, why, tuple(self._attempts), kept.real, rows, *sizes,
            kept_int16=kept.wide, left_out=tuple(self._left_out), made=self._candidates.made(recipe),
        )  # fmt: skip

    def _try_means(self, usual: Recipe, known: Score) -> tuple[Recipe, Score]:
        """Try each means from plain int8 on, until the goal is met; return the best recipe, be it the usual one.

        Each must show that it helps, those of the usual recipe too.
        """
        recipe = usual.without([rung.name for rung in self._rungs if rung.after is not None])
        score = known
        if recipe != usual:
            score = self._candidates.score(recipe, PLAIN)
            self._attempts.append(Attempt(PLAIN, "checked", score))
        recipe, score = self._climbed(recipe, score, [r for r in self._rungs if math.isinf(r.most_db)])
        if recipe != usual and self._helps(score, known):
            recipe, score = usual, known
        return self._climbed(recipe, score, [r for r in self._rungs if not math.isinf(r.most_db)])

    def _climbed(self, recipe: Recipe, score: Score, rungs: Sequence[Rung]) -> tuple[Recipe, Score]:
        """Try some means on the best recipe so far, until the goal is met."""
        for rung in rungs:
            if self._goal.is_accurate(score):
                break
            candidate = rung.applied(recipe, self._candidates.registry)
            if candidate == recipe or not rung.is_available(self._candidates.registry):
                continue
            missing = self._goal.shortfall_db(score)
            if self._goal.has_accuracy and missing > rung.most_db and any(map(recipe.has, rung.instead_of)):
                brings = f"it brings {rung.most_db:g} dB at most, and {missing:.1f} dB are missing"
                self._left_out.append(f"{rung.title}: {brings}")
                continue
            found = self._candidates.estimate(candidate, rung.title)
            kept = False
            # What does not even lower the noise is not worth a run over all labelled samples.
            if not self._candidates.has_metric or _is_promising(score, found):
                found = self._candidates.score(candidate, rung.title)
                kept = self._helps(score, found)
            outcome = "kept" if kept else "no effect" if found.mean_db == score.mean_db else "dropped"
            self._attempts.append(Attempt(rung.title, outcome, found))
            if kept:
                recipe, score = candidate, found
        return recipe, score

    def _helps(self, before: Score, after: Score) -> bool:
        """Return whether a means brings the goal nearer, or helps the other outputs where the worst stays as it is.

        What spoils the worst output often hides what is done about the others, until its nodes leave int8.
        """
        gain = self._goal.shortfall_db(before) - self._goal.shortfall_db(after)
        if self._goal.is_accurate(after) or abs(gain) >= WORTH_DB:
            return gain > 0
        return after.mean_db - before.mean_db >= WORTH_DB

    def _leave(self, recipe: Recipe, score: Score) -> tuple[Recipe, Score, Kept]:
        """Let nodes leave int8, the most harmful for their time first.

        On 16-bit activations where these serve and cost less than float32; where that does not reach the goal, all
        of them in float32.
        """
        plan = self._plan = self._candidates.plan(recipe)
        allowed = plan.steps[0].noise * 10 ** (-self._goal.shortfall_db(score) / 10) if self._goal.has_accuracy else 0.0

        def mixed(step: Step) -> Kept:
            return plan.leaving.kept(step.names, max(allowed, step.noise))

        def real(step: Step) -> Kept:
            return Kept(step.names)

        forms: list[Form] = [mixed, real] if any(mixed(step).wide for step in plan.steps) else [real]
        found: list[tuple[Score, Kept]] = []
        for form in forms:
            chosen = self._shortest(recipe, score, plan.steps, form)
            found.append((chosen.score, form(plan.steps[chosen.index])))
            if self._goal.is_accurate(chosen.score) and self._goal.is_fast(chosen.score):
                break
        best, kept = min(found, key=lambda f: (not self._goal.is_fast(f[0]), self._goal.shortfall_db(f[0])))
        self._attempts = [_marked(attempt, best, kept) for attempt in self._attempts]
        return recipe.keeping(kept), best, kept

    def _shortest(self, recipe: Recipe, score: Score, steps: list[Step], form: Form) -> Choice:
        """Return the shortest prefix of the plan that meets the goal.

        Where passes behind quantization take long, prefixes are searched without them, towards a goal that is easier
        by as much as they gain. What comes out is measured with them, which tells better what they gain there.
        """
        slow = [rung.name for rung in self._rungs if rung.after == QUANTIZED and recipe.has(rung.name)]
        if not slow:
            return self._search(recipe, steps, self._goal, form, "")
        quick, before = recipe.without(slow), f", before {slow[-1]}"
        plain = self._candidates.score(quick, "checking without the slow passes")
        gain = self._goal.shortfall_db(plain) - self._goal.shortfall_db(score)
        low, high, known = 0, len(steps), {0: score}
        for _ in range(MOST_SLOW_CHECKS):
            index = self._search(quick, steps, self._goal.relaxed(gain), form, before).index
            index = min(max(index, low + 1), high - 1) if self._goal.max_ms is None else index
            if index in known:
                break
            known[index] = self._measured(recipe, form(steps[index]), "")
            gain -= self._goal.shortfall_db(known[index])
            low, high = (low, index) if self._goal.is_accurate(known[index]) else (max(low, index), high)
        return self._best(known, len(steps) - 1, lambda: self._measured(recipe, form(steps[-1]), ""))

    def _best(self, known: dict[int, Score], last: int, measure: Callable[[], Score]) -> Choice:
        """Return the shortest prefix that meets the goal; where none is known to, the whole plan if it is fast."""
        good = [i for i, s in known.items() if self._goal.is_accurate(s) and self._goal.is_fast(s)]
        if not good and last not in known and self._goal.max_ms is None:
            known[last] = measure()
            good = [last] if self._goal.is_accurate(known[last]) else []
        index = min(good, default=None)
        if index is None:
            order = sorted(known, key=lambda i: (not self._goal.is_fast(known[i]), self._goal.shortfall_db(known[i])))
            index = order[0]
        return Choice(index, known[index])

    def _search(self, recipe: Recipe, steps: list[Step], goal: Goal, form: Form, what: str) -> Choice:
        """Search for the shortest prefix of the plan that meets a goal, and remember what was measured."""
        return PrefixSearch(steps, goal, lambda i: self._measured(recipe, form(steps[i]), what)).run()

    def _measured(self, recipe: Recipe, kept: Kept, what: str) -> Score:
        """Measure a recipe with nodes outside int8, and remember that."""
        if not kept:
            return self._candidates.score(recipe, f"all in int8{what}")
        title = count_text(kept) + what
        found = self._candidates.score(recipe.keeping(kept), title)
        attempt = Attempt(title, "checked", found, len(kept.real), len(kept.wide))
        if attempt not in self._attempts:
            self._attempts.append(attempt)
        return found


def _is_promising(before: Score, after: Score) -> bool:
    """Return whether a means lowers the noise at the worst output, or on the average."""
    return max(after.sqnr_db - before.sqnr_db, after.mean_db - before.mean_db) >= WORTH_DB


def _marked(attempt: Attempt, score: Score, kept: Kept) -> Attempt:
    """Return an attempt as the chosen one, where it is."""
    same = attempt.score == score and attempt.title == count_text(kept)
    return replace(attempt, outcome="chosen") if same and kept else attempt
