"""Makes the modules of this directory, and the reference of the ARM tests, importable; names the machines."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "arm"))
sys.path.insert(0, str(Path(__file__).parent))

import x86_machines

from qcompile.targets import Target


def _machine(isa: str) -> Target:
    """The target of an instruction set; skips, with its reason, what this processor lacks."""
    if platform.machine() != "x86_64":
        pytest.skip("not an x86-64 machine")
    lacking = x86_machines.NEEDS.get(isa, set()) - x86_machines.cpu_flags()
    if lacking:
        pytest.skip(f"this processor lacks {', '.join(sorted(lacking))}")
    if isa == "amx_int8" and not x86_machines.tiles_granted():
        pytest.skip("this system does not hand out AMX tiles")
    return x86_machines.x86_target(isa)


@pytest.fixture(scope="session", params=["amx_int8", "avx512_vnni", "avx_vnni", "avx2", "sse2", "portable"])
def machine(request: pytest.FixtureRequest) -> Target:
    """Each x86 instruction set in turn."""
    return _machine(request.param)


@pytest.fixture(scope="session", params=["avx512_vnni", "avx2", "sse2", "portable"])
def float_machine(request: pytest.FixtureRequest) -> Target:
    """Those with float kernels of their own; a test asserts that the others share them."""
    return _machine(request.param)


@pytest.fixture(scope="session", params=["avx512_vnni", "avx2", "sse2"])
def pairs_machine(request: pytest.FixtureRequest) -> Target:
    """Those that multiply pairs of 16-bit numbers."""
    return _machine(request.param)
