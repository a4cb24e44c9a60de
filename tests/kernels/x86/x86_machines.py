"""The x86 instruction sets and what they ask of the processor."""

from __future__ import annotations

import ctypes
from dataclasses import replace
from pathlib import Path

from qcompile.targets import Target, load

_VNNI = {"avx512f", "avx512bw", "avx512vl", "avx512_vnni"}
NEEDS = {
    "amx_int8": {*_VNNI, "amx_tile", "amx_int8"},
    "avx512_vnni": _VNNI,
    "avx_vnni": {"avx2", "fma", "avx_vnni"},
    "avx2": {"avx2", "fma"},
}
TARGETS = {
    "amx_int8": "x86-64-v4-amx",
    "avx512_vnni": "x86-64-v4-vnni",
    "avx_vnni": "x86-64-v3-vnni",
    "avx2": "x86-64-v3",
}
_REQUEST_TILES, _TILE_DATA = 0x1023, 18


def tiles_granted() -> bool:
    """Ask Linux for AMX tiles, as a bundle does when it is loaded."""
    return ctypes.CDLL(None).syscall(158, _REQUEST_TILES, _TILE_DATA) == 0


def cpu_flags() -> set[str]:
    """What Linux says this processor can do."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((set(line.split(":")[1].split()) for line in lines if line.startswith("flags")), set())


def x86_target(isa: str) -> Target:
    """The target of an x86 instruction set; portable code is compiled for the oldest."""
    target = load(TARGETS.get(isa, "x86-64"))
    return replace(target, isa=isa)
