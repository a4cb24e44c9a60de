"""Climbs from the cheapest means against a loss of accuracy to the dearest, until the goal is met."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from qcompile.search.candidates import Candidates
from qcompile.search.goal import Goal
from qcompile.search.leaving import Kept
from qcompile.search.mixed_precision import WORTH_TIME, Choice, PrefixSearch
from qcompile.search.outlook import QUICK, Outlook
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
    Rung("equalization of activations", "equalize-activations", {"gain": 1.1}, after="smooth-activations"),
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

MOST_SLOW_CHECKS = 3
"""Candidates with such passes that are measured at most, once nodes leave int8."""

TYPICAL_CHECKS, TYPICAL_SLOW_CHECKS = 5, 2
"""Of the prefixes of a plan that are measured at most, as many usually are, without such passes and with them."""

WORTH_DB = 0.1
"""A means is kept where it brings the goal nearer by at least this."""

CLOSE_DB = 0.3
"""A goal that is exceeded by less is not come closer to with one more candidate that takes long."""

OUT_OF_REACH_DB = 3.0
"""What slow passes are not hoped to gain more than they did where everything was in int8."""

ROOM_DB = 1.0
"""What a prefix is predicted to exceed the goal by, after those that the search took for the shortest all missed it."""

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
        self._slow = _names(rung for rung in self._rungs if rung.after == QUANTIZED)
        self._outlook = Outlook(candidates.progress)

    def _estimate(self, recipe: Recipe, what: str) -> Score:
        return self._seen(recipe, self._candidates.estimate(recipe, what))

    def _score(self, recipe: Recipe, what: str) -> Score:
        return self._seen(recipe, self._candidates.score(recipe, what))

    def _seen(self, recipe: Recipe, score: Score) -> Score:
        self._outlook.measured(recipe.text, score.seconds, self._kind(recipe))
        return score

    def _kind(self, recipe: Recipe) -> str:
        """Return what the time of a candidate depends on most: the last of its passes that take long."""
        return next((name for name in reversed(self._slow) if recipe.has(name)), QUICK)

    def _kind_of(self, rung: Rung) -> str:
        return rung.name if rung.name in self._slow else QUICK

    def _skip(self, rungs: Iterable[Rung]) -> None:
        for rung in rungs:
            self._outlook.skip(self._kind_of(rung))

    def _expect(self, usual: Recipe, means: bool, leave: bool) -> None:
        """Tell which candidates are ahead, from the means on, or from where nodes leave int8 on."""
        kind = self._kind(usual)
        ahead = Counter({kind: 1})  # with all samples
        if leave:
            ahead.update({QUICK: TYPICAL_CHECKS})
            ahead.update({kind: TYPICAL_SLOW_CHECKS})
        if means:
            # The usual recipe, plain int8, the usual one without slow passes.
            ahead.update([kind, QUICK, QUICK, *map(self._kind_of, self._rungs)])
        self._outlook.expect(ahead)

    def climb(self, recipe: Recipe, sizes: tuple[int, int], *, means: bool = True) -> SearchResult:
        """Search for the recipe that meets the goal in the least time on the device.

        Args:
            recipe: the usual one, to start from; without `means` also what to change nothing of but precisions.
            sizes: number of samples for calibration and for verification.
            means: whether to try the rungs; otherwise nodes only leave int8.

        Returns:
            The recipe, and how it was found.
        """
        self._expect(recipe, means, leave=True)
        self._estimate(recipe, f"checking {USUAL}")
        score = self._score(recipe, f"checking {USUAL}")
        self._attempts.append(Attempt(USUAL, "start", score))
        if means and not self._goal.is_accurate(score):
            recipe, score = self._try_means(recipe)
        whole, kept = score, Kept()
        self._expect(recipe, means=False, leave=not self._goal.is_accurate(score))
        if not self._goal.is_accurate(score):
            recipe, score, kept = self._leave(recipe, score)
        self._expect(recipe, means=False, leave=False)
        met = (self._goal.is_accurate(score) or not self._goal.has_accuracy) and self._goal.is_fast(score)
        why = reason(self._goal, score, whole, kept, self._attempts, self._plan)
        rows = tuple(self._plan.sensitivities) if self._plan is not None else ()
        return SearchResult(
            self._goal, recipe, score, met, why, tuple(self._attempts), kept.real, rows, *sizes,
            kept_int16=kept.wide, left_out=tuple(self._left_out),
        )  # fmt: skip

    def _try_means(self, usual: Recipe) -> tuple[Recipe, Score]:
        """Try each means from plain int8 on, until the goal is met; return the best recipe, be it the usual one.

        Each must show that it helps, those of the usual recipe too. Those that take long come last, and only where
        the others found something better than the usual recipe has.
        """
        known = self._estimate(usual, f"checking {USUAL}")
        inserted = [rung for rung in self._rungs if rung.after is not None]
        late = [rung for rung in inserted if rung.name in self._slow]
        recipe, score = usual.without(_names(inserted)), known
        if recipe != usual:
            score = self._estimate(recipe, PLAIN)
            self._attempts.append(Attempt(PLAIN, "checked", score))
        recipe, score = self._climbed(recipe, score, [rung for rung in self._rungs if rung not in late])
        quick, cheap = usual.without(self._slow), [rung for rung in late if math.isinf(rung.most_db)]
        if quick == usual or self._helps(self._estimate(quick, f"checking {USUAL} without the slow passes"), score):
            recipe, score = self._climbed(recipe, score, self._needed(cheap, usual))
        else:
            self._skip(cheap)
        if recipe != usual and not self._helps(known, score):
            recipe, score = usual, known
        recipe, _ = self._climbed(recipe, score, [rung for rung in late if not math.isinf(rung.most_db)])
        return recipe, self._score(recipe, "checking what the means found")

    def _needed(self, rungs: Sequence[Rung], usual: Recipe) -> list[Rung]:
        """Return means without those that another one of the usual recipe makes needless."""
        better = {name: rung for rung in rungs if usual.has(rung.name) for name in rung.instead_of}
        for rung in rungs:
            if rung.name in better:
                self._left_out.append(f"{rung.title}: {better[rung.name].title} does it, too")
                self._skip([rung])
        return [rung for rung in rungs if rung.name not in better]

    def _climbed(self, recipe: Recipe, score: Score, rungs: Sequence[Rung]) -> tuple[Recipe, Score]:
        """Try some means on the best recipe so far, until the goal is met; return it with its estimate."""
        for rung in rungs:
            if self._is_proven(recipe, score):
                break
            candidate = rung.applied(recipe, self._candidates.registry)
            if candidate == recipe:
                self._skip([rung])
                continue
            missing = self._goal.shortfall_db(score)
            if self._goal.has_accuracy and missing > rung.most_db and any(map(recipe.has, rung.instead_of)):
                brings = f"it brings {rung.most_db:g} dB at most, and {missing:.1f} dB are missing"
                self._left_out.append(f"{rung.title}: {brings}")
                self._skip([rung])
                continue
            found = self._estimate(candidate, rung.title)
            kept = self._helps(score, found)
            outcome = "kept" if kept else "no effect" if found.mean_db == score.mean_db else "dropped"
            self._attempts.append(Attempt(rung.title, outcome, found))
            if kept:
                recipe, score = candidate, found
        return recipe, score

    def _is_proven(self, recipe: Recipe, estimate: Score) -> bool:
        """Return whether a recipe meets the goal; labelled samples are asked only where the estimate says so."""
        if not self._goal.is_accurate(estimate):
            return False
        return self._goal.is_accurate(self._score(recipe, "checking a candidate"))

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

        def mixed(step: Step) -> Kept:
            return step.kept

        def real(step: Step) -> Kept:
            return Kept(step.kept.names)

        forms: list[Form] = [mixed, real] if any(step.kept.wide for step in plan.steps) else [real]
        found: list[tuple[Recipe, Score, Kept]] = []
        for form in forms:
            found.append(self._shortest(recipe, score, plan.steps, form, last=form is forms[-1]))
            if self._goal.is_accurate(found[-1][1]) and self._goal.is_fast(found[-1][1]):
                break
        recipe, best, kept = min(found, key=lambda f: (not self._goal.is_fast(f[1]), self._goal.shortfall_db(f[1])))
        self._attempts = [_marked(attempt, best, kept) for attempt in self._attempts]
        return recipe.keeping(kept), best, kept

    def _shortest(
        self, recipe: Recipe, score: Score, steps: list[Step], form: Form, *, last: bool
    ) -> tuple[Recipe, Score, Kept]:
        """Return the recipe with the shortest prefix of the plan that meets the goal.

        Where passes behind quantization or labelled samples take long, prefixes are searched without them, towards a
        goal that is easier by as much as they gain. What comes out is measured with them, which tells better what
        they gain there; passes that spoil it are given up.

        Args:
            recipe: in int8 throughout.
            score: of it.
            steps: of the plan.
            form: in what the nodes of a step compute.
            last: whether no other form is left to try; otherwise one that is out of reach is given up early.
        """
        slow = [name for name in self._slow if recipe.has(name)]
        if not slow and not self._candidates.has_metric:
            chosen = self._search(recipe, steps, self._goal, form, "")
            return recipe, chosen.score, form(steps[chosen.index])
        quick, before = recipe.without(slow), f", without {slow[-1]}" if slow else ", estimated"
        plain = self._estimate(quick, "checking without the slow passes")
        gain = self._goal.shortfall_db(plain) - self._goal.shortfall_db(score)
        low, high, known = 0, len(steps), {0: score}
        for _ in range(MOST_SLOW_CHECKS):
            easier = self._goal.relaxed(gain)
            near = self._search(quick, steps, easier, form, before)
            if not last and easier.shortfall_db(near.score) > OUT_OF_REACH_DB:
                return quick, self._measured(quick, form(steps[near.index])), form(steps[near.index])
            index = min(max(near.index, low + 1), high - 1) if self._goal.max_ms is None else near.index
            if index in known or (high in known and known[high].ms - near.score.ms <= WORTH_TIME * near.score.ms):
                break
            known[index] = self._measured(recipe, form(steps[index]))
            missing = self._goal.shortfall_db(known[index])
            if slow and self._spoils(recipe, quick, form(steps[index])):
                whole = self._score(quick, "checking without the slow passes")
                return self._shortest(quick, whole, steps, form, last=last)
            if missing > 0.0:
                low = max(low, index)
            else:
                high = index
            if -CLOSE_DB <= missing <= 0.0:
                break
            gain -= missing
        index = self._best(known, steps, lambda i: self._measured(recipe, form(steps[i])))
        return recipe, known[index], form(steps[index])

    def _spoils(self, recipe: Recipe, quick: Recipe, kept: Kept) -> bool:
        """Return whether slow passes make a candidate worse that was measured without them, too."""
        whole, part = (self._estimate(r.keeping(kept), count_text(kept)) for r in (recipe, quick))
        return self._goal.shortfall_db(whole) - self._goal.shortfall_db(part) >= WORTH_DB

    def _best(self, known: dict[int, Score], steps: Sequence[Step], measure: Callable[[int], Score]) -> int:
        """Return the shortest prefix that meets the goal; where none is known to, a longer one, if it is fast."""

        def worth(index: int) -> tuple[bool, float, int]:
            score = known[index]
            missing = self._goal.shortfall_db(score)
            # Without a target for the accuracy, all that fits into the time is for it.
            return not self._goal.is_fast(score), max(0.0, missing) if self._goal.has_accuracy else missing, index

        good = any(self._goal.is_accurate(s) and self._goal.is_fast(s) for s in known.values())
        if not good and self._goal.max_ms is None:
            self._extend(known, steps, measure)
        return min(known, key=worth)

    def _extend(self, known: dict[int, Score], steps: Sequence[Step], measure: Callable[[int], Score]) -> None:
        """Measure longer prefixes of the plan until one is accurate enough, and one between it and the last before.

        Each leaves more room than the one before for what the predictions miss: the last of them, with everything in
        float32, is the dearest way to close a gap of half a decibel.
        """
        low, last, room = max(known), len(steps) - 1, ROOM_DB
        while low < last:
            sink = 10 ** (-(self._goal.shortfall_db(known[low]) + room) / 10)
            high = _sunk(steps, low, last, sink)
            known[high] = measure(high)
            if self._goal.is_accurate(known[high]):
                break
            low, room = high, 2.0 * room
        else:
            return
        ends = [max(steps[i].noise, 0.0) for i in (low, high)]
        between = _sunk(steps, low, high, math.sqrt(ends[1] / ends[0]) if ends[0] else 0.0)
        if between < high and known[high].ms - known[low].ms > WORTH_TIME * known[high].ms:
            known[between] = measure(between)

    def _search(self, recipe: Recipe, steps: list[Step], goal: Goal, form: Form, what: str) -> Choice:
        """Search for the shortest prefix of the plan that meets a goal, by estimates, and remember them."""
        return PrefixSearch(steps, goal, lambda i: self._tried(recipe, form(steps[i]), what, self._estimate)).run()

    def _measured(self, recipe: Recipe, kept: Kept) -> Score:
        """Measure a recipe with nodes outside int8, and remember that."""
        return self._tried(recipe, kept, "", self._score)

    def _tried(self, recipe: Recipe, kept: Kept, what: str, score: Callable[[Recipe, str], Score]) -> Score:
        if not kept:
            return score(recipe, f"all in int8{what}")
        title = count_text(kept) + what
        attempt = Attempt(title, "checked", score(recipe.keeping(kept), title), len(kept.real), len(kept.wide))
        if not any(_is_same(attempt, known) for known in self._attempts):
            self._attempts.append(attempt)
        return attempt.score


def _sunk(steps: Sequence[Step], low: int, high: int, share: float) -> int:
    """Return the first prefix between two whose predicted noise is no more than a share of the shorter one's."""
    return next((i for i in range(low + 1, high) if steps[i].noise <= share * steps[low].noise), high)


def _names(rungs: Iterable[Rung]) -> list[str]:
    """Return the names of the passes of some means, each once."""
    return list(dict.fromkeys(rung.name for rung in rungs))


def _is_same(one: Attempt, other: Attempt) -> bool:
    """Return whether two attempts are of one candidate, whatever they are called."""
    return replace(one, title="", outcome="") == replace(other, title="", outcome="")


def _marked(attempt: Attempt, score: Score, kept: Kept) -> Attempt:
    """Return an attempt as the chosen one, where it is."""
    chosen = Attempt("", "", score, len(kept.real), len(kept.wide))
    return replace(attempt, outcome="chosen") if kept and _is_same(attempt, chosen) else attempt
