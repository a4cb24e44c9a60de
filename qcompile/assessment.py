"""How good a compiled model is: the steps behind `qcompile eval` and `qcompile analyze`, on the driver's stages."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from math import isfinite, isnan
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from qcompile import driver
from qcompile.config_files import read_labels
from qcompile.errors import AccuracyError, UsageError
from qcompile.parallel import one_blas_thread
from qcompile.precision import comparable, to_precision
from qcompile.progress import Progress

if TYPE_CHECKING:
    from qcompile.evaluate.analysis import Analysis
    from qcompile.evaluate.engine import BundleEngine
    from qcompile.evaluate.evaluation import Evaluation
    from qcompile.evaluate.remote import RemoteEngine


def evaluate(
    subject: Path,
    data: str,
    *,
    metric: str = "top1",
    reference: Path | None = None,
    threads: int = 1,
    limit: int | None = None,
    device: str | None = None,
    settings: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure a bundle on labelled samples, beside the float model it was made from.

    Args:
        subject: a bundle's directory, or an ONNX file, which is then run in float32.
        data: labelled samples: a folder of images by class, a list of files and labels, an .npz file,
            `module:function`; samples without labels where the metric compares with the float model.
        metric: such as "topk{k=5}", or `module:function`.
        reference: ONNX file of the float model, compiled in float32 for the comparison; None for none.
        threads: threads to use.
        limit: samples to use at most.
        device: where to run the bundle, such as ssh://user@host; None for this process. The float model is run here.
        settings: of the float model: preprocess, input_shapes, input_values, labels; what they do not say of its inputs
            is as the bundle was made.
        progress: called with (done, total, what).

    Raises:
        QCompileError: the bundle, the model, the data or the metric cannot be used.
    """
    from qcompile.evaluate.evaluation import evaluate_samples
    from qcompile.evaluate.labelled_set import LabelledSet
    from qcompile.evaluate.measure import make_measure

    measure = make_measure(metric)
    options = dict(settings or {})
    with ExitStack() as stack:
        engine = _engine(subject, options, threads, stack, progress, device)
        recipe = _recipe(engine, options)
        names = read_labels(options["labels"]) if options.get("labels") else engine.manifest.get("labels")
        kept = [state["name"] for state in engine.manifest.get("states") or ()]
        samples = LabelledSet(data, engine.inputs, recipe, names=names, limit=limit, kept=kept)
        theirs = None
        if reference is not None:
            same = _same_inputs(engine, reference, options)
            theirs = _OnDemand(lambda: _float_build(reference, same, threads, stack, progress))
        calibration = engine.manifest.get("calibration") or {}
        result = evaluate_samples(
            samples,
            measure,
            engine,
            theirs,
            names=names,
            calibrated=calibration.get("ranges"),
            calibration_samples=calibration.get("samples"),
            size=samples.size,
            progress=progress,
        )
        origin = _origin_notes(engine, theirs.engine) if theirs is not None else []
        notes = [*samples.notes, *_state_notes(engine), *origin, *result.notes]
    return replace(result, notes=tuple(notes))


