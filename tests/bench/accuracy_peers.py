"""Other runtimes' quantization recipes on the rows of accuracy.py: same calibration samples, same task, same metric.

Each peer quantizes and runs in a process of its own (`peer_server.py`, with the Python where it is installed).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from accuracy_data import Array, Network, Recorder, Row, Run, sqnr_and_agreement
from peer_server import read_frame, write_frame

from qcompile import driver
from qcompile.config import COMMAND_LINE

SERVER = Path(__file__).with_name("peer_server.py")
LOGS = "log"


@dataclass(frozen=True)
class Tool:
    """One column of the table.

    Args:
        title: of the column.
        peers: recipes of `peer_server.py`, of which the best counts.
    """

    title: str
    peers: tuple[str, ...]


TOOLS = (
    Tool("ONNX Runtime static", ("onnxruntime-minmax", "onnxruntime-percentile")),
    Tool("ONNX Runtime dynamic", ("onnxruntime-dynamic",)),
    Tool("OpenVINO + NNCF", ("openvino", "openvino-transformer")),
)


@dataclass(frozen=True)
class Outcome:
    """How a recipe did on a row.

    Args:
        value: of the row's metric.
        agreement: share of samples with the float network's best class.
        sqnr_db: at the worst output of all networks.
        seconds: to quantize, all networks.
        megabytes: peak memory, MiB.
        notes: what had to be done by hand.
        fails: why there is no value; "" where there is one.
    """

    value: float = float("nan")
    agreement: float = float("nan")
    sqnr_db: float = float("nan")
    seconds: float = 0.0
    megabytes: float = 0.0
    notes: list[str] = field(default_factory=list)
    fails: str = ""


class PeerFailure(Exception):
    """A peer cannot do it; the text says why."""


class PeerProcess:
    """One network in a peer's process.

    Args:
        python: interpreter with the peer's packages.
        peer: recipe.
        network: float model.
        samples: file with the calibration samples.
        folder: where the quantized model goes.
    """

    def __init__(self, python: str, peer: str, network: Network, samples: Path, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._log = (folder / LOGS).open("wb")
        command = [python, str(SERVER), peer, str(network.path), str(samples), str(folder)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, env=_bare_environment()
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        self.report = json.loads(line) if line else {"fails": self._death()}

    def run(self, sample: Mapping[str, Array]) -> Mapping[str, Array]:
        """Return the quantized network's outputs."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            write_frame(process.stdin, dict(sample))
            answer = read_frame(process.stdout)
        except BrokenPipeError:
            answer = None
        if answer is None:
            raise PeerFailure(self._death())
        if "fails" in answer:
            raise PeerFailure(answer["fails"].tobytes().decode())
        return answer

    def close(self) -> None:
        """End the process."""
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        self._process.wait()
        self._log.close()

    def _death(self) -> str:
        self._process.wait()
        return f"its process ended with {self._process.returncode}"


def _bare_environment() -> dict[str, str]:
    """Return the environment without this Python's packages: the peer brings its own."""
    import os

    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}


def calibration_samples(network: Network) -> list[dict[str, Array]]:
    """Return what qcompile calibrates a network with."""
    settings = {"precision": "int8", "calib": network.calibration}
    shapes = {"input_shapes": {name: list(shape) for name, shape in network.shapes.items()}} if network.shapes else {}
    config = driver.resolve_config(network.path, None, {**settings, **shapes}, COMMAND_LINE)
    _, samples, _ = driver.prepare(network.path, config, None, None)
    assert samples is not None
    return [dict(sample) for sample in samples]


class Peers:
    """Runs the peers on rows.

    Args:
        python: interpreter with their packages.
        folder: for their models.
        kept: folder for results, so that they are not computed again; None keeps nothing.
    """

    def __init__(self, python: str, folder: Path, kept: Path | None) -> None:
        self._python, self._folder, self._kept = python, folder, kept

    def outcomes(self, name: str, row: Row, recorders: Mapping[str, Recorder]) -> dict[str, Outcome]:
        """Return how each tool did on a row, the best of its recipes, by title.

        Args:
            name: of the row.
            row: the task.
            recorders: what the float network was given and answered.
        """
        samples = {part: self._stored(name, part, network) for part, network in row.networks.items()}
        best = {}
        for tool in TOOLS:
            found = [self._outcome(name, row, recorders, peer, samples) for peer in tool.peers]
            best[tool.title] = max(found, key=lambda o: (not o.fails, o.value, o.sqnr_db))
        return best

    def _stored(self, name: str, part: str, network: Network) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{name}-{part}.npz"
        samples = calibration_samples(network)
        np.savez(path, **{f"{index}/{key}": array for index, s in enumerate(samples) for key, array in s.items()})
        return path

    def _outcome(
        self, name: str, row: Row, recorders: Mapping[str, Recorder], peer: str, samples: Mapping[str, Path]
    ) -> Outcome:
        digest = _digest(self._python, peer, row, recorders, samples)
        path = self._kept / f"{name}-{peer}.json" if self._kept is not None else None
        if path is not None and path.is_file():
            known = json.loads(path.read_text())
            if known.pop("digest") == digest:
                return Outcome(**known)
        found = self._measured(name, row, recorders, peer, samples)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"digest": digest, **asdict(found)}, indent=1) + "\n")
        return found

    def _measured(
        self, name: str, row: Row, recorders: Mapping[str, Recorder], peer: str, samples: Mapping[str, Path]
    ) -> Outcome:
        with self._processes(name, row, peer, samples) as processes:
            reports = [process.report for process in processes.values()]
            reasons = [report["fails"] for report in reports if "fails" in report]
            if reasons:
                return Outcome(fails=reasons[0])
            runs: dict[str, Run] = {part: process.run for part, process in processes.items()}
            try:
                value = row.evaluate(runs)
                compared = [sqnr_and_agreement(recorder, runs[part]) for part, recorder in recorders.items()]
            except PeerFailure as failure:
                return Outcome(fails=str(failure))
        return Outcome(
            value,
            compared[0][1],
            min(ratio for ratio, _ in compared),
            sum(report["seconds"] for report in reports),
            max(report["megabytes"] for report in reports),
            list(dict.fromkeys(note for report in reports for note in report["notes"])),
        )

    @contextlib.contextmanager
    def _processes(
        self, name: str, row: Row, peer: str, samples: Mapping[str, Path]
    ) -> Iterator[dict[str, PeerProcess]]:
        made: dict[str, PeerProcess] = {}
        try:
            for part, network in row.networks.items():
                folder = self._folder / f"{name}-{part}-{peer}"
                made[part] = PeerProcess(self._python, peer, network, samples[part], folder)
            yield made
        finally:
            for process in made.values():
                process.close()


def _digest(python: str, peer: str, row: Row, recorders: Mapping[str, Recorder], samples: Mapping[str, Path]) -> str:
    """Return a digest of all that a result depends on: networks, calibration samples, task, recipe."""
    digest = hashlib.sha256(json.dumps([python, peer, row.metric]).encode())
    digest.update(SERVER.read_bytes())
    for part, network in row.networks.items():
        digest.update(Path(network.path).read_bytes())
        with np.load(samples[part]) as stored:
            for key in stored.files:
                digest.update(key.encode() + stored[key].tobytes())
        for given, _ in recorders[part].calls:
            for array in given.values():
                digest.update(array.tobytes())
    return digest.hexdigest()
