"""Quantization at run time against its definition, and against ONNX's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from qcompile import ops
from qcompile.ir.graph import Graph
from qcompile.ir.types import TensorType

finite = st.floats(-(2.0**100), 2.0**100, width=32)


def evaluate(op: str, *inputs: Any) -> Any:
    definition = ops.get(op)
    return definition.evaluate(definition.Attrs(), inputs)


def quantized(x: Any) -> tuple[Any, Any, Any]:
    ends = [np.asarray(f(x, axis=-1, keepdims=True), np.float32) for f in (np.min, np.max)]
    scale, zero = evaluate("dynamic_scale", *ends)
    return evaluate("dynamic_quantize", x, scale, zero)[0], scale, zero


@settings(deadline=None)
@given(st.lists(finite, min_size=1, max_size=20))
def test_every_value_is_within_half_a_step(values: list[float]) -> None:
    x = np.array([values], np.float32)
    q, scale, zero = quantized(x)
    assert np.isfinite(scale).all()
    assert (scale > 0).all()
    assert -128 <= zero.min() <= zero.max() <= 127
    back = (q.astype(np.int64) - zero) * scale.astype(np.float64)
    # The zero point rounds as well, which moves the ends by up to half a step more.
    assert (np.abs(back - x) <= 1.001 * scale + 1e-35).all()
    assert (evaluate("dynamic_quantize", np.zeros_like(x), scale, zero)[0] == zero).all()


def test_zero_rows_have_a_scale() -> None:
    q, scale, zero = quantized(np.zeros((2, 3), np.float32))
    assert scale.tolist() == [[1.0], [1.0]]
    assert zero.tolist() == [[-128], [-128]]
    assert (q == -128).all()


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_onnx_within_one_step(seed: int) -> None:
    random = np.random.default_rng(seed)
    x = random.normal(random.normal(), 3, (1, 500)).astype(np.float32)
    node = helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"])
    outputs = [helper.make_tensor_value_info(n, t, None) for n, t in (("q", 2), ("s", 1), ("z", 2))]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)]
    model = helper.make_model(helper.make_graph([node], "g", inputs, outputs))
    theirs, scale, zero = ReferenceEvaluator(model).run(None, {"x": x})
    q, s, z = quantized(x)
    np.testing.assert_array_equal(s.reshape(()), scale)
    assert int(z.item()) + 128 == int(zero)
    assert np.abs(q.astype(int) + 128 - theirs.astype(int)).max() <= 1


def test_rescale_adds_the_bias() -> None:
    acc = np.array([[100, -200]], np.int32)
    (y,) = evaluate("rescale", acc, np.array([[0.5]], "f4"), np.array([0.1, 2.0], "f4"), np.array([1, -1], "f4"))
    np.testing.assert_allclose(y, [[6.0, -201.0]], rtol=1e-6)


@pytest.mark.parametrize(("weight", "said"), [(-128, "weight is -128"), (5, None)])
def test_weights_that_no_kernel_takes_are_refused(weight: int, said: str | None) -> None:
    graph = Graph("g")
    q = graph.add_input("q", TensorType("int8", (1, 2)))
    w = graph.add_constant("w", np.full((3, 2), weight, np.int8))
    z = graph.add_input("z", TensorType("int32", (1, 1)))
    node = graph.add_node(ops.get("dense_integer"), [q, w, z])
    if said is None:
        node.op.check(node)
    else:
        with pytest.raises(ValueError, match=said):
            node.op.check(node)


@pytest.mark.parametrize("zero", [(2, 1), (3,), (1, 1, 1)])
def test_zero_points_that_do_not_fit_are_refused(zero: tuple[int, ...]) -> None:
    types = [TensorType("int8", (1, 4, 2)), TensorType("int8", (3, 2)), TensorType("int32", zero)]
    definition = ops.get("dense_integer")
    if zero == (1, 1, 1):
        assert definition.infer(definition.Attrs(), types)[0].shape == (1, 4, 3)
    else:
        with pytest.raises(ValueError, match=r"fit|broadcast"):
            definition.infer(definition.Attrs(), types)
