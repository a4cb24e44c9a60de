"""Layers whose parameters follow from an input: convolutions and batch normalization, against ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import qcompile
from qcompile import runtime
from qcompile.errors import QCompileError
from qcompile.onnx_import import import_onnx
from qcompile.ops.interpreter import Interpreter

CASES: dict[str, tuple[str, list[tuple[int, ...]], dict[str, Any]]] = {
    # name: operator, shapes of the inputs, attributes
    "plain": ("Conv", [(2, 3, 7, 8), (4, 3, 3, 2), (4,)], {}),
    "line": ("Conv", [(1, 4, 9), (6, 4, 3)], {"pads": [2, 0], "strides": [2]}),
    "point": ("Conv", [(1, 4, 5, 5), (6, 4, 1, 1), (6,)], {}),
    "groups": ("Conv", [(2, 6, 9, 7), (4, 3, 2, 3), (4,)],
               {"group": 2, "pads": [1, 0, 2, 1], "strides": [2, 1], "dilations": [2, 1]}),
    "depthwise": ("Conv", [(1, 5, 8, 8), (5, 1, 4, 4)], {"group": 5}),
    "same": ("Conv", [(1, 2, 7, 7), (3, 2, 3, 3)], {"auto_pad": "SAME_LOWER", "strides": [2, 2]}),
    "volume": ("Conv", [(1, 2, 4, 5, 6), (3, 2, 2, 3, 3), (3,)], {"pads": [0, 1, 1, 0, 1, 1]}),
    "transposed": ("ConvTranspose", [(2, 3, 4, 5), (3, 2, 3, 2), (2,)], {}),
    "spread": ("ConvTranspose", [(1, 4, 4, 5), (4, 3, 3, 3), (6,)],
               {"group": 2, "strides": [2, 3], "pads": [1, 0, 2, 1], "output_padding": [1, 2], "dilations": [1, 2]}),
    "cut": ("ConvTranspose", [(1, 2, 6), (2, 3, 2)], {"strides": [3], "pads": [2, 3]}),
    "norm": ("BatchNormalization", [(2, 3, 4, 5), (3,), (3,), (3,), (3,)], {"epsilon": 0.1}),
    "flat_norm": ("BatchNormalization", [(4, 3), (3,), (3,), (3,), (3,)], {}),
}  # fmt: skip


def model(op: str, shapes: list[tuple[int, ...]], attributes: dict[str, Any]) -> onnx.ModelProto:
    names = [f"x{k}" for k in range(len(shapes))]
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in zip(names, shapes, strict=True)]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph([helper.make_node(op, names, ["y"], **attributes)], "g", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def feed(shapes: list[tuple[int, ...]], seed: int = 0) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    return {f"x{k}": np.abs(random.normal(0.5, 1, shape)).astype(np.float32) for k, shape in enumerate(shapes)}


def expected(proto: onnx.ModelProto, inputs: dict[str, Any]) -> Any:
    return onnxruntime.InferenceSession(proto.SerializeToString()).run(None, inputs)[0]


@pytest.mark.parametrize("case", list(CASES))
def test_as_onnx_runtime(case: str) -> None:
    op, shapes, attributes = CASES[case]
    proto, inputs = model(op, shapes, attributes), feed(shapes)
    graph = import_onnx(proto)
    assert not {node.op.name for node in graph.nodes} & {"conv2d", "conv_transpose2d", "batch_norm"}
    np.testing.assert_allclose(Interpreter(graph).run(inputs)["y"], expected(proto, inputs), 1e-5, 1e-5)


def test_constant_weights_stay_those_of_a_layer() -> None:
    """Also where what makes them is no constant yet: they are rounded."""
    proto = model("Conv", [(1, 2, 5, 5), (3, 2, 3, 3)], {})
    del proto.graph.input[1]
    stored = {"codes": np.ones((3, 2, 3, 3), np.int8), "scale": np.float32(0.5)}
    proto.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), k) for k, v in stored.items())
    proto.graph.node.insert(0, helper.make_node("DequantizeLinear", ["codes", "scale"], ["x1"]))
    assert "conv2d" in {node.op.name for node in import_onnx(proto).nodes}


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_a_computed_bias_is_added_behind_the_layer(op: str) -> None:
    shapes: list[tuple[int, ...]] = [(1, 3, 5, 6), (3, 3, 2, 2), (3,)]
    proto, inputs = model(op, shapes, {}), feed(shapes)
    want = expected(proto, inputs)
    del proto.graph.input[1]
    proto.graph.initializer.append(numpy_helper.from_array(inputs.pop("x1"), "x1"))
    graph = import_onnx(proto)
    assert graph.nodes[-1].op.name == "add"
    assert "matmul" not in {node.op.name for node in graph.nodes}
    np.testing.assert_allclose(Interpreter(graph).run(inputs)["y"], want, 1e-5, 1e-5)


def test_weights_that_do_not_fit_are_refused() -> None:
    with pytest.raises(QCompileError, match=r"3.*in 2 groups"):
        import_onnx(model("Conv", [(1, 3, 5, 5), (4, 3, 3, 3)], {"group": 2}))


@pytest.mark.parametrize("case", ["groups", "spread", "norm"])
def test_compiled(case: str, tmp_path: Path) -> None:
    """In float the same numbers; in INT8 close ones."""
    op, shapes, attributes = CASES[case]
    proto = model(op, shapes, attributes)
    onnx.save(proto, tmp_path / "model.onnx")
    samples = [feed(shapes, seed) for seed in range(8)]
    for precision, most in (("fp32", 1e-5), ("int8", 0.05)):
        bundle = tmp_path / precision
        qcompile.compile(tmp_path / "model.onnx", precision=precision, calibration=samples, output=bundle)
        with runtime.load(bundle) as session:
            got, want = session.run(samples[0])["y"], expected(proto, samples[0])
        assert np.abs(got - want).max() <= most * np.abs(want).max()
