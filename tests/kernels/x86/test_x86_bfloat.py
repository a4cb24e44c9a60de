"""Layers on bfloat16 numbers: right on this processor, by the intended instruction."""

from __future__ import annotations

import re
from dataclasses import replace

import layers_x86
import native_runner
import numpy as np
import pytest
import x86_machines
from half_layers import BFLOAT_SHAPES, assert_close, half_layer

from qcompile.errors import LoweringError
from qcompile.kernels import isa as instruction_sets
from qcompile.kernels.build import assembly
from qcompile.kernels.conv import plan_conv
from qcompile.kernels.conv_workload import ConvWorkload
from qcompile.targets import Target, load, with_bfloat16

POINTWISE = ConvWorkload(1, 28, 28, 192, 64, precision="bfloat16", output="bfloat16")
_FLAGS = {"zen4": {"avx512_bf16"}, "x86-64-v4-amx": {"avx512_bf16", "amx_bf16"}}
_NOT_A_NUMBER = 0xFF


@pytest.fixture(params=list(_FLAGS))
def machine(request: pytest.FixtureRequest) -> Target:
    return with_bfloat16(load(request.param))


@pytest.fixture
def here(machine: Target) -> Target:
    missing = _FLAGS[machine.name] - x86_machines.cpu_flags()
    if missing or (machine.isa == "amx_int8" and not x86_machines.tiles_granted()):
        pytest.skip(f"this processor lacks {', '.join(sorted(missing)) or 'tiles'}")
    return machine


def test_every_geometry(here: Target) -> None:
    """What lies past the operands is no number: reading it would show."""
    rng = np.random.default_rng(6)
    layers = [half_layer(work, rng) for work in BFLOAT_SHAPES]
    calls = [layers_x86.kernel_and_arguments(layer, here) for layer in layers]
    library = native_runner.Library([kernel for kernel, _ in calls], here)
    for layer, (kernel, arguments) in zip(layers, calls, strict=True):
        assert_close(layer, library.run(kernel, arguments, noise=_NOT_A_NUMBER))


def test_the_split_into_ranges_decides_no_bit(here: Target) -> None:
    work = replace(POINTWISE, channels=150, kernel=(3, 3), pads=(1, 1, 1, 1))
    layer = half_layer(work, np.random.default_rng(7))
    kernel, arguments = layers_x86.kernel_and_arguments(layer, here)
    library = native_runner.Library([kernel], here)
    assert kernel.tiles > 3
    pieces = [(2, kernel.tiles), (0, 1), (1, 2)]
    np.testing.assert_array_equal(library.run(kernel, arguments), library.run(kernel, arguments, ranges=pieces))


def test_the_intended_instructions(machine: Target) -> None:
    text = assembly([plan_conv(POINTWISE, instruction_sets.load(machine.isa), machine)], machine)
    product = r"tdpbf16ps\t%tmm" if machine.isa == "amx_int8" else r"vdpbf16ps\t.*%zmm\d+, %zmm\d+"
    assert re.search(product, text)
    assert "vcvtneps2bf16" in text
    assert "vfmadd231ps" not in text


def test_layers_that_tiles_do_not_fit_take_dot_products() -> None:
    """An odd run of K would make a tile read past it."""
    machine = with_bfloat16(load("x86-64-v4-amx"))
    text = assembly([plan_conv(replace(POINTWISE, channels=191), instruction_sets.load(machine.isa), machine)], machine)
    assert "tdpbf16ps" not in text
    assert "vdpbf16ps" in text


def test_instruction_sets_without_it_are_refused() -> None:
    target = load("x86-64-v3")
    with pytest.raises(LoweringError, match="no avx2 kernel multiplies bfloat16"):
        plan_conv(POINTWISE, instruction_sets.load(target.isa), target)
