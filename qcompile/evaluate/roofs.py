"""What no program can beat on a processor: the multiply-accumulates of its instructions, the bytes of its memory."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qcompile.bundle.link import build_program
from qcompile.device import Device
from qcompile.device import probe_source as source
from qcompile.errors import DeviceError
from qcompile.targets import Target

# Multiply-accumulates in one cycle of one core, (int8, float32), by the instruction set of the kernels: lanes of
# the widest instruction that the kernels use, times how many of it begin in a cycle.
_PER_CYCLE: dict[str, tuple[float, float]] = {
    "amx_int8": (1024.0, 32.0),  # one tdpbusd of 16·16·64 in 16 cycles; two vfmadd of 16
    "avx512_vnni": (128.0, 32.0),  # two vpdpbusd of 64; two vfmadd of 16
    "avx_vnni": (64.0, 16.0),
    "avx2": (32.0, 16.0),  # two vpmaddwd of 16
    "sse2": (16.0, 4.0),  # two pmaddwd of 8; a mulps and an addps of 4
    "neon": (8.0, 4.0),  # one smlal of 8; fmla of 4
    "neon_inorder": (8.0, 4.0),
    "neon_dotprod": (32.0, 8.0),  # two sdot of 16; two fmla of 4
    "neon_i8mm": (64.0, 8.0),  # two smmla of 32
}

_OF_CPU: dict[tuple[str, str], tuple[float, float]] = {
    ("neon_i8mm", "neoverse-v1"): (128.0, 16.0),  # four pipes
}


@dataclass(frozen=True)
class Roofs:
    """Bounds of one core.

    Args:
        int8_gmacs: thousand million int8 multiply-accumulates per second; None where the instruction set's is unknown.
        float32_gmacs: the same in float32.
        ghz: measured clock.
        memory_gbs: measured, thousand million bytes per second read from memory.
        cache_gbs: the same from the second-level cache.
    """

    int8_gmacs: float | None
    float32_gmacs: float | None
    ghz: float
    memory_gbs: float
    cache_gbs: float

    def peak(self, precision: str) -> float | None:
        """Return the peak of what a step computes in; None where it is unknown."""
        return {"int8": self.int8_gmacs, "float32": self.float32_gmacs}.get(precision)


def measure_roofs(target: Mapping[str, Any], device: Device) -> Roofs | None:
    """Measure clock and bandwidths of one core, and look the rest up.

    Args:
        target: of the bundle, as its manifest has it.
        device: where.

    Returns:
        None on a device whose times mean nothing.

    Raises:
        DeviceError: the measurement does not run there.
    """
    if not device.tells_time:
        return None
    lists = {key: tuple(target[key]) for key in ("features", "requires")}
    machine = Target(**{**target, **lists})
    program = build_program({"probe.c": source().encode()}, machine)
    with tempfile.TemporaryDirectory(prefix="qcompile-") as folder:
        path = Path(folder) / "probe"
        path.write_bytes(program)
        path.chmod(0o755)
        device.put(path, "probe")
    answer = device.run(["./probe", str(machine.l2_bytes)])
    found = {name: float(value) for name, value in re.findall(r"^(\w+) (\d+\.\d+)$", answer.output, re.MULTILINE)}
    if answer.status or not all(found.get(name, 0.0) > 0 for name in ("ghz", "memory", "cache")):
        raise DeviceError(f"{device.name}: cannot measure the processor: {answer.reason()}")
    integer, real = per_cycle(machine.isa, machine.cpu)
    ghz = found["ghz"]
    return Roofs(integer * ghz if integer else None, real * ghz if real else None, ghz, found["memory"], found["cache"])


def per_cycle(isa: str, cpu: str) -> tuple[float | None, float | None]:
    """Return the most int8 and float32 multiply-accumulates in a cycle of one core; None where it is unknown."""
    found = _OF_CPU.get((isa, cpu), _PER_CYCLE.get(isa))
    return found if found is not None else (None, None)
