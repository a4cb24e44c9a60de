"""Inputs that become constants before conversion."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from qcompile.config_texts import read_values
from qcompile.errors import UsageError
from qcompile.onnx_import import import_onnx
from qcompile.ops.interpreter import Interpreter


def model(text: str) -> onnx.ModelProto:
    return onnx.helper.make_model(
        onnx.parser.parse_graph(text), opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8
    )


SWITCH = """g (float[2] x, int64 sr) => (float[2] y) {
    limit = Constant <value_int: int = 16000> ()
    same = Equal (sr, limit)
    y = If (same) <
        then_branch = a () => (float[2] p) { p = Relu (x) },
        else_branch = b () => (float[2] q) { q = Neg (x) }
    >
}"""


@pytest.mark.parametrize(("rate", "expected"), [(16000, [0.0, 2.0]), (8000, [1.0, -2.0])])
def test_a_condition_on_a_fixed_input_chooses_its_branch(rate: int, expected: list[float]) -> None:
    graph = import_onnx(model(SWITCH), input_values={"sr": [rate]})
    assert [value.name for value in graph.inputs] == ["x"]
    assert f"input 'sr' is fixed to {rate}" in graph.notes
    assert Interpreter(graph).run({"x": np.array([-1, 2], np.float32)})["y"].tolist() == expected


def test_one_number_fills_a_tensor_and_several_fill_it_in_order() -> None:
    text = "g (float[2,2] x, float[2,2] c) => (float[2,2] y) { y = Mul (x, c) }"
    x = {"x": np.ones((2, 2), np.float32)}
    for numbers, expected in (([3], [[3, 3], [3, 3]]), ([1, 2, 3, 4], [[1, 2], [3, 4]])):
        assert Interpreter(import_onnx(model(text), input_values={"c": numbers})).run(x)["y"].tolist() == expected


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"sx": [1]}, "no input named 'sx'"),
        ({"sr": [0.5]}, "is int64"),
        ({"sr": [1, 2]}, "has 1 elements, not 2"),
    ],
)
def test_values_that_do_not_fit_are_refused(values: dict[str, list[float]], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        import_onnx(model(SWITCH), input_values=values)


def test_texts_of_the_command_line() -> None:
    assert read_values(["sr=16000", "a=1,2.5", "b=-3"]) == {"sr": (16000,), "a": (1, 2.5), "b": (-3,)}
    for wrong in ("sr", "sr=", "=3", "sr=x"):
        with pytest.raises(UsageError, match="NAME=NUMBER"):
            read_values([wrong])
