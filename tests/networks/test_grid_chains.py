"""Chains of roundings to grids of 8 and 16 bits with elementwise operations between them, beside ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from qcompile import driver, runtime, targets
from qcompile.bundle import write_bundle
from qcompile.config import CompileConfig
from qcompile.ir.graph import Graph
from qcompile.lower import lower_graph
from qcompile.onnx_import import import_onnx
from qcompile.ops.interpreter import Interpreter
from qcompile.passmgr import PassContext

from .rolled_models import info
from .test_bit_exact import CORES

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


def real_input(chain: Chain, seed: int) -> dict[str, np.ndarray]:
    """Return numbers of the first grid: no tie is among them, which a factor may break otherwise than a division."""
    scale = np.float32(chain.grids[0][1])
    x = np.random.default_rng(seed).uniform(-REACH, REACH, SHAPE).astype(np.float32)
    return {"x": np.rint(x / scale) * scale}


def run(chain: Chain, seed: int) -> tuple[Graph, list[np.ndarray], list[np.ndarray]]:
    """Return the integer graph, and in steps what ONNX Runtime and what the graph makes of one input."""
    model = chain.model()
    config, context = CompileConfig(precision="int8"), PassContext()
    simplified, _ = driver.simplify(import_onnx(model), config, context, ())
    graph, _ = driver.to_precision(simplified, config, context, ())
    scales = [np.float32(scale) for _, scale, _ in chain.grids]
    inputs = real_input(chain, seed)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    got = Interpreter(graph).run(inputs)
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


FUNCTIONS: dict[str, Any] = {
    "Relu": lambda x: np.maximum(x, 0),
    "Clip": np.clip,
    "LeakyRelu": lambda x: np.where(x < 0, np.float32(0.2) * x, x),
    "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "Identity": lambda x: x,
}
BOUNDS = [(0, 6), (-1, 1), (0.5, 3), (-3, -0.5), (0, np.inf)]


def random_grid(random: np.random.Generator) -> Grid:
    dtype = str(random.choice(["uint8", "int8", "int16"]))
    if dtype == "int16":
        return dtype, float(random.uniform(1e-4, 5e-4)), int(random.integers(-2000, 2000))
    ends = np.iinfo(dtype)
    scale = random.choice([random.uniform(0.01, 0.06), 0.03125, 0.05, 0.04])
    return dtype, float(scale), int(random.integers(ends.min, ends.max + 1))


def random_chain(seed: int) -> tuple[Chain, list[Any]]:
    """Return a chain, and what its operations are on real numbers."""
    random = np.random.default_rng(seed)
    chain, functions = Chain(random_grid(random)), []
    for _ in range(int(random.integers(1, 5))):
        # Of 16 bits, only what clamps is exact: tables are straight between their points.
        exact = ["Relu", "Clip", "Identity"]
        op = str(random.choice(exact if chain.grids[-1][0] == "int16" else list(FUNCTIONS)))
        low, high = BOUNDS[int(random.integers(len(BOUNDS)))] if op == "Clip" else (None, None)
        bounds = [] if low is None else [low, None if high == np.inf else high]
        chain.apply(op, random_grid(random), *bounds, **({"alpha": 0.2} if op == "LeakyRelu" else {}))
        function = FUNCTIONS[op]
        functions.append(function if low is None else lambda x, f=function, a=low, b=high: f(x, a, b))
    return chain, functions


@pytest.mark.parametrize("seed", range(40))
def test_every_rounding_is_the_nearest(seed: int) -> None:
    """Between any two grids, of 8 or 16 bits; but for ties, each is that of ONNX Runtime."""
    chain, functions = random_chain(seed)
    _, wanted, got = run(chain, seed)
    for k, function in enumerate(functions):
        (_, before, _), (dtype, scale, zero) = ((d, float(np.float32(s)), z) for d, s, z in chain.grids[k : k + 2])
        ends = np.iinfo(dtype)
        exact = np.clip(function(got[k].astype(np.float64) * before) / scale, ends.min - zero, ends.max - zero)
        off = np.abs(got[k + 1] - exact)
        assert off.max() <= 0.51, f"rounding {k + 1}"
        clear = (got[k] == wanted[k]) & (np.abs(off - 0.5) > 0.01)
        np.testing.assert_array_equal(got[k + 1][clear], wanted[k + 1][clear])


def corners() -> Chain:
    """Return a chain through clamps on 16 bits and tables that make 16 bits of 8."""
    chain = Chain(("int8", 0.05, 18))
    chain.apply("Relu", ("int16", 0.00048, 1009))
    chain.apply("Relu", ("int16", 0.00026, -1210))
    chain.apply("Clip", ("int16", 0.0003, 77), -1, 3)
    chain.apply("Relu", ("uint8", 0.02, 5))
    chain.apply("LeakyRelu", ("int16", 0.0002, -300), alpha=0.2)
    chain.apply("Clip", ("int8", 0.04, -100), 0.1, 6)
    chain.apply("Sigmoid", ("int16", 0.00003, 11))
    return chain


def test_the_compiled_chain_gives_the_same_bits(tmp_path: Path) -> None:
    graph, _, _ = run(corners(), 5)
    write_bundle(lower_graph(graph, targets.load("host"), jobs=1), tmp_path / "bundle")
    inputs = real_input(corners(), 6)
    with runtime.load(tmp_path / "bundle", 1) as session:
        found = session.run(inputs)
    for name, array in Interpreter(graph).run(inputs).items():
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.arm
def test_the_chain_gives_the_same_bits_on_arm(run_emulated: Any) -> None:
    graph, _, _ = run(corners(), 5)
    inputs = real_input(corners(), 6)
    found = run_emulated(lower_graph(graph, targets.load("rpi4"), jobs=1), CORES["rpi4"], inputs, 1)
    for name, array in Interpreter(graph).run(inputs).items():
        np.testing.assert_array_equal(found[name], array)
