"""Layers that an exported model leaves in float keep their weights in ONNX Runtime, whatever it optimizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from qcompile import driver
from qcompile.export import export_qdq
from qcompile.onnx_export.float_layers import protect_float_layers
from qcompile.onnx_export.model_writer import ModelWriter
from qcompile.ops.interpreter import Interpreter

Levels = onnxruntime.GraphOptimizationLevel


def network(kind: str, path: Path) -> tuple[Path, list[int]]:
    """Write three layers, of which the middle one, named "real", is rounded worst by one scale for all weights."""
    random = np.random.default_rng(3)
    out = [1, 4, 15, 15] if kind == "ConvTranspose" else [1, 4, 8, 8]
    if kind == "Gemm":
        out = [4, 8]
        shape, shapes = [4, 16], [(16, 16), (16, 16), (8, 16)]
        options: list[dict[str, Any]] = [{"transB": 1}] * 3
        layers = ["Gemm"] * 3
    else:
        shape, shapes = [1, 3, 8, 8], [(8, 3, 3, 3), (8, 8, 3, 3), (4, 8, 1, 1)]
        strides = [2, 2] if kind == "ConvTranspose" else [1, 1]
        options = [{"pads": [1, 1, 1, 1]}, {"pads": [1, 1, 1, 1], "strides": strides}, {}]
        layers = ["Conv", kind, "Conv"]
    weights = [random.normal(0, 0.3, s).astype("f4") for s in shapes]
    weights[1] *= np.logspace(-3, 0, shapes[1][0]).reshape(-1, *[1] * (len(shapes[1]) - 1)).astype("f4")
    tensors = [numpy_helper.from_array(w, f"w{k}") for k, w in enumerate(weights)]
    outs = [shapes[k][1 if layers[k] == "ConvTranspose" else 0] for k in range(3)]
    tensors += [numpy_helper.from_array(random.normal(0, 0.1, n).astype("f4"), f"b{k}") for k, n in enumerate(outs)]
    node = helper.make_node
    nodes = [
        node(layers[0], ["x", "w0", "b0"], ["a"], **options[0]),
        node("Relu", ["a"], ["ra"]),
        node(layers[1], ["ra", "w1", "b1"], ["real"], name="real", **options[1]),
        node("Relu", ["real"], ["rb"]),
        node(layers[2], ["rb", "w2", "b2"], ["y"], **options[2]),
    ]
    ends = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, shape),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, out),
    ]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path, shape


def answers(path: Path, given: list[dict[str, Any]], level: Any) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = level
    # Without VNNI its products of uint8 and int8 saturate at 16 bits, unless it is told not to.
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return np.stack([session.run(None, sample)[0] for sample in given])


def ours(path: Path, given: list[dict[str, Any]]) -> Any:
    config = driver.resolve_config(path, None, {"precision": "int8", "keep_float": ["real"]})
    context, _, graph = driver.prepare(path, config, given, None)
    simplified, _ = driver.simplify(graph, config, context, ())
    final = driver.to_precision(simplified, config, context, ())[0]
    return np.stack([Interpreter(final).run(sample)["y"] for sample in given])


@pytest.mark.parametrize("kind", ["Conv", "ConvTranspose", "Gemm"])
def test_optimizers_do_not_round_the_weights(kind: str, tmp_path: Path) -> None:
    path, shape = network(kind, tmp_path / "n.onnx")
    random = np.random.default_rng(7)
    given = [{"x": random.normal(size=shape).astype("f4")} for _ in range(16)]
    done = export_qdq(path, tmp_path / "q.onnx", calibration=given, settings={"keep_float": ["real"]})
    written = onnx.load(done.path)
    onnx.checker.check_model(written, full_check=True)
    assert any(node.op_type == kind and node.input[2].endswith(".kept") for node in written.graph.node)
    plain = answers(done.path, given, Levels.ORT_DISABLE_ALL)
    step = np.ptp(plain) / 255
    for level in (Levels.ORT_ENABLE_BASIC, Levels.ORT_ENABLE_ALL):
        assert np.sqrt(np.mean((answers(done.path, given, level) - plain) ** 2)) < 0.1 * step
    config = driver.resolve_config(done.path, None, {"precision": "int8"})
    context, _, graph = driver.prepare(done.path, config, None, None)
    again = driver.to_precision(driver.simplify(graph, config, context, ())[0], config, context, ())[0]
    np.testing.assert_array_equal(
        np.stack([Interpreter(again).run(sample)["y"] for sample in given]), ours(path, given)
    )


@pytest.mark.parametrize("finite", [True, False])
def test_biases_keep_every_bit(finite: bool) -> None:
    tiny = [1e-45, -3e-42, 1.1754944e-38, 1e-38]
    bias = np.array([0.0, 0.1, -1 / 3, 3e38, *tiny, 1.0 if finite else np.inf], "f4")
    writer = ModelWriter(["x", "y"])
    scale, weight = writer.constant(np.float32(0.1), "s"), writer.constant(np.ones((bias.size, 2), "f4"), "w")
    x = writer.emit("DequantizeLinear", ["q", scale], "x.real")
    name = writer.emit("Gemm", [x, weight, writer.constant(bias, "b")], "made", transB=1)
    writer.emit("QuantizeLinear", [name, scale], "rounded")
    protect_float_layers(writer)
    layer = next(node for node in writer.nodes if node.op_type == "Gemm")
    if not finite:
        assert layer.input[2] == "b"
        return
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in writer.initializers}
    integers, powers = (tensors[n] for n in next(n for n in writer.nodes if n.output[0] == layer.input[2]).input)
    assert integers.dtype == np.int32
    np.testing.assert_array_equal(integers.astype("f4") * powers, bias)
