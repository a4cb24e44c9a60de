"""Which processor features exist, and how the compiler, the kernel and the bundle's runtime call them.

`Target.requires` speaks the names below; `qcompile/bundle/csrc/qc_cpu.c` checks the same names on the device.
"""

from __future__ import annotations

RUNTIME_FEATURES: dict[str, tuple[str, ...]] = {
    "x86_64": (
        "sse3", "ssse3", "sse4_1", "sse4_2", "popcnt", "movbe", "avx", "f16c", "fma", "avx2", "bmi1", "bmi2",
        "lzcnt", "avx512f", "avx512dq", "avx512cd", "avx512bw", "avx512vl", "avx512vnni", "avx512vbmi",
        "avx512bf16", "avx512fp16", "avxvnni", "amx_tile", "amx_int8", "amx_bf16",
    ),
    "aarch64": (
        "asimd", "aes", "sha2", "crc32", "atomics", "fphp", "asimdhp", "asimdrdm", "lrcpc", "asimddp",
        "asimdfhm", "sve", "sve2", "i8mm", "bf16",
    ),
}  # fmt: skip
"""Names that a bundle can ask of the machine it runs on, by architecture (first word of the triple)."""

CPUINFO_NAMES = {
    "pni": "sse3", "abm": "lzcnt", "avx512_vnni": "avx512vnni", "avx512_bf16": "avx512bf16",
    "avx512_fp16": "avx512fp16", "avx_vnni": "avxvnni",
}  # fmt: skip
"""Flags of /proc/cpuinfo whose name differs from ours; the others are the same."""

COMPILER_FEATURES: dict[str, dict[str, tuple[str, ...]]] = {
    "x86_64": {
        "sse4.1": ("sse4_1",), "sse4.2": ("sse4_2",), "bmi": ("bmi1",), "amx-tile": ("amx_tile",),
        "amx-int8": ("amx_int8",), "amx-bf16": ("amx_bf16",),
    },
    "aarch64": {
        "neon": ("asimd",), "dotprod": ("asimddp",), "fullfp16": ("fphp", "asimdhp"), "lse": ("atomics",),
        "rdm": ("asimdrdm",), "rcpc": ("lrcpc",), "crc": ("crc32",), "fp16fml": ("asimdfhm",),
    },
}  # fmt: skip
"""LLVM's feature names whose run-time names differ from them."""

ISA_REQUIRES: dict[str, frozenset[str]] = {
    "portable": frozenset(),
    "sse2": frozenset(),
    "avx2": frozenset({"avx2", "fma"}),
    "avx_vnni": frozenset({"avx2", "fma", "avxvnni"}),
    "avx512_vnni": frozenset({"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512vnni"}),
    "amx_int8": frozenset({"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512vnni", "amx_tile", "amx_int8"}),
    "neon": frozenset({"asimd"}),
    "neon_inorder": frozenset({"asimd"}),
    "neon_dotprod": frozenset({"asimd", "asimddp"}),
    "neon_i8mm": frozenset({"asimd", "asimddp", "i8mm"}),
}
"""What the kernels of each instruction set execute; a target that uses it must check for at least this."""


def required_by(arch: str, compiler_feature: str) -> tuple[str, ...]:
    """Return the run-time features that code built with an LLVM feature needs.

    Args:
        arch: "x86_64" or "aarch64".
        compiler_feature: LLVM's name without the sign, for example "dotprod".

    Returns:
        Names of `RUNTIME_FEATURES`; empty for tuning flags, which need nothing of the machine.
    """
    if compiler_feature in COMPILER_FEATURES[arch]:
        return COMPILER_FEATURES[arch][compiler_feature]
    return (compiler_feature,) if compiler_feature in RUNTIME_FEATURES[arch] else ()
