"""The whole compilation, top to bottom: model, passes, code, bundle, report."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qcompile import pipelines
from qcompile.bundle import check_output
from qcompile.compilation import Bundle, Compilation
from qcompile.config import CompileConfig
from qcompile.config_files import read_config, read_labels, read_sidecar
from qcompile.config_texts import plain
from qcompile.errors import UsageError
from qcompile.parallel import one_blas_thread, worth_threads
from qcompile.precision import comparable, measure, run_passes, to_precision, with_observers
from qcompile.progress import Progress

if TYPE_CHECKING:
    from qcompile.calibrate.calibration_set import CalibrationSet
    from qcompile.calibrate.preprocess import Preprocess
    from qcompile.ir.graph import Graph
    from qcompile.ir.program import Program
    from qcompile.passmgr import PassContext, PassRecord
    from qcompile.passmgr.execution import Instrument
    from qcompile.search.result import SearchResult

REPORT = "report.html"


@one_blas_thread()
def compile(
    model: str | Path,
    *,
    target: str | Path | None = None,
    precision: str | None = None,
    calibration: str | Path | Iterable[Mapping[str, Any]] | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    config: CompileConfig | Mapping[str, Any] | str | Path | None = None,
    output: str | Path,
    progress: Progress | None = None,
    instruments: Sequence[Instrument] = (),
    **settings: Any,
) -> Bundle:
    """Compile an ONNX model to a bundle.

    Args:
        model: path of the ONNX file; settings in a `model.yaml` beside it apply first.
        target: name or YAML path of a target; "host" by default.
        precision: "int8" (default), "dynamic", "fp16", "bf16" or "fp32".
        calibration: samples as {input name: array}, or a folder, file or `module:function`; None makes samples up.
        input_shapes: extents of inputs with open ones, by name.
        config: further settings: a YAML file, a mapping, or a record that is complete; the arguments win over it.
        output: directory to write.
        progress: called with (done, total, what) during long work.
        instruments: watch the passes.
        **settings: any other setting of `CompileConfig`, such as `keep_float=["Gelu_17"]` or `io="int8"`.

    Raises:
        QCompileError: something about the model, the data, the target or a setting is wrong.
        InternalError: our own fault.
    """
    from qcompile.float_share import float_notes, float_within
    from qcompile.shapes.single import with_one_place

    given: dict[str, Any] = {**settings, "precision": precision}
    given |= {"target": target, "input_shapes": input_shapes}
    if isinstance(calibration, (str, Path)):
        given["calib"], calibration = str(calibration), None
    model, output = path_of(model, "model"), path_of(output, "output")
    if progress is not None and not callable(progress):
        raise UsageError(f"progress is {type(progress).__name__}, not a function", hint="it gets (done, total, what)")
    resolved = resolve_config(model, config, given)
    check_output(output, [REPORT])
    labels = read_labels(resolved.labels) if resolved.labels else None
    context, samples, graph = prepare(model, resolved, calibration, progress)
    simplified, records = simplify(graph, resolved, context, instruments)
    found = find_recipe(simplified, resolved, context, output)
    final, more = to_precision(simplified, resolved, context, instruments, found)
    context.notes += examine(simplified, samples)
    if resolved.precision == "int8":
        context.notes += float_notes(final, more)
    comparison = measure(comparable(simplified, context), final, samples, context)
    if found is not None and comparison is not None and comparison.outputs:
        context.notes += found.doubts(min(comparison.outputs.values()))
    single = with_one_place(final)
    final, last = bound_extents(final, resolved, context, instruments)
    tune(final, simplified, resolved, context)
    single = single and bound_extents(single, resolved, context, ())[0]
    program = lower(final, context, resolved.jobs, progress, single)
    passed, within = [*records, *more, *last], float_within(final, program)
    made = Compilation(context, samples, final, program, comparison, passed, labels, found, within)
    bundle = write(model, output, resolved, made)
    forget_search(resolved, output)
    return bundle


def path_of(value: Any, name: str) -> Path:
    """Return an argument that is to be a path as one.

    Args:
        value: what was given.
        name: of the argument, for messages.

    Raises:
        UsageError: it is none.
    """
    if isinstance(value, (str, os.PathLike)):
        return Path(value)
    hint = "onnx.save(model, path) writes one" if name == "model" else None
    raise UsageError(f"{name} is {type(value).__name__}, not the path of a file or folder", hint=hint)


def resolve_config(
    model: Path,
    config: CompileConfig | Mapping[str, Any] | str | Path | None,
    settings: Mapping[str, Any],
    source: str = "arguments",
) -> CompileConfig:
    """Merge defaults, the file beside the model, the user's configuration and explicit settings, in this order.

    Args:
        model: path of the ONNX file.
        config: as for `compile`.
        settings: explicit settings by name; None means not given.
        source: where these come from, for messages.

    Raises:
        UsageError: a file cannot be read, or a setting is unknown or has a wrong value.
    """
    if config is not None and not isinstance(config, (CompileConfig, str, Path, Mapping)):
        hint = "give the path of a YAML file, a mapping of settings, or a qcompile.config.CompileConfig"
        raise UsageError(f"config is {type(config).__name__}, not a configuration", hint=hint)
    layers: list[tuple[str, Mapping[str, Any]]] = []
    if not isinstance(config, CompileConfig):
        beside = read_sidecar(model)
        layers += [beside] if beside is not None else []
    if isinstance(config, (str, Path)):
        layers.append((str(config), read_config(Path(config))))
    files = tuple(name for name, _ in layers)
    if isinstance(config, Mapping):
        layers.append(("config", plain(config)))
    resolved = config if isinstance(config, CompileConfig) else CompileConfig(sources=files)
    for name, values in (*layers, (source, plain(settings))):
        resolved = resolved.updated(_with_steps(values), name)
    return resolved


def _with_steps(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with `preprocess`, which may be a text as on the command line, in full and checked."""
    from qcompile.calibrate.preprocess import Preprocess

    given = settings.get("preprocess")
    if isinstance(given, str):
        return {**settings, "preprocess": Preprocess.parse(given).to_mapping()}
    if isinstance(given, Mapping):
        return {**settings, "preprocess": Preprocess.from_mapping(given).to_mapping()}
    return dict(settings)


