"""Layers on bfloat16 numbers: right on the emulated cores, by the intended instruction."""

from __future__ import annotations

import aarch64_runner
import layers as arm_layers
import numpy as np
import pytest
from half_layers import BFLOAT_SHAPES, assert_close, half_layer
from machine_code import hottest, lines_of, opcode, share

from qcompile.errors import LoweringError
from qcompile.kernels import isa as instruction_sets
from qcompile.kernels.build import assembly
from qcompile.kernels.conv import plan_conv
from qcompile.kernels.conv_workload import ConvWorkload
from qcompile.targets import load, with_bfloat16

pytestmark = pytest.mark.arm
POINTWISE = ConvWorkload(1, 28, 28, 192, 64, precision="bfloat16", output="bfloat16")


@pytest.mark.usefixtures("qemu")
def test_every_geometry() -> None:
    machine = with_bfloat16(load("graviton3"))
    rng = np.random.default_rng(5)
    layers = [half_layer(work, rng) for work in BFLOAT_SHAPES]
    results = aarch64_runner.run(machine, [arm_layers.split_at_random(rng, layer, machine) for layer in layers])
    for layer, (result,) in zip(layers, results, strict=True):
        assert_close(layer, result)


def test_products_are_of_matrices() -> None:
    machine = with_bfloat16(load("graviton3"))
    kernel = plan_conv(POINTWISE, instruction_sets.load(machine.isa), machine)
    lines = lines_of(assembly([kernel], machine), kernel.name)
    loop = hottest(lines, {"bfmmla"})
    assert share(loop, {"bfmmla"}) >= 0.5
    assert not [line for line in loop if "[sp" in line]
    assert {"bfcvtn", "bfcvtn2"} & {opcode(line) for line in lines}


def test_cores_without_it_are_refused() -> None:
    target = load("rpi5")
    with pytest.raises(LoweringError, match="no neon_dotprod kernel multiplies bfloat16"):
        plan_conv(POINTWISE, instruction_sets.load(target.isa), target)
