"""3x3 convolutions whose outputs share products: fewer of them, the same bits."""

from __future__ import annotations

from dataclasses import replace

import conv_reference
import layers_x86
import native_runner
import numpy as np
import pytest
import x86_machines
from test_objects import hot_loops

from qcompile.kernels import isa as instruction_sets
from qcompile.kernels import winograd
from qcompile.kernels.build import assembly
from qcompile.kernels.conv import plan_conv
from qcompile.kernels.conv_plan import Blocking, ConvPlan, Tiling
from qcompile.kernels.conv_workload import ConvWorkload
from qcompile.kernels.tuned import is_possible, numbers_of, plan_of
from qcompile.kernels.winograd_plan import items, shared_plan, shared_plans
from qcompile.targets import Target


def layer(height: int, width: int, channels: int, filters: int, **more: object) -> ConvWorkload:
    work = ConvWorkload(1, height, width, channels, filters, (3, 3), pads=(1, 1, 1, 1))
    return replace(work, **more)  # type: ignore[arg-type]


CASES = [
    (layer(14, 14, 16, 32), (2, 2), 6, 2, 14, 2),
    (layer(14, 14, 16, 32), (4, 4), 6, 2, 4, 1),
    (layer(13, 15, 5, 37, batch=2, residual=True), (4, 4), 6, 2, 13, 1),
    (layer(7, 9, 33, 20, table=True), (2, 4), 5, 1, 2, 3),
    (layer(7, 2, 33, 20, output="int32"), (4, 4), 4, 1, 4, 3),
    (layer(14, 14, 64, 40, residual=True, bounded_residual=True), (2, 4), 6, 2, 14, 2),
    (layer(3, 3, 1, 1, pads=(0, 0, 0, 0)), (2, 2), 4, 1, 1, 1),
    (layer(9, 11, 18, 24, pads=(2, 0, 1, 2), output="float32"), (4, 4), 12, 1, 10, 1),
    (layer(10, 10, 12, 9, pads=(0, 0, 0, 0), batch=2, full_range=True), (2, 4), 6, 1, 2, 1),
    (layer(9, 11, 20, 24, in_pitch=29, out_pitch=70), (4, 4), 4, 2, 4, 1),
    (layer(13, 9, 12, 40, batch=2, residual=True), (4, 4), 6, 2, 8, 1),  # blocks of two rows of tiles, two times
    (layer(11, 5, 40, 24, pads=(3, 2, 2, 3)), (2, 4), 5, 2, 4, 2),  # of two, and of one
    (layer(9, 11, 18, 24, pads=(2, 0, 1, 2), activation="channel_hard_swish"), (4, 4), 12, 1, 10, 1),
    (layer(7, 9, 33, 20, activation="channel_clip", full_range=True), (2, 4), 5, 1, 2, 3),
]


def plan_of_case(work: ConvWorkload, square: tuple[int, int], mr: int, nv: int, rows: int, blocks: int) -> ConvPlan:
    return ConvPlan(Tiling(1, mr, nv), Blocking(rows, work.out_width, blocks), square)


