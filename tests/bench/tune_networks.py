"""Make the tuning records that come with qcompile: the convolutions of the usual networks, measured on this machine.

    python tests/bench/tune_networks.py [--target x86-64-v4-vnni ...] [--network mobilenetv2 ...] [--budget 10m]
                                        [--precision int8] [--again] [--folder DIR]

Records go to qcompile/tuning/records/<instruction set>.jsonl, one of each workload, in a fixed order. What is there
from this machine is kept, unless --again. An interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from latency import NAMES, USUAL, model_file

from qcompile import driver, targets
from qcompile.config import CompileConfig
from qcompile.config_texts import read_seconds
from qcompile.progress import ProgressReporter
from qcompile.tuner.session import Settings, tune
from qcompile.tuning.database import SHIPPED, Database, read_records

TARGETS = ("x86-64-v4-amx", "x86-64-v4-vnni", "x86-64-v3-vnni", "x86-64-v3")


def tidy(path: Path) -> None:
    """Keep the latest record of each workload, sorted."""
    records = sorted(Database(read_records(path)), key=lambda record: record.key)
    temporary = path.with_suffix(".new")
    temporary.write_text("".join(record.line() + "\n" for record in records), encoding="utf-8")
    temporary.replace(path)


def measure(name: str, target: str, precision: str, options: argparse.Namespace, folder: Path) -> str:
    """Tune one network for one target; returns what was found."""
    config = CompileConfig(target=target, precision=precision, tuning="off")
    context, _, graph = driver.prepare(model_file(name, folder), config, None, None)
    simplified, _ = driver.simplify(graph, config, context, ())
    final, _ = driver.to_precision(simplified, config, context, ())
    machine = targets.load(target)
    path = SHIPPED / f"{machine.isa}.jsonl"
    known = Database(read_records(path) if path.is_file() and not options.again else [])
    settings = Settings("local", read_seconds(options.budget), path, 2)
    try:
        with ProgressReporter() as progress:
            return tune(final, machine, known, settings, progress).note()
    finally:
        if path.is_file():
            tidy(path)


def main() -> None:
    """Parse, tune, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--target", action="append", help=f"default: {', '.join(TARGETS)}")
    parser.add_argument("--network", action="append", choices=NAMES, help="default: the usual")
    parser.add_argument("--precision", choices=["int8", "fp32"], default="int8")
    parser.add_argument("--budget", default="10m", help="of each network on each target")
    parser.add_argument("--again", action="store_true", help="measure anew what is known")
    parser.add_argument("--folder", type=Path, help="where the generated networks are kept")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        for target in options.target or TARGETS:
            for name in options.network or USUAL:
                print(f"{target} {name}: {measure(name, target, options.precision, options, folder)}", flush=True)


if __name__ == "__main__":
    main()
