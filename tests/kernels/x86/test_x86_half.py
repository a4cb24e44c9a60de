"""Layers on float16 and bfloat16 numbers: right on this processor, by the intended instruction."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import layers_x86
import native_runner
import numpy as np
import pytest
import x86_machines
from half_layers import BFLOAT_SHAPES, SHAPES, assert_close, half_layer

from qcompile.errors import LoweringError
from qcompile.kernels import isa as instruction_sets
from qcompile.kernels.build import assembly
from qcompile.kernels.conv import plan_conv
from qcompile.kernels.conv_workload import ConvWorkload
from qcompile.targets import Target, load, with_bfloat16, with_float16

NOT_A_NUMBER = 0xFF


@dataclass(frozen=True)
class Kind:
    """A target that computes with numbers of 16 bits.

    Args:
        precision: the type of the numbers.
        target: its name.
        chosen: makes its kernels use them.
        flags: which a processor needs, as Linux names them.
        intended: patterns of the instructions that a layer of products takes.
    """

    precision: str
    target: str
    chosen: Callable[[Target], Target]
    flags: frozenset[str]
    intended: tuple[str, ...]

    @property
    def machine(self) -> Target:
        return self.chosen(load(self.target))

    @property
    def pointwise(self) -> ConvWorkload:
        return ConvWorkload(1, 28, 28, 192, 64, precision=self.precision, output=self.precision)

    @property
    def shapes(self) -> list[ConvWorkload]:
        return SHAPES if self.precision == "float16" else BFLOAT_SHAPES


KINDS = [
    Kind(
        "float16",
        "x86-64-v4-amx",
        with_float16,
        frozenset({"avx512_fp16"}),
        (r"vfmadd231ph\t.*%zmm\d+, %zmm\d+, %zmm\d+", "vcvtph2psx?"),
    ),
    Kind(
        "bfloat16",
        "zen4",
        with_bfloat16,
        frozenset({"avx512_bf16"}),
        (r"vdpbf16ps\t.*%zmm\d+, %zmm\d+", "vcvtneps2bf16"),
    ),
    Kind(
        "bfloat16",
        "x86-64-v4-amx",
        with_bfloat16,
        frozenset({"avx512_bf16", "amx_bf16"}),
        (r"tdpbf16ps\t%tmm", "vcvtneps2bf16"),
    ),
]


@pytest.fixture(params=KINDS, ids=lambda kind: f"{kind.precision}-{kind.target}")
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


@pytest.fixture
def here(kind: Kind) -> Kind:
    missing = kind.flags - x86_machines.cpu_flags()
    if missing or ("amx_bf16" in kind.flags and not x86_machines.tiles_granted()):
        pytest.skip(f"this processor lacks {', '.join(sorted(missing)) or 'tiles'}")
    return kind


def test_every_geometry(here: Kind) -> None:
    """What lies past the operands is no number: reading it would show."""
    rng = np.random.default_rng(6)
    layers = [half_layer(work, rng) for work in here.shapes]
    calls = [layers_x86.kernel_and_arguments(layer, here.machine) for layer in layers]
    library = native_runner.Library([kernel for kernel, _ in calls], here.machine)
    for layer, (kernel, arguments) in zip(layers, calls, strict=True):
        assert_close(layer, library.run(kernel, arguments, noise=NOT_A_NUMBER))


def test_the_split_into_ranges_decides_no_bit(here: Kind) -> None:
    work = replace(here.pointwise, channels=150, kernel=(3, 3), pads=(1, 1, 1, 1))
    layer = half_layer(work, np.random.default_rng(7))
    kernel, arguments = layers_x86.kernel_and_arguments(layer, here.machine)
    library = native_runner.Library([kernel], here.machine)
    assert kernel.tiles > 3
    pieces = [(2, kernel.tiles), (0, 1), (1, 2)]
    np.testing.assert_array_equal(library.run(kernel, arguments), library.run(kernel, arguments, ranges=pieces))


def test_the_intended_instructions(kind: Kind) -> None:
    isa = instruction_sets.load(kind.machine.isa)
    text = assembly([plan_conv(kind.pointwise, isa, kind.machine)], kind.machine)
    for pattern in kind.intended:
        assert re.search(pattern, text), pattern
    assert "vfmadd231ps" not in text


@pytest.mark.parametrize(
    ("channels", "intended"),
    [
        pytest.param(8, KINDS[2], id="few products are worth a tile"),
        pytest.param(191, KINDS[1], id="an odd run of K would make a tile read past it"),
    ],
)
def test_what_tiles_are_for(channels: int, intended: Kind) -> None:
    machine = KINDS[2].machine
    work = replace(KINDS[2].pointwise, channels=channels)
    text = assembly([plan_conv(work, instruction_sets.load(machine.isa), machine)], machine)
    assert [kind.target for kind in KINDS[1:] if re.search(kind.intended[0], text)] == [intended.target]


def test_instruction_sets_without_it_are_refused() -> None:
    target = load("x86-64-v3")
    with pytest.raises(LoweringError, match="no avx2 kernel multiplies bfloat16"):
        plan_conv(KINDS[1].pointwise, instruction_sets.load(target.isa), target)
