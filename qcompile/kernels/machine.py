"""Whether LLVM knows a machine: what it does not know it would leave out, with a word of its own at most."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import tvm

from qcompile.errors import TargetError, did_you_mean
from qcompile.kernels.build import Machine


def check_machine(target: Machine, origin: str) -> None:
    """Refuse a description whose processor or features LLVM does not know.

    Args:
        target: LLVM triple, CPU and features.
        origin: where they are written, for messages.

    Raises:
        TargetError: a name is unknown.
    """
    llvm = tvm.target.codegen
    cpus = sorted(map(str, llvm.llvm_get_cpu_archlist(_llvm(target.triple))))
    if target.cpu not in cpus:
        problem = f"{origin}: key 'cpu' is '{target.cpu}', which LLVM does not know for {target.triple}"
        raise TargetError(problem, hint=did_you_mean(target.cpu, cpus))
    known = {str(name) for cpu in cpus for name in llvm.llvm_get_cpu_features(_llvm(target.triple, mcpu=cpu))}
    for flag in target.features:
        name = flag.lstrip("+-")
        if name in known:
            continue
        # No processor has it from the start, so LLVM may know it all the same; else it complains.
        with _silent():
            enabled = llvm.llvm_get_cpu_features(_llvm(target.triple, mcpu=target.cpu, mattr=[f"+{name}"]))
        if name not in map(str, enabled):
            problem = f"{origin}: key 'features' names '{flag}', which LLVM does not know for {target.triple}"
            raise TargetError(problem, hint=did_you_mean(name, sorted(known)))


def _llvm(triple: str, **options: object) -> tvm.target.Target:
    return tvm.target.Target({"kind": "llvm", "mtriple": triple, **options})


@contextmanager
def _silent() -> Iterator[None]:
    """Keep what LLVM itself says from the terminal."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
