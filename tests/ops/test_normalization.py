"""Softmax, layer normalization and batch normalization."""

from __future__ import annotations

import numpy as np
import pytest

from qcompile import ops
from qcompile.errors import LoweringError, QCompileError
from qcompile.ir.types import TensorType


@pytest.mark.parametrize("op_type", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize(
    ("opset", "axis"),
    # Negative axes came with opset 11.
    [(7, None), (7, 0), (7, 1), (7, 2), *((o, a) for o in (11, 13) for a in (None, 0, 1, 2, -1, -2))],
)
def test_softmax(op_type, opset, axis, against_ort):
    x = np.random.default_rng(1).normal(0, 4, (3, 4, 5)).astype("f4")
    given = {} if axis is None else {"axis": axis}
    graph, _ = against_ort(op_type, [x], opset=opset, **given)
    flat = opset < 13 and axis not in (2, -1)
    assert [n.op.name for n in graph.nodes].count("reshape") == (2 if flat else 0)


def test_old_softmax_over_trailing_ones_needs_no_reshape(against_ort):
    x = np.random.default_rng(2).normal(size=(2, 10, 1, 1)).astype("f4")
    graph, _ = against_ort("Softmax", [x], opset=11)
    assert [n.op.name for n in graph.nodes] == ["softmax"]


def test_softmax_of_huge_values_is_finite(against_ort):
    against_ort("Softmax", [np.array([[1e30, -1e30, 0, 1e30]], "f4")])


def test_softmax_axis_out_of_range_is_refused(import_one):
    with pytest.raises(QCompileError, match="axis 3"):
        import_one("Softmax", [np.zeros((2, 3), "f4")], axis=3)
    softmax = ops.get("softmax")
    with pytest.raises(ValueError, match="axis 2"):
        softmax.infer(softmax.Attrs(axis=2), [TensorType("float32", (2, 3))])


@pytest.mark.parametrize("axis", [-1, 1, 2, -3])
@pytest.mark.parametrize("with_bias", [True, False])
def test_layer_norm(axis, with_bias, against_ort):
    rng = np.random.default_rng(3)
    x = rng.normal(2, 3, (2, 3, 4)).astype("f4")
    shape = x.shape[axis:] if axis >= 0 else x.shape[axis % 3 :]
    parameters = [rng.normal(size=shape).astype("f4") for _ in range(1 + with_bias)]
    graph, _ = against_ort("LayerNormalization", [x, *parameters], constants=(1, 2), axis=axis, epsilon=1e-3)
    assert [n.op.name for n in graph.nodes] == ["layer_norm"]


def test_layer_norm_parameters_must_fit(import_one):
    x = np.zeros((2, 3, 4), "f4")
    graph = import_one("LayerNormalization", [x, np.ones(1, "f4")], constants=(1,))
    assert graph.nodes[0].inputs[1].shape == (4,)
    with pytest.raises(QCompileError, match="scale"):
        import_one("LayerNormalization", [x, np.ones(5, "f4")], constants=(1,))


def _statistics(rng, channels):
    return [
        rng.normal(size=channels).astype("f4"),
        rng.normal(size=channels).astype("f4"),
        rng.normal(size=channels).astype("f4"),
        rng.uniform(0.1, 2, channels).astype("f4"),
    ]


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 5), (2, 3, 4, 5), (1, 3, 2, 2, 2)])
@pytest.mark.parametrize("opset", [7, 9, 15])
def test_batch_norm(shape, opset, against_ort):
    rng = np.random.default_rng(4)
    x = rng.normal(size=shape).astype("f4")
    against_ort("BatchNormalization", [x, *_statistics(rng, 3)], constants=(1, 2, 3, 4), opset=opset, epsilon=1e-3)


def test_batch_norm_layouts_and_lowering(lowered):
    rng = np.random.default_rng(5)
    x, statistics = rng.normal(size=(2, 4, 5, 3)).astype("f4"), _statistics(rng, 3)
    ours, last = lowered("batch_norm", [x, *statistics], layout="NHWC", epsilon=1e-3)
    np.testing.assert_allclose(ours, last, rtol=1e-6)
    first = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    ours, reference = lowered("batch_norm", [first, *statistics], epsilon=1e-3)
    np.testing.assert_allclose(ours, reference, rtol=1e-6)
    np.testing.assert_allclose(reference.transpose(0, 2, 3, 1), last, rtol=1e-6)
    scale, bias, mean, variance = (s.astype("f8") for s in statistics)
    exact = (x - mean) / np.sqrt(variance + 1e-3) * scale + bias
    np.testing.assert_allclose(last, exact, rtol=1e-4, atol=1e-5)


def test_batch_norm_in_training_is_refused(import_one):
    rng = np.random.default_rng(6)
    operands = [np.zeros((2, 3, 4, 4), "f4"), *_statistics(rng, 3)]
    with pytest.raises(QCompileError, match="training mode"):
        import_one("BatchNormalization", operands, opset=15, training_mode=1)
    with pytest.raises(QCompileError, match="spatial=0"):
        import_one("BatchNormalization", operands, opset=7, spatial=0)


def test_batch_norm_parameters_must_fit():
    batch_norm = ops.get("batch_norm")
    x, c = TensorType("float32", (1, 4, 2, 2)), TensorType("float32", (3,))
    with pytest.raises(ValueError, match="does not fit 4 channels"):
        batch_norm.infer(batch_norm.Attrs(), [x, c, c, c, c])


def test_batch_norm_statistics_of_run_time_have_no_code(one_node):
    rng = np.random.default_rng(7)
    node, _ = one_node("batch_norm", {}, [np.zeros((1, 3, 2, 2), "f4"), *_statistics(rng, 3)], None)
    node.inputs[1].data = None
    with pytest.raises(LoweringError, match="run time"):
        node.op.lower(node, None)
