"""Numbers counted up to an open length, and inputs that share its name."""

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

COUNTED = [
    ("Shape", "x", "shape"),
    ("Gather", "shape one", "n"),
    ("Range", "zero n one", "r"),
    ("Cast", "r", "f", {"to": TensorProto.FLOAT}),
]
NUMBERS = {"one": np.array(1), "zero": np.array(0), "axis": np.array([0]), "last": np.array([1]), "c": np.float32(-5)}
KINDS = {"x": TensorProto.FLOAT, "s": TensorProto.FLOAT, "lens": TensorProto.INT64}
CASES: dict[str, list[tuple[Any, ...]]] = {
    "mask of a length": [("Less", "r lens", "m"), ("Where", "m x c", "y")],
    "weighted sum": [("Mul", "f s", "p"), ("ReduceSum", "p axis", "q"), ("Add", "x q", "y")],
    "softmax of places": [("Mul", "f s", "p"), ("Softmax", "p", "q", {"axis": 0}), ("Mul", "x q", "y")],
    "product with places": [("Mul", "f s", "p"), ("Unsqueeze", "p last", "q"), ("MatMul", "x q", "y")],
    "joined": [("Mul", "f s", "p"), ("Unsqueeze", "p axis", "q"), ("Concat", "x q", "y", {"axis": 0})],
    "counted down": [("Sub", "n one", "e"), ("Sub", "e r", "d"), ("Cast", "d", "g", {"to": TensorProto.FLOAT}),
                     ("Mul", "g s", "p"), ("Mul", "x p", "y")],
    "distances": [("Unsqueeze", "f axis", "a"), ("Unsqueeze", "f last", "b"), ("Sub", "a b", "d"), ("Abs", "d", "e"),
                  ("Mul", "e s", "p"), ("Softmax", "p", "q", {"axis": -1}), ("MatMul", "x q", "y")],
}  # fmt: skip


def built(nodes: list[tuple[Any, ...]], shapes: dict[str, list[int | str]]) -> Any:
    """Return a model of some inputs with the one output y."""
    made = [helper.make_node(op, i.split(" "), [o], **(more[0] if more else {})) for op, i, o, *more in nodes]
    read = {name for node in made for name in node.input}
    inputs = [helper.make_tensor_value_info(n, KINDS[n], shape) for n, shape in shapes.items() if n in read]
    tensors = [numpy_helper.from_array(np.asarray(a), n) for n, a in NUMBERS.items() if n in read]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, None])
    graph = helper.make_graph(made, "net", inputs, [output], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("name", CASES)
def test_counted_numbers_meet_what_is_computed(name: str, tmp_path: Path) -> None:
    model = built([*COUNTED, *CASES[name]], {"x": [2, "N"], "s": [1], "lens": [1]})
    onnx.save(model, tmp_path / "m.onnx")
    reference = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    qcompile.compile(tmp_path / "m.onnx", precision="fp32", input_shapes={"x": [2, "N:2..9"]}, output=tmp_path / "b")
    rng = np.random.default_rng(0)
    taken = {i.name for i in reference.get_inputs()}
    with runtime.load(tmp_path / "b") as session:
        for size in (9, 2, 5, 8, 9):
            given = {"x": rng.normal(0, 1, (2, size)).astype(np.float32), "s": np.full(1, 0.3, np.float32),
                     "lens": np.array([size - 1])}  # fmt: skip
            given = {n: array for n, array in given.items() if n in taken}
            (wanted,), found = reference.run(None, given), session.run(given)["y"]
            assert found.shape == wanted.shape
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


LENGTHS = [*COUNTED, ("Unsqueeze", "lens last", "l"), ("Less", "r l", "m"), ("Where", "m x c", "y")]


def places(model: Any, **shapes: Any) -> dict[str, list[tuple[str, int]]]:
    return {s.name: sorted(s.places) for s in import_bounded(model, shapes).symbols}


def test_axes_of_one_name_are_open_together() -> None:
    model = built(LENGTHS, {"x": ["batch", "N"], "lens": ["batch"]})
    assert places(model, x=["B:1..3", 7]) == {"B": [("lens", 0), ("x", 0)]}
    both = {"B": [("lens", 0), ("x", 0)], "N": [("x", 1)]}
    assert places(model, x=["B:1..3", "N:2..7"]) == places(model, x=["B:1..3", "N:2..7"], lens=["B"]) == both


def test_other_names_are_not() -> None:
    model = built(LENGTHS, {"x": ["batch", "N"], "lens": ["other"]})
    assert places(model, x=["B:1..3", "N:2..7"]) == {"B": [("x", 0)], "N": [("x", 1)]}
    unnamed = built([("Add", "x s", "y")], {"x": ["?", "N"], "s": ["?"]})
    assert places(unnamed, x=["B:1..3", 1]) == {"B": [("x", 0)]}


def test_a_name_with_two_extents_opens_nothing() -> None:
    model = built([("ReduceSum", "s axis", "q"), ("Add", "x q", "y")], {"x": ["N", "N"], "s": ["N"]})
    with pytest.raises(UnsupportedOpError, match="depends on it in another way"):
        import_bounded(model, {"x": ["B:1..3", "A:4..5"]})
    assert places(model, x=["B:1..3", "A:4..5"], s=[1]) == {"A": [("x", 1)], "B": [("x", 0)]}
