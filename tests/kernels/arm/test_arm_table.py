"""Table look-ups on the emulated cores."""

from __future__ import annotations

import aarch64_runner
import numpy as np
import pytest

from qcompile.kernels import isa as instruction_sets
from qcompile.kernels.build import assembly
from qcompile.kernels.table import TableWorkload, table_kernel
from qcompile.targets import Target

pytestmark = pytest.mark.arm


@pytest.mark.usefixtures("qemu")
def test_every_code_at_every_size(machine: Target) -> None:
    rng = np.random.default_rng(5)
    isa, cases = instruction_sets.load(machine.isa), []
    for size in (1, 3, 8, 16, 77, 4096):
        codes = rng.permutation(np.resize(np.arange(256, dtype=np.uint8), size))
        table = rng.integers(0, 256, 256).astype(np.uint8)
        kernel = table_kernel(TableWorkload(size), isa)
        cases.append(aarch64_runner.Case(kernel, [codes, table, np.zeros(size, np.uint8)], [2]))
    for case, (result,) in zip(cases, aarch64_runner.run(machine, cases), strict=True):
        codes, table, _ = case.arguments
        np.testing.assert_array_equal(result, table[codes])


def test_codes_are_looked_up_sixteen_at_a_time(machine: Target) -> None:
    text = assembly([table_kernel(TableWorkload(4096), instruction_sets.load(machine.isa))], machine)
    assert "\ttbl\tv" in text
    assert "\ttbx\tv" in text
    assert "\tldrb\t" not in text
