"""Modelled cycles of the hot loops: how near they come to what a core can multiply."""

from __future__ import annotations

import machine_code
import pytest
from test_arm_assembly import DENSE, POINTWISE, SQUARE, body

from qcompile.kernels.conv_workload import ConvWorkload
from qcompile.targets import Target

pytestmark = pytest.mark.arm

PEAK = {"cortex-a53": 16 / 3, "cortex-a72": 8.0, "cortex-a76": 32.0, "neoverse-n1": 32.0, "neoverse-v1": 128.0}
"""Products a cycle of LLVM's models: in order, a multiplication, another and an addition for 16; else by pipes."""

LEAST = {"cortex-a53": 0.75, "neoverse-v1": 0.85}
"""In order, loads take cycles of their own; a ``zip`` takes the pipes of ``smmla``."""


@pytest.mark.parametrize("work", [POINTWISE, SQUARE], ids=["1x1", "3x3"])
def test_hot_loops_multiply_at_the_speed_of_the_core(machine: Target, work: ConvWorkload) -> None:
    assert _rate(work, machine) >= LEAST.get(machine.cpu, 0.9)


def test_one_row_of_pixels_is_not_far_behind(machine: Target) -> None:
    assert _rate(DENSE, machine) >= 0.6


def _rate(work: ConvWorkload, machine: Target) -> float:
    """Products a cycle of a layer's hot loop, by the core's peak."""
    if machine_code.mca() is None:
        pytest.skip("llvm-mca of LLVM 17 or later is not installed (Debian: llvm-19)")
    loop = machine_code.hottest(body(work, machine), machine_code.MACS)
    return machine_code.macs(loop) / machine_code.cycles(loop, machine.cpu) / PEAK[machine.cpu]
