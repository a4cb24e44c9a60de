"""Reductions and global pooling: real and integer forms."""

from __future__ import annotations

import numpy as np
import pytest

from qcompile import ops
from qcompile.errors import QCompileError
from qcompile.ir.types import TensorType
from qcompile.quant.qparams import QParams

REDUCTIONS = {
    "ReduceMean": ("reduce_mean", np.mean),
    "ReduceSum": ("reduce_sum", np.sum),
    "ReduceMax": ("reduce_max", np.max),
    "ReduceMin": ("reduce_min", np.min),
    "ReduceProd": ("reduce_prod", np.prod),
}
AXES = [[0], [-1], [1, 2], [2, 3], [0, -1, 1], None]


@pytest.mark.parametrize("op_type", REDUCTIONS)
@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("keepdims", [0, 1])
def test_axes_as_attribute_and_as_input(op_type, axes, keepdims, against_ort):
    x = np.random.default_rng(1).normal(size=(2, 3, 4, 5)).astype("f4")
    given = {} if axes is None else {"axes": axes}
    old = 12 if op_type == "ReduceSum" else 17
    graph, _ = against_ort(op_type, [x], opset=old, keepdims=keepdims, **given)
    assert [n.op.name for n in graph.nodes] == [REDUCTIONS[op_type][0]]
    if axes is not None:
        against_ort(op_type, [x, np.array(axes)], constants=(1,), opset=18, keepdims=keepdims)


def test_empty_axes_mean_all_or_none(against_ort):
    x = np.random.default_rng(2).normal(size=(2, 3)).astype("f4")
    empty = np.zeros(0, np.int64)
    against_ort("ReduceSum", [x, empty], constants=(1,), opset=13)
    against_ort("ReduceMean", [x], opset=18)
    graph, y = against_ort("ReduceSum", [x, empty], constants=(1,), opset=13, noop_with_empty_axes=1)
    assert graph.nodes == []
    np.testing.assert_array_equal(y, x)


def test_axes_of_run_time_are_refused(import_one):
    with pytest.raises(QCompileError, match="axes is computed at run time"):
        import_one("ReduceSum", [np.zeros((2, 3), "f4"), np.array([0])], opset=13)


def test_axes_out_of_range_are_refused(import_one):
    with pytest.raises(QCompileError, match="axes"):
        import_one("ReduceMax", [np.zeros((2, 3), "f4")], axes=[2])
    with pytest.raises(ValueError, match="ascending"):
        ops.get("reduce_max").Attrs(axes=(1, 0))
    with pytest.raises(ValueError, match="over axes"):
        ops.get("reduce_max").infer(ops.get("reduce_max").Attrs(axes=(2,)), [TensorType("float32", (2, 3))])


@pytest.mark.parametrize("op_type", ["ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd"])
def test_integers(op_type, against_ort):
    x = np.random.default_rng(3).integers(-4, 5, (2, 3, 4))
    against_ort(op_type, [x, np.array([1])], constants=(1,), opset=18)


@pytest.mark.parametrize("name", [row[0] for row in REDUCTIONS.values()])
@pytest.mark.parametrize("keepdims", [True, False])
def test_lowering(name, keepdims, lowered):
    x = np.random.default_rng(4).normal(size=(2, 3, 4, 5)).astype("f4")
    for axes in [(0,), (1, 2), (3,), (0, 1, 2, 3)]:
        ours, reference = lowered(name, [x], axes=axes, keepdims=keepdims)
        np.testing.assert_allclose(ours, reference, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["reduce_mean", "reduce_sum"])
@pytest.mark.parametrize("axes", [(1, 2), (3,), (0, 1, 2, 3)])
def test_integer_sums(name, axes, integer, real, nearest, random_qparams):
    rng = np.random.default_rng(5)
    exact = np.mean if name == "reduce_mean" else np.sum
    for keepdims in (True, False):
        q = rng.integers(-128, 128, (2, 7, 7, 5)).astype(np.int8)
        qx, qy = random_qparams(rng), random_qparams(rng, 0.3 if name == "reduce_mean" else 30.0)
        y = integer(name, [(q, qx)], qy, axes=axes, keepdims=keepdims)
        expected = exact(real(q, qx), axis=axes, keepdims=keepdims)
        assert np.abs(y - nearest(expected, qy)).max() <= 1


