"""The whole compilation, top to bottom: model, passes, code, bundle, report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qcompile.config import CompileConfig, read_config, read_labels, sidecar
from qcompile.errors import UsageError

if TYPE_CHECKING:
    from qcompile.calibrate.calibration_set import CalibrationSet
    from qcompile.evaluate.comparison import Comparison
    from qcompile.ir.graph import Graph
    from qcompile.ir.program import Program
    from qcompile.passmgr import PassContext, PassRecord
    from qcompile.passmgr.execution import Instrument

SIMPLIFY = (
    "fold-constants,eliminate-dead,canonicalize,fold-batchnorm,canonicalize,fold-constants,"
    "to-nhwc,eliminate-transposes,eliminate-dead"
)
"""Rewrites that keep a float graph's meaning; every compilation starts with them."""

FINISH_FLOAT = "fuse-residual,fuse-activation,eliminate-dead"
"""Fusions for what is computed in float."""

Progress = Callable[[int, int, str], None]


@dataclass
class Bundle:
    """A finished compilation.

    Args:
        path: the bundle's directory.
        manifest: contents of its manifest.json.
        report: its HTML report.
        notes: what the user should know, in plain words.
        records: what each pass did.
    """

    path: Path
    manifest: dict[str, Any]
    report: Path
    notes: list[str] = field(default_factory=list)
    records: list[PassRecord] = field(default_factory=list)


@dataclass
class Compilation:
    """What the stages made, on its way into the bundle.

    Args:
        context: services and notes of the passes; holds the calibration statistics.
        samples: the calibration set, or None.
        graph: the final graph.
        program: its code.
        comparison: integers against float, None for a float build.
        records: what each pass did.
    """

    context: PassContext
    samples: CalibrationSet | None
    graph: Graph
    program: Program
    comparison: Comparison | None
    records: list[PassRecord]


def compile(
    model: str | Path,
    *,
    target: str | None = None,
    precision: str | None = None,
    calibration: str | Path | Iterable[Mapping[str, Any]] | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    config: CompileConfig | Mapping[str, Any] | str | Path | None = None,
    output: str | Path,
    progress: Progress | None = None,
    instruments: Sequence[Instrument] = (),
) -> Bundle:
    """Compile an ONNX model to a bundle.

    Args:
        model: path of the ONNX file; a `model.yaml` beside it is read first.
        target: name or YAML path of a target; "host" by default.
        precision: "int8" (default) or "fp32".
        calibration: samples as {input name: array}, or a folder, file or `module:function`.
        input_shapes: extents of inputs with open ones, by name.
        config: further settings: a record, a mapping or a YAML file; the arguments above win.
        output: directory to write.
        progress: called with (done, total, what) during long work.
        instruments: watch the passes.

    Raises:
        QCompileError: something about the model, the data, the target or a setting is wrong.
        InternalError: our own fault.
    """
    model = Path(model)
    settings = {"target": target, "precision": precision, "input_shapes": _listed(input_shapes)}
    if isinstance(calibration, (str, Path)):
        settings["calib"], calibration = str(calibration), None
    resolved, notes = resolve_config(model, config, settings)
    context, samples, graph = prepare(model, resolved, calibration, progress)
    context.notes[:0] = notes
    simplified, records = simplify(graph, resolved, context, instruments)
    final, more = to_precision(simplified, resolved, context, instruments)
    comparison = measure(simplified, final, samples, context)
    program = lower(final, context, resolved.jobs, progress)
    made = Compilation(context, samples, final, program, comparison, [*records, *more])
    return write(model, Path(output), resolved, made)


def resolve_config(
    model: Path, config: CompileConfig | Mapping[str, Any] | str | Path | None, settings: Mapping[str, Any]
) -> tuple[CompileConfig, list[str]]:
    """Merge defaults, the file beside the model, the user's configuration and explicit settings, in this order."""
    notes: list[str] = []
    if isinstance(config, CompileConfig):
        return config.updated(settings, "arguments"), notes
    resolved = CompileConfig()
    beside = sidecar(model)
    if beside is not None:
        resolved = resolved.updated(read_config(beside), str(beside))
        notes.append(f"settings of {beside} apply")
    if isinstance(config, (str, Path)):
        resolved = resolved.updated(read_config(Path(config)), str(config))
    elif config is not None:
        resolved = resolved.updated(config, "config")
    return resolved.updated(settings, "arguments"), notes


