"""Slices of known extents whose starts a run computes, against ONNX Runtime and against NumPy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from onnx import numpy_helper

import qcompile
from qcompile.errors import UnsupportedOpError
from qcompile.onnx_import import import_onnx
from qcompile.ops.interpreter import Interpreter

TABLE = np.arange(40, dtype=np.float32).reshape(5, 8)


def cut(sizes: list[int], axes: list[int], kind: str = "int64", body: str = "") -> onnx.ModelProto:
    """Return a model that takes a part of a table from `s` on."""
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
    g (float[5,8] x, {kind}[{len(sizes)}] s) => (float[a,b] y)
    {{ {body or "e = Add (s, sizes)"} y = Slice (x, s, e, axes) }}"""
    model = onnx.parser.parse_model(text)
    dtype = np.dtype(kind)
    for name, numbers in (("sizes", sizes), ("axes", axes)):
        model.graph.initializer.append(numpy_helper.from_array(np.array(numbers, dtype), name))
    return model


@pytest.mark.parametrize("kind", ["int64", "int32"])
@pytest.mark.parametrize(
    ("sizes", "axes", "starts"),
    [
        ([1], [0], [[0], [4], [-2]]),
        ([3], [1], [[0], [5], [-4]]),
        ([2, 3], [0, 1], [[0, 0], [3, 5], [-3, 2]]),
        ([3, 5], [-1, 0], [[4, 0]]),
    ],
)
def test_parts_agree_with_onnx_runtime(sizes: list[int], axes: list[int], starts: Any, kind: str) -> None:
    model = cut(sizes, axes, kind)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    network = Interpreter(import_onnx(model))
    for start in starts:
        feed = {"x": TABLE, "s": np.array(start, kind)}
        np.testing.assert_array_equal(network.run(feed)["y"], session.run(None, feed)[0])


@pytest.mark.parametrize(("start", "first"), [(3, 2), (99, 2), (-9, 0)])
def test_a_part_that_leaves_its_axis_is_moved_back(start: int, first: int) -> None:
    got = Interpreter(import_onnx(cut([3], [0]))).run({"x": TABLE, "s": np.array([start])})["y"]
    np.testing.assert_array_equal(got, TABLE[first : first + 3])


def test_bundles_take_the_row_that_a_choice_counts(tmp_path: Path) -> None:
    """What a greedy decoder does: the row of the best column; in integers, too."""
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[1,5] x) => (float[1,8] y)
    { s = ArgMax <axis = 1, keepdims = 0> (x) e = Add (one, s) r = Slice (table, s, e, zero) y = MatMul (r, w) }"""
    model = onnx.parser.parse_model(text)
    random = np.random.default_rng(0)
    constants = {"one": np.array([1]), "zero": np.array([0]), "table": TABLE / 40,
                 "w": random.normal(0, 1, (8, 8)).astype(np.float32)}  # fmt: skip
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    onnx.save(model, tmp_path / "m.onnx")
    samples = [{"x": random.normal(0, 1, (1, 5)).astype(np.float32)} for _ in range(20)]
    wanted = [constants["table"][[sample["x"].argmax()]] @ constants["w"] for sample in samples]
    for precision, near in (("fp32", 1e-5), ("int8", 0.1)):
        given = {"calibration": samples} if precision == "int8" else {}
        qcompile.compile(tmp_path / "m.onnx", target="host", output=tmp_path / precision, precision=precision, **given)
        with qcompile.runtime.load(tmp_path / precision) as session:
            got = [session.run(sample)["y"] for sample in samples]
        np.testing.assert_allclose(got, wanted, atol=near)


@pytest.mark.parametrize(
    ("sizes", "axes", "body", "says"),
    [
        ([6], [0], "", "6 elements of axis 0"),
        ([0], [0], "", "0 elements of axis 0"),
        ([1], [0], "d = Mul (s, sizes) e = Add (d, sizes)", "starts is computed at run time"),
        ([1], [0], "e = Mul (s, sizes)", "starts is computed at run time"),
    ],
)
def test_other_parts_are_refused(sizes: list[int], axes: list[int], body: str, says: str) -> None:
    with pytest.raises(UnsupportedOpError, match=says):
        import_onnx(cut(sizes, axes, body=body))
