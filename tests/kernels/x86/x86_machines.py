"""The x86 instruction sets and what they ask of the processor."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from qcompile.targets import Target, load

NEEDS = {"avx512_vnni": {"avx512f", "avx512bw", "avx512vl", "avx512_vnni"}, "avx2": {"avx2", "fma"}}


def cpu_flags() -> set[str]:
    """What Linux says this processor can do."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((set(line.split(":")[1].split()) for line in lines if line.startswith("flags")), set())


def x86_target(isa: str) -> Target:
    """The target of an x86 instruction set; portable code is compiled for the oldest."""
    target = load({"avx512_vnni": "x86-64-v4-vnni", "avx2": "x86-64-v3"}.get(isa, "x86-64"))
    return replace(target, isa=isa)
