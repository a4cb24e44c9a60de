"""What LLVM makes of the kernels: the intended instruction in the hot loop, no spills, no fused floats."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from machine_code import hottest, lines_of, opcode, share

from qcompile import targets
from qcompile.kernels import isa as instruction_sets
from qcompile.kernels.build import assembly
from qcompile.kernels.conv import plan_conv
from qcompile.kernels.conv_workload import ConvWorkload
from qcompile.targets import Target

POINTWISE = ConvWorkload(1, 28, 28, 192, 64)
SQUARE = ConvWorkload(1, 28, 28, 64, 64, (3, 3), pads=(1, 1, 1, 1))
DEPTHWISE = ConvWorkload(1, 28, 28, 192, 192, (3, 3), pads=(1, 1, 1, 1), groups=192, full_range=True)
DENSE = ConvWorkload(1, 1, 1, 1280, 1000)
EPILOGUES = (
    {},
    {"residual": True},
    {"table": True},
    {"residual": True, "table": True},
    {"residual": True, "bounded_residual": True, "full_range": True},
    {"output": "float32"},
    {"output": "int32"},
)
DOT_PRODUCTS = {"neon": "sadalp", "neon_inorder": "sadalp", "neon_dotprod": "sdot", "neon_i8mm": "smmla"}


def body(work: ConvWorkload, target: Target) -> list[str]:
    """Labels and instructions of a kernel."""
    kernel = plan_conv(work, instruction_sets.load(target.isa), target)
    return lines_of(assembly([kernel], target), kernel.name)


def hot_loop(work: ConvWorkload, target: Target, mnemonic: str) -> list[str]:
    """The innermost loop with the most of an instruction."""
    return hottest(body(work, target), {mnemonic})


@pytest.mark.parametrize("work", [POINTWISE, SQUARE, DENSE], ids=["1x1", "3x3", "dense"])
def test_integer_products_fill_the_hot_loop_without_spills(machine: Target, work: ConvWorkload) -> None:
    loop = hot_loop(work, machine, DOT_PRODUCTS[machine.isa])
    assert not [line for line in loop if "[sp" in line]
    busy = share(loop, {"smmla", "sdot", "smull", "smull2", "smlal", "smlal2", "sadalp"})
    least = 0.6 if machine.isa == "neon_i8mm" else 0.7  # a smmla is twice an sdot, with the same loads
    assert busy >= (least if work.out_height > 1 else 0.5), loop


@pytest.mark.parametrize("machine", ["rpi3", "rpi4"], indirect=True)
def test_cores_without_the_dot_product_never_see_one(machine: Target) -> None:
    for work in (POINTWISE, SQUARE, DEPTHWISE):
        assert not [line for line in body(work, machine) if opcode(line) in {"sdot", "udot"}]


@pytest.mark.parametrize("machine", ["rpi5", "graviton2"], indirect=True)
def test_sdot_takes_its_activations_from_a_lane(machine: Target) -> None:
    dots = [line for line in hot_loop(POINTWISE, machine, "sdot") if opcode(line) == "sdot"]
    assert all(re.search(r"\.4b\[[0-3]\]$", line) for line in dots)


@pytest.mark.parametrize("machine", ["graviton3"], indirect=True)
def test_smmla_pairs_rows_with_few_moves(machine: Target) -> None:
    codes = [opcode(line) for line in hot_loop(POINTWISE, machine, "smmla")]
    moves = sum(codes.count(move) for move in ("zip1", "zip2", "mov", "ext", "dup"))  # "mov v0.d[1]" is half a zip
    assert moves * 6 <= codes.count("smmla")
    assert "sdot" not in codes


def test_float_tiles_use_fmla_by_lane_without_spills(machine: Target) -> None:
    work = replace(POINTWISE, precision="float32", output="float32")
    loop = hot_loop(work, machine, "fmla")
    assert not [line for line in loop if "[sp" in line]
    assert share(loop, {"fmla"}) >= 0.7
    assert all(re.search(r"\.s\[[0-3]\]$", line) for line in loop if opcode(line) == "fmla")


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("machine", ["rpi3", "rpi4"], indirect=True)
def test_depthwise_pairs_its_taps_in_16_bits(machine: Target, stride: int) -> None:
    loop = hot_loop(replace(DEPTHWISE, strides=(stride, stride)), machine, "saddw")
    assert sum(opcode(line) in {"smlal", "smlal2"} for line in loop) >= 8
    assert share(loop, {"smull", "smull2", "smlal", "smlal2", "saddw", "saddw2"}) >= 0.5
    assert not [line for line in loop if "[sp" in line or opcode(line) in {"sshll", "sshll2", "sxtl"}]


@pytest.mark.parametrize("machine", ["rpi3", "rpi4"], indirect=True)
def test_a_large_depthwise_filter_goes_row_by_row_without_spills(machine: Target) -> None:
    loop = hot_loop(replace(DEPTHWISE, kernel=(5, 5), pads=(2, 2, 2, 2)), machine, "saddw")
    assert share(loop, {"smull", "smull2", "smlal", "smlal2", "saddw", "saddw2"}) >= 0.65
    assert not [line for line in loop if "[sp" in line]


@pytest.mark.parametrize("machine", ["rpi5", "graviton2", "graviton3"], indirect=True)
def test_a_strided_depthwise_pairs_its_taps_too(machine: Target) -> None:
    loop = hot_loop(replace(DEPTHWISE, strides=(2, 2)), machine, "saddw")
    assert not [line for line in loop if "[sp" in line]


@pytest.mark.parametrize("machine", ["rpi5", "graviton2", "graviton3"], indirect=True)
def test_depthwise_interleaves_rows_for_sdot(machine: Target) -> None:
    loop = hot_loop(DEPTHWISE, machine, "sdot")
    assert share(loop, {"sdot", "zip1", "zip2"}) >= 0.3
    assert not [line for line in loop if "[sp" in line or opcode(line) in {"tbl", "mul", "mla"}]


@pytest.mark.parametrize("work", [POINTWISE, SQUARE, DEPTHWISE], ids=["1x1", "3x3", "depthwise"])
def test_integer_kernels_never_fuse_or_call(machine: Target, work: ConvWorkload) -> None:
    for end in EPILOGUES:
        lines = body(replace(work, **{"full_range": False, **end}), machine)
        codes = {opcode(line) for line in lines if line.startswith("\t")}
        assert not codes & {"fmadd", "fmla", "fmls", "fmsub", "fnmadd", "fnmsub", "bl", "blr"}, end


def test_codes_are_narrowed_with_saturation(machine: Target) -> None:
    codes = [opcode(line) for line in body(POINTWISE, machine) if line.startswith("\t")]
    assert {"fcvtns", "sqxtn", "sqadd"} <= set(codes)
    assert not {"frintn", "fcvtzs", "fmax", "fmin"} & set(codes)


def test_the_generic_target_needs_no_optional_instruction() -> None:
    lines = body(POINTWISE, targets.load("aarch64"))
    assert not [line for line in lines if opcode(line) in {"sdot", "udot", "smmla", "usdot"}]
