"""Tables on the terminal: aligned columns that wrap on a terminal and stay whole in a pipe."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table

from qcompile.report.columns import columns, facts, show

if TYPE_CHECKING:
    from qcompile.compilation import Bundle
    from qcompile.evaluate.benchmark import Benchmark
    from qcompile.evaluate.execution import Answer, Score
    from qcompile.evaluate.roofs import Roofs
    from qcompile.evaluate.self_test import Check
    from qcompile.passmgr import PassRecord, PassRegistry
    from qcompile.passmgr.options import Option


def print_bundle(bundle: Bundle, seconds: float) -> None:
    """Print the closing table of a compilation, and its notes.

    Args:
        bundle: what was made.
        seconds: how long it took.
    """
    manifest = bundle.manifest
    target, steps = manifest["target"], manifest["steps"]
    rows = [
        ("model", f"{manifest['model']['file']} for {target['name']} ({target['cpu']})"),
        ("size", _size(manifest)),
        ("memory", _memory(manifest)),
        ("steps", step_counts(steps, bundle.float_within)),
    ]
    if any(step["macs"] for step in steps):
        rows.append(("MACs", f"{macs_text(sum(s['macs'] for s in steps))}, {_shares(steps)}"))
    accuracy = manifest["recipe"].get("accuracy")
    if accuracy:
        rows.append(("accuracy", accuracy_text(accuracy)))
    if bundle.check is not None:
        rows.append(
            ("checked", f"{_check_text(bundle.check)}; {_milliseconds(bundle.check.median_ms)} here, one thread")
        )
    names = ("libmodel.so", "model.h", "run.py", "bin/qcrun", "manifest.json", "report.html")
    rows += [("time", f"{seconds:.1f} s"), ("files", f"{bundle.path}/: {', '.join(names)}")]
    facts(rows)
    facts([("note:", note) for note in bundle.notes], gap=1)


def _check_text(check: Check) -> str:
    if not check.compared:
        return "it runs, but rounding errors decide its answers to made-up inputs, so they were not compared"
    return f"{'same bits as' if check.exact else 'agrees with'} the simulation"


def _memory(manifest: dict[str, Any]) -> str:
    """Return what a handle needs beside the weights, in words."""
    text = f"{bytes_text(manifest['memory']['arena'])} arena, allocated once"
    if not manifest["states"]:
        return text
    kinds = sorted({state["dtype"] for state in manifest["states"] if len(state["shape"]) > 2})
    form = f" in {' and '.join(kinds)}" if kinds else ""
    return f"{text}; {bytes_text(manifest['memory']['states'])} kept between runs{form}"


def _size(manifest: dict[str, Any]) -> str:
    library, weights = manifest["files"]["libmodel.so"]["bytes"], manifest["memory"]["weights"]
    text = f"libmodel.so {bytes_text(library)}, of it {bytes_text(weights)} weights"
    stored = manifest["memory"].get("weights_stored")
    if stored is not None:
        text = f"libmodel.so {bytes_text(library)}, {bytes_text(weights)} weights in {bytes_text(stored)} without zeros"
    model = manifest["model"].get("bytes", 0)
    return f"{text}; {model / library:.1f} times smaller than the model file" if model > 1.05 * library else text


_WORTH_NAMING = 0.005
_NAMED = 3


def bytes_text(count: int) -> str:
    """Return a number of bytes for people."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.2f} {unit}" if unit != "KiB" else f"{count / size:.0f} {unit}"
    return f"{count} bytes"


def macs_text(count: int) -> str:
    """Return a number of multiply-accumulates for people: that of a small network is no 0.0 million."""
    return f"{count / 1e6:.1f} million" if count >= 10**6 else f"{count:,}"


