"""ONNX Runtime's MatMulNBits: imported with its weights packed, and computed as it does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import qcompile
from qcompile.errors import UnsupportedOpError
from qcompile.onnx_import import import_onnx
from qcompile.ops.interpreter import Interpreter


def model(bits: int, inner: int, zeros: str, *, extra: dict[str, int] | None = None) -> onnx.ModelProto:
    """Return x [3, K] times 24 columns in blocks of 32, with zero points "none", "packed" or "float"."""
    rng = np.random.default_rng(inner + bits)
    groups, columns = -(-inner // 32), 24
    packed = rng.integers(0, 256, (columns, groups, 32 * bits // 8)).astype(np.uint8)
    scales = rng.uniform(0.01, 0.1, columns * groups).astype(np.float32)
    constants = [numpy_helper.from_array(packed, "w"), numpy_helper.from_array(scales, "s")]
    inputs = ["x", "w", "s"]
    if zeros == "packed":
        bytes_of_zeros = rng.integers(0, 256, columns * -(-groups * bits // 8)).astype(np.uint8)
        constants.append(numpy_helper.from_array(bytes_of_zeros, "z"))
        inputs.append("z")
    if zeros == "float":
        points = rng.integers(0, 1 << bits, columns * groups).astype(np.float32)
        constants.append(numpy_helper.from_array(points, "z"))
        inputs.append("z")
    attributes = {"K": inner, "N": columns, "bits": bits, "block_size": 32, **(extra or {})}
    node = helper.make_node("MatMulNBits", inputs, ["y"], name="product", domain="com.microsoft", **attributes)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, inner])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, columns])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_graph([node], "blocked", [x], [y], constants)
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


@pytest.mark.parametrize(
    ("bits", "inner", "zeros"),
    # ONNX Runtime itself has no float zero points with 8 bits.
    [*((4, inner, zeros) for inner in (64, 96, 80) for zeros in ("none", "packed", "float")),
     (8, 64, "none"), (8, 64, "packed")],
)  # fmt: skip
def test_agrees_with_onnx_runtime(tmp_path: Path, bits: int, inner: int, zeros: str) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(model(bits, inner, zeros), path)
    graph = import_onnx(path)
    assert [node.op.name for node in graph.nodes] == ["unpack_groups", "dense"]
    x = np.random.default_rng(1).normal(size=(3, inner)).astype(np.float32)
    expected = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    np.testing.assert_allclose(Interpreter(graph).run({"x": x})["y"], expected, rtol=1e-4, atol=1e-4)


def test_weights_stay_packed_in_the_bundle(tmp_path: Path) -> None:
    onnx.save(model(4, 512, "packed"), tmp_path / "m.onnx")
    made = qcompile.compile(tmp_path / "m.onnx", precision="fp32", output=tmp_path / "b")
    assert [step["precision"] for step in made.manifest["steps"]] == ["int4 weights"]
    assert made.manifest["memory"]["weights"] < 1.5 * 32 * 512
    x = np.random.default_rng(1).normal(size=(3, 512)).astype(np.float32)
    expected = onnxruntime.InferenceSession(str(tmp_path / "m.onnx")).run(None, {"x": x})[0]
    with qcompile.runtime.load(tmp_path / "b") as session:
        np.testing.assert_allclose(session.run({"x": x})["y"], expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "value", "message"), [("bits", 3, "weights of 3 bits"), ("N", 25, "do not fit 25 x 64")]
)
def test_forms_without_a_kernel_are_refused(tmp_path: Path, name: str, value: int, message: str) -> None:
    proto = model(4, 64, "none")
    for attribute in proto.graph.node[0].attribute:
        if attribute.name == name:
            attribute.i = value
    onnx.save(proto, tmp_path / "m.onnx")
    with pytest.raises(UnsupportedOpError, match=message):
        import_onnx(tmp_path / "m.onnx")


def test_weights_computed_at_run_time_are_refused(tmp_path: Path) -> None:
    proto = model(4, 64, "none")
    scales = proto.graph.initializer.pop()
    proto.graph.input.append(helper.make_tensor_value_info("s", TensorProto.FLOAT, list(scales.dims)))
    onnx.save(proto, tmp_path / "m.onnx")
    with pytest.raises(UnsupportedOpError, match="computed at run time"):
        import_onnx(tmp_path / "m.onnx")
