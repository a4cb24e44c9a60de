"""Starts a search: divides the samples, finds what an earlier run measured, climbs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy.typing as npt

from qcompile.calibrate.preprocess import Preprocess
from qcompile.config import CompileConfig
from qcompile.config_files import read_labels
from qcompile.cost import NodeCosts
from qcompile.errors import QCompileError, UsageError
from qcompile.ir.graph import Graph
from qcompile.passmgr import PassContext, PassRegistry
from qcompile.search.candidates import Candidates
from qcompile.search.evaluation import Split, split_samples
from qcompile.search.goal import DEFAULT_DROP, Goal
from qcompile.search.ladder import Ladder
from qcompile.search.processes import tasks_on
from qcompile.search.recipe import Recipe
from qcompile.search.result import SearchResult
from qcompile.search.state import SearchState
from qcompile.search.user_metric import DEFAULT_METRIC, UserMetric

GOES_ON = "the same command goes on with what the search measured"
"""What helps where a search is interrupted."""


@dataclass(frozen=True)
class SearchSettings:
    """How to search.

    Args:
        goal: targets.
        means: whether to try other means than float32 for some nodes.
        folder: where measurements are kept; None keeps them in memory.
        jobs: processes.
        executor: cluster that takes the place of the processes, "dask://host:port", or None.
        data: labelled samples on which drops are measured, as for `qcompile eval`; None where there are none.
        metric: what is measured on them.
        names: class names in the order of the output, or None.
    """

    goal: Goal
    means: bool = True
    folder: Path | None = None
    jobs: int = 1
    executor: str | None = None
    data: str | None = None
    metric: str = DEFAULT_METRIC
    names: tuple[str, ...] | None = None


def settings_of(config: CompileConfig, output: Path) -> SearchSettings:
    """Return how the user wants to search.

    Args:
        config: effective configuration.
        output: directory of the bundle; the state of the search is kept beside it unless told otherwise.
    """
    goal = Goal(config.max_drop, config.min_sqnr, config.max_ms)
    if goal == Goal():
        goal = Goal(max_drop=DEFAULT_DROP)
    place = output.resolve()
    folder = Path(config.work_dir) if config.work_dir is not None else place.with_name(f"{place.name}.search")
    names = tuple(read_labels(config.labels)) if config.labels is not None else None
    how = (config.accuracy == "auto", folder, config.jobs, config.executor)
    return SearchSettings(goal, *how, config.eval_data, config.metric or DEFAULT_METRIC, names)


def search(
    graph: Graph,
    pipeline: str,
    context: PassContext,
    settings: SearchSettings,
    registry: PassRegistry | None = None,
) -> SearchResult:
    """Search for the cheapest recipe that meets a goal.

    The samples for verification take no part in calibration until the recipe is known. In the end all samples
    calibrate, as without a search, unless the result is then worse.

    Args:
        graph: simplified float graph.
        pipeline: passes from there to the final graph, as they are without a search.
        context: of the compilation; its samples are needed.
        settings: how to search.
        registry: where passes come from.

    Returns:
        What was found; `context.notes` says why the search stopped.

    Raises:
        UsageError: there are no samples, or the state cannot be kept.
    """
    if context.samples is None:
        raise UsageError("a search for accuracy needs calibration samples", hint="give them with --calib")
    registry = registry or PassRegistry()
    split = split_samples(context.samples)
    recipe = Recipe.parse(pipeline, registry)
    metric = _metric(graph, settings, context)
    state = SearchState(settings.folder, _key(graph, recipe, split, context, metric))
    if state.resumed:
        # No note: the bundle is the same as without an interruption.
        context.progress(state.resumed, state.resumed, "taking over measurements of an earlier run")
    candidates = Candidates(graph, context, split, registry, state, settings.jobs, metric)
    sizes = (split.total - len(split.indices), len(split.verification))
    try:
        with _executor(settings.executor):
            found = Ladder(candidates, settings.goal).climb(recipe, sizes, means=settings.means)
            found, worse = _with_all_samples(found, candidates, split)
            if found.made is None:
                found = replace(found, made=candidates.made(found.recipe))
    except KeyboardInterrupt:
        raise KeyboardInterrupt(GOES_ON if settings.folder is not None else "") from None
    finally:
        state.leave()
    found = replace(found, divided=bool(split.indices), metric=metric.to_json() if metric is not None else None)
    context.samples = split.whole().calibration if found.whole else split.calibration
    context.note(f"search: {found.reason}")
    context.note(_figures(found, split, worse))
    return found


def _figures(found: SearchResult, split: Split, worse: str) -> str:
    """Return of which samples the figures of a search are, in words.

    Args:
        found: by the search.
        split: the samples.
        worse: what is wrong with calibrating on all of them, where that is not what was done.
    """
    count = len(split.verification)
    if not split.indices:
        return (
            f"too few samples to keep some for verification: {_figured(found)} of {count} that weights were fitted to"
        )
    verified = f"{_figured(found)} of {count} samples that took no part in calibration"
    if found.whole:
        return f"{verified}; the bundle is then calibrated on all {split.total}"
    return f"{verified}, and the bundle is calibrated on the other {split.total - count}: {worse}"


def _figured(found: SearchResult) -> str:
    """Return which figures the samples for verification give: those of labelled samples stand beside them."""
    if found.metric is None:
        return "these figures are"
    return "SQNR is" if found.score.agreement is None else "SQNR and agreement, the share of float's answers kept, are"


def _with_all_samples(found: SearchResult, candidates: Candidates, split: Split) -> tuple[SearchResult, str]:
    """Return a result whose graph is calibrated on all samples, where that is no worse; otherwise also what is.

    A recipe may not go with all samples: it names nodes that some pass makes from other samples only, or one of those
    kept for verification is no sample to calibrate on. What was found without them holds all the same.
    """
    if not split.indices:
        return found, ""
    every = candidates.on_all_samples()
    try:
        score = every.score(found.recipe, "building with all samples")
    except QCompileError as error:
        return found, f"with all it cannot be ({error})"
    if found.goal.shortfall_db(score) > max(0.0, found.goal.shortfall_db(found.score)):
        return found, "with all it was worse"
    return replace(found, made=every.made(found.recipe), whole=True), ""


def _metric(graph: Graph, settings: SearchSettings, context: PassContext) -> UserMetric | None:
    """Return the user's metric, and say of what a drop is."""
    if settings.data is None:
        if settings.goal.max_drop is not None:
            context.note(
                "the drop is estimated from how far outputs are from the float network's: labelled samples "
                "(--eval-data, --metric) measure it"
            )
        return None
    preprocess = context.preprocess if isinstance(context.preprocess, Preprocess) else None
    names, jobs, progress = settings.names, settings.jobs, context.progress
    metric = UserMetric(
        context.original or graph,
        settings.data,
        settings.metric,
        preprocess=preprocess,
        names=names,
        jobs=jobs,
        progress=progress,
    )
    context.notes += metric.notes
    context.note(f"the drop is that of {metric.text()}")
    return metric


