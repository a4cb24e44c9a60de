"""Models that join batch and sequence to rows, with both open."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from qcompile.errors import UnsupportedOpError
from qcompile.onnx_import.bounds import import_bounded
from qcompile.ops.interpreter import Interpreter
from qcompile.passmgr import PassManager

SHAPES = {"x": ["N:1..3", "S:2..9", 6]}


def model(nodes: list[Any], output: str = "y", **tensors: Any) -> Any:
    rng = np.random.default_rng(0)
    data = {"flat": np.array([-1, 6]), "w": rng.normal(0, 0.3, (6, 12)), "b": rng.normal(0, 0.3, 12),
            "one": np.ones(12), "zero": np.zeros(12), "front": np.array([0]), "two": np.array([2]),
            "six": np.array([6]), **tensors}  # fmt: skip
    data = {n: a.astype(np.float32) if a.dtype == np.float64 else a for n, a in data.items()}
    constants = [numpy_helper.from_array(array, name) for name, array in data.items()]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", "S", 6])
    y = helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "rows", [x], [y], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def block() -> list[Any]:
    """Return a product, a normalization, a split, a softmax over joined rows, and the way back."""
    return [
        helper.make_node("Reshape", ["x", "flat"], ["r"]),
        helper.make_node("Gemm", ["r", "w", "b"], ["g"]),
        helper.make_node("LayerNormalization", ["g", "one", "zero"], ["l"], axis=-1),
        helper.make_node("Split", ["l"], ["p", "q"], axis=1, num_outputs=2),
        helper.make_node("Mul", ["p", "q"], ["pq"]),
        helper.make_node("Softmax", ["pq"], ["s"], axis=1),
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Slice", ["shape", "front", "two"], ["outer"]),
        helper.make_node("Concat", ["outer", "six"], ["wanted"], axis=0),
        helper.make_node("Reshape", ["s", "wanted"], ["y"]),
    ]


def test_rows_stay_apart() -> None:
    made = model(block())
    graph = import_bounded(made, SHAPES)
    assert [node.op.name for node in graph.nodes] == ["dense", "layer_norm", "split", "mul", "softmax"]
    assert {len(value.shape) for node in graph.nodes for value in node.outputs} == {3}
    reference = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(1)
    for batch, length in ((1, 2), (3, 9), (2, 5)):
        x = rng.normal(0, 1, (batch, length, 6)).astype(np.float32)
        (wanted,) = reference.run(None, {"x": x})
        np.testing.assert_allclose(Interpreter(graph).run({"x": x})["y"], wanted, rtol=1e-5, atol=1e-6)


def mixing(last: str) -> Any:
    nodes = block()[:2]
    if last == "rows are mixed":
        nodes.append(helper.make_node("Softmax", ["g"], ["y"], axis=0))
    return model(nodes, "g" if len(nodes) == 2 else "y")


@pytest.mark.parametrize("last", ["rows are a result", "rows are mixed"])
def test_what_mixes_rows_joins_them_after_all(last: str) -> None:
    made = mixing(last)
    bounded = PassManager("bound-dynamic-axes").run(import_bounded(made, SHAPES))
    assert "open_reshape" in [node.op.name for node in bounded.nodes]
    reference = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    for batch, length in ((1, 2), (3, 9), (2, 5)):
        x = np.random.default_rng(1).normal(0, 1, (batch, length, 6)).astype(np.float32)
        (wanted,) = reference.run(None, {"x": x})
        (found,) = Interpreter(bounded).run({"x": x}).values()
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_too_many_combinations_are_refused() -> None:
    with pytest.raises(UnsupportedOpError, match=r"N\*S has 90000 combinations"):
        import_bounded(mixing("rows are mixed"), {"x": ["N:1..300", "S:1..300", 6]})
