"""Convolutions on the emulated cores, bit for bit against NumPy."""

from __future__ import annotations

import aarch64_runner
import conv_reference
import numpy as np
import pytest

from qcompile.kernels import isa as instruction_sets
from qcompile.kernels.conv import plan_conv
from qcompile.kernels.conv_packing import pack_conv, pack_table
from qcompile.targets import Target

pytestmark = pytest.mark.arm


def case(layer: conv_reference.Layer, target: Target, rng: np.random.Generator) -> aarch64_runner.Case:
    """The kernel of a layer with its packed operands, its tiles split at random."""
    work, isa = layer.work, instruction_sets.load(target.isa)
    kernel = plan_conv(work, isa, target)
    packed = pack_conv(work, isa, layer.weights, layer.bias, layer.multipliers, layer.scalars)
    output = np.zeros((work.batch, work.out_height, work.out_width, work.filters), work.output)
    arguments = [
        layer.x,
        packed.weights,
        packed.bias,
        packed.multipliers,
        None,
        None,
        output,
        packed.parameters,
    ]
    arguments[4] = layer.residual if work.residual else None
    arguments[5] = pack_table(layer.table, isa) if work.table else None
    cut = int(rng.integers(0, kernel.tiles + 1))
    return aarch64_runner.Case(kernel, arguments, [6], [(cut, kernel.tiles), (0, cut)])


def check(layers: list[conv_reference.Layer], target: Target, rng: np.random.Generator) -> None:
    """Run all layers in one process and compare."""
    results = aarch64_runner.run(target, [case(layer, target, rng) for layer in layers])
    for layer, (result,) in zip(layers, results, strict=True):
        wanted = conv_reference.expected(layer)
        if layer.work.precision == "float32":
            scale = np.abs(layer.weights).sum(axis=(1, 2, 3)) * np.abs(layer.x).max() + 1
            assert np.all(np.abs(result - wanted) <= 1e-6 * scale), layer.work
        else:
            np.testing.assert_array_equal(result, wanted, err_msg=str(layer.work))


@pytest.mark.usefixtures("qemu")
def test_every_geometry(machine: Target) -> None:
    rng = np.random.default_rng(1)
    check([conv_reference.make_layer(work, rng) for work in conv_reference.SHAPES], machine, rng)


@pytest.mark.usefixtures("qemu")
def test_random_layers_with_random_epilogues(machine: Target) -> None:
    rng = np.random.default_rng(2)
    works = [conv_reference.epilogues(conv_reference.random_workload(rng), rng) for _ in range(40)]
    check([conv_reference.make_layer(work, rng) for work in works], machine, rng)
