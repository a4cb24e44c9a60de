"""Operators of ONNX's operator sets 1 to 6: what they compute is what their successors do in ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from qcompile.errors import ModelImportError, UnsupportedOpError
from qcompile.onnx_import import import_onnx
from qcompile.ops.interpreter import Interpreter

X = (2, 3, 4, 5)
RANDOM = np.random.default_rng(1)
CONSTANTS = {
    "c": RANDOM.normal(1, 1, 3).astype(np.float32),
    "hw": RANDOM.normal(1, 1, (4, 5)).astype(np.float32),
    "ch": RANDOM.normal(1, 1, (3, 4)).astype(np.float32),
    "one": np.array([2.5], np.float32),
    "w": RANDOM.normal(0, 1, (60, 7)).astype(np.float32),
    "bias": RANDOM.normal(0, 1, 7).astype(np.float32),
    "s": RANDOM.uniform(0.5, 2, 3).astype(np.float32),
    "parts": np.array([1, 2], np.float32),
    "times": np.array([2], np.float32),
    "axis": np.array([1], np.float32),
}
CONSTANTS["cc"] = CONSTANTS["c"][:, None, None]
CONSTANTS["ch1"] = CONSTANTS["ch"][:, :, None]


def node(op: str, *inputs: str, outputs: tuple[str, ...] = ("y",), **attributes: Any) -> Any:
    return helper.make_node(op, list(inputs), list(outputs), **attributes)


def integers(name: str, *numbers: int) -> Any:
    return node("Constant", outputs=(name,), value=numpy_helper.from_array(np.array(numbers, np.int64)))


def floats(name: str, *numbers: float) -> Any:
    return node("Constant", outputs=(name,), value=numpy_helper.from_array(np.array(numbers, np.float32)))


def model_of(nodes: Any, opset: int, outputs: tuple[str, ...] = ("y",), ir_version: int = 3) -> Any:
    used = {name for n in nodes for name in n.input}
    tensors = [numpy_helper.from_array(a, n) for n, a in CONSTANTS.items() if n in used]
    infos = [helper.make_tensor_value_info("x", TensorProto.FLOAT, X)]
    # Before version 4 of the file format, initializers had to be inputs as well.
    infos += [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in tensors]
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    graph = helper.make_graph(nodes, "old", infos, results, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)


def flat(opset: int) -> Any:
    return node("Reshape", "x", outputs=("f",), shape=[2, 60]) if opset < 5 else node("Flatten", "x", outputs=("f",))


CASES: dict[str, tuple[int, list[Any], list[Any]]] = {
    "an axis to add from": (6, [node("Add", "x", "c", broadcast=1, axis=1)], [node("Add", "x", "cc")]),
    "an axis within": (1, [node("Mul", "x", "ch", broadcast=1, axis=1, consumed_inputs=[0, 0])],
                       [node("Mul", "x", "ch1")]),
    "a negative axis": (6, [node("Sub", "x", "ch", broadcast=1, axis=-3)], [node("Sub", "x", "ch1")]),
    "the last axes": (6, [node("Div", "x", "hw", broadcast=1)], [node("Div", "x", "hw")]),
    "one number": (6, [node("Pow", "x", "one", broadcast=1, axis=0)], [node("Pow", "x", "one")]),
    "no broadcast": (6, [node("Add", "x", "x")], [node("Add", "x", "x")]),
    "gemm": (6, [flat(6), node("Gemm", "f", "w", "bias", broadcast=1)],
             [flat(13), node("Gemm", "f", "w", "bias")]),
    "shape as an attribute": (1, [node("Reshape", "x", shape=[0, -1, 5], consumed_inputs=[0])],
                              [integers("n", 0, -1, 5), node("Reshape", "x", "n")]),
    "concat without an axis": (1, [node("Concat", "x", "x")], [node("Concat", "x", "x", axis=1)]),
    "paddings": (1, [node("Pad", "x", paddings=[0, 0, 1, 2, 0, 0, 0, 3], value=1.5)],
                 [integers("n", 0, 0, 1, 2, 0, 0, 0, 3), floats("v", 1.5), node("Pad", "x", "n", "v")]),
    "pads": (2, [node("Pad", "x", pads=[0, 0, 1, 2, 0, 0, 0, 1], mode="reflect")],
             [integers("n", 0, 0, 1, 2, 0, 0, 0, 1), node("Pad", "x", "n", mode="reflect")]),
    "batch normalization": (1, [node("BatchNormalization", "x", "s", "c", "c", "s", is_test=1, epsilon=1e-3,
                                     consumed_inputs=[0, 0, 0, 1, 1])],
                            [node("BatchNormalization", "x", "s", "c", "c", "s", epsilon=1e-3)]),
    "batch normalization of set 6": (6, [node("BatchNormalization", "x", "s", "c", "c", "s", is_test=1)],
                                     [node("BatchNormalization", "x", "s", "c", "c", "s")]),
    "dropout": (6, [node("Dropout", "x", outputs=("d",), is_test=1, ratio=0.5), node("Relu", "d")],
                [node("Relu", "x")]),
    "a type by name": (1, [node("Cast", "x", outputs=("i",), to="INT32"), node("Cast", "i", to="FLOAT")],
                       [node("Cast", "x", outputs=("i",), to=6), node("Cast", "i", to=1)]),
    "scales of height and width": (1, [node("Upsample", "x", height_scale=2.0, width_scale=3.0, mode="nearest")],
                                   [floats("v", 1, 1, 2, 3), node("Resize", "x", "", "v", mode="nearest",
                                    coordinate_transformation_mode="asymmetric", nearest_mode="floor")]),
    "one slope a channel": (6, [node("PRelu", "x", "c")], [node("PRelu", "x", "cc")]),
    "tiles": (1, [node("Tile", "x", "times", "axis")], [integers("n", 1, 2, 1, 1), node("Tile", "x", "n")]),
    "selu": (1, [node("Selu", "x", consumed_inputs=[0])], [node("Selu", "x", alpha=1.6732, gamma=1.0507)]),
    "leaky relu": (1, [node("LeakyRelu", "x", alpha=0.2, consumed_inputs=[0])], [node("LeakyRelu", "x", alpha=0.2)]),
    "clip": (1, [node("Clip", "x", min=-0.5, max=0.5, consumed_inputs=[0])],
             [floats("l", -0.5), floats("h", 0.5), node("Squeeze", "l", outputs=("a",)),
              node("Squeeze", "h", outputs=("b",)), node("Clip", "x", "a", "b")]),
    "average pool": (1, [node("AveragePool", "x", kernel_shape=[3, 3], pads=[1, 1, 1, 1])],
                     [node("AveragePool", "x", kernel_shape=[3, 3], pads=[1, 1, 1, 1])]),
    "sums and means": (1, [node("Sum", "x", "x", outputs=("t",)), node("Mean", "t", "x", consumed_inputs=[0, 0])],
                       [node("Sum", "x", "x", outputs=("t",)), node("Mean", "t", "x")]),
    "affine": (1, [node("Affine", "x", alpha=2.0, beta=0.5)],
               [floats("l", 2.0), floats("h", 0.5), node("Mul", "x", "l", outputs=("m",)), node("Add", "m", "h")]),
    "image scaler": (1, [node("ImageScaler", "x", scale=0.5, bias=[1.0, 2.0, -3.0])],
                     [floats("l", 0.5), floats("h", 1, 2, -3), integers("n", 3, 1, 1), node("Mul", "x", "l",
                      outputs=("m",)), node("Reshape", "h", "n", outputs=("r",)), node("Add", "m", "r")]),
    "crop": (1, [node("Crop", "x", border=[1, 2, 1, 0])],
             [integers("a", 2, 1), integers("b", 4, 4), integers("n", 2, 3), node("Slice", "x", "a", "b", "n")]),
    "crop to a size": (6, [node("Crop", "x", border=[1, 0, 0, 0], scale=[2, 3])],
                       [integers("a", 0, 1), integers("b", 2, 4), integers("n", 2, 3),
                        node("Slice", "x", "a", "b", "n")]),
    "scaled tanh": (1, [node("ScaledTanh", "x", alpha=1.5, beta=0.7)],
                    [floats("l", 0.7), floats("h", 1.5), node("Mul", "x", "l", outputs=("m",)),
                     node("Tanh", "m", outputs=("t",)), node("Mul", "t", "h")]),
    "parametric softplus": (1, [node("ParametricSoftplus", "x", alpha=1.5, beta=0.7)],
                            [floats("l", 0.7), floats("h", 1.5), node("Mul", "x", "l", outputs=("m",)),
                             node("Softplus", "m", outputs=("t",)), node("Mul", "t", "h")]),
    "scale": (1, [node("Scale", "x", scale=3.0), ], [floats("l", 3.0), node("Mul", "x", "l")]),
}  # fmt: skip


def runtime_result(nodes: Any, outputs: tuple[str, ...], x: Any) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    model = model_of(nodes, 13, outputs, ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(list(outputs), {"x": x})


@pytest.mark.parametrize("case", CASES)
def test_an_old_form_computes_what_its_successor_does(case: str) -> None:
    opset, old, modern = CASES[case]
    least = 0.1 if old[0].op_type == "Pow" else -3.0
    x = np.random.default_rng(2).uniform(least, 3, X).astype(np.float32)
    (expected,) = runtime_result(modern, ("y",), x)
    (got,) = Interpreter(import_onnx(model_of(old, opset))).run({"x": x}).values()
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, 2e-5, 1e-5)


def test_sizes_of_parts_as_an_input() -> None:
    old = [node("Split", "x", "parts", outputs=("a", "b"), axis=1)]
    modern = [integers("n", 1, 2), node("Split", "x", "n", outputs=("a", "b"), axis=1)]
    x = np.random.default_rng(2).normal(size=X).astype(np.float32)
    expected = runtime_result(modern, ("a", "b"), x)
    got = Interpreter(import_onnx(model_of(old, 1, ("a", "b")))).run({"x": x})
    np.testing.assert_array_equal(got["a"], expected[0])
    np.testing.assert_array_equal(got["b"], expected[1])


def test_a_file_from_before_operator_sets_were_named() -> None:
    model = model_of([node("Add", "x", "c", broadcast=1, axis=1)], 1, ir_version=2)
    del model.opset_import[:]
    assert [n.op.name for n in import_onnx(model).nodes] == ["add"]


@pytest.mark.parametrize(
    ("operator", "message"),
    [
        (node("Add", "x", "c", broadcast=1, axis=2), "does not fit"),
        (node("Add", "x", "c", broadcast=1, axis=-9), "does not fit"),
        (node("Cast", "x", to="FLOTA"), "'FLOTA' is not one of ONNX's"),
        (node("Crop", "x", name="cut"), "node cut"),
        (node("ImageScaler", name="scaler"), "node scaler"),
    ],
)
def test_what_does_not_fit_is_refused(operator: Any, message: str) -> None:
    with pytest.raises((UnsupportedOpError, ModelImportError), match=message):
        import_onnx(model_of([operator], 1))
