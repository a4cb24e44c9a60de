"""The rules of 16-bit activations against exact arithmetic."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompile import ops
from qcompile.ir.graph import Graph
from qcompile.ir.types import TensorType
from qcompile.ops.interpreter import Interpreter
from qcompile.quant import int16
from qcompile.quant.affine import dequantize, quantize
from qcompile.quant.qparams import QParams, QSpec

scales = st.floats(1e-6, 1e3)


def params(scale: float) -> QParams:
    return QParams((scale,), (0,), "int16", -32767, 32767)


@settings(deadline=None)
@given(st.lists(st.integers(-32768, 32767), min_size=1, max_size=8), st.integers(-(2**31), 2**31 - 1))
def test_planes_are_the_integer(q: list[int], bias: int) -> None:
    high, low = int16.split(np.array(q, np.int16))
    np.testing.assert_array_equal(high * 256 + low, q)
    assert high.min() >= -128
    assert high.max() <= 127
    assert 0 <= low.min() <= low.max() <= 255
    high, low = int16.split(np.array([bias], np.int32))
    assert int(high[0]) * 256 + int(low[0]) == bias


@settings(deadline=None)
@given(st.integers(1, 3000), st.integers(0, 2**32 - 1))
def test_sums_of_planes_are_the_sum(terms: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    q = random.integers(-32768, 32768, (1, terms)).astype(np.int16)
    w = random.integers(-127, 128, (terms, 4))
    planes = [part.astype(np.int64) @ w for part in int16.split(q)]
    exact = q.astype(np.int64) @ w
    np.testing.assert_array_equal(planes[0] * 256 + planes[1], exact)
    total = int16.combine(planes[0].astype(np.int32), planes[1].astype(np.int32))
    # Three roundings to 24 bits, each of the larger of what is added.
    reach = np.maximum(np.abs(planes[0]) * 256, np.abs(planes[1]))
    assert (np.abs(total - exact) <= 3 * reach / 2**24 + 1e-9).all()


@settings(deadline=None)
@given(scales, scales, scales, st.sampled_from([(1, 1), (1, -1)]), st.integers(0, 2**32 - 1))
def test_sum_is_the_nearest(a: float, b: float, y: float, signs: tuple[int, int], seed: int) -> None:
    random = np.random.default_rng(seed)
    pa, pb, py = params(a), params(b), params(y)
    qa, qb = (random.integers(-32767, 32768, 64).astype(np.int16) for _ in range(2))
    try:
        constants = int16.sum_constants(pa, pb, py, signs)
    except ValueError:
        assert max(pa.scalar_scale, pb.scalar_scale) / py.scalar_scale > 2**21
        return
    q = int16.add(qa, qb, pa, pb, py, signs)
    exact = qa * signs[0] * np.float64(pa.scalar_scale) + qb * signs[1] * np.float64(pb.scalar_scale)
    exact /= py.scalar_scale
    wanted = np.clip(exact, -32767, 32767)
    # Operands are rounded to 2^-k, the factors to 24 bits, the sum once.
    steps = 2.0**-constants.shift
    factors = (np.abs(qa) * pa.scalar_scale + np.abs(qb) * pb.scalar_scale) / py.scalar_scale * 2**-23
    assert (np.abs(q - wanted) <= 0.5 + steps + factors + 1e-6).all()


@pytest.mark.parametrize("op", ["sigmoid", "tanh", "gelu", "silu", "exp", "erf", "relu", "hard_swish"])
@pytest.mark.parametrize("reach", [4.0, 40.0])
def test_table_is_close_to_the_function(op: str, reach: float) -> None:
    definition = ops.get(op)
    attrs = definition.Attrs()
    x = QParams.int16(-reach, reach)
    codes = np.arange(-32767, 32768).astype(np.int16)
    real = codes.astype(np.float64) * x.scalar_scale
    wanted = definition.function(attrs, real)
    # Twice the range, as the passes choose it: the far end of the last segment lies a little outside.
    y = QParams.int16(2 * float(wanted.min()), 2 * float(wanted.max()))
    entries = int16.table(lambda v: definition.function(attrs, v), x, y)
    assert entries.shape == (4096,)
    got = int16.look_up(codes, entries, "int16").astype(np.float64) * y.scalar_scale
    # Rounding of the ends and of the result, and the curve within a segment: f'' · h² / 8.
    width = 16 * x.scalar_scale
    bend = np.abs(np.gradient(np.gradient(wanted, real), real)).max() * width**2 / 8
    assert np.abs(got - wanted).max() <= 1.01 * y.scalar_scale + 1.5 * bend


@pytest.mark.parametrize("op", ["sigmoid", "tanh", "gelu", "silu", "hard_swish"])
@pytest.mark.parametrize("reach", [4.0, 40.0])
def test_table_of_eight_bits_rounds_once(op: str, reach: float) -> None:
    """Where the result is steep within a segment, too."""
    definition = ops.get(op)
    attrs = definition.Attrs()
    x = QParams.int16(-2 * reach, 2 * reach)
    codes = np.arange(-16384, 16384).astype(np.int16)
    wanted = definition.function(attrs, codes.astype(np.float64) * x.scalar_scale)
    y = QParams.from_range(float(wanted.min()), float(wanted.max()) / 8)
    entries = int16.table(lambda v: definition.function(attrs, v), x, y)
    got = int16.look_up(codes, entries, "int8")
    nearest = quantize(wanted.astype(np.float32), y)
    assert np.abs(got.astype(np.int32) - nearest).max() <= 1
    assert np.mean(got != nearest) < 0.003


@pytest.mark.parametrize(("op", "high", "serves"), [("sin", 6.0, True), ("sin", 400.0, False), ("silu", 400.0, True)])
def test_functions_that_no_table_follows_stay_in_float(op: str, high: float, serves: bool) -> None:
    graph = Graph("bent")
    x = graph.add_input("x", TensorType("float32", (1, 8)))
    node = graph.add_node(ops.get(op), [x])
    graph.set_outputs([node.output])
    assert node.op.int16_obstacle(node) is None
    x.qspec = QSpec(kind="fixed", range=(-high / 4, high))
    moved = graph.add_node(ops.get("reshape"), [x], ops.get("reshape").Attrs(shape=(8,)))
    moved.output.qspec = QSpec(kind="shared", source="x")
    for reader in (node, graph.add_node(ops.get(op), [moved.output])):
        obstacle = reader.op.int16_obstacle(reader)
        assert obstacle is None if serves else obstacle == "sin bends too much between -100 and 400 for a table"


def test_table_ends_where_the_function_does() -> None:
    x, y = QParams.int16(-1.0, 1.0), QParams.int16(0.0, 1.0)
    entries = int16.table(np.sqrt, x, y)
    got = int16.look_up(np.array([-32768, -5000, 0, 32767], np.int16), entries, "int16")
    assert got[:2].tolist() == [-32767, -32767]
    assert got[3] >= 32766


@pytest.mark.parametrize("reach", [0.0, 1e-30, 3.0, 1e30])
def test_int16_params_hold_the_range(reach: float) -> None:
    q = QParams.int16(-reach, reach / 2)
    assert (q.scalar_zero_point, q.qmin, q.qmax) == (0, -32767, 32767)
    x = np.array([-reach, 0.0, reach / 2], np.float32)
    np.testing.assert_allclose(dequantize(quantize(x, q), q), x, atol=q.scalar_scale * 0.51)


def test_int16_params_refuse_infinity() -> None:
    with pytest.raises(ValueError, match="not finite"):
        QParams.int16(0.0, math.inf)


def test_dense_keeps_sixteen_bits() -> None:
    """A long product of 16-bit activations, whose sum no int32 holds, is as good as its weights."""
    random = np.random.default_rng(1)
    graph = Graph("long")
    weight = random.integers(-127, 128, (3, 4096)).astype(np.int8)
    x = graph.add_input("x", TensorType("int16", (2, 4096)))
    x.qparams = QParams.int16(-4.0, 4.0)
    w, b = graph.add_constant("w", weight), graph.add_constant("b", np.array([5, -7, 2**30], np.int32))
    w.qparams = QParams((0.01,), (0,), "int8", -127, 127)
    b.qparams = QParams((0.01 * x.qparams.scalar_scale,), (0,), "int32", -(2**31), 2**31 - 1)
    node = graph.add_node(ops.get("dense"), [x, w, b], types=[TensorType("float32", (2, 3))])
    graph.set_outputs([node.output], ["y"])
    codes = random.integers(-32767, 32768, (2, 4096)).astype(np.int16)
    (got,) = Interpreter(graph).run({"x": codes}).values()
    exact = (codes.astype(np.int64) @ weight.T.astype(np.int64) + b.constant()) * (0.01 * x.qparams.scalar_scale)
    assert np.abs(exact / (0.01 * x.qparams.scalar_scale)).max() > 2**30
    np.testing.assert_allclose(got, exact, rtol=1e-6, atol=1e-3)
