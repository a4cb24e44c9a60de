"""Describe the machine we run on, from what Linux says about it."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

from qcompile.errors import TargetError
from qcompile.targets.features import CPUINFO_NAMES, RUNTIME_FEATURES

_V3 = ("sse4_2", "popcnt", "movbe", "avx", "f16c", "fma", "avx2", "bmi1", "bmi2", "lzcnt")
_V4_VNNI = (*_V3, "avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512cd", "avx512vnni")
_V4_AMX = (*_V4_VNNI, "amx_tile", "amx_int8")
_V8_2 = ("asimd", "crc32", "atomics", "fphp", "asimdhp", "asimdrdm", "lrcpc", "asimddp")
_V8_4 = (*_V8_2, "asimdfhm", "bf16", "i8mm")
_X86_OPTIONAL = ("avx512fp16", "avx512bf16", "amx_bf16")
_ARM_CORES = {"0xd03": "cortex-a53", "0xd08": "cortex-a72", "0xd0b": "cortex-a76", "0xd0c": "neoverse-n1",
              "0xd40": "neoverse-v1"}  # fmt: skip
_FOUND_V8_0 = ("cortex-a53", "cortex-a72")
_IN_ORDER = ("cortex-a53",)


def detect(root: Path = Path("/")) -> dict[str, Any]:
    """Return the keys of a target description for this machine.

    Args:
        root: where /proc and /sys are found; tests give a folder of their own.

    Raises:
        TargetError: it is not a 64-bit x86 or ARM Linux.
    """
    machine = machine_name()
    if platform.system() != "Linux" or machine not in RUNTIME_FEATURES:
        found = f"{platform.system()} on {platform.machine()}"
        raise TargetError(
            f"target 'host': this is {found}; bundles run on 64-bit x86 and ARM Linux",
            hint="name the machine to compile for: --target rpi4",
        )
    info = _cpuinfo(root / "proc/cpuinfo")
    words = f"{info.get('flags', '')} {info.get('Features', '')}".split()
    present = {CPUINFO_NAMES.get(word, word) for word in words}
    level = _x86_level(present) if machine == "x86_64" else _arm_level(present, info.get("CPU part", ""))
    return {
        "name": "host",
        "description": f"this machine: {info.get('model name', level['cpu'])}",
        "triple": f"{machine}-linux-gnu",
        "glibc": "2.17" if machine == "x86_64" else "2.28",
        "cores": _cores(),
        "l1d_bytes": _cache_bytes(root, level=1) or 32768,
        "l2_bytes": _cache_bytes(root, level=2) or 262144,
        **level,
        "optional": [name for name in _X86_OPTIONAL if name in present],
    }


def machine_name() -> str:
    """Return this machine's architecture in the words of a target's triple."""
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine())


def _x86_level(present: set[str]) -> dict[str, Any]:
    """Choose one of the levels that have kernels; the same words as in the YAML files of these levels."""
    if present.issuperset(_V4_AMX):
        extra = [f"+{name}" for name in _V4_VNNI[len(_V3) :]]
        return {"cpu": "x86-64-v4", "features": [*extra, "+amx-tile", "+amx-int8", "-prefer-256-bit"],
                "isa": "amx_int8", "requires": list(_V4_AMX)}  # fmt: skip
    if present.issuperset(_V4_VNNI):
        extra = [f"+{name}" for name in _V4_VNNI[len(_V3) :]]
        return {"cpu": "x86-64-v4", "features": [*extra, "-prefer-256-bit"], "isa": "avx512_vnni",
                "requires": list(_V4_VNNI)}  # fmt: skip
    if present.issuperset((*_V3, "avxvnni")):
        return {"cpu": "x86-64-v3", "features": ["+avx2", "+fma", "+avxvnni"], "isa": "avx_vnni",
                "requires": [*_V3, "avxvnni"]}  # fmt: skip
    if present.issuperset(_V3):
        return {"cpu": "x86-64-v3", "features": ["+avx2", "+fma"], "isa": "avx2", "requires": list(_V3)}
    return {"cpu": "x86-64", "features": [], "isa": "sse2", "requires": []}


def _arm_level(present: set[str], part: str) -> dict[str, Any]:
    core = _ARM_CORES.get(part)
    if present.issuperset(_V8_4):
        features = ["+neon", "+dotprod", "+fullfp16", "+i8mm", "-sve"]
        newer = "neoverse-v1" if core == "neoverse-v1" else "cortex-a76"
        return {"cpu": newer, "features": features, "isa": "neon_i8mm", "requires": list(_V8_4)}
    if present.issuperset(_V8_2):
        newer = core if core and core not in _FOUND_V8_0 else "cortex-a76"
        return {"cpu": newer, "features": ["+neon", "+dotprod", "+fullfp16"], "isa": "neon_dotprod",
                "requires": list(_V8_2)}  # fmt: skip
    if core in _FOUND_V8_0 and "crc32" in present:
        isa = "neon_inorder" if core in _IN_ORDER else "neon"
        return {"cpu": core, "features": ["+neon", "-aes", "-sha2"], "isa": isa, "requires": ["asimd", "crc32"]}
    return {"cpu": "generic", "features": ["+neon"], "isa": "neon", "requires": ["asimd"]}


def _cpuinfo(path: Path) -> dict[str, str]:
    """Return the first processor's entries."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.split("\n\n", 1)[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cache_bytes(root: Path, level: int) -> int:
    """Size of the first core's data (or unified) cache of a level, bytes; 0 where Linux does not say."""
    for index in sorted((root / "sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            kind, found, size = ((index / name).read_text().strip() for name in ("type", "level", "size"))
        except OSError:
            continue
        if kind != "Instruction" and found == str(level) and size.endswith("K") and size[:-1].isdigit():
            return int(size[:-1]) * 1024
    return 0
