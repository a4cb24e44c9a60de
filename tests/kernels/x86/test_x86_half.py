"""Layers on float16 numbers: right on this processor, by the intended instruction."""

from __future__ import annotations

import re
from dataclasses import replace

import layers_x86
import native_runner
import numpy as np
import pytest
import x86_machines
from half_layers import SHAPES, assert_close, half_layer

from qcompile.kernels import isa as instruction_sets
from qcompile.kernels.build import assembly
from qcompile.kernels.conv import plan_conv
from qcompile.kernels.conv_workload import ConvWorkload
from qcompile.targets import Target, load, with_float16

POINTWISE = ConvWorkload(1, 28, 28, 192, 64, precision="float16", output="float16")


@pytest.fixture
def machine() -> Target:
    return with_float16(load("x86-64-v4-amx"))


def test_every_geometry(machine: Target) -> None:
    if "avx512_fp16" not in x86_machines.cpu_flags():
        pytest.skip("this processor lacks avx512_fp16")
    rng = np.random.default_rng(6)
    layers = [half_layer(work, rng) for work in SHAPES]
    calls = [layers_x86.kernel_and_arguments(layer, machine) for layer in layers]
    library = native_runner.Library([kernel for kernel, _ in calls], machine)
    for layer, (kernel, arguments) in zip(layers, calls, strict=True):
        assert_close(layer, library.run(kernel, arguments))


def test_the_split_into_ranges_decides_no_bit(machine: Target) -> None:
    if "avx512_fp16" not in x86_machines.cpu_flags():
        pytest.skip("this processor lacks avx512_fp16")
    work = replace(POINTWISE, channels=150, kernel=(3, 3), pads=(1, 1, 1, 1))
    layer = half_layer(work, np.random.default_rng(7))
    kernel, arguments = layers_x86.kernel_and_arguments(layer, machine)
    library = native_runner.Library([kernel], machine)
    assert kernel.tiles > 3
    pieces = [(2, kernel.tiles), (0, 1), (1, 2)]
    np.testing.assert_array_equal(library.run(kernel, arguments), library.run(kernel, arguments, ranges=pieces))


def test_products_take_32_at_once(machine: Target) -> None:
    kernel = plan_conv(POINTWISE, instruction_sets.load(machine.isa), machine)
    text = assembly([kernel], machine)
    assert re.search(r"vfmadd231ph\t.*%zmm\d+, %zmm\d+, %zmm\d+", text)
    assert "vcvtph2psx" in text or "vcvtph2ps" in text
    assert "vfmadd231ps" not in text
