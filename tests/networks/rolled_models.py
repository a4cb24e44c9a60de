"""Small ONNX models with loops, and their comparison with ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from qcompile.ir.counted import trimmed
from qcompile.ir.graph import Graph
from qcompile.onnx_import import import_onnx
from qcompile.ops.interpreter import Interpreter

Case = tuple[Any, dict[str, np.ndarray]]
"""A model and its inputs."""


def info(name: str, shape: list[int] | None, kind: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def model_of(nodes: list[Any], feeds: dict[str, np.ndarray], outputs: list[Any], constants: dict[str, Any]) -> Any:
    inputs = [info(n, list(a.shape), helper.np_dtype_to_tensor_dtype(a.dtype)) for n, a in feeds.items()]
    tensors = [numpy_helper.from_array(np.asarray(a), n) for n, a in constants.items()]
    graph = helper.make_graph(nodes, "net", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 16)], ir_version=8)


def against_runtime(model: Any, feeds: dict[str, np.ndarray]) -> Graph:
    """Compare every output with ONNX Runtime's, and return the graph."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    graph = import_onnx(model)
    got = trimmed(graph.counted, Interpreter(graph).run(feeds))
    for name, expected in zip(names, session.run(names, feeds), strict=True):
        assert got[name].shape == expected.shape
        np.testing.assert_allclose(got[name], expected, 1e-4, 1e-5, err_msg=name)
    return graph


def recurrent(
    op: str, direction: str, *, steps: int = 5, batch: int = 2, lengths: bool = False, layout: int = 0, hidden: int = 4
) -> Case:
    """Return a model of one recurrent node."""
    rng = np.random.default_rng(3)
    directions, rows = 2 if direction == "bidirectional" else 1, {"RNN": 1, "GRU": 3, "LSTM": 4}[op] * hidden
    weights = {"w": (directions, rows, 3), "r": (directions, rows, hidden), "b": (directions, 2 * rows)}
    tensors = {name: rng.normal(0, 0.5, shape).astype("f4") for name, shape in weights.items()}
    shape = (batch, steps, 3) if layout else (steps, batch, 3)
    feeds = {"x": rng.normal(0, 1, shape).astype("f4")}
    if lengths:
        feeds["n"] = np.array([steps, 2], np.int32)
    outputs = ["y", "yh", "yc"][: 3 if op == "LSTM" else 2]
    names = ["x", "w", "r", "b", *(["n"] if lengths else [])]
    node = helper.make_node(op, names, outputs, hidden_size=hidden, direction=direction, layout=layout)
    return model_of([node], feeds, [info(n, None) for n in outputs], tensors), feeds


