"""Makes the program runner of tests/lower importable; names the machines."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "lower"))

import program_execution

from qcompile.targets import Target


@pytest.fixture(scope="session", params=program_execution.INSTRUCTION_SETS)
def machine(request: pytest.FixtureRequest) -> Target:
    """Each instruction set that this processor has, in turn."""
    found = program_execution.machine(request.param)
    if found is None:
        pytest.skip(f"this processor cannot run {request.param}")
    return found
