"""Binary operations with broadcasting: real and integer forms."""

from __future__ import annotations

import numpy as np
import pytest

from qcompile import ops
from qcompile.errors import QCompileError
from qcompile.ir.types import TensorType
from qcompile.ops.evaluation import evaluate_node
from qcompile.quant.qparams import QParams
from qcompile.quant.requantize import WIDE_SHIFT, wide_qparams

SHAPES = [((2, 3, 4), (2, 3, 4)), ((2, 3, 4), (4,)), ((1, 3, 1), (2, 1, 4)), ((3,), (2, 1, 1)), ((2, 3), ())]
ARITHMETIC = {"Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div", "Pow": "pow"}
COMPARISONS = ["Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual"]
IDENTITY = QParams((1.0,), (0,))


@pytest.mark.parametrize("op_type", ARITHMETIC)
@pytest.mark.parametrize(("left", "right"), SHAPES)
def test_float_matches_onnx_runtime(op_type, left, right, against_ort, lowered):
    rng = np.random.default_rng(1)
    a = rng.uniform(0.5, 2, left).astype("f4")
    b = rng.uniform(-2, 2, right).astype("f4")
    graph, _ = against_ort(op_type, [a, b], opset=13)
    assert [n.op.name for n in graph.nodes] == [ARITHMETIC[op_type]]
    ours, reference = lowered(ARITHMETIC[op_type], [a, b])
    np.testing.assert_allclose(ours, reference, rtol=1e-6)


@pytest.mark.parametrize("opset", [7, 13])
def test_old_and_new_operator_sets(opset, against_ort):
    a = np.arange(6, dtype="f4").reshape(2, 3)
    against_ort("Add", [a, np.float32([1, 2, 3])], opset=opset)
    against_ort("Max", [a, a - 1, a.T.copy().reshape(2, 3)], opset=8)


@pytest.mark.parametrize("op_type", ["Max", "Min", "Sum"])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_variadic_operators(op_type, count, against_ort):
    rng = np.random.default_rng(2)
    against_ort(op_type, [rng.normal(size=s).astype("f4") for s in ((2, 3), (3,), (2, 1), (1, 1))[:count]])


@pytest.mark.parametrize("op_type", COMPARISONS)
@pytest.mark.parametrize("dtype", ["f4", "i8", "i4"])
def test_comparisons(op_type, dtype, against_ort):
    rng = np.random.default_rng(3)
    a, b = rng.integers(-2, 3, (2, 3, 4)), rng.integers(-2, 3, (3, 1))
    against_ort(op_type, [a.astype(dtype), b.astype(dtype)], opset=16)


@pytest.mark.parametrize("name", ["equal", "greater", "less", "greater_or_equal", "less_or_equal"])
def test_lowered_comparisons(name, lowered):
    rng = np.random.default_rng(4)
    a, b = (rng.integers(-2, 3, s).astype("f4") for s in ((2, 3, 4), (3, 1)))
    ours, reference = lowered(name, [a, b])
    np.testing.assert_array_equal(ours, reference)
    assert 0 < reference.sum() < reference.size


def test_logic(against_ort, lowered):
    a, b = np.array([True, True, False, False]), np.array([True, False, True, False])
    for op_type, name in (("And", "logical_and"), ("Or", "logical_or")):
        against_ort(op_type, [a, b])
        np.testing.assert_array_equal(*lowered(name, [a, b]))
    against_ort("Not", [a])
    np.testing.assert_array_equal(*lowered("logical_not", [a]))


@pytest.mark.parametrize("op_type", ["Add", "Sub", "Mul", "Div"])
def test_shape_arithmetic_in_int64(op_type, against_ort):
    a, b = np.array([7, -7, 9, 0], np.int64), np.array([2, 2, -3, 5], np.int64)
    against_ort(op_type, [a, b])


def test_integers_are_divided_toward_zero(one_node):
    a, b = np.array([7, -7, 7, -7, 5, -(2**63)]), np.array([2, 2, -2, -2, 0, -1])
    node, arrays = one_node("div", {}, [a, b], None)
    (quotient,) = evaluate_node(node, arrays)
    np.testing.assert_array_equal(quotient, [3, -3, -3, 3, 0, -(2**63)])


