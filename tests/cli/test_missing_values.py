"""A classifier of tables with holes, from the model to the answer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from small_classifier import Cli

import qcompile
from qcompile.onnx_import import import_onnx
from qcompile.ops.interpreter import Interpreter

COLUMNS, CLASSES = 12, 3


def classifier() -> onnx.ModelProto:
    """Return what scikit-learn's exporter makes of an imputer, a scaler and a perceptron."""
    random = np.random.default_rng(0)
    weights = {"w0": (COLUMNS, 32), "b0": (32,), "w1": (32, CLASSES), "b1": (CLASSES,)}
    means = random.normal(0, 1, COLUMNS).tolist()
    fill = {"imputed_value_floats": means, "replaced_value_float": float("nan")}
    nodes = [
        helper.make_node("Imputer", ["x"], ["whole"], domain="ai.onnx.ml", **fill),
        helper.make_node("Scaler", ["whole"], ["scaled"], domain="ai.onnx.ml", offset=means, scale=[0.5] * COLUMNS),
        helper.make_node("MatMul", ["scaled", "w0"], ["m0"]),
        helper.make_node("Add", ["m0", "b0"], ["a0"]),
        helper.make_node("Relu", ["a0"], ["r0"]),
        helper.make_node("MatMul", ["r0", "w1"], ["m1"]),
        helper.make_node("Add", ["m1", "b1"], ["scores"]),
        helper.make_node("ArgMax", ["scores"], ["label"], axis=1, keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "table",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, COLUMNS])],
        [
            helper.make_tensor_value_info("label", TensorProto.INT64, [1]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, CLASSES]),
        ],
        [numpy_helper.from_array(random.normal(0, 0.4, s).astype(np.float32), n) for n, s in weights.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def test_rows_with_holes_are_calibrated_on_compiled_and_answered(cli: Cli, tmp_path: Path) -> None:
    model, data, bundle = tmp_path / "table.onnx", tmp_path / "rows.npz", tmp_path / "bundle"
    onnx.save(classifier(), model)
    rows = np.random.default_rng(1).normal(0, 2, (64, COLUMNS)).astype(np.float32)
    rows[np.random.default_rng(2).random(rows.shape) < 0.1] = np.nan
    np.savez(data, x=rows)
    made = cli(model, "--int8", "--calib", data, "-o", bundle)
    assert made.code == 0
    assert json.loads((bundle / "manifest.json").read_text())["inputs"][0]["missing"] is True
    float_model = Interpreter(import_onnx(model))
    with qcompile.runtime.load(bundle) as session:
        pairs = [(session.run({"x": row[None]}), float_model.run({"x": row[None]})) for row in rows]
    assert np.mean([got["label"][0] == want["label"][0] for got, want in pairs]) > 0.95
    np.testing.assert_allclose([got["scores"] for got, _ in pairs], [want["scores"] for _, want in pairs], atol=0.5)

    np.save(tmp_path / "row.npy", rows[:1])
    assert cli("run", bundle, "--input", tmp_path / "row.npy").code == 0
    checked = cli("eval", bundle, "--data", data, "--reference", model, "--metric", "sqnr{output=scores}")
    assert checked.code == 0
    assert "beyond" not in checked.out + checked.err
