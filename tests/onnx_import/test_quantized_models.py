"""Models that ONNX Runtime quantized: in integers of ours, within one step of its results."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from qcompile import pipelines
from qcompile.config import CompileConfig
from qcompile.ir.graph import Graph
from qcompile.onnx_import import import_onnx
from qcompile.ops.interpreter import Interpreter
from qcompile.passmgr import PassContext, PassManager

quantization = pytest.importorskip("onnxruntime.quantization")
SHAPE = (1, 3, 12, 12)


def network() -> Any:
    """Return a small residual network with a concat, pools, a sigmoid and a fully connected end."""
    rng = np.random.default_rng(5)
    weights = {
        "w0": (8, 3, 3, 3), "w1": (8, 1, 3, 3), "w2": (8, 8, 1, 1), "w3": (5, 16), "b0": (8,), "b2": (8,), "b3": (5,),
    }  # fmt: skip
    tensors = [numpy_helper.from_array(rng.normal(0, 0.3, s).astype("f4"), n) for n, s in weights.items()]
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w0", "b0"], ["c0"], pads=[1, 1, 1, 1], strides=[2, 2]),
        node("Relu", ["c0"], ["r0"]),
        node("Conv", ["r0", "w1"], ["c1"], pads=[1, 1, 1, 1], group=8),
        node("Sigmoid", ["c1"], ["g1"]),
        node("Mul", ["c1", "g1"], ["m1"]),
        node("Conv", ["m1", "w2", "b2"], ["c2"]),
        node("Add", ["c2", "r0"], ["a2"]),
        node("Relu", ["a2"], ["r2"]),
        node("MaxPool", ["r2"], ["p2"], kernel_shape=[2, 2], strides=[2, 2]),
        node("AveragePool", ["r2"], ["q2"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Concat", ["p2", "q2"], ["j"], axis=1),
        node("GlobalAveragePool", ["j"], ["v"]),
        node("Flatten", ["v"], ["f"]),
        node("Gemm", ["f", "w3", "b3"], ["y"], transB=1),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 5])]
    graph = helper.make_graph(nodes, "net", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


class Samples(quantization.CalibrationDataReader):  # type: ignore[misc]
    """Random inputs for ONNX Runtime's calibration."""

    def __init__(self) -> None:
        self.left = [{"x": sample(seed)} for seed in range(6)]

    def get_next(self) -> Any:
        return self.left.pop() if self.left else None


def sample(seed: int) -> Any:
    return np.random.default_rng(seed).normal(0, 1, SHAPE).astype("f4")


def quantized(folder: Path, form: str, activations: str, weights: str, per_channel: bool) -> Path:
    source, target = folder / "float.onnx", folder / "quantized.onnx"
    onnx.save(network(), source)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantization.quantize_static(
            source,
            target,
            Samples(),
            quant_format=quantization.QuantFormat[form],
            activation_type=quantization.QuantType[activations],
            weight_type=quantization.QuantType[weights],
            per_channel=per_channel,
        )
    return target


def absorbed(graph: Graph) -> tuple[Graph, PassManager]:
    manager = PassManager(f"{pipelines.SIMPLIFY},{pipelines.absorption(CompileConfig())},{pipelines.FINISH_FLOAT}")
    return manager.run(graph, PassContext()), manager


def runtime(model: Any) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Without VNNI its products of uint8 and int8 saturate at 16 bits, unless it is told not to.
    options.add_session_config_entry("session.x64quantprecision", "1")
    given = str(model) if isinstance(model, Path) else model.SerializeToString()
    return onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(
    ("form", "activations", "weights", "per_channel"),
    [
        ("QDQ", "QUInt8", "QInt8", True),
        ("QDQ", "QInt8", "QInt8", False),
        ("QDQ", "QUInt8", "QUInt8", True),
        ("QOperator", "QUInt8", "QInt8", True),
        ("QOperator", "QUInt8", "QUInt8", False),
    ],
)
def test_integers_agree_within_one_step(
    form: str, activations: str, weights: str, per_channel: bool, tmp_path: Path
) -> None:
    path = quantized(tmp_path, form, activations, weights, per_channel)
    graph = import_onnx(path)
    assert graph.is_quantized
    step = next(n.attrs.scale for n in reversed(graph.nodes) if n.op.name == "fake_quantize")
    result, _ = absorbed(graph)
    products = [n for n in result.nodes if n.op.name in ("conv2d", "dense")]
    assert all(node.is_integer for node in products)
    session = runtime(path)
    for seed in range(20, 24):
        (expected,) = session.run(None, {"x": sample(seed)})
        simulated = Interpreter(graph).run({"x": sample(seed)})["y"]
        got = Interpreter(result).run({"x": sample(seed)})["y"]
        assert np.abs(simulated - expected).max() <= 1.01 * step
        assert np.abs(got - expected).max() <= 1.01 * step


@pytest.mark.parametrize("activations", ["QInt16", "QUInt16"])
def test_sixteen_bit_activations_are_integers(activations: str, tmp_path: Path) -> None:
    path = quantized(tmp_path, "QDQ", activations, "QInt8", True)
    graph = import_onnx(path)
    step = next(n.attrs.scale for n in reversed(graph.nodes) if n.op.name == "fake_quantize")
    result, _ = absorbed(graph)
    assert not [node for node in result.nodes if node.op.name == "fake_quantize"]
    assert {node.precision for node in result.nodes if node.op.name in ("conv2d", "dense")} == {"int16"}
    for seed in range(9, 13):
        (expected,) = runtime(path).run(None, {"x": sample(seed)})
        got = Interpreter(result).run({"x": sample(seed)})["y"]
        assert np.abs(got - expected).max() <= 1.01 * step


