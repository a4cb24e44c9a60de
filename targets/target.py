"""What the compiler knows about a machine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """One machine, or one level of machines, to compile for.

    Nothing in it is inferred: features are listed, and all that the compiled code may execute is listed
    again, in the device's own words, in `requires`, which the bundle checks before its first step.

    Args:
        name: what `--target` takes.
        description: one line for people.
        triple: "x86_64-linux-gnu" or "aarch64-linux-gnu".
        cpu: LLVM's processor name (mcpu).
        features: LLVM's features (mattr), each with its sign: "+dotprod".
        isa: the instruction set the kernels use, a module of `qcompile.kernels.isa`.
        glibc: oldest C library on the device, "2.28".
        requires: run-time features to check, names of `features.RUNTIME_FEATURES`.
        cores: number of cores, for planning; a bundle's thread count is chosen when it is loaded.
        l1d_bytes: first-level data cache of one core, bytes.
        l2_bytes: second-level cache that one core can use, bytes.
        optional: run-time features that the machine has, but only some bundles use and check, such as "avx512fp16".
    """

    name: str
    description: str
    triple: str
    cpu: str
    features: tuple[str, ...]
    isa: str
    glibc: str
    requires: tuple[str, ...]
    cores: int
    l1d_bytes: int
    l2_bytes: int
    optional: tuple[str, ...] = ()

    @property
    def arch(self) -> str:
        """First word of the triple: "x86_64" or "aarch64"."""
        return self.triple.split("-", 1)[0]