def prepare(
    model: Path,
    config: CompileConfig,
    calibration: Iterable[Mapping[str, Any]] | None,
    progress: Progress | None,
) -> tuple[PassContext, CalibrationSet | None, Graph]:
    """Load the target, the model and the calibration set."""
    from qcompile.calibrate.calibration_set import open_calibration
    from qcompile.calibrate.preprocess import Preprocess
    from qcompile.calibrate.sample import graph_inputs
    from qcompile.onnx_import import import_onnx
    from qcompile.passmgr import PassContext
    from qcompile.targets import load

    target = load(config.target)
    graph = import_onnx(model, dict(config.input_shapes))
    samples = None
    source = calibration if calibration is not None else config.calib
    preprocess = Preprocess.from_mapping(config.preprocess)
    if source is not None and config.precision == "int8":
        samples = open_calibration(
            source,
            graph_inputs(graph),
            preprocess,
            limit=config.samples,
            crops_per_image=config.crops_per_image,
        )
    context = PassContext(target=target, preprocess=preprocess, on_progress=progress, seed=config.seed)
    if samples is not None:
        context.samples = samples.__iter__
        context.notes += samples.notes
    context.notes += graph.notes
    return context, samples, graph


def simplify(
    graph: Graph, config: CompileConfig, context: PassContext, instruments: Sequence[Instrument]
) -> tuple[Graph, list[PassRecord]]:
    """Run the float rewrites and the user's own passes."""
    return _run(
        f"{SIMPLIFY},{config.passes}" if config.passes else SIMPLIFY, graph, config, context, instruments
    )


def to_precision(
    graph: Graph, config: CompileConfig, context: PassContext, instruments: Sequence[Instrument]
) -> tuple[Graph, list[PassRecord]]:
    """Run the passes that lead to the wanted precision."""
    pipeline = FINISH_FLOAT
    if config.precision == "int8":
        pipeline = f"{quantization_pipeline(config)},{FINISH_FLOAT}"
    return _run(pipeline, graph, config, context, instruments)


def quantization_pipeline(config: CompileConfig) -> str:
    """Return the pipeline text from a simplified float graph to an integer graph."""
    from qcompile.ir.printer import print_literal

    observe = f"observer={print_literal(config.observer)}, weights={print_literal(config.weights)}"
    observe += f", per_channel={print_literal(config.per_channel)}"
    steps = [
        "fuse-activation{tables=false}",
        f"insert-observers{{{observe}}}",
        f"calibrate{{seed={config.seed}}}",
        f"assign-precision{{keep_float={print_literal(config.keep_float)}}}",
        f"quantize{{io={print_literal(config.io)}}}",
        "fuse-requantize",
    ]
    return ",".join(steps)


def _run(
    pipeline: str,
    graph: Graph,
    config: CompileConfig,
    context: PassContext,
    instruments: Sequence[Instrument],
) -> tuple[Graph, list[PassRecord]]:
    from qcompile.passmgr import PassManager, PassRegistry

    manager = PassManager(pipeline, instruments, PassRegistry(config.pass_path))
    return manager.run(graph, context), manager.records


def measure(
    reference: Graph, final: Graph, samples: CalibrationSet | None, context: PassContext
) -> Comparison | None:
    """Compare the integer graph with the float one, tensor by tensor; None for a float build."""
    from qcompile.evaluate.comparison import compare_graphs

    if not any(node.is_integer for node in final.nodes):
        return None
    return compare_graphs(reference, final, samples, seed=context.seed, progress=context.progress)


def lower(graph: Graph, context: PassContext, jobs: int, progress: Progress | None) -> Program:
    """Generate and compile the kernels."""
    from qcompile.lower import lower_graph

    if context.target is None:
        raise UsageError("no target is chosen", hint="`qcompile targets` lists them")
    return lower_graph(graph, context.target, progress=progress, jobs=jobs)


def write(model: Path, output: Path, config: CompileConfig, made: Compilation) -> Bundle:
    """Write the bundle with its report."""
    from qcompile.bundle import write_bundle
    from qcompile.provenance import provenance_of
    from qcompile.report.html import report_html

    labels = read_labels(config.labels) if config.labels else None
    provenance = provenance_of(model, config, made, labels)
    report = report_html(made, provenance)
    manifest = write_bundle(made.program, output, provenance=provenance, files={"report.html": report.encode()})
    return Bundle(output, manifest, output / "report.html", made.context.notes, made.records)


def _listed(shapes: Mapping[str, Sequence[int]] | None) -> dict[str, list[int]] | None:
    return {name: list(shape) for name, shape in shapes.items()} if shapes is not None else None
