"""Runs compiled kernels for AArch64 under qemu-user, many cases in one process."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from qcompile.kernels.build import build_objects
from qcompile.kernels.kernel import Kernel
from qcompile.targets import Target

HERE = Path(__file__).parent
QEMU_CPU = {"cortex-a53": "cortex-a53", "cortex-a72": "cortex-a72", "cortex-a76": "cortex-a76",
            "neoverse-n1": "neoverse-n1", "neoverse-v1": "max"}  # fmt: skip
"""The emulated core of a target: it raises SIGILL on an instruction the real one lacks ("max": lacks none)."""


@dataclass
class Case:
    """One call of a kernel.

    Attributes:
        kernel: the kernel.
        arguments: at most eight arrays, or None for NULL.
        outputs: positions of the arrays the kernel writes.
        ranges: (begin, end) of the calls that make up the run, in this order; default: one call.
    """

    kernel: Kernel
    arguments: Sequence[np.ndarray | None]
    outputs: Sequence[int]
    ranges: Sequence[tuple[int, int]] = field(default_factory=list)


def missing() -> str | None:
    """Why kernels cannot be run here, or None."""
    if shutil.which("qemu-aarch64") is None:
        return "qemu-aarch64 is not installed (Debian: qemu-user)"
    return None


def run(target: Target, cases: Sequence[Case]) -> list[list[np.ndarray]]:
    """Outputs of every case, in order, shaped like their arguments."""
    return _run(target, cases, [])[0]


def count(target: Target, cases: Sequence[Case], plugin: Path) -> list[int]:
    """Executed instructions of every case, by a qemu plugin that prints ``delta N`` at each getppid()."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        _run(target, cases, ["-plugin", str(plugin), "-d", "plugin", "-D", str(log)])
        deltas = [int(delta) for delta in re.findall(r"^mark \d+ .*\(delta (\d+)\)", log.read_text(), re.M)]
    if len(deltas) != 2 * len(cases):
        raise RuntimeError(f"the plugin printed {len(deltas)} marks for {len(cases)} cases")
    return deltas[1::2]


def _run(target: Target, cases: Sequence[Case], options: list[str]) -> tuple[list[list[np.ndarray]], str]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        program = _link(target, [case.kernel for case in cases], folder)
        (folder / "cases").write_bytes(_encode(cases))
        command = ["qemu-aarch64", "-cpu", QEMU_CPU[target.cpu], *options]
        command += [str(program), str(folder / "cases"), str(folder / "results")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode:
            raise AssertionError(f"the driver ended with {done.returncode}: {done.stderr[-2000:]}")
        return _decode(cases, (folder / "results").read_bytes()), done.stderr


def _symbols(kernels: Sequence[Kernel]) -> list[str]:
    return sorted({kernel.name for kernel in kernels})


def _link(target: Target, kernels: Sequence[Kernel], folder: Path) -> Path:
    (folder / "kernels.o").write_bytes(build_objects(kernels, target))
    (folder / "kernels.inc").write_text("".join(f"KERNEL({name})\n" for name in _symbols(kernels)))
    program = folder / "driver"
    command = [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-musl", "-static", "-O1"]
    command += [f"-I{folder}", "-o", str(program), str(HERE / "driver.c"), str(folder / "kernels.o"), "-lm"]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    return program


def _encode(cases: Sequence[Case]) -> bytes:
    names = _symbols([case.kernel for case in cases])
    parts = [struct.pack("<q", len(cases))]
    for case in cases:
        ranges = list(case.ranges) or [(0, case.kernel.tiles)]
        mask = sum(1 << position for position in case.outputs)
        arrays = [*case.arguments, *[None] * (8 - len(case.arguments))]
        sizes = [-1 if array is None else array.nbytes for array in arrays]
        head = [names.index(case.kernel.name), case.kernel.scratch_bytes, mask, len(ranges)]
        head += [bound for pair in ranges for bound in pair] + sizes
        parts.append(struct.pack(f"<{len(head)}q", *head))
        parts += [np.ascontiguousarray(array).tobytes() for array in arrays if array is not None]
    return b"".join(parts)


def _decode(cases: Sequence[Case], data: bytes) -> list[list[np.ndarray]]:
    results, at = [], 0
    for case in cases:
        found = []
        for position in sorted(case.outputs):
            like = case.arguments[position]
            assert like is not None
            found.append(np.frombuffer(data, like.dtype, like.size, at).reshape(like.shape))
            at += like.nbytes
        results.append(found)
    assert at == len(data)
    return results
