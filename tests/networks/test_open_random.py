"""Random models with open extents: one graph for all sizes computes what a graph of each size does.

`QCOMPILE_OPEN_GRAPHS` sets how many (60; nightly runs take 2,000). What lies past the actual end of every tensor is
poisoned, so that a result that depends on it shows.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from open_sketch import LEAST, MOST, WIDTH, models

from qcompile import bundle as bundles
from qcompile import driver, runtime, targets
from qcompile.errors import UnsupportedOpError
from qcompile.ir.graph import Graph, Node
from qcompile.lower import lower_graph
from qcompile.onnx_import import import_onnx
from qcompile.onnx_import.bounds import import_bounded
from qcompile.ops.interpreter import Interpreter
from qcompile.passmgr import PassContext, PassManager
from qcompile.shapes.analysis import analyse
from qcompile.shapes.demand import Demand
from qcompile.shapes.specialize import Specializer, sizes_of

COUNT = int(os.environ.get("QCOMPILE_OPEN_GRAPHS", "60"))
SHAPE = ["N:1..3", f"S:{LEAST}..{MOST}", WIDTH]
INTEGERS = ('fuse-activation{tables=false},insert-observers{observer="minmax"},calibrate,assign-precision,quantize,'
            "fuse-requantize,fuse-activation,eliminate-dead")  # fmt: skip
HALVES = f"{driver.FINISH_FLOAT},narrow-floats"
_TRUSTED = ("mask_tail", "softmax")
"""What lies past the end of these is relied upon."""

many = settings(max_examples=COUNT, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


class Poisoned(Interpreter):
    """Spoils what lies past the actual end of every tensor, and tensors that are not needed at a size."""

    def __init__(self, graph: Graph, sizes: dict[str, int]) -> None:
        super().__init__(graph)
        self._specializer, self._at = Specializer(graph, analyse(graph)), sizes
        self._demand = Demand(graph)

    def evaluate(self, node: Node, inputs: list[np.ndarray]) -> tuple[np.ndarray, ...]:
        results = super().evaluate(node, inputs)
        return results if node.op.name in _TRUSTED else tuple(map(self._spoiled, node.outputs, results))

    def _spoiled(self, value: Any, array: np.ndarray) -> np.ndarray:
        inside = tuple(map(slice, self._specializer.shape(value, self._at)))
        need = self._demand.of(value)
        if need is not None and self._at[need[0].symbol] < need[1]:
            inside = (slice(0),) * max(1, array.ndim) if array.ndim else ()
        poison = np.full_like(array, np.nan if array.dtype.kind == "f" else 101 if array.dtype.kind == "i" else True)
        poison[inside] = array[inside]
        return poison


def at_sizes(*sizes: tuple[int, int]) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(7)
    return [{"x": rng.normal(0, 1, (*size, WIDTH)).astype(np.float32)} for size in sizes]


def opened(model: Any, wanted: str) -> tuple[Graph, Graph] | None:
    """Return the graph before and after its masks are made; None for a model that is refused in plain words."""
    try:
        graph = import_bounded(model, {"x": SHAPE})
        context = PassContext()
        context.samples = lambda: iter(at_sizes((2, MOST), (1, LEAST), (3, MOST)))
        final = PassManager(f"{driver.SIMPLIFY},{wanted}").run(graph, context)
        return final, PassManager("bound-dynamic-axes").run(final)
    except UnsupportedOpError as error:
        event(f"refused: {error.message.partition(':')[2][:60]}")
        return None


def compare(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], tolerance: float = 1e-4) -> None:
    for name, array in expected.items():
        assert found[name].shape == array.shape
        scale = float(np.abs(array[np.isfinite(array)]).max(initial=1e-3))
        np.testing.assert_allclose(found[name], array, rtol=tolerance, atol=tolerance * scale, err_msg=name)


@many
@given(model=models(), sizes=st.tuples(st.integers(1, 3), st.integers(LEAST, MOST)))
def test_float(model: Any, sizes: tuple[int, int]) -> None:
    made = opened(model, driver.FINISH_FLOAT)
    if made is None:
        return
    event("served")
    (given,) = at_sizes(sizes)
    with np.errstate(all="ignore"):
        expected = Interpreter(import_onnx(model, {"x": (*sizes, WIDTH)})).run(given)
        compare(Interpreter(made[0]).run(given), expected)
        compare(poisoned(made[1], given), expected)


def poisoned(graph: Graph, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Run a graph with masks at the sizes of its inputs."""
    interpreter = Poisoned(graph, sizes_of(graph, {n: a.shape for n, a in given.items()}))
    return interpreter.run(given)


@many
@given(model=models(), sizes=st.tuples(st.integers(1, 3), st.integers(LEAST, MOST)))
def test_integers(model: Any, sizes: tuple[int, int]) -> None:
    made = opened(model, INTEGERS)
    if made is None:
        return
    (given,) = at_sizes(sizes)
    with np.errstate(all="ignore"):
        compare(poisoned(made[1], given), Interpreter(made[0]).run(given), 1e-5)


@settings(many, max_examples=COUNT // 2)
@given(model=models(), sizes=st.tuples(st.integers(1, 3), st.integers(LEAST, MOST)))
def test_halves(model: Any, sizes: tuple[int, int]) -> None:
    made = opened(model, HALVES)
    if made is None:
        return
    (given,) = at_sizes(sizes)
    with np.errstate(all="ignore"):
        # Sums in another order may round to the neighbouring number of 16 bits, and layers behind go on from there.
        compare(poisoned(made[1], given), Interpreter(made[0]).run(given), 0.02)


@settings(many, max_examples=max(3, COUNT // 20))
@given(model=models())
def test_code(model: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    made = opened(model, driver.FINISH_FLOAT)
    if made is None:
        return
    folder: Path = tmp_path_factory.mktemp("open")
    bundles.write_bundle(lower_graph(made[1], targets.host()), folder / "b")
    with runtime.load(folder / "b", threads=2) as session, np.errstate(all="ignore"):
        for given in at_sizes((3, MOST), (1, LEAST), (2, LEAST + 1), (3, MOST)):
            compare(session.run(given), Interpreter(made[0]).run(given))
