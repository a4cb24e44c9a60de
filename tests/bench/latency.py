"""Race qcompile against ONNX Runtime and OpenVINO: the same networks, threads and machine, runs interleaved.

    python tests/bench/latency.py [--target host] [--precision int8] [--threads 1] [--hide vnni]
                                  [--network mobilenetv2 ...] [--peer-python PYTHON] [--folder DIR] [--json]

INT8 models are quantized by each runtime's own tool (ONNX Runtime: static QDQ, per channel; OpenVINO: NNCF).
With bf16 and fp16 OpenVINO is told to infer in that type, ONNX Runtime computes in float32.
LiteRT takes part with --against litert and a folder of NAME.tflite files (--tflite DIR), made by another tool.

With one thread, times are processor time; a ratio is the median over rounds of the quickest run's time by
qcompile's.  `--hide amx` and `--hide vnni` make the processor look like an older one to all three alike
(see cpuid_mask.c); choose the target to match.  `--network FILE.onnx --input-shape NAME=EXTENTS` times another
model; integers, such as tokens and their mask, are noise of 0 and 1 then.  Memory is that of the bundle's own C
program: `over` is what it holds beyond weights and arena.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import networks
import onnx
import structured

from qcompile import driver, targets
from qcompile.evaluate.benchmark import benchmark
from qcompile.evaluate.race import PEERS, Race, race

EXAMPLE = Path(__file__).parents[2] / "examples" / "models" / "efficientnet_lite0.onnx"
GENERATED = {**networks.NETWORKS, **structured.NETWORKS}
USUAL = [*networks.NETWORKS, EXAMPLE.stem]
NAMES = [*USUAL, *structured.NETWORKS]


def model_file(name: str, folder: Path) -> Path:
    """The ONNX file of a network, generated if it is not there."""
    if name == EXAMPLE.stem:
        return EXAMPLE
    if name.endswith(".onnx"):
        return Path(name)
    path = folder / f"{name}.onnx"
    if not path.exists():
        onnx.save(GENERATED[name](), path)
    return path


def hidden(features: str | None, folder: Path) -> dict[str, str]:
    """Environment that hides processor features from every contender."""
    if features is None:
        return {}
    library = folder / "cpuid_mask.so"
    source = Path(__file__).with_name("cpuid_mask.c")
    command = [sys.executable, "-m", "ziglang", "cc", "-O2", "-shared", "-fPIC", "-target", "x86_64-linux-gnu.2.17"]
    subprocess.run([*command, "-o", str(library), str(source)], check=True)
    return {"LD_PRELOAD": str(library), "QC_HIDE": features}


def measure(name: str, options: argparse.Namespace, folder: Path, environment: dict[str, str]) -> dict[str, Any]:
    """Compile a network, race it, measure its memory."""
    model = model_file(name, folder)
    bundle = folder / f"{model.stem}.{options.target}.{options.precision}"
    shapes = {k: tuple(int(n) for n in v.split(",")) for k, _, v in (s.partition("=") for s in options.input_shape)}
    more = {"input_shapes": shapes} if shapes else {}
    driver.compile(model, target=options.target, precision=options.precision, output=bundle, **more)
    own = {"litert": options.tflite / f"{name}.tflite"} if options.tflite else None
    pythons = dict.fromkeys(PEERS, options.peer_python) if options.peer_python else None
    result = race(
        bundle,
        model,
        options.against.split(","),
        threads=options.threads,
        rounds=options.rounds,
        folder=folder,
        models=own,
        pythons=pythons,
        environment=environment,
    )
    return {"network": model.stem, **result.to_mapping(), "best": result.best.runtime, **memory(bundle, result)}


def memory(bundle: Path, result: Race) -> dict[str, float | None]:
    """Megabytes of the C program: at its peak, and beyond weights and arena."""
    from qcompile import runtime

    with runtime.load(bundle, result.threads) as session:
        needed = (session.describe()["weights_bytes"] + session.describe()["arena_bytes"]) / 1e6
    peak = benchmark(bundle, threads=result.threads, runs=1, warmup=0).peak_mb
    return {"weights_and_arena_mb": needed, "program_mb": peak, "over_mb": None if peak is None else peak - needed}


def print_rows(rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Print the table."""
    target = targets.load(options.target)
    print(f"{datetime.date.today()}, {targets.host().description}, target {target.name} ({target.isa}), "
          f"{options.precision}, {options.threads} thread(s), hidden: {options.hide or 'nothing'}")  # fmt: skip
    print(f"{'network':20} {'runtime':12} {'version':9} {'median':>8} {'fastest':>8} {'load':>8} {'first':>8} ratio")
    for row in rows:
        for s in row["standings"]:
            mark = "  <- best peer" if s["runtime"] == row["best"] else ""
            print(f"{row['network']:20} {s['runtime']:12} {s['version']:9} "
                  f"{s['median_ms']:8.2f} {s['fastest_ms']:8.2f} {s['load_ms']:8.1f} "
                  f"{s['first_ms']:8.2f} {s['ratio']:5.2f}{mark}")  # fmt: skip
        if row["program_mb"] is not None:
            print(f"{'':20} C program {row['program_mb']:.1f} MB: weights and arena {row['weights_and_arena_mb']:.1f}, "
                  f"over {row['over_mb']:.1f}")  # fmt: skip


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--network", action="append", help=f"of {', '.join(NAMES)}; default: {', '.join(USUAL)}")
    parser.add_argument("--input-shape", action="append", default=[], help="NAME=EXTENTS of open inputs of FILE.onnx")
    parser.add_argument("--target", default="host")
    parser.add_argument("--precision", choices=["int8", "fp32", "fp16", "bf16"], default="int8")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--against", default="onnxruntime,openvino")
    parser.add_argument("--tflite", type=Path, help="folder with NAME.tflite for LiteRT")
    parser.add_argument("--hide", choices=["amx", "vnni"])
    parser.add_argument("--peer-python", help="interpreter of an environment that holds the peers")
    parser.add_argument("--folder", type=Path, help="keeps models and bundles; a temporary one by default")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        environment = hidden(options.hide, folder)
        rows = [measure(name, options, folder, environment) for name in options.network or USUAL]
    if options.json:
        print(json.dumps(rows, indent=1))
    else:
        print_rows(rows, options)


if __name__ == "__main__":
    main()
