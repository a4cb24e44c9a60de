"""Runs graphs of open extents with everything poisoned that lies past the actual end of a tensor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, event, settings

from qcompile import bundle as bundles
from qcompile import pipelines, runtime, targets
from qcompile.errors import UnsupportedOpError
from qcompile.ir.graph import Graph, Node
from qcompile.lower import lower_graph
from qcompile.onnx_import.bounds import import_bounded
from qcompile.ops.interpreter import Interpreter
from qcompile.passmgr import PassContext, PassManager
from qcompile.shapes.analysis import analyse
from qcompile.shapes.demand import Demand
from qcompile.shapes.specialize import Specializer, sizes_of

Feed = dict[str, np.ndarray]

INTEGERS = ('fuse-activation{tables=false},insert-observers{observer="minmax"},calibrate,assign-precision,quantize,'
            "fuse-requantize,fuse-activation,eliminate-dead")  # fmt: skip
HALVES = f"{pipelines.FINISH_FLOAT},narrow-floats"
_TRUSTED = ("mask_tail", "softmax")
"""What lies past the end of these is relied upon."""


def many(count: int) -> settings:
    """Return settings for so many random models."""
    return settings(max_examples=count, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


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


def poisoned(graph: Graph, given: Feed) -> Feed:
    """Run a graph with masks at the sizes of its inputs."""
    return Poisoned(graph, sizes_of(graph, {n: a.shape for n, a in given.items()})).run(given)


def opened(model: Any, shape: Sequence[Any], samples: list[Feed], wanted: str) -> tuple[Graph, Graph] | None:
    """Return the graph of a model before and after its masks are made; None for one that is refused in plain words.

    Args:
        model: of one input, "x".
        shape: of x.
        samples: to calibrate with.
        wanted: passes behind those that simplify.
    """
    try:
        graph = import_bounded(model, {"x": shape})
        context = PassContext()
        context.samples = lambda: iter(samples)
        final = PassManager(f"{pipelines.SIMPLIFY},{wanted}").run(graph, context)
        return final, PassManager("bound-dynamic-axes").run(final)
    except UnsupportedOpError as error:
        event(f"refused: {error.message.partition(':')[2][:60]}")
        return None


def compare_poisoned(graphs: tuple[Graph, Graph], given: Feed, tolerance: float) -> None:
    """Compare a graph with its form for open extents, of which all that lies past an end is poisoned."""
    final, bounded = graphs
    with np.errstate(all="ignore"):
        compare(poisoned(bounded, given), Interpreter(final).run(given), tolerance)


def compare_code(graphs: tuple[Graph, Graph], inputs: Sequence[Feed], folder: Path, tolerance: float = 1e-4) -> None:
    """Compare a graph with a bundle of its form for open extents, on one size after another."""
    final, bounded = graphs
    bundles.write_bundle(lower_graph(bounded, targets.host()), folder / "b")
    with runtime.load(folder / "b", threads=2) as session, np.errstate(all="ignore"):
        for given in inputs:
            compare(session.run(given), Interpreter(final).run(given), tolerance)


def compare(found: Feed, expected: Feed, tolerance: float = 1e-4) -> None:
    """Check shapes, and numbers relative to each and to the largest of their tensor."""
    for name, array in expected.items():
        assert found[name].shape == array.shape
        scale = float(np.abs(array[np.isfinite(array)]).max(initial=1e-3))
        np.testing.assert_allclose(found[name], array, rtol=tolerance, atol=tolerance * scale, err_msg=name)
