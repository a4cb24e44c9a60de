"""Whatever cut of a layer is chosen, its bits are the same."""

from __future__ import annotations

from dataclasses import replace

import conv_reference
import layers_x86
import native_runner
import numpy as np
import pytest

from qcompile.kernels import isa as instruction_sets
from qcompile.kernels.conv_plan import Blocking, ConvPlan, Tiling
from qcompile.kernels.conv_workload import ConvWorkload, dense, workload_fields
from qcompile.kernels.plan_space import block_plans, estimated_plan, items, tile_plans
from qcompile.kernels.tuned import TunedPlans, is_possible, numbers_of, plan_of
from qcompile.targets import Target
from qcompile.tuning.database import Database
from qcompile.tuning.record import Record

WORKS = [
    ConvWorkload(1, 13, 14, 24, 100, residual=True),
    ConvWorkload(2, 11, 17, 12, 72, (3, 3), pads=(1, 1, 1, 1)),
    ConvWorkload(1, 12, 30, 16, 48, (3, 3), (2, 2), pads=(0, 0, 1, 1), groups=2),
    ConvWorkload(1, 18, 19, 90, 90, (3, 3), pads=(1, 1, 1, 1), groups=90),
    ConvWorkload(1, 20, 21, 3, 40, (5, 5), (2, 2), pads=(2, 2, 2, 2), table=True),
    dense(3, 200, 130),
]


def plans_of(work: ConvWorkload, target: Target) -> list[ConvPlan]:
    isa = instruction_sets.load(target.isa)
    tiles = tile_plans(work, isa, target.l2_bytes)
    return [*tiles, *block_plans(tiles[0], work, isa), *block_plans(tiles[-1], work, isa)]


@pytest.mark.parametrize("precision", ["int8", "float32"])
def test_every_plan_gives_the_same_bits(machine: Target, precision: str) -> None:
    rng = np.random.default_rng(7)
    for work in WORKS:
        if precision == "float32":
            work = replace(work, precision="float32", output="float32", table=False)
        layer = conv_reference.make_layer(work, rng)
        plans = plans_of(work, target=machine)
        chosen = [None, *(plans[i] for i in sorted(rng.permutation(len(plans))[:4]))]
        calls = [layers_x86.kernel_and_arguments(layer, machine, plan) for plan in chosen]
        library = native_runner.Library([kernel for kernel, _ in calls], machine)
        first, *others = (library.run(kernel, arguments) for kernel, arguments in calls)
        for plan, other in zip(chosen[1:], others, strict=True):
            np.testing.assert_array_equal(other.view(np.uint8), first.view(np.uint8), err_msg=f"{work} {plan}")


def test_the_space_starts_with_a_possible_estimate_and_leaves_work_for_threads(machine: Target) -> None:
    isa = instruction_sets.load(machine.isa)
    for work in [*WORKS, *conv_reference.LARGE]:
        canonical = work.canonical()
        first = estimated_plan(work, isa, machine.l2_bytes)
        assert is_possible(first, canonical, isa)
        assert first in tile_plans(work, isa, machine.l2_bytes)
        least = min(8, items(first, canonical, isa))
        assert all(items(plan, canonical, isa) >= least for plan in block_plans(first, work, isa))
        assert plan_of(numbers_of(first)) == first


def test_impossible_plans_are_refused() -> None:
    isa, work = instruction_sets.load("avx512_vnni"), ConvWorkload(1, 14, 14, 16, 64, (3, 3), pads=(1, 1, 1, 1))
    fine = ConvPlan(Tiling(1, 14, 2), Blocking(2, 14, 1))
    assert is_possible(fine, work, isa)
    wrong = [
        replace(fine, tiling=Tiling(4, 14, 4)),  # more sums than registers
        replace(fine, tiling=Tiling(1, 15, 1)),
        replace(fine, tiling=Tiling(2, 7, 2), blocking=Blocking(3, 14, 1)),  # a short tile in the middle
        replace(fine, blocking=Blocking(2, 7, 1)),  # columns of a padded filter
        replace(fine, blocking=Blocking(2, 14, 3)),
        replace(fine, blocking=Blocking(0, 14, 1)),
    ]
    assert not [plan for plan in wrong if is_possible(plan, work, isa)]
    assert plan_of((1, 2, 3)) is None


def test_only_records_that_won_and_fit_are_used() -> None:
    isa, work = instruction_sets.load("avx512_vnni"), dense(28, 64, 64)
    fields = workload_fields(work)
    assert fields == {"batch": 1, "height": 1, "width": 28, "channels": 64, "filters": 64}
    found = {}
    for plan in (None, (1, 14, 2, 1, 14, 2), (1, 64, 9, 1, 64, 9)):
        plans = TunedPlans(Database([Record("avx512_vnni", fields, plan, 1.0, 2.0, 9, "cpu", "0")]))
        found[plan] = plans.find(work, isa), len(plans.used)
    assert found[None] == (None, 0)
    assert found[1, 14, 2, 1, 14, 2] == (ConvPlan(Tiling(1, 14, 2), Blocking(1, 14, 2)), 1)
    assert found[1, 64, 9, 1, 64, 9] == (None, 0)
