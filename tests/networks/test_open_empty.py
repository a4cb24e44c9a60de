"""Open extents from 0 on: what comes before the first token, or nothing at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from qcompile import compile as compiled
from qcompile import runtime

from .odd_models import OddModel

WIDTH, NEW, MOST = 8, 3, 6


def attended(m: OddModel) -> list[str]:
    """Return attention to what was before and what is new, and both."""
    whole = m.node("Concat", ["past", "x"], axis=1)
    scores = m.node("MatMul", ["x", m.node("Transpose", [whole], perm=[0, 2, 1])])
    return [m.node("MatMul", [m.node("Softmax", [scores], axis=-1), whole]), whole]


def reduced(m: OddModel) -> list[str]:
    """Return a sum over nothing, its largest element, and what goes element by element."""
    y = m.node("Relu", [m.node("MatMul", ["past", m.weights(WIDTH, WIDTH)])])
    total = m.node("ReduceSum", [y, m.integers(1)], keepdims=1)
    return [m.node("Add", ["x", total]), m.node("ReduceMax", [y, m.integers(1)], keepdims=0), m.node("Neg", [y])]


def regrouped(m: OddModel) -> list[str]:
    """Return a softmax within heads over an axis that may be empty."""
    outer = m.node("Slice", [m.node("Shape", ["past"]), m.integers(0), m.integers(2)])
    heads = m.node("Reshape", ["past", m.node("Concat", [outer, m.integers(2, WIDTH // 2)], axis=0)])
    shares = m.node("Softmax", [m.node("Transpose", [heads], perm=[0, 2, 1, 3])], axis=2)
    back = m.node("Reshape", [m.node("Transpose", [shares], perm=[0, 2, 1, 3]), m.node("Shape", ["past"])])
    return [back, m.node("Add", ["x", m.node("ReduceSum", [back, m.integers(1)], keepdims=1)])]


def joined(m: OddModel) -> list[str]:
    """Return columns of an axis that may be empty, behind others."""
    columns = m.node("Reshape", [m.node("Transpose", ["past"], perm=[0, 2, 1]), m.integers(1, -1)])
    return [m.node("Concat", [m.node("Flatten", ["x"]), columns], axis=1)]


def model(define: Callable[[OddModel], list[str]]) -> tuple[Any, list[str]]:
    m = OddModel(18, ir_version=9)
    names = define(m)
    axes = {"past": "P", "x": NEW}
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, d, WIDTH]) for n, d in axes.items()]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]
    graph = helper.make_graph(m.nodes, "empty", inputs, outputs, m.tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), names


def feed(number: int) -> dict[str, np.ndarray]:
    """Return one of the samples: the lengths of "past" take turns."""
    rng, lengths = np.random.default_rng(number), {"past": number % (MOST + 1), "x": NEW}
    return {n: rng.normal(0, 1, (1, d, WIDTH)).astype(np.float32) for n, d in lengths.items()}


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("define", [attended, reduced, regrouped, joined], ids=lambda define: define.__name__)
def test_nothing_at_all(define: Any, precision: str, tmp_path: Path) -> None:
    made, names = model(define)
    onnx.save(made, tmp_path / "m.onnx")
    (tmp_path / "samples").mkdir()
    for number in range(12):
        np.savez(tmp_path / "samples" / f"{number}.npz", **feed(number))
    more = {"calibration": tmp_path / "samples"} if precision == "int8" else {}
    compiled(tmp_path / "m.onnx", target="host", precision=precision, input_shapes={"past": [1, f"P:0..{MOST}", WIDTH]},
             output=tmp_path / "b", **more)  # fmt: skip
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    tolerance = 1e-5 if precision == "fp32" else 0.05
    with runtime.load(tmp_path / "b") as bundle:
        for number in (0, 3, 6, 8, 7):
            given = feed(number)
            found = bundle.run(given)
            for name, wanted in zip(names, session.run(names, given), strict=True):
                assert found[name].shape == wanted.shape
                # The largest of no elements is the least number, of which integers have none below their range.
                finite = np.isfinite(wanted)
                near = tolerance * np.abs(wanted[finite]).max(initial=1.0)
                np.testing.assert_allclose(found[name][finite], wanted[finite], tolerance, near)
