"""Tables on the terminal."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from qcompile.driver import Bundle
    from qcompile.evaluate.benchmark import Benchmark
    from qcompile.evaluate.execution import Answer
    from qcompile.passmgr import PassRecord, PassRegistry
    from qcompile.passmgr.options import Option

_PLAIN_WIDTH = 100


def _console() -> Console:
    """Return a console; without a terminal its width is fixed, so that logs do not depend on the machine."""
    console = Console(highlight=False, soft_wrap=False)
    return console if console.is_terminal else Console(highlight=False, width=_PLAIN_WIDTH)


def _facts(rows: Sequence[tuple[str, str]]) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def print_bundle(bundle: Bundle) -> None:
    """Print the closing table of a compilation, and its notes."""
    manifest = bundle.manifest
    rows = [
        (
            "model",
            f"{manifest['model']['file']} for {manifest['target']['name']} ({manifest['target']['cpu']})",
        ),
        ("size", _size_row(manifest)),
        ("memory", f"{manifest['memory']['arena'] / 1024:.0f} KiB arena, allocated once"),
        ("layers", layer_counts(manifest["steps"])),
        ("int8 MACs", f"{int8_share(manifest['steps']):.1%}"),
    ]
    accuracy = manifest["recipe"].get("accuracy")
    if accuracy:
        worst = min(accuracy["outputs"].values())
        source = "calibration samples" if accuracy["verified"] else "synthetic inputs: unverified"
        rows.append(("SQNR", f"{worst:.1f} dB at the worst output, {accuracy['samples']} {source}"))
    rows.append(
        ("files", f"{bundle.path}/  libmodel.so  model.h  run.py  bin/qcrun  manifest.json  report.html")
    )
    console = _console()
    console.print(_facts(rows))
    for note in bundle.notes:
        console.print(f"note: {note}", markup=False)


def _size_row(manifest: dict[str, Any]) -> str:
    library = manifest["files"]["libmodel.so"]["bytes"]
    model = manifest["model"].get("bytes", 0)
    ratio = f", {model / library:.1f} times smaller than the ONNX file" if library and model > library else ""
    return f"libmodel.so {library / 1e6:.2f} MB with {manifest['memory']['weights'] / 1e6:.2f} MB of weights{ratio}"


def layer_counts(steps: Sequence[dict[str, Any]]) -> str:
    """Return how many steps run in each precision, in words."""
    counts = Counter(step["precision"] for step in steps)
    return ", ".join(f"{count} in {precision}" for precision, count in counts.most_common())


def int8_share(steps: Sequence[dict[str, Any]]) -> float:
    """Return the share of multiply-accumulates that run in int8, 0 to 1."""
    total = sum(step["macs"] for step in steps)
    return sum(step["macs"] for step in steps if step["precision"] == "int8") / total if total else 0.0


def print_pass_times(records: Sequence[PassRecord]) -> None:
    """Print what each pass took."""
    table = Table("pass", "ms", "changed", "nodes")
    for record in records:
        table.add_row(
            record.text, f"{record.seconds * 1e3:.1f}", "yes" if record.changed else "no", str(record.nodes)
        )
    _console().print(table)


def print_skips(records: Sequence[PassRecord]) -> None:
    """Print what each pass left alone, and why."""
    console = _console()
    for record in records:
        for skip in record.skips:
            console.print(f"{record.text.split('{')[0]}: {skip}", markup=False)


def print_answer(answer: Answer, *, top: int) -> None:
    """Print the largest classes of classifier outputs, and a summary of others."""
    console = _console()
    for name, values in answer.outputs.items():
        scores = np.asarray(values)
        if scores.ndim == 2 and scores.shape[0] == 1 and scores.size >= 2:
            _print_classes(console, name, scores[0], answer.labels, top)
        else:
            console.print(f"{name}: {_summary(scores)}", markup=False)


def _print_classes(console: Console, name: str, scores: Any, labels: list[str] | None, top: int) -> None:
    table = Table("class", name, "probability", title=None)
    shifted = np.exp(scores - scores.max())
    looks_normalized = scores.min() >= 0 and abs(scores.sum() - 1) < 1e-2
    probabilities = scores if looks_normalized else shifted / shifted.sum()
    for index in np.argsort(-scores, kind="stable")[:top]:
        label = labels[index] if labels is not None and index < len(labels) else ""
        table.add_row(f"{index} {label}".strip(), f"{scores[index]:.4f}", f"{probabilities[index]:.1%}")
    console.print(table)


def _summary(values: Any) -> str:
    if values.size == 0:
        return f"{values.dtype}{list(values.shape)}"
    real = values.astype(np.float64)
    return f"{values.dtype}{list(values.shape)}, min {real.min():.5g}, mean {real.mean():.5g}, max {real.max():.5g}"


def print_benchmark(result: Benchmark, *, as_json: bool) -> None:
    """Print what a benchmark measured."""
    if as_json:
        print(json.dumps(result.to_mapping(), indent=1))
        return
    rows = [
        ("median", f"{result.median_ms:.3f} ms"),
        ("p90", f"{result.p90_ms:.3f} ms"),
        ("fastest", f"{result.fastest_ms:.3f} ms"),
        ("first", f"{result.first_ms:.3f} ms"),
        (
            "peak memory",
            f"{result.peak_mb:.1f} MB (native program)" if result.peak_mb is not None else "unknown",
        ),
        ("runs", f"{result.runs}, threads: {result.threads}"),
    ]
    console = _console()
    console.print(_facts(rows))
    if result.layers:
        table = Table("node", "op", "precision", "ms", "share", "GMAC/s")
        total = sum(layer.ms for layer in result.layers)
        for layer in result.layers:
            share = f"{layer.ms / total:.1%}" if total else ""
            gmacs = f"{layer.gmacs:.1f}" if layer.macs else ""
            table.add_row(layer.node, layer.op, layer.precision, f"{layer.ms:.4f}", share, gmacs)
        console.print(table)


def print_targets() -> None:
    """Print all targets."""
    from qcompile import targets

    table = Table("target", "cpu", "instructions", "description")
    for name in targets.names():
        target = targets.load(name)
        table.add_row(name, target.cpu, target.isa, target.description)
    host = targets.host()
    table.add_row("host", host.cpu, host.isa, f"this machine: {host.description}")
    _console().print(table)


def print_target(name: str) -> None:
    """Print one target with all its settings."""
    from dataclasses import asdict

    from qcompile import targets

    settings = asdict(targets.load(name))
    rows = [(key, ", ".join(v) if isinstance(v, (tuple, list)) else str(v)) for key, v in settings.items()]
    _console().print(_facts(rows))


def print_passes(registry: PassRegistry) -> None:
    """Print all passes with their options."""
    table = Table("pass", "options", "what it does")
    for name in registry.names():
        info = registry.describe(name)
        options = "\n".join(_option(o) for o in info.options)
        origin = "" if info.origin == "qcompile" else f" ({info.origin})"
        table.add_row(name, options, info.summary + origin)
    _console().print(table, markup=False)


def _option(option: Option) -> str:
    return f"{option.name}: {option.type} = {option.default}"


def print_pass(registry: PassRegistry, name: str) -> None:
    """Print one pass with its documentation."""
    info = registry.describe(name)
    rows = [("pass", info.name), ("from", info.origin), ("tolerance", info.tolerance)]
    rows += [("option", _option(o)) for o in info.options]
    if info.requires:
        rows.append(("requires", ", ".join(info.requires)))
    console = _console()
    console.print(_facts(rows))
    console.print()
    console.print(info.doc, markup=False)
