"""What LLVM makes of elementwise integer loops: a register of codes at a time, narrowed with saturation."""

from __future__ import annotations

import math

import pytest
from machine_code import innermost_loops, lines_of, opcode

from qcompile import targets
from qcompile.kernels import expression as ex
from qcompile.kernels import isa as instruction_sets
from qcompile.kernels.build import assembly
from qcompile.kernels.elementwise import MapWorkload, map_kernel
from qcompile.kernels.narrowing import codes_of
from qcompile.kernels.rows import RowsWorkload, rows_kernel

_SIZE = 4096
_PLACE = ex.index(0)


def _centred(buffer: int) -> ex.Expr:
    return ex.cast(ex.load(buffer, "int8", _PLACE), "int32") - 5


def _clamped(value: ex.Expr) -> ex.Expr:
    low, high = ex.constant(-131, "int32"), ex.constant(124, "int32")
    return ex.cast(ex.binary("min", ex.binary("max", value, low), high) + 3, "int8")


def _rounded(value: ex.Expr) -> ex.Expr:
    low, high = ex.constant(-131.0, "float32"), ex.constant(124.0, "float32")
    return ex.cast(ex.round_clamp(value, low, high) + 3, "int8")


SUM = _clamped((_centred(0) * 700 + _centred(1) * 900 + (1 << 9)) >> 10)
PRODUCT = _rounded(ex.cast(_centred(0) * _centred(1), "float32") * ex.constant(0.01, "float32"))
CODES = _rounded(ex.load(0, "float32", _PLACE) * ex.constant(20.0, "float32"))
LOOPS = {
    "sum": (SUM, ("int8", "int8", "int8"), 3.0),
    "product": (PRODUCT, ("int8", "int8", "int8"), 3.0),
    "quantize": (CODES, ("float32", "int8"), 2.0),
    "dequantize": (ex.cast(_centred(0), "float32") * ex.constant(0.1, "float32"), ("int8", "float32"), 2.5),
}


@pytest.mark.parametrize("name", list(LOOPS))
@pytest.mark.parametrize("machine", ["rpi4", "rpi5", "graviton3"])
def test_a_turn_makes_a_register_of_codes(name: str, machine: str) -> None:
    value, buffers, most = LOOPS[name]
    target = targets.load(machine)
    kernel = map_kernel(MapWorkload((_SIZE,), buffers, value, _PLACE), instruction_sets.load(target.isa))
    loop = max(innermost_loops(lines_of(assembly([kernel], target), kernel.name)), key=len)
    assert not [line for line in loop if "[sp" in line]
    wide = [line for line in loop if opcode(line) in ("str", "stp", "stur") and "\tq" in line]
    assert wide, loop
    assert not [line for line in loop if opcode(line) in ("str", "stur") and "\tq" not in line]
    codes = sum(16 if buffers[-1] == "int8" else 4 * line.count(" q") + 4 for line in wide)
    assert len(loop) <= most * codes, loop


def test_saturation_does_the_clamp_to_all_codes() -> None:
    target = targets.load("rpi5")
    kernel = map_kernel(MapWorkload((_SIZE,), LOOPS["sum"][1], SUM, _PLACE), instruction_sets.load(target.isa))
    codes = {opcode(line) for line in lines_of(assembly([kernel], target), kernel.name) if line.startswith("\t")}
    assert {"sqrshrn", "sqadd", "sqxtn"} <= codes
    assert not {"smin", "smax"} & codes


def test_what_narrows_is_told_from_what_does_not() -> None:
    found = codes_of(SUM)
    assert found is not None
    assert (found.zero, found.ends, found.shift) == (3, (-128, 127), 10)
    assert codes_of(PRODUCT) is not None
    assert codes_of(CODES) is None, "a float that may be NaN must give the lower end, not zero"
    assert codes_of(ex.cast(SUM, "int32")) is None
    assert codes_of(ex.cast(_centred(0), "int8")) is None, "without a clamp, a cast wraps"
    infinite = _rounded(ex.cast(_centred(0), "float32") * ex.constant(math.inf, "float32"))
    assert codes_of(infinite) is None


@pytest.mark.parametrize("machine", ["rpi4", "rpi5", "graviton3"])
def test_softmax_computes_four_vectors_at_once(machine: str) -> None:
    target = targets.load(machine)
    kernel = rows_kernel(RowsWorkload("softmax", 64, 128), instruction_sets.load(target.isa))
    loop = max(innermost_loops(lines_of(assembly([kernel], target), kernel.name)), key=len)
    assert not [line for line in loop if "[sp" in line]
    assert sum(opcode(line) == "fcvtzs" for line in loop) == 4
    assert len(loop) <= 9 * 16, loop
