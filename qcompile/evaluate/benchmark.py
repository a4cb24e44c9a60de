"""Times a bundle with its own native program."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from qcompile.errors import BundleError


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
        peak_mb: largest resident set of a native program that only runs the model, megabytes; None where that
            program does not run on this machine.
        layers: time of each step, empty without a profile.
    """

    bundle: str
    threads: int
    runs: int
    median_ms: float
    p90_ms: float
    fastest_ms: float
    first_ms: float
    peak_mb: float | None
    layers: tuple[LayerTime, ...] = field(default=())

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
    progress: Callable[[int, int, str], None] | None = None,
) -> Benchmark:
    """Run a bundle on seeded noise and measure it.

    Args:
        bundle: its directory.
        threads: threads to use.
        runs: inferences to time.
        warmup: inferences before timing.
        profile: also measure each step.
        progress: called with (done, total, what).

    Raises:
        BundleError: the bundle does not run on this machine.
    """
    from time import perf_counter

    from qcompile.evaluate.execution import open_session
    from qcompile.evaluate.noise import seeded_inputs

    session = open_session(bundle, threads)
    inputs = seeded_inputs(session)
    times = []
    for i in range(1 + warmup + max(runs, 1)):
        start = perf_counter()
        session.run(inputs)
        times.append((perf_counter() - start) * 1e3)
        if progress is not None:
            progress(i + 1, 1 + warmup + max(runs, 1), "timing")
    timed = np.asarray(times[1 + warmup :])
    layers = _layers(session, inputs) if profile else ()
    return Benchmark(
        str(bundle),
        threads,
        len(timed),
        float(np.median(timed)),
        float(np.percentile(timed, 90)),
        float(timed.min()),
        times[0],
        _native_peak(bundle, threads),
        layers,
    )


def _layers(session: Any, inputs: dict[str, Any], repeats: int = 11) -> tuple[LayerTime, ...]:
    steps = session.profile(inputs, runs=repeats)
    return tuple(
        LayerTime(step["node"], step["op"], step["precision"], step["ns"] / 1e6, int(step["macs"])) for step in steps
    )


def _native_peak(bundle: Path, threads: int) -> float | None:
    """Return the peak memory of the bundle's own program, which holds nothing but the model."""
    program = bundle / "bin" / "qcrun"
    try:
        done = subprocess.run(
            [str(program.resolve()), "--bench", "3", "--threads", str(threads)],
            capture_output=True,
            text=True,
            timeout=600,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    for word, number in zip(done.stdout.split(), done.stdout.split()[2:], strict=False):
        if word == "peak":
            return float(number)
    raise BundleError(f"{program} printed no peak memory", hint="compile the model again")