def on_lanes(plan: ConvPlan, filters: int, lanes: int) -> ConvPlan:
    """The plan with no more blocks of filters than vectors of so many lanes leave."""
    most = -(-filters // (plan.tiling.nv * lanes))
    return replace(plan, blocking=replace(plan.blocking, blocks=min(plan.blocking.blocks, most)))


@pytest.mark.parametrize("square", winograd.SQUARES)
def test_the_algorithm_is_exact_in_16_and_32_bits(square: tuple[int, int]) -> None:
    rng, (down, across) = np.random.default_rng(0), winograd.forms(square)
    pixels = rng.choice([-128, 127, 3], (down.points, across.points, 9)).astype(np.int16)
    weights = rng.choice([-128, 127, -5], (6, 3, 3, 9)).astype(np.int8)
    half = down.pixels(list(pixels), lambda value: value)
    seen = np.array([across.pixels(list(row), lambda value: value) for row in half])
    assert seen.dtype == np.int16
    products = np.einsum("ijc,ijoc->ijo", *(v.astype(np.int32) for v in (seen, _square(weights, square))))
    rows = [across.sums(list(row), lambda value: value) for row in products.astype(np.int32)]
    thirds = np.uint32(pow(winograd.INVERSE_OF_3, down.thirds + across.thirds, 1 << 32))
    for x in range(square[1]):
        for y, total in enumerate(down.sums([row[x] for row in rows], lambda value: value)):
            found = (total.view(np.uint32) * thirds).view(np.int32) >> (down.shifts[y] + across.shifts[x])
            seen_here = pixels[y : y + 3, x : x + 3].astype(np.int32)
            np.testing.assert_array_equal(found, (seen_here * weights.astype(np.int32)).sum(axis=(1, 2, 3)))


def _square(weights: np.ndarray, square: tuple[int, int]) -> np.ndarray:
    found = winograd.transformed(weights, square)
    return found.reshape(square[0] + 2, square[1] + 2, *found.shape[1:])


def test_every_geometry_and_epilogue(pairs_machine: Target) -> None:
    target, isa, rng = pairs_machine, pairs_machine.isa, np.random.default_rng(1)
    layers = [conv_reference.make_layer(case[0], rng) for case in CASES]
    plans = [on_lanes(plan_of_case(*case), case[0].filters, instruction_sets.load(isa).pairs.lanes) for case in CASES]
    calls = [layers_x86.kernel_and_arguments(one, target, plan) for one, plan in zip(layers, plans, strict=True)]
    library = native_runner.Library([kernel for kernel, _ in calls], target)
    for one, plan, (kernel, arguments) in zip(layers, plans, calls, strict=True):
        assert is_possible(plan, one.work.canonical(), instruction_sets.load(isa))
        assert kernel.tiles == items(plan, one.work, instruction_sets.load(isa))
        wanted = layers_x86.expected(one, target)
        alone = [(i, i + 1) for i in reversed(range(kernel.tiles))]
        for ranges, noise in ((None, 0x5A), (alone, 0x7F), (alone, 0x80)):
            found = library.run(kernel, arguments, ranges=ranges, noise=noise)
            np.testing.assert_array_equal(found, wanted, err_msg=f"{one.work} {plan}")


def test_operands_at_their_ends() -> None:
    """The widest layer that each tile of outputs allows, with all products of one sign."""
    target, rng = x86_machines.x86_target("avx2"), np.random.default_rng(2)
    layers, plans = [], []
    for square in winograd.SQUARES:
        channels = next(c for c in range(1800, 0, -1) if winograd.fits(layer(4, 4, c, 8), square))
        assert channels == (1800 if square == (2, 2) else {(4, 4): 227, (2, 4): 910}[square])
        one = conv_reference.make_layer(layer(4, 4, channels, 8, output="int32"), rng)
        one.x[...], one.weights[...] = -128, -128
        layers.append(one)
        plans.append(plan_of_case(one.work, square, 1, 1, 4, 1))
    calls = [layers_x86.kernel_and_arguments(one, target, plan) for one, plan in zip(layers, plans, strict=True)]
    library = native_runner.Library([kernel for kernel, _ in calls], target)
    for one, (kernel, arguments) in zip(layers, calls, strict=True):
        np.testing.assert_array_equal(library.run(kernel, arguments), layers_x86.expected(one, target))


def test_the_output_may_overwrite_the_residual() -> None:
    target, work = x86_machines.x86_target("avx2"), layer(9, 9, 24, 40, residual=True)
    plan = plan_of_case(work, (4, 4), 6, 2, 4, 1)
    kernel, arguments = layers_x86.kernel_and_arguments(
        conv_reference.make_layer(work, np.random.default_rng(3)), target, plan
    )
    library = native_runner.Library([kernel], target)
    np.testing.assert_array_equal(library.run(kernel, arguments, in_place=4), library.run(kernel, arguments))


def assert_chosen(work: ConvWorkload, isa: instruction_sets.Isa, least: int) -> None:
    """Check that a layer is shared, in at least so many pieces of work, by a plan that can be written down."""
    plan = shared_plan(work, isa)
    assert plan is not None
    assert items(plan, work, isa) >= least
    assert plan_of(numbers_of(plan)) == plan
    assert all(is_possible(other, work, isa) for other in shared_plans(work, isa))


def test_it_is_chosen_where_it_pays() -> None:
    isa = instruction_sets.load("avx2")
    for work in (layer(56, 56, 64, 64), layer(28, 28, 128, 128), layer(14, 14, 256, 256)):
        assert_chosen(work, isa, 8)
    plain = layer(56, 56, 64, 64)
    for work in (
        layer(7, 7, 512, 512),  # its weights would take 8 MB and more
        layer(224, 224, 3, 64),  # three channels fill no vector of pixels
        replace(plain, strides=(2, 2)),
        replace(plain, dilations=(2, 2), pads=(2, 2, 2, 2)),
        replace(plain, groups=2),
        replace(plain, kernel=(1, 1), pads=(0, 0, 0, 0)),
        replace(plain, precision="float32", output="float32"),
    ):
        assert shared_plan(work, isa) is None


def test_it_is_chosen_where_products_of_bytes_are_slower() -> None:
    isa = instruction_sets.load("avx512_vnni")
    for work in (layer(56, 56, 64, 64), layer(28, 28, 128, 128), layer(28, 28, 96, 96)):
        assert_chosen(work, isa, 12)
    for work in (
        layer(14, 14, 256, 256),  # its weights would come from far
        layer(14, 14, 128, 128),  # tiles reach past the edges, and few share the weights
        layer(56, 56, 32, 32),  # transforms cost more than products
    ):
        assert shared_plan(work, isa) is None
    assert shared_plan(layer(56, 56, 64, 64), instruction_sets.load("amx_int8")) is None


def test_impossible_plans_are_refused() -> None:
    isa, work = instruction_sets.load("avx2"), layer(14, 14, 64, 64)
    fine = plan_of_case(work, (4, 4), 6, 2, 8, 2)
    assert is_possible(fine, work, isa)
    wrong = [
        replace(fine, square=(4, 2)),
        replace(fine, square=(3, 3)),
        replace(fine, tiling=Tiling(2, 6, 2)),
        replace(fine, tiling=Tiling(1, 12, 2)),  # more sums than registers
        replace(fine, blocking=Blocking(6, 14, 2)),  # a block ends within a tile
        replace(fine, blocking=Blocking(8, 8, 2)),
        replace(fine, blocking=Blocking(8, 14, 5)),
    ]
    assert not [plan for plan in wrong if is_possible(plan, work, isa)]
    assert is_possible(replace(fine, blocking=Blocking(12, 14, 2)), work, isa)  # blocks of 3 and of 1 rows of tiles
    assert not is_possible(fine, work, instruction_sets.load("amx_int8"))
    assert not is_possible(fine, layer(14, 14, 256, 64), isa)  # sums could leave their reach


def test_the_hot_loop_multiplies_pairs_and_keeps_its_sums_in_registers() -> None:
    target = x86_machines.x86_target("avx2")
    kernel = plan_conv(layer(56, 56, 64, 64), instruction_sets.load("avx2"), target)
    loops = hot_loops(assembly([kernel], target))
    hot = max(loops, key=lambda body: sum("vpmaddwd" in line for line in body))
    assert sum("vpmaddwd" in line for line in hot) / len(hot) >= 0.33
    assert not [line for line in hot if "%rsp" in line or "vpmovsx" in line]


def test_one_instruction_multiplies_pairs_and_adds_them() -> None:
    target = x86_machines.x86_target("avx512_vnni")
    kernel = plan_conv(layer(56, 56, 64, 64), instruction_sets.load("avx512_vnni"), target)
    loops = hot_loops(assembly([kernel], target))
    hot = max(loops, key=lambda body: sum("vpdpwssd" in line for line in body))
    assert sum("vpdpwssd" in line for line in hot) / len(hot) >= 0.55
    assert not [line for line in hot if "%rsp" in line or "vpmaddwd" in line]