@pytest.mark.parametrize(("fmod", "expected"), [(True, [1, -1, 1, -1]), (False, [1, 1, -1, -1])])
def test_sign_of_the_remainder(fmod, expected, one_node):
    node, arrays = one_node("mod", {"fmod": fmod}, [np.array([7, -7, 7, -7]), np.array([2, 2, -2, -2])], None)
    np.testing.assert_array_equal(evaluate_node(node, arrays)[0], expected)


@pytest.mark.parametrize("exponent", [2.0, 3.0, 0.5, -1.0, 1.7])
def test_powers_by_a_constant(exponent, against_ort, lowered):
    x = np.random.default_rng(5).uniform(0.1, 3, (3, 5)).astype("f4")
    against_ort("Pow", [x, np.float32(exponent)], constants=(1,), opset=13)
    ours, reference = lowered("pow", [x, np.float32(exponent)])
    np.testing.assert_allclose(ours, reference, rtol=1e-6)


def test_powers_of_integers(against_ort):
    x = np.array([1, 2, 3], np.int64)
    against_ort("Pow", [x, np.array([2, 0, 3], np.int64)], opset=15)
    against_ort("Pow", [x, np.array([0.5, 2.0, 1.0], np.float32)], opset=15)
    assert ops.get("pow").evaluate(None, [x, np.array([-1, -1, 0])])[0].tolist() == [1, 0, 1]


def test_operands_that_do_not_fit_are_refused(import_one):
    add = ops.get("add")
    with pytest.raises(ValueError, match="do not broadcast"):
        add.infer(add.Attrs(), [TensorType("float32", (2,)), TensorType("float32", (3,))])
    with pytest.raises(ValueError, match="element types differ"):
        add.infer(add.Attrs(), [TensorType("float32", (2,)), TensorType("int64", (2,))])
    with pytest.raises(ValueError, match="activation 'swish'"):
        add.Attrs(activation="swish")
    with pytest.raises(QCompileError):
        import_one("Add", [np.zeros(2, "f4"), np.zeros(3, "f4")])


def _operands(rng, random_qparams, left=(2, 5, 6), right=(2, 5, 6)):
    codes = [rng.integers(-128, 128, s).astype(np.int8) for s in (left, right)]
    return [(q, random_qparams(rng)) for q in codes]


@pytest.mark.parametrize("name", ["add", "sub", "mul"])
@pytest.mark.parametrize(("left", "right"), [*SHAPES, ((1, 4, 4, 8), (1, 1, 1, 8))])
def test_integer_rule_is_near_the_real_one(name, left, right, integer, real, nearest, random_qparams):
    rng = np.random.default_rng(6)
    exact = {"add": np.add, "sub": np.subtract, "mul": np.multiply}[name]
    for _ in range(4):
        operands = _operands(rng, random_qparams, left, right)
        qy = random_qparams(rng, 8.0)
        y = integer(name, operands, qy)
        off = np.abs(y - nearest(exact(real(*operands[0]), real(*operands[1])), qy))
        assert off.max() <= 1
        assert y.dtype == np.int8


def test_add_rounds_halves_up(integer):
    # y = (a + b) / 2 on integers: M = 2^(k−1), so a sum of 3 is 1.5 and becomes 2, −3 becomes −1.
    half = QParams((2.0,), (0,))
    a = np.array([3, -3, 1, -1, 127, -128], np.int8)
    y = integer("add", [(a, IDENTITY), (np.zeros(6, np.int8), IDENTITY)], half)
    assert y.tolist() == [2, -1, 1, 0, 64, -64]


def test_add_saturates_and_keeps_to_narrowed_bounds(integer):
    a = np.array([127, -128, 100, -100], np.int8)
    assert integer("add", [(a, IDENTITY), (a, IDENTITY)], IDENTITY).tolist() == [127, -128, 127, -128]
    relu6 = QParams((1.0,), (0,), "int8", 0, 6)
    assert integer("add", [(a, IDENTITY), (a, IDENTITY)], relu6).tolist() == [6, 0, 6, 0]
    assert integer("sub", [(a, IDENTITY), (a[::-1].copy(), IDENTITY)], IDENTITY).tolist() == [127, -128, 127, -128]


def test_mul_rounds_halves_to_even_and_takes_extremes(integer):
    half = QParams((2.0,), (0,))
    a = np.array([1, 3, 5, -1, -3, -128, -128], np.int8)
    b = np.array([1, 1, 1, 1, 1, -128, 127], np.int8)
    assert integer("mul", [(a, IDENTITY), (b, IDENTITY)], half).tolist() == [0, 2, 2, 0, -2, 127, -128]