class _OnDemand:
    """The float model, compiled when a sample asks for it: what is wrong with the samples is told at once.

    Args:
        build: compiles it.
    """

    def __init__(self, build: Callable[[], BundleEngine]) -> None:
        self._build = build

    @cached_property
    def engine(self) -> BundleEngine:
        """The compiled model."""
        return self._build()

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Run once."""
        return self.engine(inputs)


def check_bound(metric: str, bound: float) -> None:
    """Refuse a bound that no value of a metric can tell from others, before anything is run.

    Args:
        metric: such as "topk{k=5}", or `module:function`.
        bound: in the metric's unit.

    Raises:
        UsageError: the bound is not finite, or the metric is a share of the samples and the bound outside of 0 to 1.
    """
    from qcompile.evaluate.measure import make_measure

    measure = make_measure(metric)
    if not isfinite(bound):
        raise UsageError(f"--fail-under {bound:g}: no finite number", hint=f"give a value of {metric}, such as 0.9")
    if measure.proportion and not 0.0 <= bound <= 1.0:
        hint = f"{bound:g} % is {bound / 100:g}" if 1.0 < bound <= 100.0 else None
        raise UsageError(f"--fail-under {bound:g}: {metric} is a share of the samples, from 0 to 1", hint=hint)


def require(result: Evaluation, bound: float) -> None:
    """Refuse a result that is not as good as it must be.

    Args:
        result: what was measured.
        bound: in the metric's unit.

    Raises:
        AccuracyError: the value is worse than the bound, or no number.
    """
    value = result.model.value
    if isnan(value):
        message = f"{result.metric} is NaN, not the {bound:g} asked for: none of the {result.samples} samples counts"
        raise AccuracyError(message, hint="a sample counts where the truth, or the float model's output, is finite")
    if not (value >= bound if result.higher_is_better else value <= bound):
        side = "under" if result.higher_is_better else "over"
        message = f"{result.metric} is {value:.4f}, {side} the {bound:g} asked for ({result.samples} samples)"
        raise AccuracyError(message, hint="`qcompile analyze MODEL --calib …` shows which node costs most")


@one_blas_thread()
def analyze(
    model: Path,
    *,
    config: Path | None = None,
    settings: Mapping[str, Any] | None = None,
    count: int = 8,
    progress: Progress | None = None,
) -> Analysis:
    """Quantize a model as `qcompile MODEL` would, and find out which node costs accuracy, and why.

    Args:
        model: the ONNX file.
        config: YAML file with settings, or None.
        settings: explicit settings, as for `qcompile.compile`.
        count: samples to analyze at most, such as calibration has not seen where there are enough of these.
        progress: called with (done, total, what).

    Raises:
        QCompileError: the model, the data or a setting cannot be used.
    """
    from qcompile.calibrate.sample_choice import unseen_samples
    from qcompile.evaluate.analysis import analyze_graphs
    from qcompile.float_share import idle_note

    given = {**(settings or {}), "precision": "int8", "io": "float"}
    resolved = driver.resolve_config(model, config, given)
    context, samples, graph = driver.prepare(model, resolved, None, progress)
    simplified, _ = driver.simplify(graph, resolved, context, ())
    final, records = to_precision(simplified, resolved, context, ())
    context.notes += driver.examine(simplified, samples)
    context.notes += [note for note in (idle_note(final, records),) if note is not None]
    # A skip names its node as "operation name".
    skips = {s.node.partition(" ")[2]: s.reason for r in records if r.name == "assign-precision" for s in r.skips}
    result = analyze_graphs(
        comparable(simplified, context),
        final,
        unseen_samples(samples, count) or samples,
        count=count,
        seed=resolved.seed,
        preprocess=context.preprocess,
        kept=skips,
        original=simplified,
        progress=progress,
    )
    return replace(result, notes=tuple(context.notes))


def _engine(
    subject: Path,
    options: Mapping[str, Any],
    threads: int,
    stack: ExitStack,
    progress: Progress | None,
    device: str | None = None,
) -> BundleEngine | RemoteEngine:
    from qcompile.evaluate.engine import BundleEngine
    from qcompile.evaluate.remote import RemoteEngine

    if device is not None:
        if subject.is_file():
            raise UsageError(f"--device runs bundles, and {subject} is a file", hint="compile it for the device first")
        return stack.enter_context(RemoteEngine(subject, device, threads))
    if subject.is_file() and subject.suffix == ".onnx":
        return _float_build(subject, options, threads, stack, progress)
    return stack.enter_context(BundleEngine(subject, threads))


def _float_build(
    model: Path, options: Mapping[str, Any], threads: int, stack: ExitStack, progress: Progress | None
) -> BundleEngine:
    """Compile a model in float32 for this machine, in a directory that goes when the evaluation ends."""
    from qcompile.evaluate.engine import BundleEngine

    folder = Path(stack.enter_context(TemporaryDirectory(prefix="qcompile-eval-"))) / "float"
    given = {**options, "precision": "fp32", "target": "host", "io": "float"}
    config = driver.resolve_config(model, None, given)
    bundle = driver.compile(model, config=config, output=folder, progress=progress)
    return stack.enter_context(BundleEngine(bundle.path, threads))


def _same_inputs(engine: BundleEngine | RemoteEngine, reference: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with which the float model takes what the bundle takes: open extents, fixed inputs, states."""
    from qcompile.onnx_import.load import load_model

    made = (engine.manifest.get("recipe") or {}).get("configuration") or {}
    # The model is read for that alone, and once more to compile it.
    told = made.get("input_shapes") or made.get("input_values")
    known = {value.name for value in load_model(reference).proto.graph.input} if told else set()
    fixed = {spec.name: spec.shape for spec in engine.inputs if not spec.axes}
    shapes = {**_of(known, made.get("input_shapes")), **fixed, **(options.get("input_shapes") or {})}
    values = {**_of(known, made.get("input_values")), **(options.get("input_values") or {})}
    kept = {name: made[name] for name in ("state", "max_length", "state_initial") if made.get(name)}
    return {**options, **kept, "input_shapes": shapes, "input_values": values or None}


def _of(names: Collection[str], settings: Mapping[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in (settings or {}).items() if name in names}


def _recipe(engine: BundleEngine | RemoteEngine, options: Mapping[str, Any]) -> Any:
    """Return how images become inputs: what the user says, else what the bundle was calibrated with."""
    from qcompile.calibrate.preprocess import Preprocess

    given = options.get("preprocess")
    if given:
        return Preprocess.parse(given) if isinstance(given, str) else Preprocess.from_mapping(given)
    return Preprocess.from_mapping(engine.manifest.get("preprocess") or {})


def _state_notes(engine: BundleEngine | RemoteEngine) -> list[str]:
    """Return that samples follow one another where something is kept from one run to the next."""
    kept = [f"'{state['name']}'" for state in engine.manifest.get("states") or ()]
    if not kept:
        return []
    listed = ", ".join(kept[:3]) + (", …" if len(kept) > 3 else "")
    verb = "is" if len(kept) == 1 else "are"
    return [f"{listed} {verb} kept between runs: the samples are taken as one sequence, in their order"]


def _origin_notes(engine: BundleEngine | RemoteEngine, theirs: BundleEngine) -> list[str]:
    """Return what the user should know of how the two models belong together."""
    ours, other = (e.manifest["model"].get("sha256") for e in (engine, theirs))
    return ["the reference is not the file that the bundle was made from"] if ours and other and ours != other else []
