"""The command that compiles: `qcompile compile`, or `qcompile MODEL.onnx`; `qcompile.cli` registers it."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
from qcompile.errors import UsageError

if TYPE_CHECKING:
    from qcompile.compilation import Bundle


def compile_model(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="ONNX file. Settings in MODEL.yaml beside it apply first.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Directory to write the bundle to.")],
    target: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Machine to compile for, or a YAML file; `host` by default."),
    ] = None,
    int8: Annotated[bool, typer.Option("--int8", help="Quantize to 8-bit integers (the default).")] = False,
    dynamic: Annotated[
        bool, typer.Option("--dynamic", help="Quantize activations at run time, to 8 bits; needs no calibration.")
    ] = False,
    fp16: Annotated[
        bool, typer.Option("--fp16", help="Compute layers in 16-bit floating point, on machines that do.")
    ] = False,
    bf16: Annotated[
        bool, typer.Option("--bf16", help="Multiply in bfloat16 and sum in float32, on machines that do.")
    ] = False,
    fp32: Annotated[bool, typer.Option("--fp32", help="Keep 32-bit floating point.")] = False,
    weight_bits: Annotated[
        int | None, number("Bits of weights alone, 8, 4, 2 or 1; activations stay in floating point.")
    ] = None,
    group_size: Annotated[int | None, number("Weights that then share a scale (32).")] = None,
    store: Annotated[
        str | None, typer.Option(metavar="TYPE", help="Constants of floats: float32 (default), float16, bfloat16.")
    ] = None,
    floats: Annotated[
        str | None,
        typer.Option(
            metavar="TYPE", help="What layers that stay float compute in: float32 (default), float16, bfloat16."
        ),
    ] = None,
    calib: Calib = None,
    samples: Annotated[int | None, number("Calibration samples to use at most (64; more of tiny networks).")] = None,
    preprocess: Preprocess = None,
    input_shape: InputShape = None,
    input_value: InputValue = None,
    state: Annotated[
        list[str] | None,
        typer.Option(metavar="OUT=IN", help="Output kept as input of the next run; `auto` finds pairs. Repeatable."),
    ] = None,
    max_length: Annotated[
        int | None, number("Places of caches that grow with the sequence, past and new together (256).")
    ] = None,
    cache: Annotated[
        str | None, typer.Option(metavar="TYPE", help="How these are stored: float32 (default), float16, int8.")
    ] = None,
    observer: Observer = None,
    keep_float: KeepFloat = None,
    keep_int16: KeepInt16 = None,
    io: Annotated[
        str | None, typer.Option(metavar="TYPE", help="float (default), or int8: inputs and outputs stay quantized.")
    ] = None,
    labels: Annotated[str | None, typer.Option(metavar="FILE", help="Text file with one class name a line.")] = None,
    passes: Annotated[str | None, typer.Option(metavar="TEXT", help="Further passes, e.g. 'my-pass{alpha=2}'.")] = None,
    pass_path: Annotated[
        list[str] | None, typer.Option(metavar="DIR", help="Directory with passes. Repeatable.")
    ] = None,
    config: Annotated[Path | None, typer.Option(metavar="FILE", help="YAML file with any of these settings.")] = None,
    seed: Annotated[int | None, number("Seed of made-up inputs (0).")] = None,
    jobs: Annotated[int | None, number("Threads to use (one for each core, at most 4).")] = None,
    accuracy: Annotated[
        str | None, typer.Option(metavar="HOW", help="fast (default), or auto: try one means after the other.")
    ] = None,
    max_drop: Annotated[
        str | None, typer.Option(metavar="SHARE", help="Largest loss of accuracy, e.g. 0.5%; else nodes stay in float.")
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            metavar="METRIC", help="What --max-drop is of: top1 (default), miou, mae, …, as for `qcompile eval`."
        ),
    ] = None,
    eval_data: Annotated[
        str | None, typer.Option(metavar="PATH", help="Labelled samples to measure that on, as for `qcompile eval`.")
    ] = None,
    min_sqnr: Annotated[
        float | None, decimal("DB", "Lowest SQNR at the worst output; else nodes stay in float.")
    ] = None,
    max_ms: Annotated[
        float | None, decimal("MS", "Longest inference, one core: measured layers as measured, others modelled.")
    ] = None,
    tune: Annotated[bool, typer.Option("--tune", help="Measure how each layer is cut best; kept for later.")] = False,
    budget: Annotated[
        str | None, typer.Option(metavar="TIME", help="Time for --tune (60s); run it again to go on.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(metavar="NAME", help="Where --tune measures: local, or ssh://user@host.")
    ] = None,
    tuning: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Records of --tune to use: auto (yours and ours), off, or a file."),
    ] = None,
    work_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="State of the search, to go on after an interruption.")
    ] = None,
    executor: Annotated[
        str | None, typer.Option(metavar="URL", help="Measure candidates on a cluster: dask://HOST:PORT.")
    ] = None,
    dump_ir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the IR after every pass into this directory.")
    ] = None,
    print_ir_after: Annotated[
        str | None, typer.Option(metavar="PASS", help="Print the IR after this pass; 'all', 'change'.")
    ] = None,
    time_passes: Annotated[bool, typer.Option("--time-passes", help="Print the time of each pass.")] = False,
    verify_numerics: Annotated[
        bool, typer.Option("--verify-numerics", help="Compare results before and after every pass.")
    ] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Say what each pass left alone, and why.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print nothing but errors.")] = False,
) -> None:
    """Compile an ONNX model to a bundle that runs with nothing else installed.

    Example: qcompile model.onnx --target rpi4 --int8 --calib photos/ -o build/
    """
    from qcompile import driver
    from qcompile.config import COMMAND_LINE
    from qcompile.config_texts import read_shapes, read_values
    from qcompile.passmgr.instruments import instruments_for
    from qcompile.progress import ProgressReporter

    started = time.monotonic()
    settings: dict[str, Any] = {
        "target": target,
        "precision": _precision(int8=int8, dynamic=dynamic, fp16=fp16, bf16=bf16, fp32=fp32),
        "weight_bits": weight_bits,
        "group_size": group_size,
        "store": store,
        "floats": floats,
        "calib": calib,
        "samples": samples,
        "preprocess": preprocess,
        "input_shapes": read_shapes(input_shape or []) or None,
        "input_values": read_values(input_value or []) or None,
        "state": state or None,
        "max_length": max_length,
        "cache": cache,
        "observer": observer,
        "keep_float": keep_float or None,
        "keep_int16": keep_int16 or None,
        "io": io,
        "labels": labels,
        "passes": passes,
        "pass_path": pass_path or None,
        "seed": seed,
        "jobs": jobs,
        "accuracy": accuracy,
        "max_drop": max_drop,
        "metric": metric,
        "eval_data": eval_data,
        "min_sqnr": min_sqnr,
        "max_ms": max_ms,
        "work_dir": str(work_dir) if work_dir is not None else None,
        "executor": executor,
        "tune": tune or None,
        "budget": budget,
        "device": device,
        "tuning": tuning,
    }
    resolved = driver.resolve_config(model, config, settings, COMMAND_LINE)
    watched: dict[str, Any] = {"dump_ir": dump_ir, "print_ir_after": print_ir_after, "verify_numerics": verify_numerics}
    instruments = instruments_for(**watched, pass_path=resolved.pass_path, write=sys.stdout.write)
    with ProgressReporter(quiet=quiet) as progress:
        bundle = driver.compile(model, config=resolved, output=output, progress=progress, instruments=instruments)
    _show(bundle, None if quiet else time.monotonic() - started, passes=time_passes, skips=verbose)


def _show(bundle: Bundle, taken: float | None, *, passes: bool, skips: bool) -> None:
    """Print what was made: the times of passes, what they left alone, the summary unless the time taken is None."""
    from qcompile.report.search_table import print_search
    from qcompile.report.terminal import print_bundle, print_pass_times, print_skips

    if passes:
        print_pass_times(bundle.records)
    if skips:
        print_skips(bundle.records)
    if taken is not None:
        if bundle.search is not None:
            print_search(bundle.search)
        print_bundle(bundle, taken)


def _precision(**given: bool) -> str | None:
    """Return the precision whose option was given, None where none was."""
    chosen = [name for name, wanted in given.items() if wanted]
    if len(chosen) > 1:
        raise UsageError(f"--{chosen[0]} and --{chosen[1]} exclude each other", hint="give one of them")
    return chosen[0] if chosen else None
