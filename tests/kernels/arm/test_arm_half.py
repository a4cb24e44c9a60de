"""Layers on float16 numbers: right on the emulated cores, by the intended instruction."""

from __future__ import annotations

import re
from dataclasses import replace

import aarch64_runner
import layers as arm_layers
import numpy as np
import pytest
from half_layers import SHAPES, assert_close, half_layer
from machine_code import hottest, lines_of, opcode, share

from qcompile.errors import LoweringError
from qcompile.kernels import isa as instruction_sets
from qcompile.kernels.build import assembly
from qcompile.kernels.conv import plan_conv
from qcompile.kernels.conv_workload import ConvWorkload
from qcompile.targets import Target, load

pytestmark = pytest.mark.arm
POINTWISE = ConvWorkload(1, 28, 28, 192, 64, precision="float16", output="float16")
DEPTHWISE = replace(POINTWISE, filters=192, kernel=(3, 3), pads=(1, 1, 1, 1), groups=192, activation="clip")


@pytest.mark.usefixtures("qemu")
@pytest.mark.parametrize("machine", ["rpi5", "graviton3"], indirect=True)
def test_every_geometry(machine: Target) -> None:
    rng = np.random.default_rng(5)
    layers = [half_layer(work, rng) for work in SHAPES]
    results = aarch64_runner.run(machine, [arm_layers.split_at_random(rng, layer, machine) for layer in layers])
    for layer, (result,) in zip(layers, results, strict=True):
        assert_close(layer, result)


def _lines(work: ConvWorkload, target: Target) -> list[str]:
    kernel = plan_conv(work, instruction_sets.load(target.isa), target)
    return lines_of(assembly([kernel], target), kernel.name)


@pytest.mark.parametrize("machine", ["rpi5", "graviton2", "graviton3"], indirect=True)
def test_products_are_fmla_by_lane_of_eight(machine: Target) -> None:
    loop = hottest(_lines(POINTWISE, machine), {"fmla"})
    assert not [line for line in loop if "[sp" in line]
    assert share(loop, {"fmla"}) >= 0.8
    assert all(re.search(r"\.8h, v\d+\.8h, v\d+\.h\[[0-7]\]$", line) for line in loop if opcode(line) == "fmla")


@pytest.mark.parametrize("machine", ["rpi5"], indirect=True)
def test_long_sums_are_float32(machine: Target) -> None:
    """Short sums are widened after each block, and rounded again only where they are stored."""
    codes = [opcode(line) for line in _lines(POINTWISE, machine) if line.startswith("\t")]
    assert codes.count("fcvtl") == codes.count("fcvtl2") == codes.count("fadd") // 2 > 0
    assert codes.count("fcvtn2") > 0


@pytest.mark.parametrize("machine", ["rpi5"], indirect=True)
def test_depthwise_multiplies_and_bounds_eight_at_once(machine: Target) -> None:
    lines = _lines(DEPTHWISE, machine)
    loop = hottest(lines, {"fmla"})
    assert all(".8h" in line for line in loop if opcode(line) == "fmla")
    assert all(".8h" in line for line in lines if opcode(line) in {"fmaxnm", "fminnm"})
    assert not [line for line in lines if opcode(line) in {"fcmgt", "bif", "bsl"}]


def test_cores_without_half_precision_are_refused() -> None:
    target = load("rpi4")
    with pytest.raises(LoweringError, match="no neon kernel multiplies float16"):
        plan_conv(POINTWISE, instruction_sets.load(target.isa), target)