def test_pairs_are_found_through_moves_of_integers() -> None:
    node = helper.make_node
    scale, zero = numpy_helper.from_array(np.float32(0.1), "s"), numpy_helper.from_array(np.uint8(120), "z")
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        node("Transpose", ["q"], ["t"], perm=[0, 2, 3, 1]),
        node("DequantizeLinear", ["t", "s", "z"], ["y"]),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "moves", inputs, outputs, [scale, zero])
    imported = import_onnx(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    assert [n.op.name for n in imported.nodes] == ["fake_quantize", "transpose"]


@pytest.mark.parametrize("weights", ["QInt8", "QUInt8"])
@pytest.mark.parametrize("per_channel", [False, True])
def test_dynamic_quantization_is_computed_at_run_time(tmp_path: Path, weights: str, per_channel: bool) -> None:
    source, target = tmp_path / "float.onnx", tmp_path / "dynamic.onnx"
    onnx.save(network(), source)
    kind = getattr(quantization.QuantType, weights)
    quantization.quantize_dynamic(source, target, weight_type=kind, per_channel=per_channel)
    graph = import_onnx(target)
    used = [node.op.name for node in graph.nodes]
    assert used.count("conv2d_integer") >= 3
    assert "dense_integer" in used
    assert "conv2d" not in used
    assert "dense" not in used
    (expected,) = runtime(target).run(None, {"x": sample(3)})
    np.testing.assert_allclose(Interpreter(graph).run({"x": sample(3)})["y"], expected, 1e-2, 2e-2)


def integer_product(op: str, x: Any, weight: Any, zeros: tuple[Any, Any], **attributes: Any) -> Any:
    """Return a model of one MatMulInteger or ConvInteger."""
    constants = [numpy_helper.from_array(array, name) for name, array in (("w", weight), ("zw", zeros[1]))]
    node = helper.make_node(op, ["x", "w", "zx", "zw"], ["y"], **attributes)
    kind = helper.np_dtype_to_tensor_dtype(x.dtype)
    inputs = [
        helper.make_tensor_value_info("x", kind, x.shape),
        helper.make_tensor_value_info("zx", kind, zeros[0].shape),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.INT32, None)]
    graph = helper.make_graph([node], "product", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("zero", [0, 3, 120])
def test_integer_products_are_exact(dtype: str, zero: int) -> None:
    """Weights of any zero point, whose differences leave int8, are sums of int8 weights."""
    random = np.random.default_rng(3)
    ends = np.iinfo(dtype)
    matrix = random.integers(ends.min, ends.max + 1, (600, 5)).astype(dtype)
    x = random.integers(0, 256, (2, 600)).astype("uint8")
    zeros = (np.array(77, "uint8"), np.array(zero, dtype))
    model = integer_product("MatMulInteger", x, matrix, zeros)
    inputs = {"x": x, "zx": zeros[0]}
    (expected,) = runtime(model).run(None, inputs)
    graph = import_onnx(model)
    assert "dense_integer" in [node.op.name for node in graph.nodes]
    np.testing.assert_array_equal(Interpreter(graph).run(inputs)["y"], expected)


@pytest.mark.parametrize("group", [1, 4])
def test_integer_convolutions_are_exact(group: int) -> None:
    random = np.random.default_rng(4)
    x = random.integers(0, 256, (2, 4, 9, 7)).astype("uint8")
    weight = random.integers(0, 256, (8, 4 // group, 3, 2)).astype("uint8")
    zeros = (np.array(9, "uint8"), np.array(131, "uint8"))
    attributes = {"pads": [1, 0, 2, 1], "strides": [2, 1], "group": group}
    model = integer_product("ConvInteger", x, weight, zeros, **attributes)
    inputs = {"x": x, "zx": zeros[0]}
    (expected,) = runtime(model).run(None, inputs)
    graph = import_onnx(model)
    assert "conv2d_integer" in [node.op.name for node in graph.nodes]
    np.testing.assert_array_equal(Interpreter(graph).run(inputs)["y"], expected)


def test_a_mask_of_infinities_lies_on_no_grid() -> None:
    """A causal mask beside roundings stays in float, without a warning on the way."""
    mask = np.where(np.tri(12, dtype=bool), np.float32(0), np.float32(-np.inf))
    scalars = {"scale": np.float32(0.02), "zero": np.int8(0), "mask": mask}
    tensors = [numpy_helper.from_array(np.array(data), name) for name, data in scalars.items()]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["r"]),
        helper.make_node("Add", ["r", "mask"], ["m"]),
        helper.make_node("Softmax", ["m"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, SHAPE) for name in "xy"]
    graph = helper.make_graph(nodes, "masked", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        final, _ = absorbed(import_onnx(model))
    (found,) = Interpreter(final).run({"x": sample(0)}).values()
    np.testing.assert_allclose(found, runtime(model).run(None, {"x": sample(0)})[0], atol=1e-6)
