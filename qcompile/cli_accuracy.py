"""The commands that judge accuracy: `qcompile eval` and `qcompile analyze`; `qcompile.cli` registers them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from qcompile.cli_options import (
    Calib,
    InputShape,
    InputValue,
    KeepFloat,
    KeepInt16,
    Observer,
    Preprocess,
    decimal,
    number,
)


def evaluate(
    subject: Annotated[
        Path, typer.Argument(metavar="BUNDLE|MODEL", help="Directory of a bundle, or an ONNX file to run in float32.")
    ],
    data: Annotated[
        str,
        typer.Option(
            metavar="PATH",
            help="Labelled samples: image folder with a folder for each class, list of files and labels (.txt, .csv), "
            ".npz with `labels`, or module:function.",
        ),
    ],
    reference: Annotated[
        Path | None, typer.Option(metavar="MODEL", help="ONNX file of the float model, run beside the bundle.")
    ] = None,
    metric: Annotated[
        str,
        typer.Option(
            metavar="METRIC",
            help="Higher is better: top1, topk{k=5}, agreement, r2, miou, f1_boxes, map, sqnr, cosine, psnr, "
            "module:function. Lower is better: mae, rmse, wer, cer.",
        ),
    ] = "top1",
    threads: Annotated[int, number("Threads to use; 0 for one a core.")] = 1,
    limit: Annotated[int | None, number("Samples to use at most (all).", least=1)] = None,
    device: Annotated[
        str | None, typer.Option(metavar="NAME", help="Run the bundle there: ssh://user@host; the reference runs here.")
    ] = None,
    fail_under: Annotated[
        float | None, decimal("X", "Fail (exit code 2) if the metric is worse than X: lower or higher, see --metric.")
    ] = None,
    preprocess: Annotated[
        str | None, typer.Option(metavar="STEPS", help="Image to input, where the bundle does not say it.")
    ] = None,
    input_shape: InputShape = None,
    input_value: InputValue = None,
    labels: Annotated[str | None, typer.Option(metavar="FILE", help="Class names (or characters), one a line.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure a bundle on labelled samples, with the float model beside it.

    Example: qcompile eval build/ --data photos/ --reference model.onnx --fail-under 0.7
    """
    from qcompile.assessment import check_bound, require
    from qcompile.assessment import evaluate as run
    from qcompile.config_texts import read_shapes, read_values
    from qcompile.progress import ProgressReporter
    from qcompile.report.accuracy_tables import print_evaluation

    settings: dict[str, Any] = {
        "preprocess": preprocess,
        "input_shapes": read_shapes(input_shape or []) or None,
        "input_values": read_values(input_value or []) or None,
        "labels": labels,
    }
    if fail_under is not None:
        check_bound(metric, fail_under)
    with ProgressReporter(quiet=json) as progress:
        result = run(
            subject,
            data,
            metric=metric,
            reference=reference,
            threads=threads,
            limit=limit,
            device=device,
            settings=settings,
            progress=progress,
        )
    print_evaluation(result, as_json=json)
    if fail_under is not None:
        require(result, fail_under)


def analyze(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="ONNX file. Settings in MODEL.yaml beside it apply.")],
    calib: Calib = None,
    samples: Annotated[int, number("Samples to analyze.", least=1)] = 8,
    preprocess: Preprocess = None,
    input_shape: InputShape = None,
    input_value: InputValue = None,
    observer: Observer = None,
    keep_float: KeepFloat = None,
    keep_int16: KeepInt16 = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="YAML file with any setting of the compiler.")
    ] = None,
    top: Annotated[int, number("Worst nodes to print; 0 for all, in order.", least=0)] = 15,
    html: Annotated[str | None, typer.Option(metavar="FILE", help="Write a report with plots here.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show which nodes lose accuracy in INT8, why, and how to exclude them.

    Example: qcompile analyze model.onnx --calib photos/ --html analysis.html
    """
    from qcompile.assessment import analyze as run
    from qcompile.config_texts import read_shapes, read_values
    from qcompile.files import check_writable
    from qcompile.progress import ProgressReporter
    from qcompile.report.accuracy_tables import print_analysis
    from qcompile.report.analysis_html import write_analysis

    settings: dict[str, Any] = {
        "calib": calib,
        "preprocess": preprocess,
        "input_shapes": read_shapes(input_shape or []) or None,
        "input_values": read_values(input_value or []) or None,
        "observer": observer,
        "keep_float": keep_float,
        "keep_int16": keep_int16,
    }
    if html is not None:
        check_writable(html, "analysis.html")
    with ProgressReporter(quiet=json) as progress:
        result = run(model, config=config, settings=settings, count=samples, progress=progress)
    print_analysis(result, top=top, as_json=json)
    if html is not None:
        write_analysis(result, Path(html))
