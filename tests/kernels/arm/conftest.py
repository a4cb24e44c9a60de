"""Makes the modules of this directory importable by its tests, and names the machines they cover."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import aarch64_runner

from qcompile import targets


@pytest.fixture(scope="session")
def qemu() -> None:
    """Skip, saying why, where AArch64 code cannot be run."""
    reason = aarch64_runner.missing()
    if reason:
        pytest.skip(reason)


@pytest.fixture(params=["rpi3", "rpi4", "rpi5", "graviton2", "graviton3"])
def machine(request: pytest.FixtureRequest) -> targets.Target:
    """Each AArch64 target in turn."""
    return targets.load(request.param)
