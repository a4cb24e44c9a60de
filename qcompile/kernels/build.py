"""Compile kernels to one ELF object with a plain C interface and no runtime library.

The generators emit what LLVM's code generator takes directly: flat memory, explicit vectors,
no parallel loop, no allocation.  So none of TVM's scheduling or packing passes is run.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import tvm
from tvm import tirx

from qcompile.errors import InternalError
from qcompile.kernels.kernel import Kernel


class Machine(Protocol):
    """What the code generator needs to know of a target (``qcompile.targets.Target`` fits)."""

    @property
    def triple(self) -> str:
        """LLVM's target triple."""

    @property
    def cpu(self) -> str:
        """LLVM's processor name."""

    @property
    def features(self) -> tuple[str, ...]:
        """LLVM's feature names, each with its sign."""


def _llvm_module(kernels: Iterable[Kernel], target: Machine) -> Any:
    unique: dict[str, Any] = {}
    for kernel in kernels:
        unique.setdefault(kernel.name, kernel.func)
    if not unique:
        raise InternalError("build_objects needs at least one kernel")
    llvm = tvm.target.Target(
        {"kind": "llvm", "mtriple": target.triple, "mcpu": target.cpu, "mattr": _attributes(target.features)}
    )
    module = tvm.IRModule({name: unique[name] for name in sorted(unique)})
    module = tirx.transform.BindTarget(llvm.with_host(llvm))(module)
    module = tirx.transform.LowerIntrin()(module)
    return tvm.get_global_func("target.build.llvm")(module, llvm)


def _attributes(features: tuple[str, ...]) -> list[str]:
    found = [name if name[:1] in "+-" else f"+{name}" for name in features]
    if "+avx512vnni" in found:
        # Else LLVM takes ``vpdpwssd`` apart for a shorter chain of sums, and a tile has chains enough.
        found.append("+fast-dpwssd")
    return found


def build_objects(kernels: Iterable[Kernel], target: Machine) -> bytes:
    """Compile kernels; those of equal name once.

    Args:
        kernels: at least one; the order does not matter, the object's bytes are the same.
        target: LLVM triple, CPU and features.

    Returns:
        A relocatable ELF file that exports each kernel by its name and needs no other symbol.
    """
    module = _llvm_module(kernels, target)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernels.o"
        module.write_to_file(str(path), "o")
        return path.read_bytes()


def assembly(kernels: Iterable[Kernel], target: Machine) -> str:
    """Compile kernels to assembly text, for people and for tests of what LLVM made."""
    return str(_llvm_module(kernels, target).inspect_source("asm"))
