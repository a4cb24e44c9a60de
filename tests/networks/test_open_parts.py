"""Slices, indices and arithmetic that follow the actual end of an open axis."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import qcompile
from qcompile import runtime
from qcompile.errors import UnsupportedOpError
from qcompile.onnx_import.bounds import import_bounded

WIDTH = 5


def built(nodes: list[tuple[Any, ...]], rank: int = 3, **data: Any) -> Any:
    """Return a model of x [1, S, WIDTH] with the one output y."""
    made = [helper.make_node(op, i.split(" "), o.split(), **(more[0] if more else {})) for op, i, o, *more in nodes]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, "S", WIDTH])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * rank)
    tensors = [numpy_helper.from_array(np.asarray(a), n) for n, a in data.items()]
    graph = helper.make_graph(made, "net", [x], [y], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def cut(start: int, end: int, step: int = 1) -> Any:
    numbers = {"a": np.array([start]), "b": np.array([end]), "k": np.array([1]), "d": np.array([step])}
    return built([("Slice", "x a b k d", "t"), ("Mul", "t f", "y")], f=np.float32(1.5), **numbers)


END, FRONT = 2**31, -(2**31)
LENGTH = [("Shape", "x", "shape"), ("Gather", "shape one", "n", {"axis": 0})]
ONE = {"one": np.array(1), "vector": np.array([1]), "two": np.array([2]), "zero": np.array([0])}
RNG = np.random.default_rng(3)
CASES: dict[str, tuple[Any, str]] = {
    "last": (cut(-1, END), "2..9"),
    "last three": (cut(-3, END), "1..9"),
    "all but the last": (cut(0, -1), "1..9"),
    "middle": (cut(2, -2), "5..9"),
    "before the last": (cut(-3, -1), "3..9"),
    "reversed": (cut(-1, FRONT, -1), "1..9"),
    "every second": (cut(0, END, 2), "1..9"),
    "at most four": (cut(0, 4), "1..9"),
    "index": (built([("Gather", "x i", "t", {"axis": 1}), ("Mul", "t f", "y")], 2, i=np.array(-1), f=np.float32(2)),
              "1..9"),
    "indices": (built([("Gather", "x i", "t", {"axis": 1}), ("Mul", "t f", "y")], i=np.array([0, -1, -2]),
                      f=np.float32(2)), "3..9"),
    "tuples": (built([("GatherND", "x i", "t"), ("Mul", "t f", "y")], 2, i=np.array([[0, -1], [0, -3], [0, 1]]),
                     f=np.float32(2)), "3..9"),
    "computed tuples": (built([*LENGTH, ("Neg", "n", "m"), ("Unsqueeze", "m zero", "first"),
                               ("Concat", "zero first", "t", {"axis": 0}), ("Unsqueeze", "t zero", "i"),
                               ("GatherND", "x i", "g"), ("Relu", "g", "y")],
                              2, **ONE), "1..9"),
    "elements": (built([("Transpose", "x", "t", {"perm": [0, 2, 1]}), ("GatherElements", "t i", "g", {"axis": 2}),
                        ("Mul", "g f", "y")], i=np.tile(np.array([0, -1, -3]), (1, WIDTH, 1)), f=np.float32(2)),
                 "3..9"),
    "relative places of elements": (
        built([*LENGTH, ("Range", "z n one", "r"), ("Unsqueeze", "r zero", "k"), ("Unsqueeze", "r vector", "q"),
               ("Sub", "q k", "d"), ("Clip", "d low high", "c"), ("Unsqueeze", "c zero", "i"),
               ("GatherElements", "x i", "g", {"axis": 2}), ("ReduceMean", "g", "m", {"axes": [2], "keepdims": 1}),
               ("Mul", "x m", "y")],
              z=np.array(0), low=np.array(-1), high=np.array(WIDTH - 1), **ONE), "1..9"),
    "half": (built([*LENGTH, ("Div", "n half", "h"), ("Unsqueeze", "h zero", "e"), ("Slice", "x zero e vector", "t"),
                    ("Relu", "t", "y")], half=np.array(2), **ONE), "2..9"),
    "computed index": (built([*LENGTH, ("Sub", "n one", "i"), ("Gather", "x i", "t", {"axis": 1}), ("Relu", "t", "y")],
                             2, **ONE), "1..9"),
    "divided by the length": (built([*LENGTH, ("Cast", "n", "c", {"to": 1}), ("Sqrt", "c", "r"), ("Div", "x r", "y")],
                                    **ONE), "1..9"),
    "relative places": (built([*LENGTH, ("Sub", "nine n", "from"), ("Unsqueeze", "from zero", "a"),
                               ("Slice", "table a end zero", "part"), ("Add", "x part", "y")],
                              nine=np.array(9), end=np.array([END]), table=RNG.normal(0, 1, (9, WIDTH)).astype("f4"),
                              **ONE), "1..9"),
    "learned places": (built([*LENGTH, ("Unsqueeze", "n zero", "b"), ("Slice", "table zero b zero", "part"),
                              ("Add", "x part", "y")], table=RNG.normal(0, 1, (9, WIDTH)).astype("f4"), **ONE), "1..9"),
    "frames": (built([("Transpose", "x", "rows", {"perm": [0, 2, 1]}), ("Reshape", "rows flat", "signals"),
                      ("STFT", "signals hop  size", "spectra"),
                      ("ReduceSumSquare", "spectra", "y", {"axes": [3], "keepdims": 0})],
                     flat=np.array([WIDTH, -1]), hop=np.array(2), size=np.array(4)), "4..9"),
    "filled and joined": (built([*LENGTH, ("Unsqueeze", "n zero", "e"), ("Concat", "e five", "s", {"axis": 0}),
                                 ("ConstantOfShape", "s", "fill"), ("Add", "fill f", "twos"),
                                 ("Concat", "twos twos", "double", {"axis": 0}), ("Concat", "x x", "xx", {"axis": 1}),
                                 ("Mul", "xx double", "y")], five=np.array([WIDTH]), f=np.float32(2), **ONE), "1..9"),
    "counted from the end": (built([*LENGTH, ("Neg", "n", "from"), ("Range", "from z one", "r"),
                                    ("Cast", "r", "c", {"to": 1}), ("Unsqueeze", "c vector", "column"),
                                    ("Mul", "x column", "y")], z=np.array(0), **ONE), "1..9"),
    "two ranges in a row": (built([*LENGTH, ("Range", "z n one", "r"), ("Concat", "r r", "rr", {"axis": 0}),
                                   ("Gather", "table rr", "part"), ("Concat", "x x", "xx", {"axis": 1}),
                                   ("Add", "xx part", "y")],
                                  z=np.array(0), table=RNG.normal(0, 1, (12, WIDTH)).astype("f4"), **ONE), "1..9"),
    "pooled and expanded": (
        built([*LENGTH, ("ReduceMax", "x", "m", {"axes": [1], "keepdims": 1}), ("Unsqueeze", "n zero", "e"),
               ("Concat", "vector e vector", "s", {"axis": 0}), ("Expand", "m s", "wide"),
               ("Concat", "x wide", "y", {"axis": 2})], **ONE), "1..9"),
    "pooled and tiled": (
        built([*LENGTH, ("ReduceMax", "x", "m", {"axes": [1], "keepdims": 1}), ("Unsqueeze", "n zero", "e"),
               ("Concat", "vector e vector", "s", {"axis": 0}), ("Tile", "m s", "wide"), ("Mul", "wide f", "twice"),
               ("Concat", "twice x", "y", {"axis": 2})], f=np.float32(2), **ONE), "1..9"),
    "pooled and tiled, the channels last": (
        built([*LENGTH, ("Transpose", "x", "t", {"perm": [0, 2, 1]}), ("Conv", "t w", "c"),
               ("GlobalMaxPool", "c", "m"), ("Unsqueeze", "n zero", "e"),
               ("Concat", "vector vector e", "s", {"axis": 0}), ("Tile", "m s", "wide"),
               ("Concat", "wide c", "both", {"axis": 1}), ("Conv", "both v", "y")],
              w=RNG.normal(0, 1, (4, WIDTH, 1)).astype("f4"), v=RNG.normal(0, 1, (3, 8, 1)).astype("f4"), **ONE),
        "1..9"),
    "range": (built([*LENGTH, ("Range", "z n one", "r"), ("Gather", "table r", "part"), ("Add", "x part", "y")],
                    z=np.array(0), table=RNG.normal(0, 1, (12, WIDTH)).astype("f4"), **ONE), "1..9"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(CASES))
def test_float(name: str, tmp_path: Path) -> None:
    model, bounds = CASES[name]
    onnx.save(model, tmp_path / "m.onnx")
    reference = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    shapes = {"x": [1, f"S:{bounds}", WIDTH]}
    qcompile.compile(tmp_path / "m.onnx", precision="fp32", input_shapes=shapes, output=tmp_path / "b")
    rng = np.random.default_rng(0)
    least, most = map(int, bounds.split(".."))
    with runtime.load(tmp_path / "b") as session:
        for size in (most, least, (least + most) // 2, most - 1, most):
            given = {"x": rng.normal(0, 1, (1, size, WIDTH)).astype(np.float32)}
            (wanted,), found = reference.run(None, given), session.run(given)["y"]
            assert found.shape == wanted.shape
            np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)


def test_an_element_that_is_not_always_there() -> None:
    with pytest.raises(UnsupportedOpError, match="out of range where 'S' is smallest"):
        import_bounded(built([("Gather", "x i", "y", {"axis": 1})], 2, i=np.array(-3)), {"x": [1, "S:1..9", WIDTH]})
    with pytest.raises(UnsupportedOpError, match="there is not where 'S' is smallest"):
        import_bounded(built([("GatherND", "x i", "y")], 2, i=np.array([[0, 1]])), {"x": [1, "S:1..9", WIDTH]})
