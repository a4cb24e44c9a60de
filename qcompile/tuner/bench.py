"""Builds a program that times candidates in turns, sends it to a device and reads what it says."""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from qcompile.bundle.link import build_program
from qcompile.device import Device
from qcompile.errors import DeviceError, InternalError
from qcompile.lower.objects import compile_kernels
from qcompile.targets import Target
from qcompile.tuner.operands import Candidate

SOURCE = Path(__file__).with_name("measure.c")
_OUTPUT = 6
_SIGILL = (-4, 132)

Times = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Args:
        rounds: turns of each candidate.
        turn_us: length of a turn, microseconds; at least one call.
    """

    rounds: int
    turn_us: int


class Bench:
    """Times candidates for one target on one device.

    Args:
        target: what the kernels are compiled for.
        device: where they run.
        jobs: threads to compile on.
    """

    def __init__(self, target: Target, device: Device, jobs: int = 2) -> None:
        self._target, self._device, self._jobs, self._built = target, device, jobs, 0

    def load(self, candidates: Sequence[Candidate]) -> str:
        """Build a program with these candidates and send it.

        Returns:
            Its name on the device, for `time`.
        """
        kernels = [candidate.kernel for candidate in candidates]
        objects = compile_kernels(kernels, self._target, jobs=self._jobs)
        files = {f"kernels{i}.o": code for i, code in enumerate(objects)}
        files["kernel_table.h"] = _table([kernel.name for kernel in kernels]).encode()
        files["measure.c"] = SOURCE.read_bytes()
        program = build_program(files, self._target, static=not self._device.tells_time)
        # One name for all: what was measured before is not needed any more, and devices are small.
        name = f"measure{self._built % 2}"
        self._built += 1
        with tempfile.TemporaryDirectory(prefix="qcompile-") as folder:
            for suffix, content in (("", program), (".bin", _data(candidates))):
                path = Path(folder) / (name + suffix)
                path.write_bytes(content)
                path.chmod(0o755)
                self._device.put(path, name + suffix)
        return name

    def time(self, program: str, numbers: Sequence[int], effort: Effort) -> Times:
        """Run candidates in turns.

        Args:
            program: what `load` returned.
            numbers: which candidates.
            effort: how long.

        Returns:
            Nanoseconds of one call, [rounds, candidates].

        Raises:
            DeviceError: the program does not run there.
            InternalError: candidates of one layer differ in a bit.
        """
        sizes = [str(effort.rounds), str(effort.turn_us), str(self._target.l2_bytes)]
        answer = self._device.run([f"./{program}", f"{program}.bin", *sizes, *map(str, numbers)])
        if answer.status in _SIGILL:
            where = f"{self._device.name} cannot run code for target '{self._target.name}'"
            raise DeviceError(where, hint="choose the target that describes the device")
        if answer.status:
            raise DeviceError(f"{self._device.name}: the measurement failed: {answer.reason()}")
        return _read(answer.output, numbers, effort.rounds)


def bits_of(output: str) -> dict[int, str]:
    """Return the checksum of each candidate's output."""
    rows = (line.split() for line in output.splitlines() if line.startswith("bits "))
    return {int(number): crc for _, number, crc in rows}


def _read(output: str, numbers: Sequence[int], rounds: int) -> Times:
    try:
        rows = [[float(t) for t in line.split()[1:]] for line in output.splitlines() if line.startswith("round ")]
        times = np.array(rows, np.float64).reshape(rounds, len(numbers))
    except ValueError:
        raise DeviceError(f"a measurement cannot be read: {' '.join(output.split())[:200]}") from None
    if not (np.isfinite(times) & (times > 0)).all():
        raise DeviceError("a measurement took no time at all", hint="the device's clock is too coarse")
    if len(set(bits_of(output).values())) > 1:
        raise InternalError(f"ways to cut one layer differ in their bits: {bits_of(output)}")
    return times


def _table(names: Sequence[str]) -> str:
    rows = [f"kernel_function {name};" for name in dict.fromkeys(names)]
    return "\n".join([*rows, f"static kernel_function *const kernels[] = {{{', '.join(names)}}};", ""])


def _data(candidates: Sequence[Candidate]) -> bytes:
    """Return the operands: all different ones first, then for each candidate which it takes."""
    blobs: dict[bytes, int] = {}
    rows = bytearray()
    for candidate in candidates:
        places = [-1 if data is None else blobs.setdefault(data, len(blobs)) for data in candidate.arguments]
        kernel = candidate.kernel
        rows += struct.pack("<11q", kernel.tiles, kernel.scratch_bytes, candidate.output_bytes, *places)
    parts = [struct.pack("<q", len(blobs))]
    for data in blobs:
        parts += [struct.pack("<q", len(data)), data]
    return b"".join([*parts, struct.pack("<q", len(candidates)), bytes(rows)])
