"""Sequences whose tensors are known at import, against ONNX Runtime; others are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from qcompile.errors import QCompileError
from qcompile.onnx_import import import_onnx
from qcompile.ops.interpreter import Interpreter

NUMBERS = {"zero": 0, "one": 1, "last": -1, "four": 4, "far": 9, "two": 2, "sizes": [3, 1, 2], "wrong": [3, 1]}
SPLIT = ("SplitToSequence", ["x", "sizes"], ["s"], {"axis": 1})

Step = tuple[str, list[str], list[str], dict[str, Any]]
CASES: dict[str, list[Step]] = {
    "sizes": [SPLIT, ("SequenceAt", ["s", "last"], ["y"], {})],
    "chunks": [
        ("SplitToSequence", ["x", "four"], ["s"], {"axis": -1}),
        ("SequenceAt", ["s", "one"], ["y"], {}),
        ("SequenceLength", ["s"], ["n"], {}),
    ],
    "singles": [
        ("SplitToSequence", ["x"], ["s"], {"axis": 0, "keepdims": 0}),
        ("ConcatFromSequence", ["s"], ["y"], {"axis": 0}),
    ],
    "stack": [
        ("Neg", ["x"], ["m"], {}),
        ("SequenceConstruct", ["x", "m", "x"], ["s"], {}),
        ("ConcatFromSequence", ["s"], ["y"], {"axis": -1, "new_axis": 1}),
    ],
    "edited": [
        SPLIT,
        ("SequenceErase", ["s", "zero"], ["t"], {}),
        ("SequenceInsert", ["t", "x", "one"], ["u"], {}),
        ("Identity", ["u"], ["v"], {}),
        ("SequenceErase", ["v"], ["w"], {}),
        ("SequenceInsert", ["w", "x"], ["z"], {}),
        ("ConcatFromSequence", ["z"], ["y"], {"axis": 1}),
        ("SequenceLength", ["z"], ["n"], {}),
    ],
}
REFUSED: dict[str, tuple[list[Step], str]] = {
    "position": ([SPLIT, ("SequenceAt", ["s", "far"], ["y"], {})], "position 9 of a sequence of 3 tensors"),
    "unknown": ([SPLIT, ("ArgMax", ["x"], ["p"], {"keepdims": 0}), ("ReduceMax", ["p"], ["q"], {"keepdims": 0}),
                 ("SequenceAt", ["s", "q"], ["y"], {})], "its position is computed at run time"),
    "parts": ([("SplitToSequence", ["x", "wrong"], ["s"], {"axis": 1}), ("SequenceAt", ["s", "one"], ["y"], {})],
              r"parts of \[3, 1\] elements do not make up axis 1"),
    "empty": ([("SequenceEmpty", [], ["s"], {}), ("ConcatFromSequence", ["s"], ["y"], {"axis": 0})], "empty sequence"),
    "tensor": ([("SequenceAt", ["x", "one"], ["y"], {})], "its input 0 is no sequence"),
    "reader": ([SPLIT, ("Relu", ["s"], ["y"], {})], "sequence"),
}  # fmt: skip


def model(steps: list[Step], outputs: tuple[str, ...] = ("y",)) -> onnx.ModelProto:
    nodes = [helper.make_node(op, inputs, made, name=made[0], **more) for op, inputs, made, more in steps]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 6])],
        [helper.make_tensor_value_info(n, TensorProto.INT64 if n == "n" else TensorProto.FLOAT, None) for n in outputs],
        [numpy_helper.from_array(np.asarray(v, np.int64), k) for k, v in NUMBERS.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def check(proto: onnx.ModelProto) -> None:
    x = np.random.default_rng(0).standard_normal((2, 6)).astype(np.float32)
    want = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, {"x": x})
    got = Interpreter(import_onnx(proto)).run({"x": x})
    for value, expected in zip(proto.graph.output, want, strict=True):
        assert got[value.name].dtype == expected.dtype
        np.testing.assert_array_equal(got[value.name], expected)


@pytest.mark.parametrize("case", list(CASES))
def test_as_onnx_runtime(case: str) -> None:
    made = {name for step in CASES[case] for name in step[2]}
    check(model(CASES[case], tuple(sorted({"y", "n"} & made))))


@pytest.mark.parametrize("case", list(REFUSED))
def test_refused(case: str) -> None:
    steps, message = REFUSED[case]
    with pytest.raises(QCompileError, match=message):
        import_onnx(model(steps))


def test_a_sequence_is_no_output() -> None:
    proto = model([SPLIT], ())
    kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, None))
    proto.graph.output.append(helper.make_value_info("s", kind))
    with pytest.raises(QCompileError, match=r"'s'.*sequence"):
        import_onnx(proto)


def loop(trips: str) -> onnx.ModelProto:
    """Return a model that collects the columns of x in a loop."""
    kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, None))
    body = helper.make_graph(
        [helper.make_node("Gather", ["x", "i"], ["column"], axis=1),
         helper.make_node("SequenceInsert", ["before", "column"], ["after"]),
         helper.make_node("Identity", ["goes"], ["on"])],
        "body",
        [helper.make_tensor_value_info("i", TensorProto.INT64, []),
         helper.make_tensor_value_info("goes", TensorProto.BOOL, []), helper.make_value_info("before", kind)],
        [helper.make_tensor_value_info("on", TensorProto.BOOL, []), helper.make_value_info("after", kind)],
    )  # fmt: skip
    return model([
        ("ArgMax", ["x"], ["p"], {"axis": 1, "keepdims": 0}), ("ReduceMax", ["p"], ["data"], {"keepdims": 0}),
        ("SequenceEmpty", [], ["start"], {}), ("Loop", [trips, "", "start"], ["all"], {"body": body}),
        ("ConcatFromSequence", ["all"], ["y"], {"axis": 0, "new_axis": 1}),
    ])  # fmt: skip


def test_a_loop_that_collects_tensors_is_unrolled() -> None:
    check(loop("four"))


def test_a_loop_of_unknown_length_that_collects_tensors_is_refused() -> None:
    with pytest.raises(QCompileError, match="trip count is computed at run time"):
        import_onnx(loop("data"))
