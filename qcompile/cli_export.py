"""The command that writes quantized models for other tools, `qcompile export-qdq`; `qcompile.cli` registers it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from qcompile.cli_options import Calib, InputShape, InputValue, KeepFloat, Observer, Preprocess, number


def export_qdq(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="ONNX file. Settings in MODEL.yaml beside it apply.")],
    output: Annotated[str, typer.Option("-o", "--output", metavar="FILE", help="ONNX file to write.")],
    calib: Calib = None,
    samples: Annotated[
        int | None, number("Calibration samples to use at most (64; more of tiny networks).", least=1)
    ] = None,
    preprocess: Preprocess = None,
    input_shape: InputShape = None,
    input_value: InputValue = None,
    observer: Observer = None,
    keep_float: KeepFloat = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="YAML file with any setting of the compiler.")
    ] = None,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print nothing but errors.")] = False,
) -> None:
    """Write an ONNX model with our scales as QuantizeLinear and DequantizeLinear, for other runtimes and for training.

    Example: qcompile export-qdq model.onnx --calib photos/ -o model.qdq.onnx
    """
    from qcompile.config import COMMAND_LINE
    from qcompile.config_texts import read_shapes, read_values
    from qcompile.export import export_qdq as run
    from qcompile.progress import ProgressReporter
    from qcompile.report.terminal import bytes_text

    settings: dict[str, Any] = {
        "calib": calib,
        "samples": samples,
        "preprocess": preprocess,
        "input_shapes": read_shapes(input_shape or []) or None,
        "input_values": read_values(input_value or []) or None,
        "observer": observer,
        "keep_float": keep_float,
    }
    with ProgressReporter(quiet=quiet) as progress:
        done = run(model, output, config=config, settings=settings, source=COMMAND_LINE, progress=progress)
    if quiet:
        return
    size = bytes_text(done.path.stat().st_size)
    roundings = f"{done.roundings} rounding{'s' * (done.roundings != 1)}"
    kept = f", {done.real} in float32" if done.real else ""
    print(f"model  {done.path}, {size}: {done.integer} nodes in integers{kept}, {roundings}")
    for note in done.notes:
        print(f"note: {note}")