def summing(trips: int) -> Case:
    """Return a loop that adds numbers, collects its sums and knows its iteration."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["on"]),
            helper.make_node("Exp", ["x"], ["much"]),
            helper.make_node("Cast", ["i"], ["number"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["sum", "half"], ["less"]),
            helper.make_node("Add", ["less", "much"], ["next"]),
            helper.make_node("Add", ["next", "number"], ["seen"]),
        ],
        "body",
        [info("i", [], TensorProto.INT64), info("go", [], TensorProto.BOOL), info("sum", [3])],
        [info("on", [], TensorProto.BOOL), info("next", [3]), info("seen", [3])],
        [numpy_helper.from_array(np.float32(0.5), "half")],
    )
    node = helper.make_node("Loop", ["trips", "", "x"], ["last", "all"], body=body, name="sums")
    feeds = {"x": np.array([0.1, 0.2, 0.3], np.float32)}
    return model_of([node], feeds, [info("last", [3]), info("all", None)], {"trips": np.int64(trips)}), feeds


def conditional(limit: float, *, trips: int | None, collect: bool = False) -> Case:
    """Return a loop that doubles a number until it is beyond a limit, and swaps two states."""
    body = helper.make_graph(
        [
            helper.make_node("Add", ["a", "a"], ["twice"]),
            helper.make_node("ReduceSum", ["twice"], ["total"], keepdims=0),
            helper.make_node("Less", ["total", "limit"], ["on"]),
            helper.make_node("Identity", ["b"], ["c2"]),
            helper.make_node("Add", ["c", "twice"], ["b2"]),
            helper.make_node("Neg", ["twice"], ["seen"]),
        ],
        "body",
        [info("i", [], TensorProto.INT64), info("go", [], TensorProto.BOOL), *(info(n, [2]) for n in "abc")],
        [info("on", [], TensorProto.BOOL), *(info(n, [2]) for n in ("twice", "b2", "c2")),
         *([info("seen", [2])] if collect else [])],
    )  # fmt: skip
    outputs = ["la", "lb", "lc", *(["all"] if collect else [])]
    node = helper.make_node("Loop", ["" if trips is None else "trips", "yes", "x", "x", "x"], outputs, body=body)
    feeds = {"x": np.array([0.25, 0.5], np.float32), "limit": np.asarray(limit, np.float32)}
    constants = {"yes": np.asarray(True), **({} if trips is None else {"trips": np.int64(trips)})}
    return model_of([node], feeds, [info(n, None) for n in outputs], constants), feeds


def counting(limit: int, trips: int | None) -> Case:
    """Return a loop as exporters of TensorFlow write it: a state counts, and the condition compares it with a limit."""
    body = helper.make_graph(
        [
            helper.make_node("Add", ["n", "one"], ["n2"]),
            helper.make_node("Less", ["n2", "limit"], ["on"]),
            helper.make_node("Mul", ["h", "h"], ["square"]),
            helper.make_node("Sub", ["square", "x"], ["h2"]),
            helper.make_node("Tanh", ["h2"], ["seen"]),
        ],
        "body",
        [info("i", [], TensorProto.INT64), info("go", [], TensorProto.BOOL), info("n", [], TensorProto.INT32),
         info("h", [2])],
        [info("on", [], TensorProto.BOOL), info("n2", [], TensorProto.INT32), info("h2", [2]), info("seen", [2])],
        [numpy_helper.from_array(np.int32(1), "one"), numpy_helper.from_array(np.int32(limit), "limit")],
    )  # fmt: skip
    inputs = ["" if trips is None else "trips", "yes", "zero", "x"]
    node = helper.make_node("Loop", inputs, ["count", "last", "all"], body=body)
    constants = {"yes": np.asarray(True), "zero": np.int32(0), **({} if trips is None else {"trips": np.int64(trips)})}
    outputs = [info("count", None, TensorProto.INT32), info("last", None), info("all", None)]
    feeds = {"x": np.array([0.25, 0.5], np.float32)}
    return model_of([node], feeds, outputs, constants), feeds


def scanning(axes: tuple[int, int], directions: tuple[int, int]) -> Case:
    """Return a Scan that sums the slices of a tensor: the axis it reads and that it writes, and from which end."""
    body = helper.make_graph(
        [helper.make_node("Add", ["s", "part"], ["next"]), helper.make_node("Mul", ["next", "part"], ["seen"])],
        "body",
        [info("s", [4]), info("part", [4])],
        [info("next", [4]), info("seen", [4])],
    )
    node = helper.make_node(
        "Scan", ["start", "x"], ["last", "all"], body=body, num_scan_inputs=1, scan_input_axes=[axes[0]],
        scan_output_axes=[axes[1]], scan_input_directions=[directions[0]], scan_output_directions=[directions[1]],
    )  # fmt: skip
    shape = (4, 6) if axes[0] else (6, 4)
    rng = np.random.default_rng(5)
    feeds = {"start": rng.normal(size=4).astype("f4"), "x": rng.normal(size=shape).astype("f4")}
    return model_of([node], feeds, [info("last", None), info("all", None)], {}), feeds


def greedy(limit: int, wanted: float, trips: int = 40) -> Case:
    """Return a decoder as exporters write it.

    A state counts; rows are cut and written at it; the condition compares it with a limit and looks at what was found;
    weights and a state that nothing reads are among the states; behind the loop as many rows are taken as were made.
    """
    words = helper.make_graph(
        [helper.make_node("Identity", ["yes"], ["a"])], "t", [], [info("a", [1], TensorProto.BOOL)]
    )
    other = helper.make_graph(
        [helper.make_node("Identity", ["was"], ["b"])], "e", [], [info("b", [], TensorProto.BOOL)]
    )
    node = helper.make_node
    body = helper.make_graph(
        [
            node("MatMul", ["h", "w"], ["product"]),
            node("Tanh", ["product"], ["h2"]),
            node("Cast", ["n"], ["real"], to=TensorProto.FLOAT),
            node("Add", ["real", "one_real"], ["sum"]),
            node("Cast", ["sum"], ["n2"], to=TensorProto.INT64),
            node("Reshape", ["n", "flat"], ["first"]),
            node("Reshape", ["n2", "flat"], ["after"]),
            node("Min", ["after", "most"], ["bounded"]),
            node("Slice", ["rows", "first", "bounded", "axis"], ["row"]),
            node("Shape", ["row"], ["row_shape"]),
            node("Unsqueeze", ["h2", "axis"], ["wide"]),
            node("Expand", ["wide", "row_shape"], ["update"]),
            node("Squeeze", ["first"], ["from"]),
            node("Squeeze", ["bounded"], ["to"]),
            node("Range", ["from", "to", "one"], ["numbers"]),
            node("Reshape", ["numbers", "column"], ["places"]),
            node("Tile", ["places", "across"], ["where"]),
            node("ScatterElements", ["rows", "where", "update"], ["rows2"], axis=1),
            node("ReduceMax", ["h2"], ["top"], keepdims=0),
            node("Greater", ["top", "wanted"], ["enough"]),
            node("If", ["enough"], ["found"], then_branch=words, else_branch=other),
            node("Not", ["found"], ["not_yet"]),
            node("Less", ["n2", "limit"], ["room"]),
            node("And", ["room", "not_yet"], ["both"]),
            node("Cast", ["both"], ["as_number"], to=TensorProto.INT64),
            node("Add", ["as_number", "zero"], ["copied"]),
            node("Cast", ["copied"], ["on"], to=TensorProto.BOOL),
        ],
        "body",
        [info("i", [], TensorProto.INT64), info("go", [], TensorProto.BOOL), info("w", [4, 4]),
         info("n", [], TensorProto.INT64), info("h", [1, 4]), info("rows", [1, limit, 4]), info("unread", None)],
        [info("on", None, TensorProto.BOOL), info("w", [4, 4]), info("n2", [], TensorProto.INT64), info("h2", [1, 4]),
         info("rows2", None), info("rows2", None)],
    )  # fmt: skip
    nodes = [
        node("Loop", ["trips", "yes", "weights", "start", "x", "empty", "nothing"],
             ["w_end", "count", "last", "made", "seen"], body=body, name="decode"),
        node("Reshape", ["count", "flat"], ["ends"]),
        node("Slice", ["seen", "begin", "ends", "axis"], ["taken"]),
        node("Softmax", ["taken"], ["y"], axis=-1),
    ]  # fmt: skip
    rng = np.random.default_rng(4)
    constants = {
        "trips": np.int64(trips), "yes": np.asarray(True), "was": np.asarray(False), "start": np.int64(0),
        "weights": rng.normal(0, 0.9, (4, 4)).astype("f4"), "empty": np.zeros((1, limit, 4), "f4"),
        "nothing": np.float32(0), "one_real": np.float32(1), "flat": np.array([1]), "most": np.array([limit]),
        "axis": np.array([1]), "one": np.int64(1), "column": np.array([1, -1, 1]), "across": np.array([1, 1, 4]),
        "wanted": np.float32(wanted), "limit": np.int64(limit), "zero": np.array([0]), "begin": np.array([0]),
    }  # fmt: skip
    feeds = {"x": rng.normal(0, 1, (1, 4)).astype("f4")}
    outputs = [info("y", None), info("last", None), info("count", None, TensorProto.INT64)]
    return model_of(nodes, feeds, outputs, constants), feeds
