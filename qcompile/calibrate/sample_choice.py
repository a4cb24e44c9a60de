"""Which samples constants are fitted to, and which others tell what that is worth.

Whatever fits constants to a part of the samples takes those at even places, and whatever judges the result those at
odd ones, on which no fit looks better than it is. Correction of layers takes more of them where there are few: all but
every fourth, which judges.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from qcompile.calibrate.calibration_set import CalibrationSet, usual_count
from qcompile.calibrate.paired_run import samples_within
from qcompile.calibrate.reader import spaced
from qcompile.calibrate.sample import graph_inputs
from qcompile.calibrate.synthetic import synthetic_samples
from qcompile.ir.graph import Graph

if TYPE_CHECKING:
    from qcompile.passmgr import PassContext

Array = npt.NDArray[Any]

FITTED = 32
"""Samples to correct layers on at most, of networks that take long: see `usual_count`."""

_ENOUGH = 16
"""Samples of which those at odd places alone can judge."""

_FEWEST = 8
"""Samples of which some can be left to judge which nodes leave int8; fewer than `_ENOUGH` all correct the result."""

_JUDGE = 4
"""One in so many judges where correction could take all samples, and there are enough."""

_BYTES = 2**29  # of activations held at a time


def calibration_samples(graph: Graph, context: PassContext, limit: int, synthetic: int) -> list[Mapping[str, Array]]:
    """Return the calibration samples to correct layers on, as many as are asked for and fit in memory, or made-up ones.

    Args:
        graph: in integer form.
        context: holds the samples.
        limit: calibration samples to use at most; of no more than these, if they are enough, every fourth is left to
            judge the result (`judges`). Fewer than these judge only which nodes are to leave int8.
        synthetic: samples to make up where there are none.
    """
    reference = context.reference if context.reference is not None else graph
    fitting = min(limit, samples_within(reference, _BYTES))
    if context.samples is not None:
        return _without_judges(context.samples(), fitting, _FEWEST if context.judging else _ENOUGH)
    if not synthetic:
        return []
    return list(synthetic_samples(graph_inputs(reference), min(synthetic, fitting), context.seed, context.preprocess))


def _without_judges(samples: Iterable[Mapping[str, Array]], count: int, enough: int) -> list[Mapping[str, Array]]:
    """Return samples, evenly spread, or all but those that judge where these would be all, and enough."""
    given = 0

    def counted() -> Iterator[Mapping[str, Array]]:
        nonlocal given
        for sample in samples:
            given += 1
            yield sample

    kept = spread(counted(), count)
    if not enough <= given <= count:
        return kept
    return [sample for place, sample in enumerate(kept, 1) if place % _JUDGE]


def some_samples(graph: Graph, context: PassContext, limit: int, synthetic: int) -> Iterable[Mapping[str, Array]]:
    """Return calibration samples one at a time, or made-up ones where there are none.

    Args:
        graph: float.
        context: holds the samples.
        limit: calibration samples to use at most; where there are more, they are evenly spaced, the first ones where
            their number is not known.
        synthetic: samples to make up.
    """
    if context.samples is None:
        return synthetic_samples(graph_inputs(graph), synthetic, context.seed, context.preprocess)
    samples = context.samples()
    size = getattr(samples, "size", None)
    if size is None or size <= limit:
        return islice(samples, limit)
    chosen = {2 * index for index in spaced(-(-size // 2), limit)}
    return (sample for index, sample in enumerate(samples) if index in chosen)


def spread(samples: Iterable[Mapping[str, Array]], count: int) -> list[Mapping[str, Array]]:
    """Return samples spread evenly over a sequence of unknown length, in order, from the first on.

    Args:
        samples: read once.
        count: to return at most; at least half as many are if there are enough.
    """
    if count < 1:
        return []
    kept: list[Mapping[str, Array]] = []
    stride = 1
    for index, sample in enumerate(samples):
        if index % stride:
            continue
        if len(kept) == count:
            kept = kept[::2]
            stride *= 2
            if index % stride:
                continue
        kept.append(sample)
    return kept


def judges(
    samples: Iterable[Mapping[str, Array]], count: int, fitted: int
) -> tuple[list[Mapping[str, Array]], list[Mapping[str, Array]]]:
    """Return samples, evenly spread, to check a network on whose layers were corrected on others.

    Correction takes samples at even places wherever it does not take all (`spread`), so those at odd places are new
    to it; where it could take all, it leaves every fourth (`calibration_samples`).

    Args:
        samples: read once.
        count: to return at most of each kind; at least half as many are if there are enough.
        fitted: samples that correction takes at most. Of fewer than 8 it takes all, and none is new.

    Returns:
        Those that are new to correction; where they are few or none, some of all, too: what happens to one sample in
        three may happen to none of four.
    """
    given, held = 0, []

    def at_odd_places() -> Iterator[Mapping[str, Array]]:
        nonlocal given
        for sample in samples:
            given += 1
            if given <= fitted:
                held.append(sample)
            if not given % 2:
                yield sample

    kept = spread(at_odd_places(), count)
    if given > fitted:
        return kept, []
    left = held[_JUDGE - 1 :: _JUDGE] if given >= _FEWEST else []
    return spread(left, count), spread(held, count)


def correct_all(samples: Iterable[Mapping[str, Array]]) -> bool:
    """Return whether samples judge a choice (`judges`), but are too few to be left out once it was made.

    Args:
        samples: read once.
    """
    return _FEWEST <= sum(1 for _ in islice(samples, _ENOUGH)) < _ENOUGH


def fitted_samples(context: PassContext, count: int) -> list[Mapping[str, Array]]:
    """Return calibration samples at even places, evenly spread, at most so many; none where there are none."""
    return _every_second(context, 0, count)


def other_samples(context: PassContext, count: int) -> list[Mapping[str, Array]]:
    """Return calibration samples at odd places, evenly spread, at most so many; none where there is but one."""
    return _every_second(context, 1, count)


def _every_second(context: PassContext, first: int, count: int) -> list[Mapping[str, Array]]:
    if context.samples is None:
        return []
    samples = context.samples()
    size = getattr(samples, "size", None)
    every_second = islice(samples, first, None, 2)
    if size is None:
        return spread(every_second, count)
    chosen = set(spaced((size + 1 - first) // 2, count))
    return [sample for index, sample in enumerate(every_second) if index in chosen]


def all_fitted(graph: Graph, samples: CalibrationSet) -> bool:
    """Return whether there are so few different samples that correction fits weights to all of them.

    Args:
        graph: of the network; correction takes more samples of small ones.
        samples: read to the end before.
    """
    if samples.summary is None:
        return False
    few = samples.summary.different <= usual_count(graph, FITTED)
    return few and (samples.count != samples.summary.different or samples.summary.different < _ENOUGH)


def some_judged(samples: CalibrationSet) -> bool:
    """Return whether there are so few samples that even those to which constants are fitted are compared, too."""
    return samples.count is not None and samples.count < _ENOUGH


def unseen_samples(samples: CalibrationSet | None, count: int) -> list[Mapping[str, Array]]:
    """Return samples that were set aside, and of which calibration knows nothing; none where they are too few.

    Args:
        samples: of the user; None where there are none.
        count: to return at most; at least half as many are.
    """
    spares: list[Mapping[str, Array]] = [*samples.spares] if samples is not None else []
    return spares[:count] if 2 * len(spares) >= count else []


def compared_samples(
    samples: Iterable[Mapping[str, Array]], count: int, fitted: int = 0
) -> tuple[int, Iterator[Mapping[str, Array]]]:
    """Return how many samples are used (0 if that is not known) and these, evenly spaced where their number is.

    Those at odd places, where there are enough: passes that fit constants to a part of the samples take even ones, on
    which they look better. Of so few that correction could take all, those that it leaves (`judges`).

    Args:
        samples: read once.
        count: to use at most.
        fitted: samples that correction takes at most; 0 where nothing was corrected.
    """
    size = getattr(samples, "size", None)
    if size is None:
        return 0, islice(samples, count)
    stride = _JUDGE if _ENOUGH <= size <= fitted else 2
    enough = size >= min(2 * count, _ENOUGH)
    chosen = (
        {stride * (index + 1) - 1 for index in spaced(size // stride, count)} if enough else set(spaced(size, count))
    )
    return len(chosen), (sample for index, sample in enumerate(samples) if index in chosen)