@pytest.mark.parametrize("name", ["reduce_max", "reduce_min"])
def test_integer_selections_are_exact(name, integer, random_qparams):
    rng = np.random.default_rng(6)
    q = rng.integers(-128, 128, (2, 5, 4, 3)).astype(np.int8)
    params = random_qparams(rng)
    y = integer(name, [(q, params)], params, axes=(1, 3))
    exact = np.max if name == "reduce_max" else np.min
    np.testing.assert_array_equal(y, exact(q, axis=(1, 3), keepdims=True))


@pytest.mark.parametrize(
    ("op_type", "name"), [("GlobalAveragePool", "global_avg_pool"), ("GlobalMaxPool", "global_max_pool")]
)
def test_global_pooling(op_type, name, against_ort, lowered, integer, real, nearest, random_qparams):
    rng = np.random.default_rng(7)
    graph, _ = against_ort(op_type, [rng.normal(size=(2, 3, 5, 7)).astype("f4")])
    assert [n.op.name for n in graph.nodes] == [name]
    for shape in ((2, 3, 9), (1, 2, 3, 4, 5)):
        against_ort(op_type, [rng.normal(size=shape).astype("f4")])
    x = rng.normal(size=(2, 5, 7, 3)).astype("f4")
    ours, reference = lowered(name, [x], layout="NHWC")
    np.testing.assert_allclose(ours, reference, rtol=1e-5)
    q, qx = rng.integers(-128, 128, (2, 5, 7, 3)).astype(np.int8), random_qparams(rng)
    qy = random_qparams(rng, 0.3) if name == "global_avg_pool" else qx
    y = integer(name, [(q, qx)], qy, layout="NHWC")
    swapped = integer(name, [(np.ascontiguousarray(q.transpose(0, 3, 1, 2)), qx)], qy)
    np.testing.assert_array_equal(swapped.transpose(0, 2, 3, 1), y)
    if name == "global_max_pool":
        np.testing.assert_array_equal(y, q.max(axis=(1, 2), keepdims=True))
    else:
        expected = real(q, qx).mean(axis=(1, 2), keepdims=True)
        assert np.abs(y - nearest(expected, qy)).max() <= 1


def test_mean_rounds_halves_to_even(integer):
    unit = QParams((1.0,), (0,))
    q = np.array([[0, 1], [1, 2], [-1, 0], [127, 127], [-128, -128]], np.int8)
    y = integer("reduce_mean", [(q, unit)], unit, axes=(1,), keepdims=False)
    assert y.tolist() == [0, 2, 0, 127, -128]


def test_sums_that_could_leave_int32_are_refused(one_node):
    unit = QParams((1.0,), (0,))
    node, _ = one_node("reduce_sum", {"axes": (1,)}, [(np.zeros((1, 2), np.int8), unit)], unit)
    node.op.check(node)
    node.inputs[0].type = TensorType("int8", (1, 9_000_000))
    with pytest.raises(ValueError, match="could leave int32"):
        node.op.check(node)


def test_global_pooling_needs_spatial_axes(import_one):
    with pytest.raises(QCompileError, match="no spatial axes"):
        import_one("GlobalMaxPool", [np.zeros((2, 3), "f4")])


@pytest.mark.parametrize("op_type", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("last", [0, 1])
def test_the_place_of_an_extreme_value(op_type, axis, last, against_ort, lowered):
    # Small integers, so that ties abound.
    x = np.random.default_rng(8).integers(-2, 3, (3, 4, 6)).astype("f4")
    for keepdims in (0, 1):
        against_ort(op_type, [x], opset=13, axis=axis, keepdims=keepdims, select_last_index=last)
    against_ort(op_type, [x], opset=11, axis=axis)
    best = x.max(axis=axis, keepdims=True)
    for keepdims in (True, False):
        attrs = {"axis": axis % 3, "keepdims": keepdims, "last": bool(last)}
        ours, reference = lowered("first_index", [x, best], **attrs)
        np.testing.assert_array_equal(ours, reference)


def test_a_value_that_does_not_occur_gives_an_end(lowered):
    x = np.array([[1, np.nan, 3], [2, 1, 0]], "f4")
    value = np.array([[np.nan], [0]], "f4")
    for last, expected in ((False, [2, 2]), (True, [0, 2])):
        ours, reference = lowered("first_index", [x, value], axis=1, keepdims=False, last=last)
        assert reference.tolist() == ours.tolist() == expected


def test_axis_of_a_place_out_of_range_is_refused(import_one):
    with pytest.raises(QCompileError, match="axis 2"):
        import_one("ArgMax", [np.zeros((2, 3), "f4")], axis=2)
