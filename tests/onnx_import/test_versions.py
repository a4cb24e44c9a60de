"""Old and new forms of operators, compared with ONNX Runtime, which reads them all."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from qcompile.errors import UnsupportedOpError
from qcompile.onnx_import import import_onnx
from qcompile.ops.interpreter import Interpreter

I64 = np.int64


def agree(model: Any, seed: int = 0) -> Any:
    """Check that interpreter and ONNX Runtime compute the same; return the graph."""
    graph = import_onnx(model)
    rng = np.random.default_rng(seed)
    feed = {v.name: rng.normal(size=v.shape).astype(v.dtype) for v in graph.inputs}
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    expected = session.run(names, feed)
    got = Interpreter(graph).run(feed)
    for name, array in zip(names, expected, strict=True):
        assert got[name].shape == array.shape
        np.testing.assert_allclose(got[name], array, 1e-5, 1e-5)
    return graph


def node(op: str, *inputs: str, outputs: tuple[str, ...] = ("y",), **attributes: Any) -> Any:
    return helper.make_node(op, list(inputs), list(outputs), **attributes)


def opset_of(model: Any) -> int:
    return int(model.opset_import[0].version)


@pytest.mark.parametrize(
    ("opset", "operator", "shape", "constants"),
    [
        (7, node("Upsample", "x", mode="nearest", scales=[1.0, 1.0, 2.0, 3.0]), [1, 2, 3, 4], {}),
        (7, node("Upsample", "x", mode="linear", scales=[1.0, 1.0, 2.0, 2.0]), [1, 2, 3, 4], {}),
        (9, node("Upsample", "x", "s", mode="nearest"), [1, 2, 3, 4], {"s": np.array([1, 1, 2, 2], np.float32)}),
        (9, node("Upsample", "x", "s", mode="linear"), [1, 2, 3, 4], {"s": np.array([1, 1, 3, 2], np.float32)}),
        (10, node("Resize", "x", "s", mode="nearest"), [1, 2, 3, 4], {"s": np.array([1, 1, 2, 2], np.float32)}),
        (10, node("Resize", "x", "s", mode="nearest"), [1, 2, 7, 9], {"s": np.array([1, 1, 0.6, 0.5], np.float32)}),
        (10, node("Resize", "x", "s", mode="linear"), [1, 2, 3, 4], {"s": np.array([1, 1, 2, 2], np.float32)}),
        (11, node("Resize", "x", "r", "s", mode="linear"), [1, 2, 3, 4],
         {"r": np.zeros(0, np.float32), "s": np.array([1, 1, 2, 2], np.float32)}),
        (11, node("Resize", "x", "r", "s", "z", mode="cubic"), [1, 2, 5, 4],
         {"r": np.zeros(0, np.float32), "s": np.zeros(0, np.float32), "z": np.array([1, 2, 7, 9], I64)}),
        (13, node("Resize", "x", "", "", "z", mode="linear", coordinate_transformation_mode="align_corners"),
         [1, 2, 5, 4], {"z": np.array([1, 2, 7, 9], I64)}),
        (18, node("Resize", "x", "", "", "z", mode="nearest", axes=[2, 3],
                  keep_aspect_ratio_policy="not_larger"), [1, 2, 5, 4], {"z": np.array([7, 9], I64)}),
        (7, node("Pad", "x", pads=[0, 1, 2, 0, 0, 3], value=1.5), [1, 2, 3], {}),
        (7, node("Pad", "x", pads=[0, 0, 2, 0, 0, 1], mode="reflect"), [1, 2, 3], {}),
        (11, node("Pad", "x", "p", mode="edge"), [2, 3], {"p": np.array([0, 2, 1, 0], I64)}),
        (11, node("Pad", "x", "p", "v"), [2, 3], {"p": np.array([0, 2, 1, 0], I64), "v": np.float32(-2)}),
        (11, node("Pad", "x", "p"), [4, 5], {"p": np.array([-1, 2, 1, -2], I64)}),
        (18, node("Pad", "x", "p", "", "a"), [4, 5], {"p": np.array([1, 2], I64), "a": np.array([-1], I64)}),
        (19, node("Pad", "x", "p", mode="wrap"), [4, 5], {"p": np.array([1, 2, 3, 0], I64)}),
        (7, node("Slice", "x", starts=[1, -2], ends=[100, -1], axes=[0, 2]), [3, 2, 4], {}),
        (7, node("Slice", "x", starts=[0, 1], ends=[2, 2]), [3, 2, 4], {}),
        (10, node("Slice", "x", "b", "e", "a", "s"), [5, 6],
         {"b": np.array([4, -1], I64), "e": np.array([-100, -7], I64), "a": np.array([0, 1], I64),
          "s": np.array([-2, -1], I64)}),
        (13, node("Slice", "x", "b", "e"), [5, 6],
         {"b": np.array([1], np.int32), "e": np.array([2**31 - 1], np.int32)}),
        (7, node("Clip", "x", min=-0.5, max=0.25), [9], {}),
        (7, node("Clip", "x", max=0.25), [9], {}),
        (11, node("Clip", "x", "", "h"), [9], {"h": np.float32(0.1)}),
        (12, node("Clip", "x", "l"), [9], {"l": np.float32(-0.1)}),
        (7, node("Dropout", "x", ratio=0.5), [9], {}),
        (12, node("Dropout", "x", "r"), [9], {"r": np.float32(0.5)}),
        (7, node("Softmax", "x"), [2, 3, 4], {}),
        (7, node("Softmax", "x", axis=2), [2, 3, 4], {}),
        (11, node("Softmax", "x", axis=0), [2, 3, 4], {}),
        (13, node("Softmax", "x", axis=1), [2, 3, 4], {}),
        (13, node("Softmax", "x"), [2, 3, 4], {}),
        (7, node("Squeeze", "x", axes=[0, 2]), [1, 3, 1, 4], {}),
        (7, node("Squeeze", "x"), [1, 3, 1, 4], {}),
        (13, node("Squeeze", "x", "a"), [1, 3, 1, 4], {"a": np.array([-2], I64)}),
        (7, node("Unsqueeze", "x", axes=[0, 3]), [3, 4], {}),
        (13, node("Unsqueeze", "x", "a"), [3, 4], {"a": np.array([-1, 1], I64)}),
        (7, node("ReduceSum", "x", axes=[1], keepdims=0), [2, 3, 4], {}),
        (13, node("ReduceSum", "x", "a", keepdims=1), [2, 3, 4], {"a": np.array([-1], I64)}),
        (7, node("ReduceMean", "x", axes=[1, 2]), [2, 3, 4], {}),
        (18, node("ReduceMean", "x", "a"), [2, 3, 4], {"a": np.array([0], I64)}),
        (18, node("ReduceMax", "x", "a", keepdims=0), [2, 3, 4], {"a": np.array([0, 2], I64)}),
        (7, node("Flatten", "x", axis=2), [2, 3, 4], {}),
        (13, node("Flatten", "x", axis=-1), [2, 3, 4], {}),
        (7, node("Reshape", "x", "s"), [2, 3, 4], {"s": np.array([0, -1], I64)}),
        (14, node("Reshape", "x", "s", allowzero=0), [2, 3, 4], {"s": np.array([4, 0, -1, 1], I64)}),
        (8, node("Expand", "x", "s"), [3, 1], {"s": np.array([2, 1, 4], I64)}),
    ],
)  # fmt: skip
def test_forms_of_one_operator(build: Any, opset: int, operator: Any, shape: Any, constants: Any) -> None:
    arrays = {name: np.asarray(array) for name, array in constants.items()}
    agree(build([operator], {"x": shape}, constants=arrays, opset=opset))


@pytest.mark.parametrize("opset", [7, 13, 18])
def test_split(build: Any, opset: int) -> None:
    outputs = ("a", "b", "c")
    if opset == 7:
        unequal = node("Split", "x", outputs=outputs, axis=1, split=[1, 3, 2])
        model = build([unequal], {"x": [2, 6]}, outputs, opset=opset)
    else:
        unequal = node("Split", "x", "s", outputs=outputs, axis=-1)
        model = build([unequal], {"x": [2, 6]}, outputs, {"s": np.array([1, 3, 2], I64)}, opset=opset)
    agree(model)
    extra = {"num_outputs": 3} if opset == 18 else {}
    agree(build([node("Split", "x", outputs=outputs, axis=0, **extra)], {"x": [6, 2]}, outputs, opset=opset))


def test_split_into_unequal_parts_by_count(build: Any) -> None:
    operator = node("Split", "x", outputs=("a", "b", "c"), num_outputs=3)
    graph = agree(build([operator], {"x": [7, 2]}, ("a", "b", "c"), opset=18))
    assert [v.shape for v in graph.outputs] == [(3, 2), (3, 2), (1, 2)]


@pytest.mark.parametrize("opset", [7, 9, 14, 15])
def test_batch_normalization(build: Any, opset: int) -> None:
    rng = np.random.default_rng(0)
    constants = {n: rng.uniform(0.5, 2, 3).astype(np.float32) for n in "sbmv"}
    agree(build([node("BatchNormalization", "x", *"sbmv", epsilon=1e-3)], {"x": [2, 3, 4, 5]}, constants=constants,
                opset=opset))  # fmt: skip


def test_batch_normalization_per_position_is_refused(build: Any) -> None:
    constants = {n: np.ones((3, 4), np.float32) for n in "sbmv"}
    model = build([node("BatchNormalization", "x", *"sbmv", spatial=0, name="bn")], {"x": [2, 3, 4]},
                  constants=constants, opset=7)  # fmt: skip
    with pytest.raises(UnsupportedOpError, match="node bn"):
        import_onnx(model)


@pytest.mark.parametrize(
    ("operator", "shape", "weight"),
    [
        (node("Conv", "x", "w", pads=[1, 0, 2, 1], strides=[2, 1]), [1, 3, 7, 8], (4, 3, 3, 2)),
        (node("Conv", "x", "w", auto_pad="SAME_UPPER", strides=[2, 2]), [1, 3, 7, 8], (4, 3, 3, 2)),
        (node("Conv", "x", "w", auto_pad="SAME_LOWER", strides=[2, 2]), [1, 3, 7, 8], (4, 3, 2, 2)),
        (node("Conv", "x", "w", auto_pad="VALID", dilations=[2, 3]), [1, 3, 7, 8], (4, 3, 3, 2)),
        (node("Conv", "x", "w", group=3), [2, 6, 7, 8], (9, 2, 3, 2)),
        (node("Conv", "x", "w", group=6, pads=[1, 1, 1, 1]), [2, 6, 7, 8], (6, 1, 3, 3)),
        (node("Conv", "x", "w", group=6), [2, 6, 7, 8], (12, 1, 1, 1)),
        (node("Conv", "x", "w", dilations=[2], pads=[2, 0]), [2, 6, 9], (4, 6, 3)),
        (node("Gemm", "x", "w", alpha=0.5, transA=1, transB=1), [4, 3], (5, 4)),
        (node("MatMul", "x", "w"), [2, 3, 4], (4, 5)),
    ],
)
def test_convolutions_and_products(build: Any, operator: Any, shape: Any, weight: Any) -> None:
    w = np.random.default_rng(5).normal(size=weight).astype(np.float32)
    agree(build([operator], {"x": shape}, constants={"w": w}, opset=11))


# -- folding ----------------------------------------------------------------------------------------------


def test_shape_arithmetic_folds_away(build: Any) -> None:
    """Flatten as exporters write it: Shape, Gather, Unsqueeze, Concat, Reshape."""
    nodes = [
        node("Shape", "x", outputs=("s",)),
        node("Constant", outputs=("zero",), value_int=0),
        node("Gather", "s", "zero", outputs=("n",)),
        node("Unsqueeze", "n", "axes", outputs=("n1",)),
        node("Concat", "n1", "rest", outputs=("target",), axis=0),
        node("Reshape", "x", "target"),
    ]
    constants = {"axes": np.array([0], I64), "rest": np.array([-1], I64)}
    graph = agree(build(nodes, {"x": [2, 3, 4]}, constants=constants))
    assert [n.op.name for n in graph.nodes] == ["reshape"]
    assert graph.outputs[0].shape == (2, 12)


def test_resize_to_a_computed_size_folds(build: Any) -> None:
    nodes = [
        node("Shape", "x", outputs=("s",)),
        node("Slice", "s", "two", "four", outputs=("hw",)),
        node("Cast", "hw", outputs=("f",), to=TensorProto.FLOAT),
        node("Mul", "f", "factor", outputs=("g",)),
        node("Floor", "g", outputs=("h",)),
        node("Cast", "h", outputs=("i",), to=TensorProto.INT64),
        node("Slice", "s", "nought", "two", outputs=("nc",)),
        node("Concat", "nc", "i", outputs=("size",), axis=0),
        node("Resize", "x", "", "", "size", mode="linear", coordinate_transformation_mode="pytorch_half_pixel"),
    ]
    constants = {
        "nought": np.array([0], I64),
        "two": np.array([2], I64),
        "four": np.array([4], I64),
        "factor": np.array([1.5, 2], np.float32),
    }
    graph = agree(build(nodes, {"x": [1, 2, 5, 4]}, constants=constants))
    assert [n.op.name for n in graph.nodes] == ["resize"]


def test_integer_division_and_negative_numbers_fold_as_onnx_says(build: Any) -> None:
    nodes = [
        node("Div", "a", "b", outputs=("q",)),
        node("Neg", "q", outputs=("n",)),
        node("Sub", "n", "one", outputs=("m",)),
        node("Cast", "m", outputs=("f",), to=TensorProto.FLOAT),
        node("Add", "x", "f"),
    ]
    constants = {"a": np.array([7, -7], I64), "b": np.array([2, 2], I64), "one": np.array([1], I64)}
    agree(build(nodes, {"x": [2]}, constants=constants))


def test_operators_without_a_converter_fold_on_constants(build: Any) -> None:
    """Range, Mod, NonZero, ScatterND and Tile occur where exporters compute tables."""
    nodes = [
        node("Range", "nought", "six", "one", outputs=("r",)),
        node("Mod", "r", "two", outputs=("odd",)),
        node("NonZero", "odd", outputs=("at",)),
        node("Transpose", "at", outputs=("where",)),
        node("ConstantOfShape", "shape", outputs=("zeros",)),
        node("ScatterND", "zeros", "where", "values", outputs=("table",)),
        node("Tile", "table", "repeats", outputs=("tiled",)),
        node("Add", "x", "tiled"),
    ]
    constants = {
        "nought": np.array(0, I64), "one": np.array(1, I64), "two": np.array(2, I64), "six": np.array(6, I64),
        "shape": np.array([6], I64), "values": np.array([1, 2, 3], np.float32), "repeats": np.array([2], I64),
    }  # fmt: skip
    graph = agree(build(nodes, {"x": [12]}, constants=constants))
    assert [n.op.name for n in graph.nodes] == ["add"]


def test_random_numbers_are_not_constants(build: Any) -> None:
    nodes = [node("RandomNormalLike", "c", outputs=("r",), name="noise"), node("Add", "x", "r")]
    with pytest.raises(UnsupportedOpError, match="RandomNormalLike"):
        import_onnx(build(nodes, {"x": [2]}, constants={"c": np.ones(2, np.float32)}))


@pytest.mark.parametrize(
    "operator",
    [
        node("ConstantOfShape", "many", outputs=("c",), name="huge"),
        node("Expand", "one", "many", outputs=("c",), name="huge"),
        node("Tile", "one", "few", outputs=("c",), name="huge"),
        node("Range", "one", "last", "one", outputs=("c",), name="huge"),
    ],
)
def test_a_constant_that_is_too_large_is_refused(build: Any, operator: Any) -> None:
    """All would take 16 GiB or more."""
    constants = {
        "many": np.array([2**16, 2**16], I64),
        "few": np.array([2**32], I64),
        "one": np.ones((1,) if operator.op_type != "Range" else (), np.float32),
        "last": np.array(2**32, np.float32),
    }
    model = build([operator, node("Add", "x", "c")], {"x": [2]}, constants=constants)
    with pytest.raises(UnsupportedOpError, match="huge"):
        import_onnx(model)


def test_three_hundred_constant_nodes_leave_no_trace(build: Any) -> None:
    nodes = []
    for k in range(308):
        nodes.append(node("Constant", outputs=(f"c{k}",), value=helper.make_tensor("v", TensorProto.FLOAT, [1], [k])))
    nodes += [node("Add", "x", "c0", outputs=("t0",))]
    nodes += [node("Add", f"t{k - 1}", f"c{k}", outputs=(f"t{k}",)) for k in range(1, 308)]
    graph = agree(build(nodes, {"x": [4]}, ["t307"]))
    assert len(graph.nodes) == 308
    assert len(graph.constants()) == 308


@pytest.mark.parametrize("kind", ["value_float", "value_floats", "value_int", "value_ints"])
def test_constants_without_a_tensor(build: Any, kind: str) -> None:
    content = {"value_float": 2.0, "value_floats": [2.0, 3.0], "value_int": 4, "value_ints": [4, 5]}[kind]
    nodes = [
        node("Constant", outputs=("c",), **{kind: content}),
        node("Cast", "c", outputs=("f",), to=TensorProto.FLOAT),
        node("Mul", "x", "f"),
    ]
    agree(build(nodes, {"x": [2]}))


def test_outputs_that_are_inputs_or_constants(build: Any) -> None:
    nodes = [node("Identity", "x", outputs=("same",)), node("Shape", "x", outputs=("shape",))]
    graph = import_onnx(build(nodes, {"x": [2, 3]}, ["same", "shape"]))
    got = Interpreter(graph).run({"x": np.ones((2, 3), np.float32)})
    assert got["same"].tolist() == [[1.0] * 3] * 2
    assert got["shape"].tolist() == [2, 3]


def test_attributes_that_do_not_fit_never_give_a_traceback(build: Any) -> None:
    for operator in (
        node("Transpose", "x", perm=[0, 0]),
        node("Transpose", "x", perm=[0, 1, 2]),
        node("Concat", "x", "x", axis=5),
        node("Unsqueeze", "x", "big"),
        node("Reshape", "x", "big"),
        node("Pad", "x", "big"),
        node("Slice", "x", "big", "big", "big"),
        node("Gather", "x", "big", axis=7),
        node("Gather", "x", "big", axis=0),
        node("Conv", "x", "x"),
        node("Expand", "x", "big"),
        node("Resize", "x", "", "scales"),
        node("DepthToSpace", "x", blocksize=2),
    ):
        constants = {"big": np.array([9, 9, 9], I64), "scales": np.array([1.0], np.float32)}
        with pytest.raises(UnsupportedOpError, match=f"{operator.op_type}_0"):
            import_onnx(build([operator], {"x": [2, 3]}, constants=constants))
