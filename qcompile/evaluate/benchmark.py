"""Times a bundle with its own program."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from qcompile.errors import BundleError, UsageError
from qcompile.evaluate.noise import seeded_inputs


@dataclass(frozen=True)
class LayerTime:
    """Time of one step.

    Args:
        node: ONNX node it comes from.
        op: IR operation.
        precision: what it computes in.
        ms: median time, milliseconds.
        macs: multiply-accumulates.
    """

    node: str
    op: str
    precision: str
    ms: float
    macs: int

    @property
    def gmacs(self) -> float:
        """Thousand million multiply-accumulates per second."""
        return self.macs / self.ms / 1e6 if self.ms > 0 else 0.0


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

    @property
    def gmacs(self) -> float:
        """Thousand million multiply-accumulates per second, of the median inference."""
        return self.macs / self.median_ms / 1e6 if self.median_ms > 0 else 0.0

    def to_mapping(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def benchmark(
    bundle: Path, *, threads: int = 1, runs: int = 50, warmup: int = 5, profile: bool = False
) -> Benchmark:
    """Run a bundle on seeded noise and measure it.

    The bundle's own program bin/qcrun is what is measured: it holds nothing but the model.

    Args:
        bundle: its directory.
        threads: threads to use; 0 for one a core.
        runs: inferences to time.
        warmup: inferences before timing.
        profile: also measure each step.

    Raises:
        BundleError: the bundle is damaged or does not run on this machine.
        UsageError: a number is out of range.
    """
    from qcompile import runtime

    for name, value, least in (("runs", runs, 1), ("warmup", warmup, 0)):
        if value < least:
            raise UsageError(f"--{name} is {value}, expected {least} or more")
    with runtime.load(bundle, threads) as session:
        inputs = seeded_inputs(session)
        layers = _layers(session, inputs) if profile else ()
        macs = sum(step["macs"] for step in session.manifest["steps"])
    median, p90, fastest, first, peak = _measured(bundle, list(inputs.values()), threads, runs, warmup)
    return Benchmark(str(bundle), threads, runs, median, p90, fastest, first, peak, macs, layers)


def _layers(session: Any, inputs: dict[str, Any], repeats: int = 11) -> tuple[LayerTime, ...]:
    steps = session.profile(inputs, runs=repeats)
    return tuple(
        LayerTime(step["node"], step["op"], step["precision"], step["ns"] / 1e6, int(step["macs"])) for step in steps
    )


_RESULT = re.compile(
    r"median (\S+) ms, p90 (\S+) ms, fastest (\S+) ms, first (\S+) ms, \d+ runs, peak memory (\S+) MB"
)


def _measured(bundle: Path, inputs: list[Any], threads: int, runs: int, warmup: int) -> list[float]:
    """Return what the bundle's program prints: median, p90, fastest, first (ms), peak memory (MB)."""
    program = bundle.resolve() / "bin" / "qcrun"
    numbers = ["--bench", str(runs), "--warmup", str(warmup), "--threads", str(threads), "--top", "0"]
    try:
        with tempfile.TemporaryDirectory(prefix="qcompile-") as folder:
            files = [Path(folder) / f"{i}.bin" for i in range(len(inputs))]
            for file, array in zip(files, inputs, strict=True):
                array.tofile(file)
            command = [str(program), *numbers, *map(str, files)]
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        hint = "copy the bundle again, with its permissions; `python run.py --bench 50` needs no program"
        raise BundleError(f"cannot run {program}: {error.strerror}", hint=hint) from error
    found = _RESULT.search(done.stdout)
    if done.returncode != 0 or found is None:
        reason = " ".join(done.stderr.split()) or f"it ended with status {done.returncode}"
        raise BundleError(f"{program} failed: {reason}", hint="compile the model again")
    return [float(text) for text in found.groups()]
