"""Random models with open extents: one graph for all sizes computes what a graph of each size does.

`QCOMPILE_OPEN_GRAPHS` sets how many (60; nightly runs take 2,000). What lies past the actual end of every tensor is
poisoned, so that a result that depends on it shows.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
from hypothesis import event, given
from hypothesis import strategies as st
from open_poison import HALVES, INTEGERS, Feed, compare, compare_code, compare_poisoned, many, opened, poisoned
from open_sketch import LEAST, MOST, WIDTH, models

from qcompile import pipelines
from qcompile.ir.graph import Graph
from qcompile.onnx_import import import_onnx
from qcompile.ops.interpreter import Interpreter

COUNT = int(os.environ.get("QCOMPILE_OPEN_GRAPHS", "60"))
SHAPE = ["N:1..3", f"S:{LEAST}..{MOST}", WIDTH]
SIZES = st.tuples(st.integers(1, 3), st.integers(LEAST, MOST))


def at_sizes(*sizes: tuple[int, int]) -> list[Feed]:
    rng = np.random.default_rng(7)
    return [{"x": rng.normal(0, 1, (*size, WIDTH)).astype(np.float32)} for size in sizes]


def made(model: Any, wanted: str) -> tuple[Graph, Graph] | None:
    return opened(model, SHAPE, at_sizes((2, MOST), (1, LEAST), (3, MOST)), wanted)


@many(COUNT)
@given(model=models(), sizes=SIZES)
def test_float(model: Any, sizes: tuple[int, int]) -> None:
    found = made(model, pipelines.FINISH_FLOAT)
    if found is None:
        return
    event("served")
    (given,) = at_sizes(sizes)
    with np.errstate(all="ignore"):
        expected = Interpreter(import_onnx(model, {"x": (*sizes, WIDTH)})).run(given)
        compare(Interpreter(found[0]).run(given), expected)
        compare(poisoned(found[1], given), expected)


@many(COUNT)
@given(model=models(), sizes=SIZES)
def test_integers(model: Any, sizes: tuple[int, int]) -> None:
    found = made(model, INTEGERS)
    if found is not None:
        compare_poisoned(found, *at_sizes(sizes), tolerance=1e-5)


@many(COUNT // 2)
@given(model=models(), sizes=SIZES)
def test_halves(model: Any, sizes: tuple[int, int]) -> None:
    found = made(model, HALVES)
    if found is not None:
        # Sums in another order may round to the neighbouring number of 16 bits, and layers behind go on from there.
        compare_poisoned(found, *at_sizes(sizes), tolerance=0.02)


@many(max(3, COUNT // 20))
@given(model=models())
def test_code(model: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    found = made(model, pipelines.FINISH_FLOAT)
    if found is not None:
        inputs = at_sizes((3, MOST), (1, LEAST), (2, LEAST + 1), (3, MOST))
        compare_code(found, inputs, tmp_path_factory.mktemp("open"))
