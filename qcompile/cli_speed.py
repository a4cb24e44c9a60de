"""The command that judges speed, `qcompile bench`; `qcompile.cli` registers it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qcompile.cli_options import number


def bench(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Directory of a bundle.")],
    threads: Annotated[int, number("Threads to use; 0 for one a core.")] = 1,
    runs: Annotated[int, number("Inferences to time.")] = 50,
    warmup: Annotated[int, number("Inferences before timing.")] = 5,
    profile: Annotated[
        bool, typer.Option("--profile", help="Also each layer: time, speed, share of the processor's peak, bytes.")
    ] = False,
    html: Annotated[str | None, typer.Option(metavar="FILE", help="Write the profile with its roofline here.")] = None,
    device: Annotated[
        str | None, typer.Option(metavar="NAME", help="Where to run it: local, or ssh://user@host.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="RUNTIMES",
            help="Race others in turns: onnxruntime,openvino (need --model), litert=model.tflite; NAME=FILE gives a "
            "runtime a model of its own.",
        ),
    ] = None,
    model: Annotated[Path | None, typer.Option(metavar="FILE", help="ONNX file the bundle was compiled from.")] = None,
) -> None:
    """Time a bundle: median, p90, load, first inference and peak memory.

    Example: qcompile bench build/ --threads 2 --profile
    """
    from qcompile.errors import UsageError

    if against is not None or model is not None:
        from qcompile.report.standings import race_and_print

        if device is not None or html is not None or profile:
            raise UsageError(
                "--against races on this machine and has no profile", hint="leave --device, --html and --profile out"
            )
        race_and_print(bundle, model, against, threads=threads, runs=runs, as_json=json)
        return
    from qcompile.evaluate.benchmark import benchmark
    from qcompile.files import check_writable
    from qcompile.report.roofline import write_benchmark
    from qcompile.report.terminal import print_benchmark

    if html is not None:
        check_writable(html, "bench.html")
    result = benchmark(
        bundle,
        threads=threads,
        runs=runs,
        warmup=warmup,
        profile=profile or html is not None,
        device=device or "local",
    )
    print_benchmark(result, as_json=json)
    if html is not None:
        write_benchmark(result, Path(html))