def prepare(
    model: Path,
    config: CompileConfig,
    calibration: Iterable[Mapping[str, Any]] | None,
    progress: Progress | None,
    *,
    keeps_loops: bool = True,
) -> tuple[PassContext, CalibrationSet | None, Graph]:
    """Load the target, the model and the calibration set.

    Args:
        model: path of the ONNX file.
        config: effective configuration.
        calibration: samples as {input name: array}; None where the configuration names a set, or there is none.
        progress: as for `compile`.
        keeps_loops: as for `qcompile.onnx_import.import_onnx`.

    Returns:
        Services and notes of the passes; the samples, None where there are none or nothing needs them; the graph as
        imported.
    """
    from qcompile.calibrate.observer import make_observer
    from qcompile.calibrate.preprocess import Preprocess
    from qcompile.onnx_import.kept import import_kept
    from qcompile.passmgr import PassContext
    from qcompile.targets import is_file, load, with_arithmetic
    from qcompile.tuning.database import open_database

    target = load(config.target)
    if is_file(config.target):
        from qcompile.kernels.machine import check_machine

        check_machine(target, config.target)
    target = with_arithmetic(target, config.narrow_type)
    make_observer(config.observer)
    preprocess = Preprocess.from_mapping(config.preprocess)
    states = (config.state, config.state_initial, config.max_length, config.cache)
    graph = import_kept(model, config.input_shapes, config.input_values, *states, keeps_loops=keeps_loops)
    context = PassContext(target=target, preprocess=preprocess, on_progress=progress, seed=config.seed)
    context.records = open_database(config.tuning, new=config.tune)
    context.notes += [*(f"settings of {Path(source).name} apply" for source in config.sources), *graph.notes]
    samples = _samples(graph, config, calibration, preprocess)
    if not config.compares and (calibration is not None or config.calib is not None):
        context.note("the calibration samples are not used: a float network needs no ranges")
    if samples is not None:
        context.samples = samples.__iter__
        context.notes += samples.notes
    return context, samples, graph


def _samples(
    graph: Graph, config: CompileConfig, given: Iterable[Mapping[str, Any]] | None, preprocess: Preprocess
) -> CalibrationSet | None:
    """Open the calibration set; None for a float build, which needs no ranges, and where none was given."""
    from qcompile.calibrate.calibration_set import CalibrationSet, open_calibration, usual_count
    from qcompile.calibrate.sample import graph_inputs
    from qcompile.calibrate.sequence import SequenceSet
    from qcompile.evaluate.comparison import COMPARED

    if not config.compares or (given is None and config.calib is None):
        return None
    limit, kept = config.samples or usual_count(graph), [state.input for state in graph.states]
    # In a sequence every sample goes on where the one before it ended: none can be set aside.
    spare = 0 if kept else usual_count(graph, COMPARED)
    if isinstance(given, Iterator):
        # It can be read but once, and the samples are needed again for the comparison with float.
        given = list(islice(given, limit + spare))
    return open_calibration(
        given if given is not None else str(config.calib),
        [spec for spec in graph_inputs(graph) if spec.name not in kept],
        preprocess,
        limit=limit,
        crops_per_image=config.crops_per_image,
        spare=spare,
        kept=kept,
        leads=bool(kept),
        wrap=(lambda reader: SequenceSet(reader, graph)) if kept else CalibrationSet,
    )


