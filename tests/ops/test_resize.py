"""Resizing: float form against ONNX Runtime, integer form against the formula in exact arithmetic."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from qcompile import ops
from qcompile.errors import UnsupportedOpError
from qcompile.ir import Graph, TensorType
from qcompile.onnx_import import import_onnx
from qcompile.ops.evaluation import evaluate_node
from qcompile.ops.interpolation import Axis, fixed_point, regular_factor
from qcompile.ops.interpreter import Interpreter
from qcompile.quant import QParams

COORDINATES = ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric"]
ROUNDINGS = ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]


def model(shape: Any, scales: Any = None, sizes: Any = None, opset: int = 19, **attributes: Any) -> Any:
    tensors = []
    if scales is not None:
        tensors.append(numpy_helper.from_array(np.array(scales, np.float32), "scales"))
    if sizes is not None:
        tensors.append(numpy_helper.from_array(np.array(sizes, np.int64), "sizes"))
    names = ["x", "", "scales" if scales is not None else "", "sizes" if sizes is not None else ""]
    node = helper.make_node("Resize", names, ["y"], name="size", **attributes)
    info = helper.make_tensor_value_info
    result = info("y", TensorProto.FLOAT, [f"d{k}" for k in range(len(shape))])
    graph = helper.make_graph([node], "net", [info("x", TensorProto.FLOAT, shape)], [result], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def agree(proto: Any) -> Any:
    graph = import_onnx(proto)
    x = np.random.default_rng(0).normal(size=graph.inputs[0].shape).astype(np.float32)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"x": x})
    got = Interpreter(graph).run({"x": x})["y"]
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, 1e-4, 1e-5)
    return graph


SIZES = [(5, 7), (10, 14), (13, 4), (1, 1), (3, 21), (9, 10)]


@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_sizes(mode: str, coordinates: str) -> None:
    for size in SIZES:
        agree(model([1, 2, 5, 7], sizes=[1, 2, *size], mode=mode, coordinate_transformation_mode=coordinates))


@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_nearest_elements(rounding: str, coordinates: str) -> None:
    """ONNX Runtime copies the same elements, save where float32 cannot tell on which side of a tie a position is."""
    for size, out in [(5, 13), (7, 4), (7, 21), (3, 1), (12, 10), (6, 6), (1, 5)]:
        proto = model([1, 1, 2, size], sizes=[1, 1, 2, out], mode="nearest", nearest_mode=rounding,
                      coordinate_transformation_mode=coordinates)  # fmt: skip
        session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
        columns = np.tile(np.arange(size, dtype=np.float32), (1, 1, 2, 1))
        (seen,) = session.run(None, {"x": columns})
        axis = Axis(size, out, out / size, coordinates)
        positions = axis.positions().astype(np.float64)
        ties = np.abs(2 * positions - np.rint(2 * positions)) < 1e-5
        differ = axis.nearest(rounding) != seen[0, 0, 0]
        assert not (differ & ~ties).any()
        assert differ.sum() <= 1
        if size != out:
            got = Interpreter(import_onnx(proto)).run({"x": columns})["y"]
            assert got[0, 0, 1].tolist() == axis.nearest(rounding).tolist()


@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("scale", [(2.0, 3.0), (0.5, 0.25), (1.7, 0.6), (2.5, 1.0)])
def test_scales(mode: str, coordinates: str, scale: tuple[float, float]) -> None:
    agree(model([2, 3, 8, 9], scales=[1, 1, *scale], mode=mode, coordinate_transformation_mode=coordinates))


@pytest.mark.parametrize(("coefficient", "exclude"), [(-0.5, 0), (-0.5, 1), (-0.75, 1)])
def test_cubic_kernels(coefficient: float, exclude: int) -> None:
    for size in SIZES:
        agree(model([1, 2, 5, 7], sizes=[1, 2, *size], mode="cubic", cubic_coeff_a=coefficient,
                    exclude_outside=exclude))  # fmt: skip


@pytest.mark.parametrize(
    ("shape", "scales"),
    [([1, 4, 6, 3], [1, 2, 2, 1]), ([2, 3, 9], [1, 1, 2]), ([4, 6], [2, 0.5]), ([6, 2, 3, 4], [1, 1, 1, 2.5])],
)
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_other_axes_and_ranks(shape: Any, scales: Any, mode: str) -> None:
    if len(shape) == 3 and mode == "linear":
        # ONNX Runtime has no linear interpolation of one axis alone; NumPy has.
        graph = import_onnx(model(shape, scales, mode=mode, coordinate_transformation_mode="align_corners"))
        x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        y = Interpreter(graph).run({"x": x})["y"]
        at = np.linspace(0, shape[2] - 1, y.shape[2])
        expected = [[np.interp(at, np.arange(shape[2]), row) for row in plane] for plane in x]
        np.testing.assert_allclose(y, expected, 1e-4, 1e-5)
    else:
        agree(model(shape, scales, mode=mode))


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("exclude_outside", [0, 1])
@pytest.mark.parametrize("sizes", [[1, 2, 5, 4], [1, 2, 12, 3]])
def test_smaller_images_without_aliasing(mode: str, exclude_outside: int, sizes: list[int]) -> None:
    agree(model([1, 2, 11, 14], sizes=sizes, mode=mode, antialias=1, exclude_outside=exclude_outside))


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_volumes(mode: str) -> None:
    agree(model([1, 2, 3, 4, 5], [1, 1, 2, 1.5, 2], mode=mode))


def test_the_same_size_is_no_operation() -> None:
    graph = import_onnx(model([1, 2, 3, 4], sizes=[1, 2, 3, 4], mode="linear"))
    assert graph.nodes == []


@pytest.mark.parametrize(
    ("proto", "says"),
    [
        (model([1, 2, 3, 4], scales=[2, 2, 0, 2]), "size"),
        (model([1, 2, 3, 4], scales=[2, 2, np.inf, 2]), "size"),
        (model([1, 2, 3, 4], scales=[2, 2, 2, 2], mode="magic"), "magic"),
        (model([1, 2, 3, 4], scales=[1, 1, 2, 2], coordinate_transformation_mode="tf_crop_and_resize"), "is missing"),
        (model([1, 2, 3, 4]), "neither scales nor sizes"),
        (model([1, 2, 3, 4], scales=[2, 2]), "2 scales"),
        (model([1, 2, 3, 4], scales=[1, 1, 0, 2]), "size"),
        (model([1, 2, 3, 4], scales=[1, 1, -2, 2]), "size"),
        (model([1, 2, 3, 4], scales=[1, 1, np.inf, 2]), "size"),
        (model([1, 2, 3, 4], scales=[1, 1, 2, 2], mode="magic"), "magic"),
        (model([1, 2, 3, 4], scales=[1, 1, 2, 2], nearest_mode="magic"), "magic"),
        (model([1, 2, 3, 4], scales=[1, 1, 2, 2], coordinate_transformation_mode="magic"), "magic"),
    ],
)
def test_unsupported_forms(proto: Any, says: str) -> None:
    with pytest.raises(UnsupportedOpError, match="node size") as caught:
        import_onnx(proto)
    assert says in str(caught.value)


# -- integer form -----------------------------------------------------------------------------------------


def quantized_resize(q: Any, params: QParams, **attrs: Any) -> Any:
    graph = Graph()
    x = graph.add_input("x", TensorType("int8", q.shape))
    x.qparams = params
    op = ops.get("resize")
    node = graph.add_node(op, [x], op.Attrs(layout="NHWC", **attrs))
    node.output.qparams = params
    assert op.integer_obstacle(node) is None
    return evaluate_node(node, [q])[0]


@pytest.mark.parametrize("coordinates", COORDINATES)
def test_integer_linear_is_the_rule_of_the_contract(coordinates: str) -> None:
    rng = np.random.default_rng(1)
    q = rng.integers(-128, 128, (1, 4, 5, 3)).astype(np.int8)
    params = QParams((0.03,), (-20,))
    size, scales = (9, 7), (9 / 4, 7 / 5)
    y = quantized_resize(q, params, size=size, scales=scales, mode="linear", coordinates=coordinates)
    rows, columns = Axis(4, 9, scales[0], coordinates), Axis(5, 7, scales[1], coordinates)
    centred = q.astype(object) + 20
    for i in range(9):
        for j in range(7):
            total = 0
            for u in range(2):
                for v in range(2):
                    at = centred[0, rows.linear()[0][i, u], columns.linear()[0][j, v]]
                    share = fixed_point(rows.linear()[1])[i, u] * fixed_point(columns.linear()[1])[j, v]
                    total = total + at * int(share)
            scaled = np.float32(total.astype(np.int64)) * np.float32(2.0**-22)
            expected = np.rint(np.clip(scaled, -108, 147)).astype(int) - 20
            assert y[0, i, j].tolist() == expected.tolist()


def test_integer_linear_stays_close_to_real_interpolation() -> None:
    rng = np.random.default_rng(2)
    q = rng.integers(-128, 128, (2, 8, 8, 4)).astype(np.int8)
    params = QParams((1.0,), (0,))
    attrs = {"size": (20, 13), "scales": (2.5, 13 / 8), "mode": "linear"}
    y = quantized_resize(q, params, **attrs)
    real = ops.get("resize").evaluate(ops.get("resize").Attrs(layout="NHWC", **attrs), [q.astype(np.float32)])[0]
    assert np.abs(y - real).max() < 0.75


def test_integer_nearest_copies() -> None:
    q = np.arange(12, dtype=np.int8).reshape(1, 3, 4, 1)
    y = quantized_resize(q, QParams((0.5,), (3,)), size=(6, 8), scales=(2, 2), coordinates="asymmetric",
                         rounding="floor")  # fmt: skip
    assert np.array_equal(y, q.repeat(2, 1).repeat(2, 2))


def test_cubic_stays_in_float() -> None:
    graph = Graph()
    op = ops.get("resize")
    x = graph.add_input("x", TensorType("float32", (1, 2, 3, 3)))
    node = graph.add_node(op, [x], op.Attrs(size=(6, 6), scales=(2, 2), mode="cubic"))
    assert "cubic" in str(op.integer_obstacle(node))


def test_fixed_point_shares_sum_to_one() -> None:
    for out in range(1, 40):
        shares = fixed_point(Axis(7, out, out / 7, "half_pixel").linear()[1])
        assert (shares.sum(1) == 2**11).all()
        assert shares.min() >= 0


def test_regular_factor() -> None:
    assert regular_factor(np.arange(12) // 3) == 3
    assert regular_factor(np.arange(5)) == 1
    assert regular_factor(np.zeros(4, int)) == 4
    assert regular_factor(np.array([0, 1, 1, 2])) is None
    assert regular_factor(np.array([1, 1, 2, 2])) is None
