"""Which targets multiply in float16, and what their bundles then need of the machine."""

from __future__ import annotations

from dataclasses import replace

from qcompile.errors import TargetError
from qcompile.targets import features
from qcompile.targets.target import Target

_FLAGS = {"x86_64": "+avx512fp16", "aarch64": "+fullfp16"}
_INSTRUCTION_SETS = frozenset({"avx512_vnni", "amx_int8", "neon_dotprod", "neon_i8mm"})
"""Those whose kernels have a float16 form."""


def with_float16(target: Target) -> Target:
    """Return a target with the compiler feature and the run-time checks of float16 arithmetic.

    Args:
        target: the machine has it where `requires` or `optional` lists it: "asimdhp" or "avx512fp16".

    Raises:
        TargetError: it does not, or its instruction set has no such kernels.
    """
    flag = _FLAGS[target.arch]
    words = features.required_by(target.arch, flag[1:])
    present = {*target.requires, *target.optional}
    if target.isa not in _INSTRUCTION_SETS or not present.issuperset(words):
        missing = [word for word in words if word not in present]
        reason = f" (no {', '.join(missing)})" if missing else f" (no kernels for {target.isa})"
        raise TargetError(
            f"target '{target.name}' does not compute in float16{reason}",
            hint="--fp32 --store float16 keeps constants in it; rpi5, graviton2, graviton3 and x86-64-v4-amx compute",
        )
    flags = target.features if flag in target.features else (*target.features, flag)
    return replace(target, features=flags, requires=(*target.requires, *(w for w in words if w not in target.requires)))
