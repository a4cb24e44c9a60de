"""Layers that divide what their activation gives, each channel by a number of its own."""

from __future__ import annotations

import numpy as np
import pytest

from qcompile import ops
from qcompile.errors import InternalError
from qcompile.ops.evaluation import evaluate_node
from qcompile.quant.qparams import QParams
from qcompile.quant.scaled import DIVIDED

INT32 = (-(2**31), 2**31 - 1)
DIVISORS = (0.5, 4.0)


def _plain(activation, y):
    return np.clip(y, 0, 6) if activation == "channel_clip" else y * np.clip(y / 6 + 0.5, 0, 1)


def _layer(op, activation, **more):
    extra = {"beta": 6.0} if activation == "channel_clip" else {}
    return ops.get(op).Attrs(activation=activation, divisors=DIVISORS, **extra, **more)


@pytest.mark.parametrize("activation", DIVIDED)
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_convolution_divides_behind_its_activation(activation, layout):
    rng = np.random.default_rng(1)
    x, weight = rng.normal(0, 3, (2, 3, 4, 5)), rng.normal(size=(2, 3, 1, 1))
    bias = np.array([0.5, -1.0])
    y = np.einsum("nchw,oc->nohw", x, weight[:, :, 0, 0]) + bias.reshape(-1, 1, 1)
    wanted = _plain(activation, y) / np.reshape(DIVISORS, (-1, 1, 1))
    operands = [x, weight, bias]
    if layout == "NHWC":
        operands = [x.transpose(0, 2, 3, 1), weight.transpose(0, 2, 3, 1), bias]
        wanted = wanted.transpose(0, 2, 3, 1)
    (got,) = ops.get("conv2d").evaluate(_layer("conv2d", activation, layout=layout), operands)
    np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("activation", DIVIDED)
def test_dense_divides_behind_its_activation(activation):
    x = np.linspace(-9, 9, 19).reshape(19, 1).astype(np.float32)
    (got,) = ops.get("dense").evaluate(
        _layer("dense", activation), [x, np.ones((2, 1), np.float32), np.zeros(2, np.float32)]
    )
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, _plain(activation, x) / np.array(DIVISORS), rtol=1e-6)


def _operands(codes, dtype="int8"):
    """x of step 1/8 from zero, weights 1 of step 1/4: an accumulator step is 1/32."""
    qx = QParams.int16(-4096.0, 4095.875) if dtype == "int16" else QParams((0.125,), (0,))
    step = qx.scalar_scale / 4
    qw = QParams((0.25, 0.25), (0,), "int8", -127, 127, axis=0)
    qb = QParams((step, step), (0,), "int32", *INT32, axis=0)
    x = np.array(codes, dtype).reshape(-1, 1)
    return [(x, qx), (np.array([[4], [4]], np.int8), qw), (np.zeros(2, np.int32), qb)]


def test_integer_clip_by_hand(one_node):
    """x = q/8 and y = min(max(x, 0), 6) / d in steps of 1/16: 2x·(1/d)·8 codes, at most 96/d, from the zero point."""
    qy = QParams((0.0625,), (-128,))
    node, arrays = one_node(
        "dense",
        {"activation": "channel_clip", "beta": 6.0, "divisors": DIVISORS},
        _operands([-40, 0, 3, 40, 48, 100]),
        qy,
    )
    (q,) = evaluate_node(node, arrays)
    # 96/0.5 = 192 codes and 96/4 = 24; 3 gives 2·3/0.5 = 12, and 2·3/4 = 1.5, to even.
    np.testing.assert_array_equal(q.astype(int) + 128, [[0, 0], [0, 0], [12, 2], [160, 20], [192, 24], [192, 24]])


