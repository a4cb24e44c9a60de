"""Float constants of 16 bits, from the command line to the bundle; models that are float16 themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from small_classifier import Cli

from qcompile import runtime
from qcompile.bundle import read_manifest

KINDS = {"float16": (TensorProto.FLOAT16, 4e-3), "bfloat16": (TensorProto.BFLOAT16, 3e-2)}


def network(kind: int) -> onnx.ModelProto:
    """Return a convolution, a depthwise one and a dense layer on x [1, 8, 12, 12], all of one float type."""
    rng = np.random.default_rng(4)
    shapes = {"w0": (16, 8, 3, 3), "w1": (16, 1, 3, 3), "w2": (16 * 36, 20)}
    constants = []
    for name, shape in shapes.items():
        tensor = rng.normal(0, 0.1, shape).astype(np.float32)
        if kind == TensorProto.FLOAT16:
            constants.append(numpy_helper.from_array(tensor.astype(np.float16), name))
        else:
            constants.append(helper.make_tensor(name, kind, shape, tensor.reshape(-1).tolist()))
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["c0"], name="stem", pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["c0"], ["r0"], name="relu"),
        helper.make_node("Conv", ["r0", "w1"], ["c1"], name="depthwise", pads=[1, 1, 1, 1], group=16),
        helper.make_node("Flatten", ["c1"], ["f"], name="flatten"),
        helper.make_node("MatMul", ["f", "w2"], ["y"], name="head"),
    ]
    x = helper.make_tensor_value_info("x", kind, [1, 8, 12, 12])
    y = helper.make_tensor_value_info("y", kind, [1, 20])
    graph = helper.make_graph(nodes, "network", [x], [y], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)


def answers(bundle: Path, x: np.ndarray) -> np.ndarray:
    with runtime.load(bundle) as session:
        return session.run({"x": x})["y"].astype(np.float64)


@pytest.mark.parametrize("kind", list(KINDS))
def test_half_the_size_and_nearly_the_same_answer(cli: Cli, tmp_path: Path, kind: str) -> None:
    onnx.save(network(TensorProto.FLOAT), tmp_path / "m.onnx")
    for store in ("float32", kind):
        result = cli(tmp_path / "m.onnx", "--fp32", "--store", store, "-o", tmp_path / store)
        assert result.code == 0, result.err
    assert f"in {kind} weights" in result.out
    small, large = (read_manifest(tmp_path / name)["memory"]["weights"] for name in (kind, "float32"))
    # The depthwise convolution has fewer weights than are worth it.
    assert small < 0.53 * large
    x = np.random.default_rng(1).normal(size=(1, 8, 12, 12)).astype(np.float32)
    expected = onnxruntime.InferenceSession(str(tmp_path / "m.onnx")).run(None, {"x": x})[0]
    error = np.abs(answers(tmp_path / kind, x) - expected).max() / np.abs(expected).max()
    assert 0 < error < KINDS[kind][1]


@pytest.mark.parametrize("kind", list(KINDS))
def test_model_of_16_bits_compiles_and_loses_nothing(cli: Cli, tmp_path: Path, kind: str) -> None:
    onnx.save(network(KINDS[kind][0]), tmp_path / "m.onnx")
    for store in ("float32", kind):
        assert cli(tmp_path / "m.onnx", "--fp32", "--store", store, "-o", tmp_path / store).code == 0
    x = np.random.default_rng(1).normal(size=(1, 8, 12, 12)).astype(np.float32)
    np.testing.assert_array_equal(answers(tmp_path / kind, x), answers(tmp_path / "float32", x))


@pytest.mark.parametrize("target", ["x86-64", "x86-64-v3", "x86-64-v4-vnni", "rpi4", "rpi5"])
def test_large_product_has_code_everywhere(cli: Cli, tmp_path: Path, target: str) -> None:
    """Weights beyond the caches are asked for ahead of time, at the places where 16 bits have them."""
    weight = np.random.default_rng(5).normal(0, 0.1, (1024, 1200)).astype(np.float32)
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="product")
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, d]) for n, d in (("x", 1024), ("y", 1200)))
    graph = helper.make_graph([node], "product", [x], [y], [numpy_helper.from_array(weight, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    result = cli(tmp_path / "m.onnx", "--fp32", "--store", "float16", "--target", target, "-o", tmp_path / "b")
    assert result.code == 0, result.err


def test_int8_network_keeps_its_integers(cli: Cli, model: Path, calibration: Path, tmp_path: Path) -> None:
    words = ["--int8", "--store", "float16", "--calib", calibration, "-o", tmp_path / "b"]
    result = cli(model, *words)
    assert result.code == 0, result.err
    assert "100% in int8" in result.out


def test_refuses_another_type(cli: Cli, model: Path, tmp_path: Path) -> None:
    result = cli(model, "--fp32", "--store", "float8", "-o", tmp_path / "b")
    assert result.code != 0
    assert "--store is 'float8', expected 'float32' or 'float16' or 'bfloat16'" in result.err
