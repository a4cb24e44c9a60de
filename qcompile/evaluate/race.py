"""Times a bundle against other runtimes: same threads, interleaved, each in a process of its own.

A shared machine's speed drifts, so runs alternate (A B C A B C ...) and the figure of interest is the
median over rounds of the ratio of their times, never a quotient of two separate measurements.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from qcompile.errors import BundleError, UsageError, did_you_mean
from qcompile.evaluate import processes
from qcompile.ir.types import NARROW
from qcompile.progress import Progress

PEERS = {
    "onnxruntime": (".onnx", "onnxruntime"),
    "openvino": (".xml", "openvino, nncf"),
    "litert": (".tflite", "ai_edge_litert"),
}
"""File type that each runtime is given, and the packages it needs."""

RUNS_OF_A_TURN = 5


@dataclass(frozen=True)
class Standing:
    """How one runtime did; times of one inference, milliseconds.

    With one thread they are processor time, which other programs' turns are not part of; else wall clock.

    Args:
        runtime: its name, "qcompile" for the bundle.
        version: of the runtime, empty for the bundle.
        median_ms: median of all runs.
        fastest_ms: quickest run.
        load_ms: time until it was ready.
        first_ms: the first inference.
        ratio: median over rounds of its quickest run by the bundle's; above 1 the bundle is quicker.
        peak_mb: largest resident set of its process, interpreter included, megabytes.
    """

    runtime: str
    version: str
    median_ms: float
    fastest_ms: float
    load_ms: float
    first_ms: float
    ratio: float
    peak_mb: float


@dataclass(frozen=True)
class Race:
    """Standings of a bundle and its peers.

    Args:
        bundle: directory.
        precision: "int8", "float32", "float16" or "bfloat16", of the bundle and so of the peers that have it.
        threads: of each.
        rounds: turns that each had.
        standings: the bundle first.
        notes: what the user should know.
    """

    bundle: str
    precision: str
    threads: int
    rounds: int
    standings: tuple[Standing, ...]
    notes: tuple[str, ...] = ()

    @property
    def best(self) -> Standing:
        """The quickest peer."""
        return min(self.standings[1:], key=lambda standing: standing.ratio)

    def to_mapping(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def parse_peers(text: str) -> dict[str, Path | None]:
    """Split "onnxruntime,litert=model.tflite" and check the names.

    Returns:
        The model that a runtime is given, by its name; None where it is to be made from the ONNX file.

    Raises:
        UsageError: a runtime is unknown, named twice, or its model is missing.
    """
    words = [word.strip().partition("=") for word in text.split(",") if word.strip()]
    names = [name for name, _, _ in words]
    for name, _, file in words:
        if name == "litert" and not file:
            raise UsageError(
                "--against litert: it takes .tflite files, and there is no light-weight way there from ONNX",
                hint="give the file: --against litert=model.tflite",
            )
        if name not in PEERS:
            raise UsageError(f"unknown runtime '{name}'", hint=did_you_mean(name, list(PEERS)))
        if file and not Path(file).exists():
            raise UsageError(f"--against {name}={file}: there is no such file", hint=f"give a {PEERS[name][0]} file")
    if len(set(names)) != len(names) or not names:
        raise UsageError(f"--against '{text}' does not name each runtime once", hint="such as onnxruntime,openvino")
    return {name: Path(file) if file else None for name, _, file in words}


def race(
    bundle: Path,
    model: Path | None,
    peers: Sequence[str],
    *,
    threads: int = 1,
    rounds: int = 20,
    folder: Path | None = None,
    models: Mapping[str, Path] | None = None,
    pythons: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> Race:
    """Time a bundle and other runtimes on the model it was compiled from.

    Args:
        bundle: directory.
        model: float ONNX file; quantized for each peer where the bundle computes in int8. None where every peer
            has a model of its own.
        peers: names from ``PEERS``.
        threads: of each contender.
        rounds: turns of each contender; a turn is a few inferences.
        folder: keeps the peers' models from one call to the next; a temporary one by default.
        models: runtimes that are given a model of their own, as it is.
        pythons: interpreter for a runtime that another environment holds.
        environment: variables for all contenders.
        progress: called with (done, total, what).

    Raises:
        UsageError: a peer is not installed, or the model does not exist.
        BundleError: a contender does not run.
    """
    report = progress or (lambda done, total, what: None)
    own = models or {}
    if not model.is_file() if model is not None else not all(name in own for name in peers):
        raise UsageError(f"{model} is not a file", hint="give the model that the bundle was compiled from")
    precision, shapes, made_from = _facts(bundle)
    notes = _origin_notes(model, made_from) if model is not None else ()
    with ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        paths = {"qcompile": bundle}
        for number, name in enumerate(peers):
            report(number, len(peers), f"preparing {name}")
            python = _python(name, pythons)
            _check_installed(name, PEERS[name][1] if name not in own else PEERS[name][1].split(",")[0], python)
            if name in own:
                paths[name] = own[name]
            elif model is not None:
                try:
                    paths[name] = _prepared(name, model, precision, shapes, folder, python)
                except BundleError as error:
                    remedy = "--model takes the file that the bundle was made from, which this is not"
                    own_model = f"give it a model of its own: --against {name}=FILE{PEERS[name][0]}"
                    raise BundleError(error.message, hint=remedy if notes else own_model) from error
        contenders = []
        for name, path in paths.items():
            contender = _Contender(name, path, threads, precision, _python(name, pythons), environment)
            contenders.append(contender)
            stack.callback(contender.close)
            contender.ready()
        times: list[list[list[int]]] = [[] for _ in contenders]
        for number in range(rounds):
            for contender, record in zip(contenders, times, strict=True):
                record.append(contender.turn(RUNS_OF_A_TURN))
            report(number + 1, rounds, "racing")
        return Race(str(bundle), precision, threads, rounds, _standings(contenders, times), notes)


def _standings(contenders: Sequence[_Contender], times: list[list[list[int]]]) -> tuple[Standing, ...]:
    turns = np.asarray(times, np.float64) / 1e6
    of_turn = turns.min(axis=2)  # what else runs on the machine only ever adds to a time
    ratios = np.median(of_turn / of_turn[0], axis=1)
    return tuple(
        Standing(
            contender.name,
            contender.version,
            float(np.median(turns[i])),
            float(turns[i].min()),
            contender.load_ms,
            contender.first_ms,
            float(ratios[i]),
            contender.peak_mb,
        )
        for i, contender in enumerate(contenders)
    )


def _origin_notes(model: Path, made_from: str | None) -> tuple[str, ...]:
    """Return a warning where a model is not the file that a bundle was made from, by the file's SHA-256."""
    with model.open("rb") as file:
        found = sha256()
        while block := file.read(1 << 20):
            found.update(block)
    if made_from is None or found.hexdigest() == made_from:
        return ()
    return (f"'{model}' is not the file that the bundle was made from: the runtimes may compute something else",)