def simplify(
    graph: Graph, config: CompileConfig, context: PassContext, instruments: Sequence[Instrument]
) -> tuple[Graph, list[PassRecord]]:
    """Run the float rewrites and the user's own passes; `context.original` is the network before the latter."""
    context.imported = graph
    simplified, records = run_passes(pipelines.SIMPLIFY, graph, config, context, instruments)
    context.threads = worth_threads(simplified, config.jobs)
    if not config.passes:
        return simplified, records
    context.original = simplified
    changed, more = run_passes(config.passes, simplified, config, context, instruments)
    return changed, [*records, *more]


def find_recipe(graph: Graph, config: CompileConfig, context: PassContext, output: Path) -> SearchResult | None:
    """Search for the passes that the user's goal needs; None where there is no goal."""
    from qcompile.passmgr import PassRegistry
    from qcompile.search.start import search, settings_of

    if not config.searches or graph.is_quantized:
        return None
    with_observers(graph, config, context, ())
    pipeline = f"{pipelines.quantization(config)},{pipelines.FINISH_FLOAT}"
    return search(graph, pipeline, context, settings_of(config, output), PassRegistry(config.pass_path))


def forget_search(config: CompileConfig, output: Path) -> None:
    """Remove the state of a search that is over, unless the user chose the place for it."""
    from qcompile.search.start import settings_of
    from qcompile.search.state import remove_state

    folder = settings_of(config, output).folder
    if config.searches and config.work_dir is None and folder is not None:
        remove_state(folder)


def bound_extents(
    graph: Graph, config: CompileConfig, context: PassContext, instruments: Sequence[Instrument]
) -> tuple[Graph, list[PassRecord]]:
    """Make a graph with open extents right for all sizes; others are left as they are."""
    return run_passes("bound-dynamic-axes", graph, config, context, instruments) if graph.symbols else (graph, [])


def examine(graph: Graph, samples: CalibrationSet | None) -> list[str]:
    """Return what looks wrong with the calibration set, once it was read, in plain words.

    Args:
        graph: simplified float graph.
        samples: None where there are none.
    """
    from qcompile.calibrate.input_scale import scale_notes

    if samples is None:
        return []
    noted = samples.summary.notes() if samples.summary is not None else []
    return [*noted, *scale_notes(graph, samples, samples.preprocess)]


def tune(graph: Graph, simplified: Graph, config: CompileConfig, context: PassContext) -> None:
    """Measure how the layers are cut best and what the other nodes cost in each precision, where that is wanted."""
    from qcompile.tuner.session import Settings
    from qcompile.tuner.session import tune as search
    from qcompile.tuning.database import AUTO, user_file

    if not config.tune or context.target is None:
        return
    file = user_file() if config.tuning == AUTO else Path(config.tuning)
    settings = Settings(config.device, config.budget, file, config.jobs)
    twin = None
    if config.precision == "int8" and not simplified.is_quantized:
        twin, _ = run_passes(pipelines.FINISH_FLOAT, simplified, config, replace(context, notes=[], skips=[]), ())
    context.note(search(graph, context.target, context.records, settings, context.on_progress, twin=twin).note())


def lower(
    graph: Graph, context: PassContext, jobs: int, progress: Progress | None, single: Graph | None = None
) -> Program:
    """Generate and compile the kernels.

    Args:
        graph: final.
        context: gives the target and measured cuts of layers; is told which of these were used.
        jobs: threads.
        progress: as for `compile`.
        single: the graph for one new place of a growing sequence, where that is to have steps of its own.
    """
    from qcompile.kernels.tuned import TunedPlans
    from qcompile.lower import lower_graph

    if context.target is None:
        raise UsageError("no target is chosen", hint="`qcompile targets` lists them")
    plans = TunedPlans(context.records)
    program = lower_graph(graph, context.target, progress=progress, jobs=jobs, plans=plans, single=single)
    context.used_records = plans.used
    return program


def write(model: Path, output: Path, config: CompileConfig, made: Compilation) -> Bundle:
    """Write the bundle with its report, and run it where this machine can.

    Args:
        model: path of the ONNX file.
        output: directory to write.
        config: effective configuration.
        made: results of the stages.
    """
    from qcompile.bundle import write_bundle
    from qcompile.evaluate.self_test import check_bundle
    from qcompile.provenance import provenance_of
    from qcompile.report.html import report_html

    made.context.progress(0, 2, "linking")
    provenance = provenance_of(model, config, made)
    made.context.progress(1, 2, "linking")
    files = {REPORT: report_html(made, provenance).encode()}
    manifest = write_bundle(made.program, output, provenance=provenance, files=files)
    made.context.progress(2, 2, "linking")
    notes, check = made.context.notes, check_bundle(output)
    report, within = output / REPORT, made.float_within
    return Bundle(output, manifest, report, made.graph, notes, made.records, check, made.search, within)
