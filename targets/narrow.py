"""Which targets multiply numbers of 16 bits, and what their bundles then need of the machine."""

from __future__ import annotations

from dataclasses import dataclass, replace

from qcompile.errors import TargetError
from qcompile.targets import features
from qcompile.targets.target import Target


@dataclass(frozen=True)
class _Arithmetic:
    """What it takes to multiply numbers of a type.

    Args:
        flags: compiler features by instruction set; those that have kernels.
        examples: targets that have them.
    """

    flags: dict[str, tuple[str, ...]]
    examples: str


_BY_TYPE = {
    "float16": _Arithmetic(
        {
            "avx512_vnni": ("+avx512fp16",),
            "amx_int8": ("+avx512fp16",),
            "neon_dotprod": ("+fullfp16",),
            "neon_i8mm": ("+fullfp16",),
        },
        "rpi5, graviton2, graviton3 and x86-64-v4-amx",
    ),
    "bfloat16": _Arithmetic(
        {
            "avx512_vnni": ("+avx512bf16",),
            "amx_int8": ("+avx512bf16", "+amx-bf16"),
            "neon_i8mm": ("+bf16",),
        },
        "graviton3, zen4 and x86-64-v4-amx",
    ),
}
_LIKELY = {
    ("float16", "x86_64"): ("avx512fp16",),
    ("float16", "aarch64"): ("fphp", "asimdhp"),
    ("bfloat16", "x86_64"): ("avx512bf16",),
    ("bfloat16", "aarch64"): ("bf16",),
}
"""What a machine lacks whose instruction set has no such kernels anyway."""


def with_arithmetic(target: Target, kind: str | None) -> Target:
    """Return a target with the compiler features and the run-time checks of arithmetic in 16 bits.

    Args:
        target: the machine has it where `requires` or `optional` lists it: "asimdhp", "avx512fp16", "bf16", ...
        kind: "float16" or "bfloat16"; None for neither.

    Raises:
        TargetError: it does not, or its instruction set has no such kernels.
    """
    if kind is None:
        return target
    arithmetic = _BY_TYPE[kind]
    flags = arithmetic.flags.get(target.isa)
    words = _LIKELY[kind, target.arch]
    if flags is not None:
        words = tuple(word for flag in flags for word in features.required_by(target.arch, flag[1:]))
    present = {*target.requires, *target.optional}
    missing = [word for word in words if word not in present]
    if flags is None or missing:
        reason = f" (no {', '.join(missing)})" if missing else f" (no kernels for {target.isa})"
        raise TargetError(
            f"target '{target.name}' does not compute in {kind}{reason}",
            hint=f"--fp32 --store {kind} keeps constants in it; {arithmetic.examples} compute",
        )
    more = tuple(flag for flag in flags if flag not in target.features)
    checks = tuple(word for word in words if word not in target.requires)
    return replace(target, features=(*target.features, *more), requires=(*target.requires, *checks))


def with_float16(target: Target) -> Target:
    """Return a target that computes in float16; see `with_arithmetic`."""
    return with_arithmetic(target, "float16")


def with_bfloat16(target: Target) -> Target:
    """Return a target that multiplies bfloat16 numbers; see `with_arithmetic`."""
    return with_arithmetic(target, "bfloat16")