def _facts(bundle: Path) -> tuple[str, dict[str, list[int]], str | None]:
    """Precision and input shapes of a bundle, and the SHA-256 of the model that it was made from."""
    from qcompile import runtime

    with runtime.load(bundle) as session:
        shapes = {tensor.name: list(tensor.shape) for tensor in session.inputs}
        made_from = session.manifest["model"].get("sha256")
        steps = session.profile(session.zeros())
    found = {step["precision"] for step in steps}
    return next((kind for kind in ("int8", *NARROW) if kind in found), "float32"), shapes, made_from


def _python(name: str, pythons: Mapping[str, str] | None) -> str:
    return (pythons or {}).get(name, sys.executable)


def _prepared(name: str, model: Path, precision: str, shapes: dict[str, list[int]], folder: Path, python: str) -> Path:
    """The peer's own form of the model, made if it is not there yet."""
    suffix = PEERS[name][0]
    output = folder / f"{model.stem}.{name}.{precision}{suffix}"
    if output.exists():
        return output
    folder.mkdir(parents=True, exist_ok=True)
    script = Path(__file__).with_name("prepare_peer.py")
    command = [python, str(script), name, precision, json.dumps(shapes), str(model), str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        output.unlink(missing_ok=True)
        raise BundleError(f"{name} cannot take {model}: {_last_line(done.stderr)}")
    return output


def _check_installed(name: str, packages: str, python: str) -> None:
    wanted = [package.strip() for package in packages.split(",")]
    found = subprocess.run([python, "-c", f"import {', '.join(wanted)}"], capture_output=True, check=False)
    if found.returncode:
        raise UsageError(f"--against {name}: {packages} cannot be imported", hint="pip install 'qcompile[bench]'")


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "it stopped without a message"


class _Contender:
    """A process that waits for its turn."""

    def __init__(
        self, name: str, model: Path, threads: int, precision: str, python: str, environment: Mapping[str, str] | None
    ) -> None:
        self.name, self.version, self.load_ms, self.first_ms, self.peak_mb = name, "", 0.0, 0.0, 0.0
        wanted = json.dumps({"runtime": name, "model": str(model), "threads": threads, "precision": precision})
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - see close
        self._process = subprocess.Popen(
            [python, str(Path(__file__).with_name("contender.py")), wanted],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, **(environment or {})},
        )

    def ready(self) -> None:
        """Wait until the model is loaded and has run once."""
        answer = self._answer()
        self.version = answer["version"]
        self.load_ms, self.first_ms = answer["load_ns"] / 1e6, answer["first_ns"] / 1e6

    def turn(self, runs: int) -> list[int]:
        """Run a few times, after one run that warms the caches; nanoseconds."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{runs + 1}\n")
        self._process.stdin.flush()
        answer = self._answer()
        self.peak_mb = answer["peak_kb"] / 1e3
        times: list[int] = answer["ns"][1:]
        return times

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._errors.seek(0)
            raise BundleError(f"{self.name} does not run the model: {_last_line(self._errors.read())}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process."""
        processes.close(self._process)
        self._errors.close()
