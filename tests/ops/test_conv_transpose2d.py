"""Transposed convolution: float form against ONNX Runtime, integer form against its definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from qcompile import ops
from qcompile.errors import UnsupportedOpError
from qcompile.ir import Graph, TensorType
from qcompile.onnx_import import import_onnx
from qcompile.ops.evaluation import evaluate_node
from qcompile.ops.interpreter import Interpreter
from qcompile.quant import QParams
from qcompile.quant import requantize as rq

OP = ops.get("conv_transpose2d")


def model(shape: Any, weight: Any, bias: bool = False, **attributes: Any) -> Any:
    rng = np.random.default_rng(7)
    tensors = [numpy_helper.from_array(rng.normal(size=weight).astype(np.float32), "w")]
    if bias:
        outputs = weight[1] * attributes.get("group", 1)
        tensors.append(numpy_helper.from_array(rng.normal(size=outputs).astype(np.float32), "b"))
    node = helper.make_node("ConvTranspose", ["x", "w", "b"][: 2 + bias], ["y"], name="up", **attributes)
    info = helper.make_tensor_value_info
    result = info("y", TensorProto.FLOAT, [f"d{k}" for k in range(len(shape))])
    graph = helper.make_graph([node], "net", [info("x", TensorProto.FLOAT, shape)], [result], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8)


@pytest.mark.parametrize(
    "case",
    [
        {"shape": [1, 3, 4, 5], "weight": (3, 4, 2, 3)},
        {"shape": [2, 3, 4, 5], "weight": (3, 4, 3, 3), "strides": [2, 3], "bias": True},
        {"shape": [1, 3, 4, 5], "weight": (3, 4, 3, 3), "strides": [2, 2], "pads": [1, 0, 2, 1]},
        {"shape": [1, 3, 4, 5], "weight": (3, 4, 3, 2), "dilations": [2, 3], "pads": [1, 1, 1, 1]},
        {"shape": [1, 3, 4, 5], "weight": (3, 2, 4, 4), "strides": [2, 2], "output_padding": [1, 1], "bias": True},
        {"shape": [1, 6, 4, 5], "weight": (6, 2, 3, 3), "group": 3, "strides": [2, 1], "bias": True},
        {"shape": [1, 6, 4, 5], "weight": (6, 1, 3, 3), "group": 6, "strides": [2, 2], "pads": [1, 1, 1, 1]},
        {"shape": [1, 3, 4, 5], "weight": (3, 4, 3, 3), "strides": [2, 2], "auto_pad": "SAME_UPPER"},
        {"shape": [1, 3, 4, 5], "weight": (3, 4, 3, 3), "strides": [2, 2], "auto_pad": "SAME_LOWER"},
        {"shape": [1, 3, 4, 5], "weight": (3, 4, 3, 3), "strides": [2, 2], "auto_pad": "VALID"},
        {"shape": [1, 3, 4, 5], "weight": (3, 4, 3, 3), "strides": [2, 2], "output_shape": [8, 10]},
        {"shape": [1, 3, 4, 5], "weight": (3, 4, 3, 3), "strides": [3, 3], "output_shape": [10, 14]},
        {"shape": [1, 3, 4, 5], "weight": (3, 4, 2, 2), "strides": [3, 3], "output_padding": [2, 1]},
        {"shape": [1, 3, 7], "weight": (3, 4, 3), "strides": [2], "pads": [1, 0], "bias": True},
        {"shape": [1, 3, 7], "weight": (3, 4, 3), "strides": [2], "output_shape": [14]},
        {"shape": [1, 3, 7], "weight": (3, 4, 4), "strides": [2], "output_padding": [1], "dilations": [2]},
    ],
)
def test_float_form(case: dict[str, Any]) -> None:
    proto = model(**case)
    graph = import_onnx(proto)
    assert [n.op.name for n in graph.nodes if n.op.name != "reshape"] == ["conv_transpose2d"]
    x = np.random.default_rng(0).normal(size=case["shape"]).astype(np.float32)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"x": x})
    got = Interpreter(graph).run({"x": x})["y"]
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, 1e-4, 1e-5)


@pytest.mark.parametrize(
    ("case", "says"),
    [
        ({"shape": [1, 3, 4, 5, 6, 2], "weight": (3, 4, 3, 3, 3, 1)}, "4-D transposed convolution"),
        ({"shape": [1, 3, 4, 5], "weight": (3, 4, 3, 3), "pads": [-1, 0, 0, 0]}, "negative pads"),
        ({"shape": [1, 4, 4, 5], "weight": (3, 4, 3, 3)}, "does not fit"),
        ({"shape": [1, 3, 4, 5], "weight": (3, 4, 3, 3), "group": 2}, "does not fit"),
        ({"shape": [1, 3, 1, 1], "weight": (3, 4, 2, 2), "pads": [1, 1, 1, 1]}, "leave nothing"),
    ],
)
def test_forms_that_are_refused(case: dict[str, Any], says: str) -> None:
    with pytest.raises(UnsupportedOpError, match=says):
        import_onnx(model(**case))


# -- integer form -----------------------------------------------------------------------------------------


def integer_node(rng: Any, layout: str, groups: int, residual: bool, result: QParams | None, **attrs: Any) -> Any:
    """Return a node in integer form with random operands, and their contents."""
    n, h, w, c, o, k = 2, 3, 4, 6, 9 if groups == 3 else 8, 3
    x_shape, w_shape = (n, h, w, c), (o, k, k, c // groups)
    if layout == "NCHW":
        x_shape, w_shape = (n, c, h, w), (o, c // groups, k, k)
    graph = Graph()
    x = graph.add_input("x", TensorType("int8", x_shape))
    x.qparams = QParams((0.05,), (int(rng.integers(-128, 128)),))
    weight = graph.add_constant("w", rng.integers(-127, 128, w_shape).astype(np.int8))
    weight.qparams = QParams(tuple(rng.uniform(0.001, 0.01, o)), (0,), "int8", -127, 127, 0)
    bias = graph.add_constant("b", rng.integers(-5000, 5000, o).astype(np.int32))
    instance = OP.Attrs(layout=layout, groups=groups, residual=residual, **attrs)
    float_types = [TensorType("float32", v.shape) for v in (x, weight, bias)]
    (y_type,) = OP.infer(OP.Attrs(layout=layout, groups=groups, **attrs), float_types)
    operands = [x, weight, bias]
    if residual:
        extra = graph.add_input("r", TensorType("int8", y_type.shape))
        extra.qparams = QParams((0.04,), (5,))
        operands.append(extra)
    types = [y_type.with_dtype("float32" if result is None else result.dtype)]
    node = graph.add_node(OP, operands, instance, types=types)
    node.output.qparams = result
    feeds = [rng.integers(-128, 128, v.shape).astype(v.dtype) if v.data is None else v.constant() for v in operands]
    OP.check(node)
    return node, feeds


def accumulators(node: Any, feeds: list[Any]) -> Any:
    """Sum the products one by one, in Python integers, channels last."""
    attrs = node.attrs
    x, weight = feeds[0].astype(int) - node.inputs[0].qparams.scalar_zero_point, feeds[1].astype(int)
    if attrs.layout == "NCHW":
        x, weight = x.transpose(0, 2, 3, 1), weight.transpose(0, 2, 3, 1)
    n, h, w, _ = x.shape
    o, kh, kw, per_group = weight.shape
    top, left, bottom, right = attrs.pads
    full = [
        (s - 1) * attrs.strides[a] + attrs.dilations[a] * (k - 1) + 1 + attrs.output_padding[a]
        for a, (s, k) in enumerate(((h, kh), (w, kw)))
    ]
    acc = np.zeros((n, *full, o), np.int64) + feeds[2]
    for g in range(attrs.groups):
        channels = slice(g * per_group, (g + 1) * per_group)
        outputs = slice(g * (o // attrs.groups), (g + 1) * (o // attrs.groups))
        for i in range(h):
            for j in range(w):
                for u in range(kh):
                    for v in range(kw):
                        row = i * attrs.strides[0] + u * attrs.dilations[0]
                        column = j * attrs.strides[1] + v * attrs.dilations[1]
                        acc[:, row, column, outputs] += x[:, i, j, channels] @ weight[outputs, u, v].T
    return acc[:, top : full[0] - bottom, left : full[1] - right]


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("groups", [1, 2, 3])
@pytest.mark.parametrize("residual", [False, True])
def test_integer_form(layout: str, groups: int, residual: bool) -> None:
    rng = np.random.default_rng(groups)
    result = QParams((0.07,), (-3,), qmin=-100)
    window = {"strides": (2, 1), "dilations": (1, 2), "pads": (1, 0, 0, 2), "output_padding": (1, 0)}
    node, feeds = integer_node(rng, layout, groups, residual, result, **window)
    acc = accumulators(node, feeds)
    assert np.abs(acc).max() < 2**31
    x, weight = (v.qparams for v in node.inputs[:2])
    scales = np.asarray(np.float64(x.scalar_scale) * np.asarray(weight.scale), np.float32)
    if residual:
        wide = rq.wide_qparams(result)
        extra = feeds[3] if layout == "NHWC" else feeds[3].transpose(0, 2, 3, 1)
        t = rq.requantize(acc.astype(np.int32), rq.multiplier(scales, wide.scalar_scale), wide)
        expected = rq.add(t, extra, wide, node.inputs[3].qparams, result)
    else:
        expected = rq.requantize(acc.astype(np.int32), rq.multiplier(scales, result.scalar_scale), result)
    (got,) = evaluate_node(node, feeds)
    assert np.array_equal(got if layout == "NHWC" else got.transpose(0, 2, 3, 1), expected)


def test_integer_form_with_real_result() -> None:
    node, feeds = integer_node(np.random.default_rng(4), "NHWC", 1, False, None, strides=(2, 2))
    acc = accumulators(node, feeds)
    x, weight = (v.qparams for v in node.inputs[:2])
    real = acc * np.asarray(np.float64(x.scalar_scale) * np.asarray(weight.scale), np.float32)
    np.testing.assert_allclose(evaluate_node(node, feeds)[0], real, 1e-6)


def test_an_accumulator_that_could_overflow_is_refused() -> None:
    node, _ = integer_node(np.random.default_rng(4), "NHWC", 1, False, QParams((1.0,)))
    bias = node.inputs[2]
    bias.data = np.full(bias.shape, 2**31 - 1, np.int32)
    with pytest.raises(ValueError, match="beyond int32"):
        OP.check(node)


def test_macs_count_every_product() -> None:
    node, _ = integer_node(np.random.default_rng(4), "NHWC", 2, False, QParams((1.0,)), strides=(2, 2))
    assert OP.macs(node) == (2 * 3 * 4) * 6 * (3 * 3) * (8 // 2)


@pytest.mark.parametrize(
    "attrs", [{"layout": "NHCW"}, {"activation": "magic"}, {"strides": (0, 1)}, {"pads": (0, -1, 0, 0)}]
)
def test_attributes_are_checked(attrs: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=str(next(iter(attrs.values())))[1:3]):
        OP.Attrs(**attrs)
