"""Convolution, dense layers and matrix products: real and integer forms."""

from __future__ import annotations

import numpy as np
import pytest

from qcompile import ops
from qcompile.errors import InternalError, QCompileError
from qcompile.ir.types import TensorType
from qcompile.ops.arithmetic import CLAMPS, activate, clamp_bounds, integer_matmul
from qcompile.ops.evaluation import evaluate_node
from qcompile.quant.qparams import QParams
from qcompile.quant.requantize import wide_qparams

# groups, C_in, C_out, kernel, strides, pads, dilations
CONVOLUTIONS = [
    (1, 3, 8, (3, 3), (2, 2), (1, 1, 1, 1), (1, 1)),
    (1, 6, 4, (1, 1), (1, 1), (0, 0, 0, 0), (1, 1)),
    (1, 6, 4, (1, 1), (2, 2), (0, 0, 0, 0), (1, 1)),
    (1, 6, 4, (1, 1), (1, 1), (1, 0, 0, 1), (1, 1)),
    (6, 6, 6, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
    (6, 6, 6, (5, 5), (2, 2), (1, 2, 2, 1), (1, 1)),
    (6, 6, 12, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
    (2, 6, 4, (3, 3), (1, 2), (0, 1, 2, 0), (1, 1)),
    (3, 6, 9, (1, 1), (1, 1), (0, 0, 0, 0), (1, 1)),
    (12, 12, 12, (3, 3), (1, 1), (2, 2, 2, 2), (2, 2)),
    (1, 4, 5, (2, 3), (1, 1), (2, 2, 2, 2), (2, 3)),
    (1, 64, 10, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
]
ACTIVATIONS = [
    ("none", 0, 0),
    ("relu", 0, 0),
    ("clip", 0, 6),
    ("hard_swish", 0, 0),
    ("silu", 0, 0),
    ("leaky_relu", 0.2, 0),
]


def _convolution(rng, row):
    groups, inputs, outputs, kernel, strides, pads, dilations = row
    attrs = {"strides": strides, "pads": pads, "dilations": dilations, "groups": groups}
    x = rng.normal(size=(2, inputs, 9, 11)).astype("f4")
    weight = rng.normal(size=(outputs, inputs // groups, *kernel)).astype("f4")
    return x, weight, rng.normal(size=outputs).astype("f4"), attrs


def _nhwc(x):
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1))


@pytest.mark.parametrize("row", CONVOLUTIONS)
def test_convolution_matches_onnx_runtime(row, against_ort):
    x, weight, bias, attrs = _convolution(np.random.default_rng(1), row)
    onnx = {
        "strides": attrs["strides"],
        "pads": attrs["pads"],
        "dilations": attrs["dilations"],
        "group": attrs["groups"],
    }
    graph, y = against_ort("Conv", [x, weight, bias], constants=(1, 2), rtol=1e-4, atol=1e-4, **onnx)
    against_ort("Conv", [x, weight], constants=(1,), opset=7, rtol=1e-4, atol=1e-4, **onnx)
    assert y.dtype == np.float32
    (node,) = graph.nodes
    assert node.op.macs(node) == y.size * weight[0].size
    conv = ops.get("conv2d")
    (last,) = conv.evaluate(conv.Attrs(layout="NHWC", **attrs), [_nhwc(x), _nhwc(weight), bias])
    np.testing.assert_allclose(last.transpose(0, 3, 1, 2), y, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_automatic_padding(mode, against_ort):
    rng = np.random.default_rng(2)
    x, weight = rng.normal(size=(1, 3, 8, 11)).astype("f4"), rng.normal(size=(4, 3, 3, 4)).astype("f4")
    against_ort("Conv", [x, weight], constants=(1,), auto_pad=mode, strides=[2, 3], rtol=1e-4, atol=1e-4)


def test_one_dimensional_convolution(against_ort):
    rng = np.random.default_rng(3)
    x, weight = rng.normal(size=(2, 4, 20)).astype("f4"), rng.normal(size=(6, 2, 5)).astype("f4")
    bias = rng.normal(size=6).astype("f4")
    graph, _ = against_ort(
        "Conv",
        [x, weight, bias],
        constants=(1, 2),
        group=2,
        strides=[2],
        pads=[2, 1],
        dilations=[2],
        rtol=1e-4,
        atol=1e-4,
    )
    assert [n.op.name for n in graph.nodes] == ["reshape", "conv2d", "reshape"]
    against_ort("Conv", [x, weight], constants=(1,), group=2, auto_pad="SAME_UPPER", strides=[3], rtol=1e-4, atol=1e-4)


def test_four_dimensional_convolution_is_refused(import_one):
    with pytest.raises(QCompileError, match="4-D convolution"):
        import_one("Conv", [np.zeros((1, 1, 4, 4, 4, 4), "f4"), np.zeros((1, 1, 2, 2, 2, 2), "f4")], constants=(1,))


@pytest.mark.parametrize(
    "attributes",
    [
        {"strides": [1]},
        {"dilations": [1, 1, 1]},
        {"strides": [0, 1]},
        {"pads": [-1, 0, 0, 0]},
        {"pads": [1, 1]},
        {"group": 0},
        {"auto_pad": "SAME"},
    ],
)
def test_attributes_that_no_model_should_have_end_in_an_error(attributes, one_import_node):
    node = one_import_node("Conv", [(1, 3, 5, 5), (4, 3, 3, 3)], attributes)
    with pytest.raises(QCompileError):
        ops.get("conv2d").onnx["Conv"](node)


def test_operands_that_do_not_fit_are_refused():
    conv, f32 = ops.get("conv2d"), lambda *s: TensorType("float32", s)
    cases = [
        ([f32(1, 3, 4, 4), f32(8, 4, 3, 3), f32(8)], {}, "does not fit 3 channels"),
        ([f32(1, 3, 4, 4), f32(8, 3, 3, 3), f32(7)], {}, "bias"),
        ([f32(1, 3, 4, 4), f32(8, 3, 5, 5), f32(8)], {}, "does not fit an input"),
        ([f32(1, 3, 4), f32(8, 3, 5, 5), f32(8)], {}, "4-D"),
        ([f32(1, 3, 4, 4), f32(8, 3, 1, 1), f32(8)], {"residual": True}, "operands"),
    ]
    for operands, attrs, message in cases:
        with pytest.raises(ValueError, match=message):
            conv.infer(conv.Attrs(**attrs), operands)
    dense = ops.get("dense")
    for operands, message in [
        ([f32(2, 3), f32(4, 5), f32(4)], "does not fit"),
        ([f32(2, 3), f32(4, 3), f32(3)], "bias"),
        ([f32(2, 3), f32(4, 3)], "operands"),
    ]:
        with pytest.raises(ValueError, match=message):
            dense.infer(dense.Attrs(), operands)


# -- integers ------------------------------------------------------------------------------------------------


def _integer_operands(rng, x_shape, w_shape, qx, bias_scale=1.0):
    """Return quantized x, weight and bias, and the real numbers they stand for."""
    q = rng.integers(-128, 128, x_shape).astype(np.int8)
    w = rng.integers(-127, 128, w_shape).astype(np.int8)
    scales = rng.uniform(0.002, 0.02, w_shape[0]).astype("f4")
    qw = QParams(tuple(float(s) for s in scales), (0,), "int8", -127, 127, axis=0)
    terms = int(np.prod(w_shape[1:]))
    bias = rng.integers(-2000, 2000, w_shape[0]).astype(np.int32) * max(1, terms // 20)
    acc_scale = np.float64(qx.scalar_scale) * np.asarray(qw.scale, "f8")
    qb = QParams(tuple(acc_scale.astype("f4").tolist()), (0,), "int32", -(2**31), 2**31 - 1, axis=0)
    real = (
        (q.astype("f8") - qx.scalar_zero_point) * qx.scalar_scale,
        w.astype("f8") * np.asarray(qw.scale).reshape(-1, *[1] * (len(w_shape) - 1)),
        bias * acc_scale,
    )
    return [(q, qx), (w, qw), (bias, qb)], real


def _result_params(y, activation, alpha, beta):
    """Return the attributes and QParams that a quantizer would give a result with a fused activation."""
    attrs = {"activation": activation, "alpha": alpha, "beta": beta}
    before = QParams.from_range(float(y.min()), float(y.max()))
    if activation in CLAMPS:
        return attrs, before.clamped(*clamp_bounds(activation, alpha, beta)), before
    attrs["pre_activation"] = before
    z = activate(y, activation, alpha, beta)
    return attrs, QParams.from_range(float(z.min()), float(z.max())), before


def _allowed(attrs, before, result):
    """Return how far from the nearest code a result may be, in LSB."""
    if "pre_activation" not in attrs:
        return 1
    return 1 + np.ceil(0.5 * 1.13 * before.scalar_scale / result.scalar_scale)


@pytest.mark.parametrize("row", CONVOLUTIONS)
@pytest.mark.parametrize(("activation", "alpha", "beta"), ACTIVATIONS)
def test_integer_convolution(row, activation, alpha, beta, one_node, nearest, random_qparams):
    rng = np.random.default_rng(4)
    groups, inputs, outputs, kernel, strides, pads, dilations = row
    geometry = {"strides": strides, "pads": pads, "dilations": dilations, "groups": groups}
    operands, real = _integer_operands(
        rng, (1, inputs, 9, 11), (outputs, inputs // groups, *kernel), random_qparams(rng)
    )
    conv = ops.get("conv2d")
    (y,) = conv.evaluate(conv.Attrs(**geometry), list(real))
    attrs, qy, before = _result_params(y, activation, alpha, beta)
    node, arrays = one_node("conv2d", {**geometry, **attrs}, operands, qy)
    (q,) = evaluate_node(node, arrays)
    off = np.abs(q - nearest(activate(y, activation, alpha, beta), qy))
    assert off.max() <= _allowed(attrs, before, qy)
    # Channels last: the same bits.
    swapped = [(_nhwc(operands[0][0]), operands[0][1]), (_nhwc(operands[1][0]), operands[1][1]), operands[2]]
    node, arrays = one_node("conv2d", {**geometry, **attrs, "layout": "NHWC"}, swapped, qy)
    np.testing.assert_array_equal(evaluate_node(node, arrays)[0].transpose(0, 3, 1, 2), q)


@pytest.mark.parametrize(("activation", "alpha"), [("leaky_relu", 0.1), ("leaky_relu", -0.4), ("hard_swish", 0.0)])
@pytest.mark.parametrize("width", ["int8", "int16", "float32"])
def test_scaled_activation_is_rounded_once(activation, alpha, width, one_node, random_qparams):
    """Half a step at most from the activation of the exact sum, where a table behind int8 adds its own error."""
    rng = np.random.default_rng(9)
    operands, real = _integer_operands(rng, (1, 6, 6, 8), (5, 1, 1, 8), random_qparams(rng))
    conv = ops.get("conv2d")
    wide = [x.astype(np.float64) for x in real]
    scale = np.float64(operands[0][1].scalar_scale) * np.asarray(operands[1][1].scale)
    wide[2] = operands[2][0] * scale
    (y,) = conv.evaluate(conv.Attrs(layout="NHWC"), wide)
    wanted = activate(y, activation, alpha, 0.0)
    choose = {"int8": QParams.from_range, "int16": QParams.int16, "float32": lambda *_: None}[width]
    qy = choose(float(wanted.min()), float(wanted.max()))
    attrs = {"activation": activation, "alpha": alpha, "layout": "NHWC"}
    node, arrays = one_node("conv2d", attrs, operands, qy)
    (got,) = evaluate_node(node, arrays)
    if qy is None:
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
    else:
        found = (got.astype(np.float64) - qy.scalar_zero_point) * qy.scalar_scale
        assert np.abs(found - wanted).max() <= qy.scalar_scale * (0.5 + 1e-2)


def test_scaled_activation_needs_what_it_can_scale(one_node, random_qparams):
    rng = np.random.default_rng(9)
    operands, _ = _integer_operands(rng, (1, 6, 6, 8), (5, 1, 1, 8), random_qparams(rng))
    with pytest.raises(InternalError, match="needs QParams before it"):
        one_node("conv2d", {"activation": "tanh", "layout": "NHWC"}, operands, QParams((0.01,), (0,)))
    raw = QParams((0.001,) * 5, (0,), "int32", -(2**31), 2**31 - 1, axis=3)
    with pytest.raises(InternalError, match="applies to what is scaled"):
        one_node("conv2d", {"activation": "hard_swish", "layout": "NHWC"}, operands, raw)


def test_integer_sums_are_exact_beyond_float32(one_node):
    """255 · 127 · 1152 does not fit float32's 24 bits: the sum must still be the integer one."""
    rng = np.random.default_rng(5)
    qx = QParams((0.1,), (-128,))
    w = rng.choice([127, 126, 125], (4, 128, 3, 3)).astype(np.int8)
    x = rng.choice([127, 126, -20], (1, 128, 5, 5)).astype(np.int8)
    qw = QParams((0.01,) * 4, (0,), "int8", -127, 127, axis=0)
    qb = QParams((float(np.float32(0.1 * 0.01)),) * 4, (0,), "int32", -(2**31), 2**31 - 1, axis=0)
    raw = QParams(qb.scale, (0,), "int32", -(2**31), 2**31 - 1, axis=1)
    node, arrays = one_node("conv2d", {}, [(x, qx), (w, qw), (np.arange(4, dtype=np.int32), qb)], raw)
    (acc,) = evaluate_node(node, arrays)
    centred, wide = x.astype(np.int64) + 128, w.astype(np.int64)
    expected = np.zeros((1, 4, 3, 3), np.int64)
    for i, j in np.ndindex(3, 3):
        expected += np.einsum("nchw,oc->nohw", centred[:, :, i : i + 3, j : j + 3], wide[:, :, i, j])
    np.testing.assert_array_equal(acc, expected + np.arange(4).reshape(1, 4, 1, 1))
    assert np.abs(expected).max() > 2**24


@pytest.mark.parametrize("op", ["conv2d", "dense"])
def test_residual_goes_through_the_wide_sum(op, one_node, nearest, random_qparams):
    rng = np.random.default_rng(6)
    shape, weight = ((1, 6, 6, 8), (5, 1, 1, 8)) if op == "conv2d" else ((3, 4, 8), (5, 8))
    layout = {"layout": "NHWC"} if op == "conv2d" else {}
    qx, qr = random_qparams(rng), QParams.from_range(-1.5, 2)
    operands, real = _integer_operands(rng, shape, weight, qx)
    definition = ops.get(op)
    (y,) = definition.evaluate(definition.Attrs(**layout), list(real))
    r = rng.integers(-128, 128, y.shape).astype(np.int8)
    total = y + (r.astype("f8") - qr.scalar_zero_point) * qr.scalar_scale
    for activation, alpha, beta in ACTIVATIONS:
        attrs, qy, before = _result_params(total, activation, alpha, beta)
        attrs |= {"residual": True, **layout}
        node, arrays = one_node(op, attrs, [*operands, (r, qr)], qy)
        assert node.op.operand_activations(node) == (0, 3)
        (q,) = evaluate_node(node, arrays)
        expected = nearest(activate(total, activation, alpha, beta), qy)
        assert np.abs(q - expected).max() <= _allowed(attrs, before, qy)
    assert wide_qparams(before).dtype == "int32"


def test_real_residual_and_activation():
    rng = np.random.default_rng(7)
    conv = ops.get("conv2d")
    x, w, b = (rng.normal(size=s).astype("f4") for s in ((1, 3, 5, 5), (4, 3, 1, 1), (4,)))
    r = rng.normal(size=(1, 4, 5, 5)).astype("f4")
    (y,) = conv.evaluate(conv.Attrs(residual=True, activation="relu"), [x, w, b, r])
    plain = np.einsum("nchw,oc->nohw", x.astype("f8"), w[:, :, 0, 0]) + b.reshape(-1, 1, 1) + r
    np.testing.assert_allclose(y, np.maximum(plain, 0), rtol=1e-5, atol=1e-6)
    assert y.dtype == np.float32


def test_accumulators_that_could_overflow_are_refused(one_node):
    qx, qb = QParams((1.0,), (0,)), QParams((1.0,), (0,), "int32", -(2**31), 2**31 - 1)
    qw = QParams((1.0,), (0,), "int8", -127, 127)
    operands = [(np.zeros((1, 8), np.int8), qx), (np.zeros((2, 8), np.int8), qw), (np.zeros(2, np.int32), qb)]
    node, _ = one_node("dense", {}, operands, qx)
    node.inputs[1].type = TensorType("int8", (2, 70_000))
    with pytest.raises(ValueError, match="beyond int32"):
        node.op.check(node)


# -- dense and matmul --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trans_a", [0, 1])
@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("addend", [None, (), (1,), (5,), (1, 5), (3, 1), (3, 5), (5, 1)])
def test_gemm(trans_a, trans_b, addend, against_ort):
    rows = 5 if addend == (5, 1) else 3
    rng = np.random.default_rng(8)
    a = rng.normal(size=(4, rows) if trans_a else (rows, 4)).astype("f4")
    b = rng.normal(size=(5, 4) if trans_b else (4, 5)).astype("f4")
    c = [] if addend is None else [np.asarray(rng.normal(size=addend), "f4")]
    for alpha, beta in ((1.0, 1.0), (0.5, -2.0)):
        attrs = {"transA": trans_a, "transB": trans_b, "alpha": alpha, "beta": beta}
        graph, _ = against_ort("Gemm", [a, b, *c], constants=(1, 2), opset=11, **attrs)
        names = [n.op.name for n in graph.nodes]
        folded = addend in (None, (), (1,), (5,), (1, 5))
        assert names == ["transpose"] * trans_a + ["dense"] + ["add"] * (not folded)
        against_ort("Gemm", [a, b, *c], constants=(2,), opset=11, **attrs)


def test_gemm_keeps_a_weight_that_needs_no_change(import_one):
    rng = np.random.default_rng(9)
    a, b = rng.normal(size=(1, 4)).astype("f4"), rng.normal(size=(5, 4)).astype("f4")
    graph = import_one("Gemm", [a, b], constants=(1,), opset=11, transB=1)
    assert graph.nodes[0].inputs[1].name == "x1"


@pytest.mark.parametrize(("left", "right", "constant", "op"), [
    ((2, 3, 4), (4, 5), True, "dense"), ((4,), (4, 5), True, "dense"), ((3, 4), (4, 5), False, "matmul"),
    ((2, 3, 4), (2, 4, 5), True, "matmul"), ((2, 1, 3, 4), (7, 4, 5), False, "matmul"),
    ((4,), (4,), False, "matmul"), ((4,), (2, 4, 5), False, "matmul"), ((2, 3, 4), (4,), False, "matmul"),
])  # fmt: skip
def test_matmul(left, right, constant, op, against_ort):
    rng = np.random.default_rng(10)
    a, b = rng.normal(size=left).astype("f4"), rng.normal(size=right).astype("f4")
    graph, y = against_ort("MatMul", [a, b], constants=(1,) if constant else (), opset=13, atol=1e-5)
    (node,) = graph.nodes
    assert node.op.name == op
    assert node.op.macs(node) == y.size * 4


def test_matmul_of_integers(against_ort):
    a, b = np.arange(6).reshape(2, 3), np.arange(12).reshape(3, 4)
    against_ort("MatMul", [a.astype(np.int64), b.astype(np.int64)], constants=(1,), opset=13)


def test_matmul_operands_must_fit():
    matmul, f32 = ops.get("matmul"), lambda *s: TensorType("float32", s)
    for operands, message in [
        ([f32(2, 3), f32(4, 5)], "inner extents"),
        ([f32(2, 2, 3), f32(3, 3, 5)], "do not broadcast"),
        ([f32(), f32(3)], "matmul of"),
    ]:
        with pytest.raises(ValueError, match=message):
            matmul.infer(matmul.Attrs(), operands)


@pytest.mark.parametrize(("left", "right"), [((2, 6, 40), (2, 40, 5)), ((3, 2, 4, 900), (900, 7))])
def test_integer_matmul(left, right, one_node, real, nearest, random_qparams):
    rng = np.random.default_rng(11)
    operands = [(rng.integers(-128, 128, s).astype(np.int8), random_qparams(rng)) for s in (left, right)]
    y = real(*operands[0]) @ real(*operands[1])
    qy = QParams.from_range(float(y.min()), float(y.max()))
    node, arrays = one_node("matmul", {}, operands, qy)
    assert node.op.integer_obstacle(node) is None
    (q,) = evaluate_node(node, arrays)
    assert np.abs(q - nearest(y, qy)).max() <= 1


def test_long_integer_matmul_is_an_obstacle(one_node):
    unit = QParams((1.0,), (0,))
    q = np.zeros((1, 1), np.int8)
    node, _ = one_node("matmul", {}, [(q, unit), (q, unit)], unit)
    node.inputs[0].type = TensorType("int8", (1, 33_026))
    assert "could leave int32" in node.op.integer_obstacle(node)
    node.inputs[0].type = TensorType("int8", (1, 33_025))
    assert node.op.integer_obstacle(node) is None


def test_dense_raw_accumulator_and_real_result(one_node, random_qparams):
    rng = np.random.default_rng(12)
    operands, real = _integer_operands(rng, (3, 16), (5, 16), random_qparams(rng))
    raw = QParams(operands[2][1].scale, (0,), "int32", -(2**31), 2**31 - 1, axis=1)
    node, arrays = one_node("dense", {}, operands, raw)
    (acc,) = evaluate_node(node, arrays)
    (y,) = ops.get("dense").evaluate(ops.get("dense").Attrs(), list(real))
    np.testing.assert_allclose(acc * np.asarray(raw.scale), y, rtol=1e-6)
    node, arrays = one_node("dense", {}, operands, None)
    node.output.type = TensorType("float32", (3, 5))
    (direct,) = evaluate_node(node, arrays)
    np.testing.assert_allclose(direct, y, rtol=1e-6)


@pytest.mark.parametrize("most", [30, 127])
def test_long_sums_of_integers_are_exact_for_light_and_heavy_weights(most):
    rng = np.random.default_rng(5)
    a = rng.integers(-255, 256, (2, 40, 2000)).astype(np.int16)
    b = rng.integers(most - 10, most + 1, (2000, 3)).astype(np.int8)
    np.testing.assert_array_equal(integer_matmul(a, b), np.matmul(a.astype(np.int64), b.astype(np.int64)))
    ends = np.full((40, 2000), 255, np.int16)
    np.testing.assert_array_equal(integer_matmul(ends, b), np.matmul(ends.astype(np.int64), b.astype(np.int64)))
    np.testing.assert_array_equal(integer_matmul(a, b[:, 0]), np.matmul(a.astype(np.int64), b[:, 0].astype(np.int64)))