def test_integer_hard_swish_by_hand(one_node):
    qy = QParams((0.125,), (-100,))
    node, arrays = one_node(
        "dense", {"activation": "channel_hard_swish", "divisors": DIVISORS}, _operands([-40, -8, 8, 48, 100]), qy
    )
    (q,) = evaluate_node(node, arrays)
    # x = -5, -1, 1, 6, 12.5 give 0, -1/3, 2/3, 6, 12.5; times 8/d: 16 and 2 codes for each unit.
    np.testing.assert_array_equal(q.astype(int) + 100, [[0, 0], [-5, -1], [11, 1], [96, 12], [200, 25]])


WIDTHS = [(a, w) for a in DIVIDED for w in ("int8", "int16", "float32")]
WIDTHS.remove(("channel_clip", "float32"))  # it has no real result


@pytest.mark.parametrize(("activation", "width"), WIDTHS)
@pytest.mark.parametrize("source", ["int8", "int16"])
def test_integer_result_is_rounded_once(activation, width, source, one_node):
    operands = _operands(np.arange(-128, 128) if source == "int8" else np.arange(-128, 128) * 250, source)
    x = operands[0][0].astype("f8") * operands[0][1].scalar_scale
    wanted = _plain(activation, x) / np.array(DIVISORS)
    choose = {"int8": QParams.from_range, "int16": QParams.int16, "float32": lambda *_: None}[width]
    qy = choose(float(wanted.min()), float(wanted.max()))
    if activation == "channel_clip":
        qy = qy.clamped(0.0, np.inf)
    attrs = {"activation": activation, "divisors": DIVISORS, "beta": 6.0 if activation == "channel_clip" else 0.0}
    node, arrays = one_node("dense", attrs, operands, qy)
    (got,) = evaluate_node(node, arrays)
    if qy is None:
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
    else:
        found = (got.astype("f8") - qy.scalar_zero_point) * qy.scalar_scale
        assert np.abs(found - wanted).max() <= qy.scalar_scale * (0.5 + 1e-2)


@pytest.mark.parametrize(
    ("attrs", "problem"),
    [
        ({"activation": "channel_hard_swish"}, "with 0 divisors"),
        ({"activation": "hard_swish", "divisors": DIVISORS}, "with 2 divisors"),
        ({"activation": "channel_hard_swish", "divisors": (1.0, 0.0)}, "not a positive number"),
        ({"activation": "channel_hard_swish", "divisors": (1.0, float("inf"))}, "not a positive number"),
        (
            {"activation": "channel_hard_swish", "divisors": DIVISORS, "residual": True},
            "neither a residual nor a table",
        ),
        ({"activation": "channel_clip", "divisors": DIVISORS, "alpha": -1.0, "beta": 1.0}, "not from -1 to 1"),
        ({"activation": "channel_clip", "divisors": DIVISORS}, "not from 0 to 0"),
    ],
)
@pytest.mark.parametrize("op", ["conv2d", "dense"])
def test_attributes_must_agree(op, attrs, problem):
    with pytest.raises(ValueError, match=problem):
        ops.get(op).Attrs(**attrs)


@pytest.mark.parametrize("op", ["add", "conv_transpose2d"])
def test_other_operations_divide_nothing(op):
    with pytest.raises(ValueError, match="belongs to conv2d and dense"):
        ops.get(op).Attrs(activation="channel_clip")


def test_divisors_are_one_for_each_channel(one_node):
    attrs = {"activation": "channel_hard_swish", "divisors": (1.0, 2.0, 3.0)}
    with pytest.raises(ValueError, match="3 divisors for 2 channels"):
        one_node("dense", attrs, _operands([1]), QParams((0.1,), (0,)))


@pytest.mark.parametrize("result", [None, QParams((0.1,), (0,))])
def test_clip_needs_codes_from_zero(result, one_node):
    attrs = {"activation": "channel_clip", "beta": 6.0, "divisors": DIVISORS}
    with pytest.raises(InternalError, match="whose least code is zero"):
        one_node("dense", attrs, _operands([1]), result)