@contextmanager
def _executor(text: str | None) -> Iterator[None]:
    """Send tasks to the cluster that the user named."""
    if text is None:
        yield
        return
    from qcompile.search.cluster import Cluster

    cluster = Cluster(text)
    try:
        cluster.check()
        with tasks_on(cluster):
            yield
    finally:
        cluster.close()


def _key(graph: Graph, recipe: Recipe, split: Split, context: PassContext, metric: UserMetric | None) -> str:
    """Return a digest of all that measurements depend on besides the recipe measured."""
    from qcompile import __version__

    # Recipes name nodes by their results.
    names = [value.name for node in graph.nodes for value in node.outputs]
    digest = hashlib.sha256(graph.structural_hash().encode())
    if context.original is not None:
        digest.update(context.original.structural_hash().encode())
    digest.update(json.dumps([__version__, recipe.text, context.seed, names, NodeCosts.of(context).digest()]).encode())
    digest.update((metric.digest() if metric is not None else "").encode())
    for sample in split.source():
        _add(digest, sample)
    return digest.hexdigest()


def _add(digest: Any, sample: Mapping[str, npt.NDArray[Any]]) -> None:
    for name in sorted(sample):
        digest.update(f"{name}:{sample[name].dtype}{sample[name].shape};".encode())
        digest.update(sample[name].tobytes())
