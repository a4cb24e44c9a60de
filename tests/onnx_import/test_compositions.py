"""Operators made of others: counts of token sequences, determinants, and Scan over a batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx.parser
import onnxruntime
import pytest
from onnx import TensorProto, helper

from qcompile.errors import UnsupportedOpError
from qcompile.onnx_import import import_onnx
from qcompile.ops.interpreter import Interpreter

POOL, STARTS = [2, 7, 1, 2, 3, 4, 2, 2, 1, 2, 3, 4, 4, 4], [0, 2, 8]
"""Two tokens, three pairs, two sequences of three."""
ORDER = [3, 0, 8, 1, 2, 5, 4]


def counting(**changed: Any) -> Any:
    attributes = {
        "mode": "TF", "min_gram_length": 1, "max_gram_length": 3, "max_skip_count": 2, "pool_int64s": POOL,
        "ngram_counts": STARTS, "ngram_indexes": ORDER, **changed,
    }  # fmt: skip
    node = helper.make_node("TfIdfVectorizer", ["x"], ["y"], name="it", **attributes)
    return single(node, [helper.make_tensor_value_info("x", TensorProto.INT64, (3, 9))], opset=9)


def single(node: Any, inputs: list[Any], opset: int) -> Any:
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "g", inputs, [output])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def assert_agrees(model: Any, inputs: dict[str, Any]) -> None:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    wanted = session.run(None, inputs)
    got = Interpreter(import_onnx(model)).run(inputs)
    for array, expected in zip(got.values(), wanted, strict=True):
        np.testing.assert_allclose(array, expected, 1e-5, 1e-6)


@pytest.mark.parametrize("mode", ["TF", "IDF", "TFIDF"])
@pytest.mark.parametrize("skips", [0, 1, 5])
def test_counts_agree_with_onnx_runtime(mode: str, skips: int) -> None:
    weights = {} if mode == "TF" else {"weights": [0.5, 2.0, 1.5, 3.0, 0.25, 4.0, 0.75]}
    tokens = np.random.default_rng(1).integers(1, 5, (3, 9))
    assert_agrees(counting(mode=mode, max_skip_count=skips, **weights), {"x": tokens})


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"mode": "BM25"}, "mode BM25"),
        ({"ngram_indexes": [3, 0, 8, 1, 2, 5, 5]}, "count for the same element"),
        ({"ngram_indexes": [3, 0, 8, 1, 2, 5, 1 << 40]}, "beyond 0 to"),
        ({"ngram_indexes": ORDER[:-1]}, "6 ngram_indexes for 7 sequences"),
        ({"ngram_counts": [0, 2, 7]}, "do not divide a pool"),
    ],
)
def test_counts_that_make_no_sense_are_refused(changed: dict[str, Any], says: str) -> None:
    with pytest.raises(UnsupportedOpError, match=says):
        import_onnx(counting(**changed))


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5])
def test_determinants_agree_with_numpy(rows: int) -> None:
    shape = (2, 3, rows, rows)
    model = single(helper.make_node("Det", ["x"], ["y"]), [helper.make_tensor_value_info("x", 1, shape)], opset=22)
    x = np.random.default_rng(rows).standard_normal(shape).astype(np.float32)
    got = Interpreter(import_onnx(model)).run({"x": x})["y"]
    np.testing.assert_allclose(got, np.linalg.det(x), 1e-4, 1e-5)


@pytest.mark.parametrize(("shape", "says"), [((6, 6), "at most 5"), ((2, 3), "no square matrix")])
def test_other_determinants_are_refused(shape: tuple[int, ...], says: str) -> None:
    model = single(helper.make_node("Det", ["x"], ["y"]), [helper.make_tensor_value_info("x", 1, shape)], opset=22)
    with pytest.raises(UnsupportedOpError, match=says):
        import_onnx(model)


SCAN = """<ir_version: 8, opset_import: ["" : 8]>
g (float[2,3] start, float[2,4,3] x, float[2,4,1] w{lengths}) => (float[2,3] last, float[2,4,3] all) {{
    last, all = Scan<num_scan_inputs = 2, directions = [1, 0], body = b (float[3] s, float[3] e, float[1] f)
        => (float[3] t, float[3] u) {{ g = Mul(e, f)  t = Add(s, g)  u = Mul(t, f) }}>({first}, start, x, w)
}}"""


def test_scan_over_a_batch_runs_each_entry() -> None:
    rng = np.random.default_rng(7)
    inputs = {
        n: rng.standard_normal(s).astype("f4") for n, s in (("start", (2, 3)), ("x", (2, 4, 3)), ("w", (2, 4, 1)))
    }
    assert_agrees(onnx.parser.parse_model(SCAN.format(lengths="", first="")), inputs)


def test_scan_of_lengths_is_refused() -> None:
    model = onnx.parser.parse_model(SCAN.format(lengths=", int64[2] n", first="n"))
    with pytest.raises(UnsupportedOpError, match="lengths of their own"):
        import_onnx(model)
