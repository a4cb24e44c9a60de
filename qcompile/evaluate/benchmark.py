"""Times a bundle with its own program."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from qcompile.device import Device, open_device
from qcompile.errors import BundleError, UsageError
from qcompile.evaluate.noise import seeded_inputs
from qcompile.evaluate.remote import RemoteBundle
from qcompile.evaluate.roofs import Roofs, measure_roofs


@dataclass(frozen=True)
class LayerTime:
    """Time of one step.

    Args:
        node: ONNX node it comes from.
        op: IR operation.
        precision: what it computes in.
        ms: median time, milliseconds.
        macs: multiply-accumulates.
        bytes: memory it reads and writes.
        peak: share of the multiply-accumulates that the processor's threads could do in the time, 0 to 1; None
            where it has none, or the peak is unknown.
    """

    node: str
    op: str
    precision: str
    ms: float
    macs: int
    bytes: int = 0
    peak: float | None = None

    @property
    def gmacs(self) -> float:
        """Thousand million multiply-accumulates per second."""
        return self.macs / self.ms / 1e6 if self.ms > 0 else 0.0

    @property
    def gbs(self) -> float:
        """Thousand million bytes per second."""
        return self.bytes / self.ms / 1e6 if self.ms > 0 else 0.0


@dataclass(frozen=True)
class Benchmark:
    """What `qcompile bench` measured; times are wall clock of one inference, batch as compiled.

    Args:
        bundle: its directory.
        threads: threads used.
        runs: inferences timed.
        median_ms: milliseconds.
        p90_ms: ninetieth percentile, milliseconds.
        fastest_ms: milliseconds.
        first_ms: the very first inference, milliseconds.
        peak_mb: largest resident set of the program, MiB.
        macs: multiply-accumulates of one inference.
        layers: time of each step, empty without a profile.
        load_ms: from the start of the program's work until the model can run, milliseconds; None where an older
            bundle does not say it.
        device: where it ran.
        roofs: bounds of one core; None without a profile.
    """

    bundle: str
    threads: int
    runs: int
    median_ms: float
    p90_ms: float
    fastest_ms: float
    first_ms: float
    peak_mb: float
    macs: int
    layers: tuple[LayerTime, ...] = field(default=())
    load_ms: float | None = None
    device: str = "local"
    roofs: Roofs | None = None

    @property
    def gmacs(self) -> float:
        """Thousand million multiply-accumulates per second, of the median inference."""
        return self.macs / self.median_ms / 1e6 if self.median_ms > 0 else 0.0

    def to_mapping(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def benchmark(
    bundle: Path,
    *,
    threads: int = 1,
    runs: int = 50,
    warmup: int = 5,
    profile: bool = False,
    device: str = "local",
) -> Benchmark:
    """Run a bundle on seeded noise and measure it.

    The bundle's own program bin/qcrun is what is measured: it holds nothing but the model.

    Args:
        bundle: its directory.
        threads: threads to use; 0 for one a core.
        runs: inferences to time.
        warmup: inferences before timing.
        profile: also measure each step, and what bounds the processor.
        device: where to run it, as `open_device` takes it.

    Raises:
        BundleError: the bundle is damaged or does not run on the device.
        DeviceError: the device cannot be reached, or its times mean nothing.
        UsageError: a number is out of range.
    """
    for name, value, least in (("runs", runs, 1), ("warmup", warmup, 0)):
        if value < least:
            raise UsageError(f"--{name} is {value}, expected {least} or more")
    subject = _Local(bundle, threads) if device == "local" else _Remote(bundle, device, threads)
    with ExitStack() as stack:
        stack.callback(subject.close)
        roofs = measure_roofs(subject.manifest["target"], subject.device) if profile else None
        layers = _layers(subject, threads, roofs) if profile else ()
        macs = sum(step["macs"] for step in subject.manifest["steps"])
        numbers = subject.measured(["--bench", str(runs), "--warmup", str(warmup)])
    median, p90, fastest, first, peak = numbers[:5]
    load = numbers[5] if len(numbers) > 5 else None
    name = str(bundle)
    return Benchmark(name, threads, runs, median, p90, fastest, first, peak, macs, layers, load, device, roofs)


def _layers(subject: _Local | _Remote, threads: int, roofs: Roofs | None) -> tuple[LayerTime, ...]:
    found = []
    for step, ns in zip(subject.manifest["steps"], subject.profile(), strict=True):
        layer = LayerTime(step["node"], step["op"], step["precision"], ns / 1e6, step["macs"], step["bytes"])
        limit = roofs.peak(layer.precision) if roofs is not None else None
        share = layer.gmacs / (limit * max(1, threads)) if limit and layer.macs else None
        found.append(replace(layer, peak=share))
    return tuple(found)


_REPEATS = 11
_RESULT = re.compile(
    r"median (\S+) ms, p90 (\S+) ms, fastest (\S+) ms, first (\S+) ms, \d+ runs?, "
    r"peak memory ([\d.]+) MB(?:, load ([\d.]+) ms)?"
)


def _numbers(output: str) -> list[float] | None:
    """Return median, p90, fastest, first (ms), peak memory (MB) and load (ms) as the bundle's program prints them."""
    found = _RESULT.search(output)
    return [float(text) for text in found.groups() if text is not None] if found is not None else None