def accuracy_text(accuracy: dict[str, Any]) -> str:
    """Return how close the quantized model is to the float model, in words.

    Args:
        accuracy: the manifest's `recipe.accuracy`.
    """
    worst, count = min(accuracy["outputs"].values()), accuracy["samples"]
    where = "worst output" if len(accuracy["outputs"]) > 1 else "output"
    if accuracy.get("empty"):
        return f"unknown: nothing follows from {accuracy['empty']}"
    if accuracy["verified"]:
        samples = f"{count} calibration sample{'s' * (count > 1)}"
        if accuracy.get("unseen"):
            samples = f"{count} sample{'s' * (count > 1)} that calibration did not see"
        fitted = " that weights were fitted to: others are further from float" if accuracy.get("fitted") else ""
        return f"SQNR {worst:.1f} dB at the {where} against float, {samples}{fitted}"
    return f"unverified: SQNR {worst:.1f} dB at the {where} on {count} made-up inputs says little"


def step_counts(steps: Sequence[dict[str, Any]], within: Sequence[str] = ()) -> str:
    """Return how many steps run in each precision, in words; a step may do the work of several nodes.

    Args:
        steps: of a manifest.
        within: nodes that compute in float within steps that count as integers.
    """
    counts = Counter(step["precision"] for step in steps)
    text = ", ".join(f"{count} in {precision}" for precision, count in counts.most_common()) or "none"
    if not within:
        return text
    listed = ", ".join(within[:_NAMED]) + (", …" if len(within) > _NAMED else "")
    return f"{text}; within them {len(within)} node{'s' * (len(within) > 1)} in float32 ({listed})"


def int8_share(steps: Sequence[dict[str, Any]]) -> float:
    """Return the share of multiply-accumulates that run in int8, 0 to 1."""
    return _share(steps, "int8")


def _share(steps: Sequence[dict[str, Any]], precision: str) -> float:
    total = sum(step["macs"] for step in steps)
    return sum(step["macs"] for step in steps if step["precision"] == precision) / total if total else 0.0


def _shares(steps: Sequence[dict[str, Any]]) -> str:
    """Return in what the multiply-accumulates run, in words; of float32 only what is left beside others."""
    shares = {kind: _share(steps, kind) for kind in ("int8", "int16", "float16", "bfloat16")}
    named = [f"{share:.0%} in {kind}" for kind, share in shares.items() if share]
    rest = _share(steps, "float32")
    if named and rest >= _WORTH_NAMING:
        named.append(f"{rest:.0%} in float32")
    return ", ".join(named) or "0% in int8"


def print_pass_times(records: Sequence[PassRecord]) -> None:
    """Print what each pass took."""
    total = sum(record.seconds for record in records) or 1.0
    table = columns("pass", "ms", "share", "changed", "nodes", right=("ms", "share", "nodes"))
    for record in records:
        name, changed = record.name, "yes" if record.changed else "no"
        share = f"{record.seconds / total:.1%}"
        table.add_row(name, f"{record.seconds * 1e3:.1f}", share, changed, str(record.nodes))
    table.add_row("total", f"{total * 1e3:.1f}")
    show(table)


def print_skips(records: Sequence[PassRecord]) -> None:
    """Print what each pass left alone, and why."""
    facts([(record.name, str(skip)) for record in records for skip in record.skips])


def print_answer(answer: Answer, *, top: int) -> None:
    """Print the largest classes of classifier outputs, and a summary of others."""
    for output in answer.outputs:
        best = output.best(top)
        if best is None:
            facts([(output.name, output.summary())])
        else:
            show(_classes(output.name, best, answer.labels))
    facts([("note:", note) for note in answer.notes], gap=1)


def _classes(name: str, best: Sequence[Score], labels: Sequence[str] | None) -> Table:
    """Return the largest values; with class names they are scores, and probabilities make sense."""
    if labels is None:
        table = columns("index", name, right=("index", name))
    else:
        table = columns("class", name, "probability", "label", right=("class", name, "probability"))
    for score in best:
        row = [str(score.index), f"{score.value:.5g}"]
        if labels is not None:
            row += [f"{score.probability:.1%}", labels[score.index] if score.index < len(labels) else ""]
        table.add_row(*row)
    return table


