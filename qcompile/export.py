"""Quantized models for other tools: the steps behind `qcompile export-qdq`, on the driver's stages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qcompile import driver
from qcompile.config import CompileConfig
from qcompile.errors import UsageError
from qcompile.files import check_writable
from qcompile.ir.graph import Graph
from qcompile.parallel import one_blas_thread
from qcompile.precision import to_precision
from qcompile.progress import Progress


@dataclass(frozen=True)
class Export:
    """A model that was written.

    Args:
        path: of the model.
        integer: nodes in integers.
        real: nodes that stay in float.
        roundings: tensors with a scale of their own.
        notes: what the user should know.
    """

    path: Path
    integer: int
    real: int
    roundings: int
    notes: tuple[str, ...]


@one_blas_thread()
def export_qdq(
    model: str | Path,
    output: str | Path,
    *,
    calibration: str | Path | Iterable[Mapping[str, Any]] | None = None,
    config: CompileConfig | Mapping[str, Any] | str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    source: str = "arguments",
    progress: Progress | None = None,
) -> Export:
    """Quantize a model as `qcompile.compile` would, and write it as ONNX with QuantizeLinear and DequantizeLinear.

    Args:
        model: path of the ONNX file; settings in a `model.yaml` beside it apply first.
        output: path of the ONNX file to write.
        calibration: as for `qcompile.compile`.
        config: as for `qcompile.compile`.
        settings: explicit settings, as for `qcompile.compile`.
        source: where the settings come from, for messages.
        progress: called with (done, total, what).

    Raises:
        QCompileError: the model, the data or a setting cannot be used, or ONNX has no form for an operation.
    """
    from qcompile.onnx_export import check_operations, write_qdq

    model, place, output = Path(model), output, Path(output)
    if output.resolve() == model.resolve():
        raise UsageError(f"'{output}' is the model itself", hint="give another file with -o")
    check_writable(place, f"{model.stem}.qdq.onnx")
    given = {**(settings or {}), "precision": "int8", "io": "float"}
    if isinstance(calibration, (str, Path)):
        given["calib"], calibration = str(calibration), None
    resolved = driver.resolve_config(model, config, given, source)
    # Loops are not written to ONNX, but what is left of them once they are unrolled is.
    context, samples, graph = driver.prepare(model, resolved, calibration, progress, keeps_loops=False)
    simplified, _ = driver.simplify(graph, resolved, context, ())
    check_operations(simplified)
    found = driver.find_recipe(simplified, resolved, context, output)
    final, _ = to_precision(simplified, resolved, context, (), found)
    context.notes += driver.examine(simplified, samples)
    written = write_qdq(final, output)
    driver.forget_search(resolved, output)
    integer = sum(node.is_integer for node in final.nodes)
    roundings = sum(node.op_type == "QuantizeLinear" for node in written.graph.node)
    context.notes += _notes(graph, roundings, resolved)
    return Export(output, integer, len(final.nodes) - integer, roundings, tuple(context.notes))


def _notes(graph: Graph, roundings: int, config: CompileConfig) -> list[str]:
    """Return in what the model differs from what the user may expect."""
    notes = []
    if graph.symbols:
        sizes = ", ".join(f"{value.name} {'×'.join(str(extent) for extent in value.shape)}" for value in graph.inputs)
        notes.append(
            f"the model that is written takes the largest sizes alone: {sizes}; a bundle made with --int8 and the same "
            "shapes serves all sizes"
        )
    if graph.unrolled:
        notes.append(
            "loops are unrolled, and each of their steps has its own scales; a bundle made with --int8 keeps the loops "
            "and has other integers"
        )
    if not roundings:
        why = "--keep-float" if config.keep_float else "integers would spoil an output, or save no time"
        notes.append(f"nothing is quantized: all nodes stay in float32 ({why}), and the model has no QuantizeLinear")
    return notes