class _Local:
    """A bundle where it lies on this machine."""

    def __init__(self, bundle: Path, threads: int) -> None:
        from qcompile import runtime

        self._program, self._threads = bundle.resolve() / "bin" / "qcrun", threads
        self._session = runtime.load(bundle, threads)
        self._inputs = seeded_inputs(self._session)
        self.manifest: dict[str, Any] = self._session.manifest
        self.device = open_device("local")

    def profile(self) -> Sequence[float]:
        """Return the median time of each step, nanoseconds."""
        return [float(step["ns"]) for step in self._session.profile(self._inputs, runs=_REPEATS)]

    def measured(self, arguments: Sequence[str]) -> list[float]:
        """Run the program and return its numbers."""
        arguments = [*arguments, "--threads", str(self._threads), "--top", "0"]
        try:
            with tempfile.TemporaryDirectory(prefix="qcompile-") as folder:
                files = [Path(folder) / f"{i}.bin" for i in range(len(self._inputs))]
                for file, array in zip(files, self._inputs.values(), strict=True):
                    array.tofile(file)
                command = [str(self._program), *arguments, *map(str, files)]
                done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        except OSError as error:
            hint = "copy the bundle again, with its permissions; `python run.py --bench 50` needs no program"
            raise BundleError(f"cannot run {self._program}: {error.strerror}", hint=hint) from error
        found = _numbers(done.stdout)
        if done.returncode != 0 or found is None:
            reason = " ".join(done.stderr.split()) or f"it ended with status {done.returncode}"
            raise BundleError(f"{self._program} failed: {reason}", hint="compile the model again")
        return found

    def close(self) -> None:
        """Give everything back."""
        self._session.close()
        self.device.close()


class _Remote:
    """A bundle on a device."""

    def __init__(self, bundle: Path, device: str, threads: int) -> None:
        self._bundle, self._threads = RemoteBundle(bundle, device), threads
        self.manifest = self._bundle.manifest
        self.device: Device = self._bundle.device
        try:
            _require_times(self.device)
        except BaseException:
            self._bundle.close()
            raise

    def profile(self) -> Sequence[float]:
        """Return the median time of each step, nanoseconds."""
        arguments = ["--profile", "--warmup", "3", "--threads", str(self._threads), "--top", "0"]
        count, rows = len(self.manifest["steps"]), []
        for _ in range(_REPEATS):
            answer = self._bundle.program(arguments, list(seeded_inputs(self._bundle).values()))
            found = re.findall(r"^ *([\d.]+) us  ", answer.output, re.MULTILINE)
            if len(found) != count:
                raise BundleError(f"{self.device.name}: the profile has {len(found)} steps, expected {count}")
            rows.append([float(text) * 1e3 for text in found])
        return [float(ns) for ns in np.median(rows, axis=0)]

    def measured(self, arguments: Sequence[str]) -> list[float]:
        """Run the program and return its numbers."""
        arguments = [*arguments, "--threads", str(self._threads), "--top", "0"]
        found = _numbers(self._bundle.program(arguments, list(seeded_inputs(self._bundle).values())).output)
        if found is None:
            raise BundleError(f"{self.device.name}: the bundle's program does not say its times")
        return found

    def close(self) -> None:
        """Remove everything from the device."""
        self._bundle.close()


def _require_times(device: Device) -> None:
    if not device.tells_time:
        raise UsageError(
            f"--device {device.name}: an emulator's times say nothing about the processor",
            hint="measure on the real one: --device ssh://user@host",
        )