def print_benchmark(result: Benchmark, *, as_json: bool) -> None:
    """Print what a benchmark measured."""
    if as_json:
        print(json.dumps(result.to_mapping(), indent=1))
        return
    rows = [
        ("median", _milliseconds(result.median_ms)),
        ("p90", _milliseconds(result.p90_ms)),
        ("fastest", _milliseconds(result.fastest_ms)),
        ("first", _milliseconds(result.first_ms)),
        *([("load", _milliseconds(result.load_ms))] if result.load_ms is not None else []),
        ("peak memory", f"{result.peak_mb:.1f} MB"),
        ("speed", f"{result.gmacs:.1f} GMAC/s ({macs_text(result.macs)} MACs)"),
        ("measured", f"{_counted(result.runs, 'run')}, {_threads(result.threads)}, {_where(result)}"),
    ]
    facts([row for row in rows if row[0] != "speed" or result.macs])
    if result.roofs is not None:
        facts([("processor", _roofs_text(result.roofs))])
    if result.layers:
        print()
        show(_layers(result))


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _threads(count: int) -> str:
    return _counted(count, "thread") if count else "a thread for each core"


def _where(result: Benchmark) -> str:
    return "native program" if result.device == "local" else f"native program on {result.device}"


def _roofs_text(roofs: Roofs) -> str:
    peaks = [(p, roofs.peak(p)) for p in ("int8", "float32")]
    text = "".join(f", {p} peak {gmacs:.0f} GMAC/s a core" for p, gmacs in peaks if gmacs)
    return f"{roofs.ghz:.2f} GHz{text}, {roofs.cache_gbs:.0f} GB/s from cache, {roofs.memory_gbs:.0f} from memory"


def _milliseconds(value: float) -> str:
    return f"{value:.3f} ms" if value >= 1 else f"{value:.4f} ms"


def _layers(result: Benchmark) -> Table:
    numbers = ("ms", "share", "GMAC/s", "of peak", "bytes", "GB/s")
    table = columns("node", "op", "precision", *numbers, right=numbers, whole=("op", "precision"))
    total = sum(layer.ms for layer in result.layers) or 1.0
    for layer in result.layers:
        speed = f"{layer.gmacs:.1f}" if layer.macs else ""
        peak = f"{layer.peak:.0%}" if layer.peak is not None else ""
        times = (f"{layer.ms:.4f}", f"{layer.ms / total:.1%}", speed, peak)
        table.add_row(layer.node, layer.op, layer.precision, *times, f"{layer.bytes:,}", f"{layer.gbs:.1f}")
    table.add_row("total", "", "", f"{total:.4f}")
    return table


def print_targets() -> None:
    """Print all targets; "host" is the machine this runs on."""
    from qcompile import targets
    from qcompile.errors import TargetError

    table = columns("target", "cpu", "instructions", "description", whole=("target", "cpu", "instructions"))
    for name in targets.names():
        try:
            target = targets.load(name)
        except TargetError as error:  # this machine may be one that we have no code for
            table.add_row(name, "", "", str(error))
        else:
            table.add_row(name, target.cpu, target.isa, target.description)
    show(table)


def print_target(name: str) -> None:
    """Print one target with all its settings, in the form that describes one to `--target`."""
    from qcompile import targets

    print(targets.description(targets.load(name)), end="")


def print_passes(registry: PassRegistry) -> None:
    """Print all passes with their options."""
    table = columns("pass", "what it does, and its options", whole=("pass",))
    for name in registry.names():
        info = registry.describe(name)
        origin = "" if info.origin == "qcompile" else f" (from {info.origin})"
        table.add_row(name, info.summary + origin)
        for option in info.options:
            table.add_row("", f"  {_option(option)}")
    show(table)


def _option(option: Option) -> str:
    return f"{option.name}: {option.type} = {option.default}"


def print_pass(registry: PassRegistry, name: str) -> None:
    """Print one pass with its documentation."""
    info = registry.describe(name)
    rows = [("pass", info.name), ("from", info.origin), ("tolerance", info.tolerance)]
    rows += [("option", _option(o)) for o in info.options]
    rows += [("requires", ", ".join(info.requires))] if info.requires else []
    rows += [("establishes", ", ".join(info.establishes))] if info.establishes else []
    facts(rows)
    print(f"\n{info.doc}")
