"""Chains of roundings to grids of 8 and 16 bits with elementwise operations between them, beside ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from qcompile import driver
from qcompile.config import CompileConfig
from qcompile.ir.graph import Graph
from qcompile.onnx_import import import_onnx
from qcompile.ops.interpreter import Interpreter
from qcompile.passmgr import PassContext

from .rolled_models import info

Grid = tuple[str, float, int]
"""Element type, scale and zero point."""

SHAPE = [1, 4, 6, 40]
REACH = 8.0


class Chain:
    """A model that rounds its input, and then the result of one operation after the other; all roundings are outputs.

    Args:
        grid: of the input.
    """

    def __init__(self, grid: Grid) -> None:
        self.nodes: list[Any] = []
        self.tensors: list[Any] = []
        self.grids: list[Grid] = []
        self._round("x", grid)

    def apply(self, op: str, grid: Grid, *operands: float | None, **attributes: Any) -> None:
        """Append an operation on the last rounding, and the rounding of its result."""
        names = ["" if v is None else self._constant(np.float32(v)) for v in operands]
        y = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, [f"y{len(self.grids) - 1}", *names], [y], name=y, **attributes))
        self._round(y, grid)

    def _round(self, x: str, grid: Grid) -> None:
        dtype, scale, zero = grid
        y, ends = f"y{len(self.grids)}", [self._constant(np.float32(scale)), self._constant(np.array(zero, dtype))]
        self.grids.append(grid)
        self.nodes.append(helper.make_node("QuantizeLinear", [x, *ends], [f"{y}.q"], name=f"{y}.q"))
        self.nodes.append(helper.make_node("DequantizeLinear", [f"{y}.q", *ends], [y], name=y))

    def _constant(self, array: Any) -> str:
        self.tensors.append(numpy_helper.from_array(np.asarray(array), f"k{len(self.tensors)}"))
        return str(self.tensors[-1].name)

    def model(self) -> Any:
        outputs = [info(f"y{k}", SHAPE) for k in range(len(self.grids))]
        graph = helper.make_graph(self.nodes, "chain", [info("x", SHAPE)], outputs, self.tensors)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def run(chain: Chain, seed: int) -> tuple[Graph, list[np.ndarray], list[np.ndarray]]:
    """Return the integer graph, and in steps what ONNX Runtime and what the graph makes of one input."""
    model = chain.model()
    config, context = CompileConfig(precision="int8"), PassContext()
    simplified, _ = driver.simplify(import_onnx(model), config, context, ())
    graph, _ = driver.to_precision(simplified, config, context, ())
    inputs = {"x": np.random.default_rng(seed).uniform(-REACH, REACH, SHAPE).astype(np.float32)}
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    got = Interpreter(graph).run(inputs)
    scales = [np.float32(scale) for _, scale, _ in chain.grids]
    wanted = [np.rint(y / s) for y, s in zip(session.run(None, inputs), scales, strict=True)]
    return graph, wanted, [np.rint(got[f"y{k}"] / s) for k, s in enumerate(scales)]


@pytest.mark.parametrize("dtype", ["int8", "int16"])
@pytest.mark.parametrize(
    ("scale", "zero", "low", "high"),
    [
        (4.0, 1, -3, 6),
        (0.8, 3, -3, 6),
        (0.16, -1, -3, 6),
        (0.04, 7, -3, 0.5),
        (0.04, 58, -3, -0.5),
        (0.05, 8, 0.125, 3),
    ],
)
def test_bounds_half_way_between_two_integers(dtype: str, scale: float, zero: int, low: float, high: float) -> None:
    """They are rounded as ONNX does: divided in float32, and to the nearest before the zero point is added."""
    chain = Chain((dtype, scale, zero))
    chain.apply("Clip", (dtype, scale, zero), low, high)
    graph, wanted, got = run(chain, 0)
    assert "requantize" in {node.op.name for node in graph.nodes}
    np.testing.assert_array_equal(got, wanted)