def test_every_pair_of_codes(integer, real, nearest):
    codes = np.arange(-128, 128, dtype=np.int8)
    a, b = codes[:, None].repeat(256, 1), codes[None, :].repeat(256, 0)
    # Scales without a common divisor, so that exact halves (which a sum rounds up) are rare.
    qa, qb, qy = QParams((0.02137,), (-128,)), QParams((0.01313,), (17,)), QParams((0.03001,), (-60,))
    for name, exact in (("add", np.add), ("sub", np.subtract), ("mul", np.multiply)):
        y = integer(name, [(a, qa), (b, qb)], qy)
        off = np.abs(y - nearest(exact(real(a, qa), real(b, qb)), qy))
        assert off.max() <= 1
        assert (off > 0).mean() < 0.01


def test_wide_operand_is_added_exactly(integer, real, nearest):
    rng = np.random.default_rng(7)
    qy, qb = QParams((0.05,), (3,)), QParams((0.04,), (-10,))
    wide = wide_qparams(qy)
    assert wide.scalar_scale == np.float32(qy.scalar_scale / 2**WIDE_SHIFT)
    a = rng.integers(-(2**21), 2**21, (4, 64)).astype(np.int32)
    b = rng.integers(-128, 128, (4, 64)).astype(np.int8)
    y = integer("add", [(a, wide), (b, qb)], qy)
    assert np.abs(y - nearest(real(a, wide) + real(b, qb), qy)).max() <= 1


@pytest.mark.parametrize(("activation", "alpha", "beta"), [
    ("relu", 0.0, 0.0), ("clip", 0.0, 6.0), ("leaky_relu", 0.1, 0.0), ("hard_swish", 0.0, 0.0), ("silu", 0.0, 0.0),
    ("hard_sigmoid", 0.2, 0.5), ("sigmoid", 0.0, 0.0), ("tanh", 0.0, 0.0), ("gelu", 0.0, 0.0),
])  # fmt: skip
def test_fused_activation(activation, alpha, beta, integer, lowered, real, nearest, random_qparams):
    from qcompile.ops.arithmetic import CLAMPS, activate, clamp_bounds

    rng = np.random.default_rng(8)
    a, b = (rng.normal(0, 3, (3, 20)).astype("f4") for _ in range(2))
    attrs = {"activation": activation, "alpha": alpha, "beta": beta}
    ours, reference = lowered("add", [a, b], **attrs)
    np.testing.assert_allclose(ours, reference, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(reference, activate(a + b, activation, alpha, beta), rtol=1e-6)
    operands = _operands(rng, random_qparams, (3, 40), (3, 40))
    total = real(*operands[0]) + real(*operands[1])
    if activation in CLAMPS:
        qy = QParams.from_range(-8, 8).clamped(*clamp_bounds(activation, alpha, beta))
        expected = nearest(activate(total, activation, alpha, beta), qy)
    else:
        before, qy = QParams.from_range(-8, 8), QParams.from_range(-1, 6)
        attrs["pre_activation"] = before
        expected = nearest(activate(total, activation, alpha, beta), qy)
    y = integer("add", operands, qy, **attrs)
    # A table sees the sum rounded to `before`: half of its step, times the slope (at most 1.13), and its own half.
    allowed = 1 if activation in CLAMPS else 1 + np.ceil(0.5 * 1.13 * before.scalar_scale / qy.scalar_scale)
    assert np.abs(y - expected).max() <= allowed


def test_scales_beyond_fixed_point_are_an_obstacle(one_node):
    big, small = QParams((1e6,), (0,)), QParams((1e-3,), (0,))
    q = np.zeros((2, 2), np.int8)
    for name in ("add", "sub"):
        node, _ = one_node(name, {}, [(q, IDENTITY), (q, IDENTITY)], IDENTITY)
        assert node.op.integer_obstacle(node) is None
        node.inputs[0].qparams, node.output.qparams = big, small
        assert "too large" in node.op.integer_obstacle(node)
        node.inputs[0].qparams = None
        assert node.op.integer_obstacle(node) is None


def test_per_channel_operands_are_an_obstacle(one_node):
    q = np.zeros((2, 2), np.int8)
    for name in ("add", "mul"):
        node, _ = one_node(name, {}, [(q, IDENTITY), (q, IDENTITY)], IDENTITY)
        node.inputs[1].qparams = QParams((1.0, 2.0), (0,), axis=1)
        assert "per channel" in node.op.integer_obstacle(node)
