"""Recurrent layers over an open time axis: states and outputs are those of the actual length."""

from __future__ import annotations

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
from qcompile.lower import lower_graph
from qcompile.ops.interpreter import Interpreter

MOST, WIDTH, HIDDEN = 6, 3, 4
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def recurrent(kind: str, direction: str, **attributes: Any) -> Any:
    """Return a layer over x [S, N, WIDTH] with all its outputs."""
    directions = 2 if direction == "bidirectional" else 1
    rng, rows = np.random.default_rng(1), GATES[kind] * HIDDEN
    data = {"w": rng.normal(0, 0.5, (directions, rows, WIDTH)), "r": rng.normal(0, 0.5, (directions, rows, HIDDEN)),
            "b": rng.normal(0, 0.3, (directions, 2 * rows))}  # fmt: skip
    names = ["y", "h", *(["c"] if kind == "LSTM" else [])]
    node = helper.make_node(kind, ["x", "w", "r", "b"], names, hidden_size=HIDDEN, direction=direction, **attributes)
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
