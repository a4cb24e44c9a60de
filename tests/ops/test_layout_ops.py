"""Operations that move or select elements: meaning, integer form, refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompile import ops
from qcompile.ir import Graph, TensorType
from qcompile.ops.evaluation import evaluate_node
from qcompile.quant import QParams
from qcompile.quant.affine import dequantize, quantize

DTYPES = ["float32", "int8", "int64", "bool"]
Q = QParams((0.125,), (-7,))


def noise(shape: tuple[int, ...], dtype: str = "float32", seed: int = 0) -> Any:
    return (np.random.default_rng(seed).normal(size=shape) * 50).astype(dtype)


def run(op: str, inputs: list[Any], **attrs: Any) -> tuple[Any, ...]:
    """Evaluate an operation, after checking that it infers what it gives."""
    definition = ops.get(op)
    instance = definition.Attrs(**attrs)
    results = definition.evaluate(instance, inputs)
    types = definition.infer(instance, [TensorType(x.dtype.name, x.shape) for x in inputs])
    assert [TensorType(r.dtype.name, r.shape) for r in results] == list(types)
    return results


def integer(op: str, inputs: list[Any], params: list[QParams], result: QParams, **attrs: Any) -> Any:
    """Evaluate the integer form of an operation on int8 tensors."""
    graph = Graph()
    definition = ops.get(op)
    values = [graph.add_input(f"x{k}", TensorType("int8", x.shape)) for k, x in enumerate(inputs)]
    for value, q in zip(values, params, strict=True):
        value.qparams = q
    node = graph.add_node(definition, values, definition.Attrs(**attrs))
    for output in node.outputs:
        output.qparams = result
    return evaluate_node(node, inputs)[0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_element_type(dtype: str) -> None:
    x = noise((2, 3, 4), dtype)
    assert np.array_equal(run("reshape", [x], shape=(4, 6))[0], x.reshape(4, 6))
    assert np.array_equal(run("transpose", [x], perm=(2, 0, 1))[0], x.transpose(2, 0, 1))
    assert np.array_equal(run("concat", [x, x], axis=1)[0], np.concatenate([x, x], 1))
    assert np.array_equal(run("expand", [x[:, :1]], shape=(5, 2, 3, 4))[0], np.broadcast_to(x[:, :1], (5, 2, 3, 4)))
    assert np.array_equal(run("slice", [x], starts=(1, 2, 3), steps=(1, -1, -2), sizes=(1, 3, 2))[0],
                          x[1:, ::-1, ::-2])  # fmt: skip
    assert np.array_equal(run("pad", [x], pads=(0, 1, 0, 2, 0, 1))[0], np.pad(x, ((0, 2), (1, 0), (0, 1))))
    assert np.array_equal(run("identity", [x])[0], x)
    assert np.array_equal(run("gather", [x, np.array([2, -3])], axis=1)[0], x[:, [2, 0]])
    first, second = run("split", [x], axis=2, sizes=(1, 3))
    assert np.array_equal(np.concatenate([first, second], 2), x)
    condition = noise((2, 1, 4), "bool")
    assert np.array_equal(run("where", [condition, x, x[:1]])[0], np.where(condition, x, x[:1]))


@pytest.mark.parametrize(
    ("op", "shapes", "attrs", "says"),
    [
        ("reshape", [(2, 3)], {"shape": (7,)}, "does not fit"),
        ("transpose", [(2, 3)], {"perm": (0, 1, 2)}, "does not fit"),
        ("transpose", [(2, 3)], {"perm": (0, 0)}, "not an order"),
        ("concat", [(2, 3), (2, 4)], {"axis": 0}, "cannot be joined"),
        ("concat", [(2, 3), (2, 4)], {"axis": 2}, "out of range"),
        ("concat", [(2, 3), (2,)], {"axis": 0}, "cannot be joined"),
        ("split", [(2, 3)], {"axis": 1, "sizes": (1, 1)}, "does not split"),
        ("split", [(2, 3)], {"axis": 2, "sizes": (1, 1)}, "does not split"),
        ("slice", [(2, 3)], {"starts": (0, 0), "steps": (1, 1), "sizes": (2, 4)}, "leaves an axis"),
        ("slice", [(2, 3)], {"starts": (0, 1), "steps": (1, -1), "sizes": (2, 3)}, "leaves an axis"),
        ("slice", [(2, 3)], {"starts": (0, 0), "steps": (1, 0), "sizes": (2, 3)}, "step of 0"),
        ("slice", [(2, 3)], {"starts": (0,), "steps": (1,), "sizes": (2,)}, "does not fit"),
        ("slice", [(2, 3)], {"starts": (0,), "steps": (1, 1), "sizes": (2, 1)}, "one entry per axis"),
        ("pad", [(2, 3)], {"pads": (0, 0, 0)}, "per axis"),
        ("pad", [(2, 3)], {"pads": (0, -1, 0, 0)}, "non-negative"),
        ("pad", [(2, 3)], {"pads": (0, 0)}, "do not fit"),
        ("pad", [(2, 3)], {"pads": (0, 3, 0, 0), "mode": "reflect"}, "mirror image"),
        ("pad", [(2, 3)], {"pads": (0, 3, 0, 0), "mode": "mirror"}, "none of"),
        ("pad", [(2, 0)], {"pads": (0, 3, 0, 0), "mode": "edge"}, "empty axis"),
        ("expand", [(2, 3)], {"shape": (2, 4)}, "cannot be expanded"),
        ("expand", [(2, 3)], {"shape": (3,)}, "cannot be expanded"),
        ("gather", [(2, 3), (1,)], {"axis": 2}, "out of range"),
        ("gather", [(2, 3), (1,)], {"axis": 0}, "not int32"),
        ("where", [(2, 3), (2, 3), (2, 3)], {}, "choice"),
        ("cast", [(2, 3)], {"dtype": "text"}, "unknown element type"),
    ],
)
def test_what_does_not_fit_is_refused(op: str, shapes: Any, attrs: dict[str, Any], says: str) -> None:
    definition = ops.get(op)
    with pytest.raises(ValueError, match=says):
        definition.infer(definition.Attrs(**attrs), [TensorType("float32", s) for s in shapes])


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_any_slice_is_pythons(data: st.DataObject) -> None:
    from qcompile.ir import Graph
    from qcompile.ops.onnx_node import OnnxNode
    from qcompile.ops.sliced import sliced

    shape = tuple(data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=3)))
    ranges = {axis: data.draw(st.slices(extent)) for axis, extent in enumerate(shape) if data.draw(st.booleans())}
    x = np.arange(np.prod(shape)).reshape(shape)
    graph = Graph()
    node = OnnxNode(graph, "Slice", "s", [graph.add_constant("x", x)], {}, ["y"], 17)
    expected = x[tuple(ranges.get(axis, slice(None)) for axis in range(x.ndim))]
    assert np.array_equal(sliced(node, node.value(0), ranges).constant(), expected)


def test_gather_takes_the_nearest_element_for_wrong_indices() -> None:
    x = np.arange(5, dtype=np.float32)
    assert run("gather", [x, np.array([7, -9, 4, -5], np.int32)])[0].tolist() == [4, 0, 4, 0]


def test_casts_are_defined_for_every_number() -> None:
    x = np.array([np.nan, np.inf, -np.inf, 3.99, -3.99, 1e10, -0.0], np.float32)
    assert run("cast", [x], dtype="int32")[0].tolist() == [0, 2147483520, -(2**31), 3, -3, 2147483520, 0]
    assert run("cast", [x], dtype="uint8")[0].tolist() == [0, 255, 0, 3, 0, 255, 0]
    assert run("cast", [x], dtype="int8")[0].tolist() == [0, 127, -128, 3, -3, 127, 0]
    assert run("cast", [x], dtype="bool")[0].tolist() == [True] * 6 + [False]
    assert run("cast", [np.array([300, -1])], dtype="uint8")[0].tolist() == [44, 255]
    assert run("cast", [np.array([True, False])], dtype="float32")[0].tolist() == [1.0, 0.0]


# -- integer forms ----------------------------------------------------------------------------------------


def test_moves_keep_integers_as_they_are() -> None:
    x = noise((2, 3, 4), "int8")
    for op, attrs in (
        ("reshape", {"shape": (24,)}),
        ("transpose", {"perm": (1, 0, 2)}),
        ("slice", {"starts": (0, 2, 0), "steps": (1, -1, 2), "sizes": (2, 2, 2)}),
        ("expand", {"shape": (2, 2, 3, 4)}),
        ("identity", {}),
        ("pad", {"pads": (0, 0, 1, 0, 0, 2), "mode": "edge"}),
    ):
        assert np.array_equal(integer(op, [x], [Q], Q, **attrs), run(op, [x], **attrs)[0])


@pytest.mark.parametrize(
    ("value", "q"), [(0.0, -7), (1.0, 1), (-1e30, -128), (float("-inf"), -128), (float("inf"), 100)]
)
def test_integer_pad_adds_the_quantized_value(value: float, q: int) -> None:
    params = QParams((0.125,), (-7,), qmax=100)
    padded = integer("pad", [noise((3,), "int8")], [params], params, pads=(1, 0), value=value)
    assert padded[0] == q


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "wrap"])
def test_negative_pads_cut_before_others_add(mode: str, against_ort: Any) -> None:
    pads = np.array([-1, 2, 1, -2])
    _, y = against_ort("Pad", [noise((5, 6)), pads], constants=(1,), opset=19, mode=mode)
    assert y.shape == (5, 6)


def test_integer_concat_copies_equal_grids_and_requantizes_others() -> None:
    a, b = noise((2, 3), "int8", 1), noise((2, 5), "int8", 2)
    other = QParams((0.25,), (10,))
    y = integer("concat", [a, b], [Q, other], Q, axis=1)
    assert np.array_equal(y[:, :3], a)
    expected = quantize(dequantize(b, other), Q)
    assert np.abs(y[:, 3:].astype(int) - expected).max() <= 1
    assert np.array_equal(y[:, 3:], np.clip(np.rint((b.astype(int) - 10) * 2.0), -121, 134).astype(int) - 7)


def test_integer_concat_clamps_a_part_of_equal_grid_to_the_result() -> None:
    a = np.array([[-128, 0, 127]], np.int8)
    narrow = QParams((0.125,), (-7,), qmin=-7, qmax=41)
    assert integer("concat", [a, a], [Q, narrow], narrow, axis=1)[0, :3].tolist() == [-7, 0, 41]


def test_integer_concat_refuses_scales_per_channel() -> None:
    graph = Graph()
    parts = [graph.add_input(n, TensorType("int8", (2, 3))) for n in "ab"]
    node = graph.add_node(ops.get("concat"), parts, ops.get("concat").Attrs(axis=1))
    assert ops.get("concat").integer_obstacle(node) is None
    parts[0].qparams = QParams((0.5, 0.25), axis=0)
    assert "per channel" in str(ops.get("concat").integer_obstacle(node))
