"""From the simplified float graph to the wanted precision, and how near that is to float."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from qcompile import pipelines
from qcompile.config import CompileConfig

if TYPE_CHECKING:
    from qcompile.calibrate.calibration_set import CalibrationSet
    from qcompile.evaluate.comparison import Comparison
    from qcompile.ir.graph import Graph
    from qcompile.passmgr import PassContext, PassRecord
    from qcompile.passmgr.execution import Instrument
    from qcompile.search.leaving import Kept
    from qcompile.search.result import SearchResult
    from qcompile.search.safety_net import Way


def run_passes(
    pipeline: str,
    graph: Graph,
    config: CompileConfig,
    context: PassContext,
    instruments: Sequence[Instrument],
) -> tuple[Graph, list[PassRecord]]:
    """Run passes, the user's own among them, and return the graph and what each did.

    Args:
        pipeline: text.
        graph: to start from; stays as it is.
        config: tells where the user's passes are.
        context: of the passes.
        instruments: watch them.
    """
    from qcompile.passmgr import PassManager, PassRegistry

    manager = PassManager(pipeline, instruments, PassRegistry(config.pass_path))
    return manager.run(graph, context), manager.records


def to_precision(
    graph: Graph,
    config: CompileConfig,
    context: PassContext,
    instruments: Sequence[Instrument],
    found: SearchResult | None = None,
) -> tuple[Graph, list[PassRecord]]:
    """Run the passes that lead to the wanted precision.

    Args:
        graph: simplified.
        config: effective configuration.
        context: of the passes.
        instruments: watch the passes.
        found: what a search found; None for the usual passes.

    Returns:
        The final graph, and what each pass did.
    """
    from qcompile.passmgr.selection import check_selection

    if config.precision in ("fp16", "bf16", "fp32", "dynamic"):
        check_selection(graph, config.keep_float, option="--keep-float", original=context.imported)
    last = pipelines.finish(config)
    if config.precision in ("fp16", "bf16", "fp32"):
        return run_passes(last, graph, config, context, instruments)
    if graph.is_quantized:
        context.note("the model is quantized already: its own scales are used, no calibration")
        return run_passes(f"{pipelines.absorption(config)},{last}", graph, config, context, instruments)
    if config.precision == "dynamic":
        return run_passes(f"{pipelines.dynamic(config)},{last}", graph, config, context, instruments)
    if found is not None:
        if found.made is not None and not instruments and not pipelines.narrow(config):
            return found.made.handed_over(context)
        return run_passes(f"{found.recipe.text}{pipelines.narrow(config)}", graph, config, context, instruments)
    return _quantized(graph, config, context, instruments)


def _quantized(
    graph: Graph, config: CompileConfig, context: PassContext, instruments: Sequence[Instrument]
) -> tuple[Graph, list[PassRecord]]:
    """Calibrate and quantize a float graph; nodes that spoil an output leave int8."""
    from qcompile.search.safety_net import protect

    # The same weights are quantized once more for every set of nodes that leaves int8.
    context.memory = {}
    ways = [_calibrated(graph, config, context, instruments, equalized=True)]
    if any(record.changed and record.name == "equalize-activations" for record in ways[0].records):
        ways.append(_calibrated(graph, config, context, instruments, equalized=False))
    way, made = protect(ways)
    context.statistics, context.reference, context.memory = way.context.statistics, way.context.reference, None
    return made.graph, [*way.records, *made.records]


def _calibrated(
    graph: Graph,
    config: CompileConfig,
    context: PassContext,
    instruments: Sequence[Instrument],
    equalized: bool,
) -> Way:
    """Find the ranges of a float graph, and say how it is quantized from there."""
    from qcompile.search.safety_net import Way

    context = replace(context, statistics=dict(context.statistics))
    watched, before = with_observers(graph, config, context, instruments, equalized)
    calibrated, ranges = run_passes(pipelines.calibration(config), watched, config, context, instruments)

    def quantized(kept: Kept, whole: bool) -> tuple[Graph, list[PassRecord]]:
        more = replace(config, keep_int16=(*config.keep_int16, *kept.wide))
        pipeline = f"{pipelines.integer(more, whole, kept.real)},{pipelines.finish(config)}"
        return run_passes(pipeline, calibrated, config, context, instruments if whole else ())

    return Way(calibrated, quantized, context, [*before, *ranges])


def with_observers(
    graph: Graph,
    config: CompileConfig,
    context: PassContext,
    instruments: Sequence[Instrument],
    equalized: bool = False,
) -> tuple[Graph, list[PassRecord]]:
    """Ask for ranges, and check the nodes that the user names: calibration takes long, so a wrong name ends here.

    Args:
        graph: simplified.
        config: effective configuration.
        context: of the passes.
        instruments: watch them.
        equalized: whether channels of activations may get factors of their own.
    """
    from qcompile.passmgr.selection import check_selection, idle_selections

    observed, records = run_passes(pipelines.observation(config, equalized), graph, config, context, instruments)
    named = context.imported if context.imported is not None else graph
    check_selection(observed, config.keep_float, option="--keep-float", original=named)
    check_selection(observed, config.keep_int16, option="--keep-int16", original=named)
    for note in idle_selections(observed, config.keep_float, config.keep_int16):
        context.note(note)
    return observed, records


def comparable(simplified: Graph, context: PassContext) -> Graph:
    """Return the float graph whose tensors mean what those of the integer graph do: channels equalized alike.

    Args:
        simplified: float graph, or one that the model quantized already.
        context: of the passes behind it.
    """
    return simplified if context.reference is None or simplified.is_quantized else context.reference


def measure(reference: Graph, final: Graph, samples: CalibrationSet | None, context: PassContext) -> Comparison | None:
    """Compare the quantized graph with the float one, tensor by tensor; None for a float build of the user's network.

    Where passes of the user changed the network, its outputs are compared with those of the original. Samples that
    calibration has not seen tell more than others.

    Args:
        reference: float graph whose tensors mean what those of the final graph do.
        final: what is compared.
        samples: None for made-up ones.
        context: gives the seed of these, and how photographs become inputs.
    """
    from qcompile.calibrate.calibration_set import usual_count
    from qcompile.calibrate.sample_choice import FITTED, all_fitted, some_judged, unseen_samples
    from qcompile.evaluate.comparison import COMPARED, compare_graphs, is_rounded

    if not is_rounded(final) and context.original is None:
        return None
    count = usual_count(reference, COMPARED)
    unseen = unseen_samples(samples, count)
    corrected = any(node.is_integer for node in final.nodes) and not reference.is_quantized
    found = compare_graphs(
        reference,
        final,
        unseen or samples,
        original=context.original,
        count=count,
        fitted=usual_count(reference, FITTED) if corrected else 0,
        seed=context.seed,
        preprocess=context.preprocess,
        threads=context.threads,
        progress=context.progress,
    )
    if samples is None:
        return found
    empty = samples.summary.emptiness if samples.summary is not None else ""
    if unseen:
        return replace(found, unseen=True, empty=(empty if samples.count != 1 else "") or found.empty)
    # Pruning and weights of few bits fit what remains to samples at even places.
    halves = context.original is not None or any(node.op.name == "unpack_groups" for node in final.nodes)
    fitted = (corrected and all_fitted(reference, samples)) or (halves and some_judged(samples))
    return replace(found, fitted=fitted, empty=empty or found.empty)
