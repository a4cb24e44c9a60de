"""Numbers of floating point types of a byte or less, beside those of another implementation."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from qcompile.onnx_import import import_onnx
from qcompile.ops.interpreter import Interpreter

TYPES = {
    "FLOAT8E4M3FN": ml_dtypes.float8_e4m3fn,
    "FLOAT8E4M3FNUZ": ml_dtypes.float8_e4m3fnuz,
    "FLOAT8E5M2": ml_dtypes.float8_e5m2,
    "FLOAT8E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
    "FLOAT4E2M1": ml_dtypes.float4_e2m1fn,
}


def numbers() -> np.ndarray:
    """All magnitudes, every number of the types, and what lies half way between two of them."""
    rng = np.random.default_rng(0)
    spread = rng.normal(0, 1, 4000) * np.exp2(rng.uniform(-22, 17, 4000))
    codes = [np.arange(256, dtype=np.uint8).view(t).astype(np.float64) for n, t in TYPES.items() if "8" in n]
    exact = np.unique(np.concatenate([c[np.isfinite(c)] for c in codes]))
    ends = [0.0, -0.0, 448.0, 464.0, 464.1, 61440.0, 61439.0, 7.0, 5.0, 1e30, np.inf, -np.inf, np.nan]
    return np.concatenate([spread, exact, (exact[1:] + exact[:-1]) / 2, ends]).astype(np.float32)


def cast_model(kind: str, count: int, **attributes: int) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Cast", ["x"], ["c"], to=TensorProto.DataType.Value(kind), **attributes),
        helper.make_node("Cast", ["c"], ["y"], to=TensorProto.FLOAT),
    ]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [count]) for n in ("x", "y"))
    graph = helper.make_graph(nodes, "g", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)


@pytest.mark.parametrize("kind", list(TYPES))
def test_rounds_to_the_nearest_number(kind: str) -> None:
    x = numbers()
    found = Interpreter(import_onnx(cast_model(kind, len(x)))).run({"x": x})["y"]
    largest = float(ml_dtypes.finfo(TYPES[kind]).max)
    inside = np.abs(x) <= largest
    np.testing.assert_array_equal(found[inside], x[inside].astype(TYPES[kind]).astype(np.float32))
    outside = np.abs(x) > 1.2 * largest
    np.testing.assert_array_equal(found[outside], np.copysign(largest, x[outside]))
    assert np.isnan(found[np.isnan(x)]).all() == kind.startswith("FLOAT8")


@pytest.mark.parametrize("saturate", [0, 1])
@pytest.mark.parametrize("kind", [kind for kind in TYPES if kind.startswith("FLOAT8")])
def test_answers_as_onnx_runtime(kind: str, saturate: int) -> None:
    """But for what ONNX Runtime 1.31 takes for others just above the largest number, without saturation."""
    x = numbers()
    if not saturate:
        odd = {"FLOAT8E4M3FN": (480, 496), "FLOAT8E5M2": (61440, 61441)}.get(kind, (0, 0))
        x = x[~((np.abs(x) >= odd[0]) & (np.abs(x) < odd[1]))]
    model = cast_model(kind, len(x), saturate=saturate)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"x": x})
    np.testing.assert_array_equal(Interpreter(import_onnx(model)).run({"x": x})["y"], expected)


@pytest.mark.parametrize("saturate", [0, 1])
@pytest.mark.parametrize("mode", ["up", "down", "nearest"])
def test_powers_of_two(mode: str, saturate: int) -> None:
    """Beside ONNX's own code; infinities and numbers of no exponent follow the table of its specification."""
    rng = np.random.default_rng(2)
    x = np.exp2(rng.uniform(-120, 126.9, 3000)).astype(np.float32)
    x = np.concatenate([x, np.exp2(np.arange(-126, 128.0)), 1.5 * np.exp2(np.arange(-126, 127.0))]).astype(np.float32)
    ends = np.array([np.inf, np.nan, 3.3e38, 0.0], np.float32)
    model = cast_model("FLOAT8E8M0", len(x) + len(ends), round_mode=mode, saturate=saturate)
    model.opset_import[0].version = 25
    found = Interpreter(import_onnx(model)).run({"x": np.concatenate([x, ends])})["y"]
    expected = numpy_helper.to_float8e8m0(x, bool(saturate), mode).astype(np.float32)
    np.testing.assert_array_equal(found[: len(x)], expected)
    above = 2.0**127 if saturate or mode == "down" else np.nan
    np.testing.assert_array_equal(found[len(x) :], [2.0**127 if saturate else np.nan, np.nan, above, 2.0**-127])


def test_weights_of_eight_bit_floats_are_folded() -> None:
    """A stored float8 tensor with a scale per channel is a float32 constant; activations are rounded on their way."""
    rng = np.random.default_rng(1)
    stored = rng.normal(0, 1, (6, 4)).astype(ml_dtypes.float8_e4m3fn)
    scale = np.array([0.5, 0.25, 2.0, 1.0], np.float32)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["a"]),
        helper.make_node("DequantizeLinear", ["w", "ws"], ["b"], axis=1),
        helper.make_node("MatMul", ["a", "b"], ["y"]),
    ]
    tensors = [
        helper.make_tensor("w", TensorProto.FLOAT8E4M3FN, stored.shape, stored.tobytes(), raw=True),
        helper.make_tensor("z", TensorProto.FLOAT8E4M3FN, [], b"\0", raw=True),
        numpy_helper.from_array(np.float32(0.125), "s"),
        numpy_helper.from_array(scale, "ws"),
    ]
    shapes = {"x": [3, 6], "y": [3, 4]}
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items())
    graph = helper.make_graph(nodes, "g", [x], [y], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    imported = import_onnx(model)
    given = {"x": rng.normal(0, 1, (3, 6)).astype(np.float32)}
    assert "dequantize" not in {node.op.name for node in imported.nodes}
    rounded = (given["x"] / np.float32(0.125)).astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * np.float32(0.125)
    wanted = rounded @ (stored.astype(np.float32) * scale)
    np.testing.assert_allclose(Interpreter(imported).run(given)["y"], wanted, 1e-6, 1e-6)
