"""LSTM, GRU and RNN in every form, loops and branches: the interpreter and the kernels against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from qcompile.errors import UnsupportedOpError
from qcompile.onnx_import import import_onnx
from qcompile.ops.interpreter import Interpreter

STEPS, BATCH, INPUTS, HIDDEN = 5, 2, 3, 4
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


def against_runtime(model: Any, feeds: dict[str, Any]) -> None:
    """Compare every output with ONNX Runtime's."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    got = Interpreter(import_onnx(model)).run(feeds)
    for name, expected in zip(names, session.run(names, feeds), strict=True):
        assert got[name].shape == expected.shape
        np.testing.assert_allclose(got[name], expected, 1e-5, 1e-6, err_msg=name)


def recurrent(op: str, direction: str, states: bool, lengths: bool, **attributes: Any) -> tuple[Any, dict[str, Any]]:
    """Return a model of one recurrent node, and its inputs."""
    rng = np.random.default_rng(3)
    directions, rows = 2 if direction == "bidirectional" else 1, GATES[op] * HIDDEN
    weights = {"w": (directions, rows, INPUTS), "r": (directions, rows, HIDDEN), "b": (directions, 2 * rows)}
    tensors = [numpy_helper.from_array(rng.normal(0, 0.5, s).astype("f4"), n) for n, s in weights.items()]
    feeds = {"x": rng.normal(0, 1, (STEPS, BATCH, INPUTS)).astype("f4")}
    names = ["x", "w", "r", "b", "", ""]
    if lengths:
        names[4], feeds["n"] = "n", np.array([STEPS, 2], np.int32)
    if states:
        for name in ("h", "c")[: 2 if op == "LSTM" else 1]:
            feeds[name] = rng.normal(0, 1, (directions, BATCH, HIDDEN)).astype("f4")
        names[5:] = [n for n in ("h", "c") if n in feeds]
    outputs = ["y", "yh", "yc"][: 3 if op == "LSTM" else 2]
    node = helper.make_node(op, names, outputs, hidden_size=HIDDEN, direction=direction, **attributes)
    inputs = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
              for n, a in feeds.items()]  # fmt: skip
    results = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs]
    graph = helper.make_graph([node], op, inputs, results, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8), feeds


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("op", list(GATES))
@pytest.mark.parametrize(("states", "lengths"), [(False, False), (True, False), (True, True)])
def test_directions_states_and_lengths(op: str, direction: str, states: bool, lengths: bool) -> None:
    against_runtime(*recurrent(op, direction, states, lengths))


@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        ("GRU", {"linear_before_reset": 1}),
        ("GRU", {"activations": ["HardSigmoid", "Softsign"]}),
        ("RNN", {"activations": ["Affine"], "activation_alpha": [0.5], "activation_beta": [0.25]}),
        ("RNN", {"activations": ["LeakyRelu"], "activation_alpha": [0.2]}),
        ("LSTM", {"clip": 0.5}),
        ("LSTM", {"activations": ["Sigmoid", "ScaledTanh", "Relu"], "activation_alpha": [1.7],
                  "activation_beta": [0.6]}),
    ],
)  # fmt: skip
def test_variants(op: str, attributes: dict[str, Any]) -> None:
    against_runtime(*recurrent(op, "forward", True, False, **attributes))


def info(name: str, shape: list[int] | None, kind: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def looping(trips: Any) -> Any:
    """Return a model that adds x to a sum, and collects the sums, a number of times."""
    body = helper.make_graph(
        [
            helper.make_node("Add", ["sum", "x"], ["next"]),
            helper.make_node("Mul", ["next", "two"], ["seen"]),
            helper.make_node("Identity", ["go"], ["on"]),
        ],
        "body",
        [info("i", [], TensorProto.INT64), info("go", [], TensorProto.BOOL), info("sum", [3])],
        [info("on", [], TensorProto.BOOL), info("next", [3]), info("seen", [3])],
        [numpy_helper.from_array(np.float32(2.0), "two")],
    )
    node = helper.make_node("Loop", ["trips", "", "x"], ["last", "all"], body=body)
    outputs = [info("last", [3]), info("all", None)]
    constants = [] if trips is None else [numpy_helper.from_array(np.array(trips), "trips")]
    inputs = [info("x", [3])] + ([info("trips", [], TensorProto.INT64)] if trips is None else [])
    graph = helper.make_graph([node], "loop", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 16)], ir_version=8)


def test_loop_with_known_trip_count() -> None:
    against_runtime(looping(4), {"x": np.array([1, 2, 3], np.float32)})


def test_loop_with_a_trip_count_at_run_time() -> None:
    with pytest.raises(UnsupportedOpError, match="trip count is computed at run time"):
        import_onnx(looping(None))


def test_branch_by_a_known_condition_reads_the_outer_graph() -> None:
    branches = {
        name: helper.make_graph([helper.make_node(op, ["m"], ["out"])], name, [], [info("out", [3])])
        for name, op in (("then_branch", "Sqrt"), ("else_branch", "Neg"))
    }
    nodes = [helper.make_node("Abs", ["x"], ["m"]), helper.make_node("If", ["c"], ["y"], **branches)]
    for condition in (True, False):
        constant = numpy_helper.from_array(np.array(condition), "c")
        graph = helper.make_graph(nodes, "branch", [info("x", [3])], [info("y", [3])], [constant])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 16)], ir_version=8)
        against_runtime(model, {"x": np.array([-4, 9, 2], np.float32)})


def test_scan_backwards_along_the_second_axis() -> None:
    body = helper.make_graph(
        [helper.make_node("Add", ["s", "e"], ["t"]), helper.make_node("Mul", ["t", "e"], ["o"])],
        "body",
        [info("s", [2]), info("e", [2])],
        [info("t", [2]), info("o", [2])],
    )
    attributes = {"num_scan_inputs": 1, "scan_input_axes": [1], "scan_input_directions": [1],
                  "scan_output_axes": [1], "scan_output_directions": [1]}  # fmt: skip
    node = helper.make_node("Scan", ["s0", "x"], ["last", "all"], body=body, **attributes)
    outputs = [info("last", [2]), info("all", None)]
    graph = helper.make_graph([node], "scan", [info("s0", [2]), info("x", [2, 5])], outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 16)], ir_version=8)
    rng = np.random.default_rng(1)
    feeds = {"s0": rng.normal(0, 1, 2).astype("f4"), "x": rng.normal(0, 1, (2, 5)).astype("f4")}
    against_runtime(model, feeds)
