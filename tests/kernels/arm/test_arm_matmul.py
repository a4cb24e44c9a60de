"""Products of two 8-bit activations on ARM: NumPy's integers under emulation, the intended instruction in the loop."""

from __future__ import annotations

import math

import aarch64_runner
import numpy as np
import pytest
from aarch64_runner import Case
from machine_code import hottest, lines_of, opcode, share
from test_arm_assembly import DOT_PRODUCTS

from qcompile.kernels import expression as ex
from qcompile.kernels import isa as instruction_sets
from qcompile.kernels.build import assembly
from qcompile.kernels.matmul import matmul_kernel
from qcompile.kernels.matmul_workload import MatmulWorkload
from qcompile.kernels.reduce import accumulator
from qcompile.targets import Target

_MULTIPLIER, _ZERO_POINT = 2.0**-9 + 2.0**-20, 3


def product(batch: tuple[int, ...], rows: int, inner: int, columns: int, za: int, zb: int) -> MatmulWorkload:
    """A product with a matrix of its own for each entry of the batch."""
    scaled = ex.cast(accumulator("int32"), "float32") * ex.constant(_MULTIPLIER, "float32")
    ends = [ex.constant(float(end - _ZERO_POINT), "float32") for end in (-128, 127)]
    rounded = ex.make("round_clamp", "int32", (scaled, *ends))
    finish = ex.cast(rounded + _ZERO_POINT, "int8")
    a_steps = tuple(math.prod(batch[n + 1 :]) * rows * inner for n in range(len(batch)))
    b_steps = tuple(math.prod(batch[n + 1 :]) * inner * columns for n in range(len(batch)))
    return MatmulWorkload(batch, a_steps, b_steps, rows, inner, columns, ("int8",) * 3, (za, zb), finish)


PRODUCTS = {
    "heads": product((3,), 16, 32, 48, -3, 5),
    "one start": product((), 40, 128, 32, -128, 0),
    "no correction": product((), 8, 16, 16, 0, 0),
    "odd extents": product((2,), 13, 15, 15, 7, -9),
    "few columns": product((2, 2), 9, 21, 3, 127, -128),
    "long rows": product((), 70, 300, 36, -128, 127),
    "parts of rows": product((), 131, 9, 40, 1, 1),
}


def operands(work: MatmulWorkload, extreme: bool) -> tuple[np.ndarray, np.ndarray]:
    """Codes, with 64 bytes to read behind them; all -128 or 127 if extreme."""
    rng = np.random.default_rng(work.rows)
    found = []
    for extents in ((work.rows, work.inner), (work.inner, work.columns)):
        shape = (*work.batch, *extents)
        codes = rng.choice([-128, -128, 127], shape) if extreme else rng.integers(-128, 128, shape)
        found.append(codes.astype(np.int8))
    return found[0], found[1]


@pytest.mark.arm
def test_products_are_numpys(machine: Target, qemu: None) -> None:
    cases, expected = [], []
    for work in PRODUCTS.values():
        kernel = matmul_kernel(work, instruction_sets.load(machine.isa))
        for extreme in (False, True):
            a, b = operands(work, extreme)
            sums = (a.astype(np.int64) - work.zero_points[0]) @ (b.astype(np.int64) - work.zero_points[1])
            multiplier = np.float32(_MULTIPLIER)
            scaled = np.clip(sums.astype(np.float32) * multiplier, -128 - _ZERO_POINT, 127 - _ZERO_POINT)
            expected.append((np.rint(scaled) + _ZERO_POINT).astype(np.int8))
            ends = [np.concatenate([operand.reshape(-1), np.full(64, 85, np.int8)]) for operand in (a, b)]
            whole = [(0, kernel.tiles)]
            halves = [(kernel.tiles // 2, kernel.tiles), (0, kernel.tiles // 2)]
            ranges = halves if extreme and kernel.tiles > 1 else whole
            cases.append(Case(kernel, [*ends, np.zeros(sums.size + 64, np.int8)], [2], ranges))
    for case, outputs, codes in zip(cases, aarch64_runner.run(machine, cases), expected, strict=True):
        np.testing.assert_array_equal(outputs[0][: codes.size], codes.reshape(-1), case.kernel.name)
        assert not outputs[0][codes.size :].any(), "written past the end"


@pytest.mark.parametrize("inner", [128, 256])
def test_the_intended_instruction_fills_the_loop_without_spills(machine: Target, inner: int) -> None:
    kernel = matmul_kernel(product((12,), 128, inner, 32, -128, 5), instruction_sets.load(machine.isa))
    loop = hottest(lines_of(assembly([kernel], machine), kernel.name), {DOT_PRODUCTS[machine.isa]})
    assert not [line for line in loop if "[sp" in line]
    assert share(loop, {"smmla", "sdot", "smull", "sadalp"}) >= 0.6
    assert not {opcode(line) for line in loop} & {"fmla", "scvtf", "sshll", "smlal", "smlal2"}
