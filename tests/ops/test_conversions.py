"""quantize, dequantize and requantize."""

from __future__ import annotations

import numpy as np
import pytest

from qcompile.ops.evaluation import evaluate_node
from qcompile.quant.qparams import QParams
from qcompile.quant.requantize import wide_qparams

FULL = (-(2**31), 2**31 - 1)


def test_quantize_is_within_half_a_step(integer, real, random_qparams):
    rng = np.random.default_rng(1)
    for _ in range(5):
        params = random_qparams(rng)
        low, high = real(np.array([-128, 127]), params)
        x = rng.uniform(low, high, (3, 50)).astype("f4")
        q = integer("quantize", [x], params)
        assert q.dtype == np.int8
        assert np.abs(real(q, params) - x).max() <= 0.5001 * params.scalar_scale


def test_quantize_halves_extremes_and_nan(integer):
    x = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 1e30, -1e30, np.inf, -np.inf, np.nan], "f4")
    q = integer("quantize", [x], QParams((1.0,), (10,)))
    assert q.tolist() == [10, 12, 12, 10, 8, 127, -128, 127, -128, -128]
    narrowed = integer("quantize", [x], QParams((1.0,), (10,), "int8", 10, 16))
    assert narrowed.tolist() == [10, 12, 12, 10, 10, 16, 10, 16, 10, 10]


def test_quantize_and_back_changes_no_code(integer, random_qparams):
    rng = np.random.default_rng(2)
    codes = np.arange(-128, 128, dtype=np.int8)
    for _ in range(20):
        params = random_qparams(rng)
        x = integer("dequantize", [(codes, params)], None)
        assert x.dtype == np.float32
        np.testing.assert_array_equal(integer("quantize", [x], params), codes)


@pytest.mark.parametrize("axis", [0, 2])
def test_dequantize_accumulators_per_channel(axis, integer):
    rng = np.random.default_rng(3)
    acc = rng.integers(-(2**20), 2**20, (4, 3, 4)).astype(np.int32)
    scales = rng.uniform(1e-4, 1e-2, 4).astype("f4")
    params = QParams(tuple(scales.tolist()), (0,), "int32", *FULL, axis=axis)
    y = integer("dequantize", [(acc, params)], None)
    shape = (4, 1, 1) if axis == 0 else (4,)
    np.testing.assert_allclose(y, acc * scales.reshape(shape).astype("f8"), rtol=2e-7)


@pytest.mark.parametrize("axis", [None, 0, 1, 2])
def test_requantize_accumulators(axis, integer, nearest, random_qparams):
    rng = np.random.default_rng(4)
    acc = rng.integers(-20000, 20000, (3, 3, 3)).astype(np.int32)
    scales = rng.uniform(1e-4, 3e-4, 1 if axis is None else 3).astype("f4")
    qx = QParams(tuple(scales.tolist()), (0,), "int32", *FULL, axis=axis)
    shape = [1, 1, 1]
    if axis is not None:
        shape[axis] = 3
    qy = random_qparams(rng)
    y = integer("requantize", [(acc, qx)], qy)
    off = np.abs(y - nearest(acc * scales.astype("f8").reshape(shape), qy))
    assert off.max() <= 1
    assert (off > 0).mean() < 0.05


def test_requantize_int8(integer, real, nearest, random_qparams):
    rng = np.random.default_rng(5)
    codes = np.arange(-128, 128, dtype=np.int8)
    for _ in range(10):
        qx, qy = random_qparams(rng), random_qparams(rng)
        y = integer("requantize", [(codes, qx)], qy)
        assert np.abs(y - nearest(real(codes, qx), qy)).max() <= 1
        assert (np.diff(y.astype(int)) >= 0).all()
    np.testing.assert_array_equal(integer("requantize", [(codes, qx)], qx), codes)


def test_requantize_to_the_wide_type_keeps_fourteen_more_bits(one_node):
    rng = np.random.default_rng(6)
    acc = rng.integers(-(2**16), 2**16, (2, 40)).astype(np.int32)
    qx, qy = QParams((3e-4,), (0,), "int32", *FULL), wide_qparams(QParams((0.05,), (3,)))
    node, arrays = one_node("requantize", {}, [(acc, qx)], qy)
    (wide,) = evaluate_node(node, arrays)
    assert wide.dtype == np.int32
    np.testing.assert_allclose(wide * qy.scalar_scale, acc * 3e-4, atol=qy.scalar_scale * 4)


@pytest.mark.parametrize(("name", "operand", "result", "message"), [
    ("quantize", None, None, "needs per-tensor QParams"),
    ("quantize", QParams((1.0,)), QParams((1.0,)), "quantized already"),
    ("quantize", None, QParams((1.0, 2.0), (0,), axis=0), "needs per-tensor QParams"),
    ("dequantize", None, None, "needs QParams"),
    ("dequantize", QParams((1.0,)), QParams((1.0,)), "is real"),
    ("requantize", QParams((1.0,)), QParams((1.0, 2.0), (0,), axis=0), "needs per-tensor QParams"),
    ("requantize", QParams((1.0, 2.0), (0, 1), axis=0), QParams((1.0,)), "zero points"),
    ("requantize", None, QParams((1.0,)), "has no QParams"),
])  # fmt: skip
def test_sides_that_are_not_as_they_must_be(name, operand, result, message, one_node):
    node, arrays = one_node(*_sound(name))
    node.inputs[0].qparams, node.output.qparams = operand, result
    with pytest.raises(ValueError, match=message):
        node.op.check(node)
    with pytest.raises(ValueError, match=message):
        node.op.evaluate_integer(node, arrays)


def _sound(name):
    unit = QParams((1.0,))
    q, x = np.zeros((2, 2), np.int8), np.zeros((2, 2), "f4")
    return {
        "quantize": (name, {}, [x], unit),
        "dequantize": (name, {}, [(q, unit)], None),
        "requantize": (name, {}, [(q, unit)], unit),
    }[name]
