"""Recurrent layers over an open time axis: states and outputs are those of the actual length."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import qcompile
from qcompile import bundle as bundles
from qcompile import driver, runtime, targets
from qcompile.errors import UnsupportedOpError
from qcompile.ir.program import BufferRef, Only
from qcompile.lower import lower_graph
from qcompile.onnx_import.bounds import import_model
from qcompile.ops.interpreter import Interpreter

MOST, WIDTH, HIDDEN = 6, 3, 4
LONGER = 9
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def recurrent(kind: str, direction: str, hidden: int = HIDDEN, **attributes: Any) -> Any:
    """Return a layer over x [S, N, WIDTH] with all its outputs."""
    directions = 2 if direction == "bidirectional" else 1
    rng, rows = np.random.default_rng(1), GATES[kind] * hidden
    data = {"w": rng.normal(0, 0.5, (directions, rows, WIDTH)), "r": rng.normal(0, 0.5, (directions, rows, hidden)),
            "b": rng.normal(0, 0.3, (directions, 2 * rows))}  # fmt: skip
    names = ["y", "h", *(["c"] if kind == "LSTM" else [])]
    node = helper.make_node(kind, ["x", "w", "r", "b"], names, hidden_size=hidden, direction=direction, **attributes)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["S", "N", WIDTH])
    outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [None] * (4 if n == "y" else 3)) for n in names]
    tensors = [numpy_helper.from_array(a.astype(np.float32), n) for n, a in data.items()]
    graph = helper.make_graph([node], "net", [x], outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(
    ("kind", "direction", "least"),
    [("LSTM", "forward", 1), ("LSTM", "bidirectional", 1), ("GRU", "reverse", 3), ("RNN", "bidirectional", 1)],
)
def test_float(kind: str, direction: str, least: int, tmp_path: Path) -> None:
    onnx.save(recurrent(kind, direction), tmp_path / "m.onnx")
    reference = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    shapes = {"x": [f"S:{least}..{MOST}", "N:1..3", WIDTH]}
    qcompile.compile(tmp_path / "m.onnx", precision="fp32", input_shapes=shapes, output=tmp_path / "b")
    rng = np.random.default_rng(0)
    with runtime.load(tmp_path / "b") as session:
        for steps, batch in ((MOST, 3), (least, 1), (4, 2), (MOST - 1, 3), (MOST, 3)):
            given = {"x": rng.normal(0, 1, (steps, batch, WIDTH)).astype(np.float32)}
            for (name, found), wanted in zip(session.run(given).items(), reference.run(None, given), strict=True):
                assert found.shape == wanted.shape
                np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6, err_msg=name)


def test_integers_are_those_of_each_length(tmp_path: Path) -> None:
    onnx.save(recurrent("LSTM", "bidirectional"), tmp_path / "m.onnx")
    rng = np.random.default_rng(0)
    samples = [{"x": rng.normal(0, 1, (steps, 2, WIDTH)).astype(np.float32)} for steps in (MOST, 1, 3, 2, MOST - 1)]
    shapes = {"x": [f"S:1..{MOST}", "N:1..2", WIDTH]}
    config = driver.resolve_config(tmp_path / "m.onnx", None, {"input_shapes": shapes})
    context, _, graph = driver.prepare(tmp_path / "m.onnx", config, samples, None)
    simplified, _ = driver.simplify(graph, config, context, ())
    final, _ = driver.to_precision(simplified, config, context, ())
    assert any(node.is_integer for node in final.nodes)
    bounded, _ = driver.bound_extents(final, config, context, ())
    bundles.write_bundle(lower_graph(bounded, targets.host()), tmp_path / "b")
    reference = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    with runtime.load(tmp_path / "b") as session:
        for given in samples:
            expected, found = Interpreter(final).run(given), session.run(given)
            for (name, array), wanted in zip(expected.items(), reference.run(None, given), strict=True):
                np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-5, err_msg=name)
                np.testing.assert_allclose(array, wanted, atol=0.05, err_msg=name)


# -- only the actual steps are run ---------------------------------------------------------------------------------


def carried(way: str, backward: bool) -> Any:
    """Return tanh(state · w + x[:, t]) along the open axis 1 of x [2, S, 4], as a Scan or a Loop."""
    kinds = {"i": TensorProto.INT64, "go": TensorProto.BOOL, "went": TensorProto.BOOL}

    def info(name: str, shape: Any) -> Any:
        return helper.make_tensor_value_info(name, kinds.get(name, TensorProto.FLOAT), shape)

    nodes = [helper.make_node("MatMul", ["s", "w"], ["p"]), helper.make_node("Add", ["p", "xt"], ["q"]),
             helper.make_node("Tanh", ["q"], ["next"]), helper.make_node("Identity", ["next"], ["row"])]  # fmt: skip
    made = [info("next", [2, 4]), info("row", [2, 4])]
    if way == "scan":
        body = helper.make_graph(nodes, "body", [info("s", [2, 4]), info("xt", [2, 4])], made)
        axes = {"scan_input_axes": [1], "scan_output_axes": [1], "scan_input_directions": [int(backward)]}
        ways = {"scan_output_directions": [int(backward)], "num_scan_inputs": 1}
        outer = [helper.make_node("Scan", ["s0", "x"], ["last", "y"], body=body, **axes, **ways)]
    else:
        nodes = [helper.make_node("Gather", ["x", "i"], ["xt"], axis=1), *nodes]
        nodes.append(helper.make_node("Identity", ["go"], ["went"]))
        given = [info("i", []), info("go", []), info("s", [2, 4])]
        body = helper.make_graph(nodes, "body", given, [info("went", []), *made])
        outer = [helper.make_node("Shape", ["x"], ["shape"]), helper.make_node("Gather", ["shape", "one"], ["n"]),
                 helper.make_node("Loop", ["n", "true", "s0"], ["last", "y"], body=body)]  # fmt: skip
    weight = np.random.default_rng(0).normal(0, 0.5, (4, 4)).astype(np.float32)
    data = {"w": weight, "one": np.array(1), "true": np.array(True)}
    tensors = [numpy_helper.from_array(array, name) for name, array in data.items()]
    inputs = [info("x", [2, "S", 4]), info("s0", [2, 4])]
    graph = helper.make_graph(outer, "net", inputs, [info("last", [2, 4]), info("y", None)], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(("way", "backward"), [("scan", False), ("scan", True), ("loop", False)])
def test_loops_along_an_open_axis(way: str, backward: bool, tmp_path: Path) -> None:
    onnx.save(carried(way, backward), tmp_path / "m.onnx")
    reference = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    shapes = {"x": [2, f"S:2..{LONGER}", 4]}
    qcompile.compile(tmp_path / "m.onnx", precision="fp32", input_shapes=shapes, output=tmp_path / "b")
    rng = np.random.default_rng(0)
    with runtime.load(tmp_path / "b") as session:
        for steps in (LONGER, 2, 5, LONGER - 1, 3):
            given = {"x": rng.normal(0, 1, (2, steps, 4)), "s0": rng.normal(0, 1, (2, 4))}
            given = {name: array.astype(np.float32) for name, array in given.items()}
            for (name, found), wanted in zip(session.run(given).items(), reference.run(None, given), strict=True):
                assert found.shape == wanted.shape
                np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6, err_msg=name)


def test_a_loop_whose_condition_ends_it_is_refused(tmp_path: Path) -> None:
    model = carried("loop", False)
    body = helper.get_node_attr_value(model.graph.node[2], "body")
    body.node[-1].CopyFrom(helper.make_node("Constant", [], ["went"], value=numpy_helper.from_array(np.array(False))))
    model.graph.node[2].attribute[0].g.CopyFrom(body)
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(UnsupportedOpError, match="follows from 'S', and its condition ends it earlier"):
        import_model(tmp_path / "m.onnx", {"x": [2, "S:2..9", 4]})


@pytest.mark.parametrize(("precision", "kind", "most"), [("fp32", "LSTM", 40), ("int8", "RNN", 8)])
def test_steps_past_the_end_are_not_run(precision: str, kind: str, most: int, tmp_path: Path) -> None:
    """A run of 2 makes 2 of all steps, in both directions."""
    onnx.save(recurrent(kind, "bidirectional", 96), tmp_path / "m.onnx")
    rng = np.random.default_rng(0)
    samples = [{"x": rng.normal(0, 1, (steps, 1, WIDTH)).astype(np.float32)} for steps in (most, most // 2)]
    shapes = {"x": [f"S:2..{most}", 1, WIDTH]}
    config = driver.resolve_config(tmp_path / "m.onnx", None, {"input_shapes": shapes, "precision": precision})
    context, _, graph = driver.prepare(tmp_path / "m.onnx", config, samples, None)
    simplified, _ = driver.simplify(graph, config, context, ())
    final, _ = driver.to_precision(simplified, config, context, ())
    program = lower_graph(driver.bound_extents(final, config, context, ())[0], targets.host())
    always = [step for step in program.steps if step.only is None]
    assert len(always) <= 40
    tables = {step.only.extent for step in program.steps if step.only is not None}
    assert [program.extents[t].table for t in tables] == [tuple(range(2, most + 1))]
    assert {step.only.least for step in program.steps if step.only is not None} <= set(range(3, most + 1))
    # A last step that spoils an output, and is needed from 3 on, shows which steps a run makes.
    last, extent = program.steps[-1], tables.pop()
    spoils = replace(last, args=(BufferRef("arena", 0), last.args[-1]), only=Only(extent, 3))
    written = (program, replace(program, steps=(*program.steps, spoils)))
    found = []
    for place, made in enumerate(written):
        bundles.write_bundle(made, tmp_path / f"b{place}")
        with runtime.load(tmp_path / f"b{place}") as session:
            found.append([session.run({"x": samples[0]["x"][:steps]}) for steps in (2, 3, most)])
    assert [_equal(plain, spoilt) for plain, spoilt in zip(*found, strict=True)] == [True, False, False]


def _equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(np.array_equal(one[name], other[name]) for name in one)
