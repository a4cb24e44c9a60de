"""Networks in the odd forms of old files: what ONNX Runtime computes, in float and, nearly, in integers."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from qcompile import driver, runtime
from qcompile.bundle import write_bundle
from qcompile.config import CompileConfig
from qcompile.ir.graph import Graph
from qcompile.lower import lower_graph
from qcompile.onnx_import import import_onnx
from qcompile.ops.interpreter import Interpreter
from qcompile.passmgr import PassContext
from qcompile.targets import load

from .odd_models import MODELS, OddModel

LEFT = {
    "TensorFlow, channels last": {"quantize", "conv2d", "add", "mul", "global_avg_pool", "reshape", "dense"},
    "empty tensors": {"quantize", "transpose", "conv2d", "dequantize"},
    "noise": {"quantize", "transpose", "conv2d", "dequantize"},
}
"""Operations of the integer graphs of forms that are mostly nodes which do nothing."""

forms = pytest.mark.parametrize("form", MODELS)


def samples(built: OddModel, count: int) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(3)
    return [{"x": rng.normal(0, 1, built.shape).astype(np.float32)} for _ in range(count)]


@cache
def compiled(form: str) -> tuple[OddModel, Any, Graph, Graph]:
    """Return a form, its ONNX model, and its graphs in float and in integers."""
    built = MODELS[form]()
    model = built.model()
    config, context = CompileConfig(precision="int8"), PassContext()
    context.samples = lambda: iter(samples(built, 16))
    graph, _ = driver.simplify(import_onnx(model), config, context, ())
    return built, model, graph, driver.to_precision(graph, config, context, ())[0]


def expected(built: OddModel, model: Any, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip(built.names, session.run(built.names, inputs), strict=True))


@forms
def test_float(form: str) -> None:
    built, model, graph, _ = compiled(form)
    (inputs,) = samples(built, 1)
    found = Interpreter(graph).run(inputs)
    for name, array in expected(built, model, inputs).items():
        assert found[name].shape == array.shape
        np.testing.assert_allclose(found[name], array, 1e-4, 1e-5 * np.abs(array).max())


@forms
def test_integers(form: str) -> None:
    built, model, _, graph = compiled(form)
    assert [node for node in graph.nodes if node.is_integer]
    ratios: dict[str, list[float]] = {name: [] for name in built.names}
    for inputs in samples(built, 24)[16:]:
        found = Interpreter(graph).run(inputs)
        for name, array in expected(built, model, inputs).items():
            noise = float(np.square(found[name] - array).sum())
            ratios[name].append(10 * np.log10(float(np.square(array).sum()) / noise))
    for name in built.names:
        # Of a sample with two scores nearly alike, a softmax may take the other one.
        assert np.median(ratios[name]) > 28, name


@pytest.mark.parametrize("form", LEFT)
def test_what_does_nothing_is_gone(form: str) -> None:
    _, _, _, graph = compiled(form)
    assert {node.op.name for node in graph.nodes} == LEFT[form]


@pytest.mark.parametrize("form", ["Caffe, opset 8", "resized by shape", "masks", "boxes"])
def test_the_compiled_bundle_gives_the_same_bits(form: str, tmp_path: Path) -> None:
    built, _, _, graph = compiled(form)
    write_bundle(lower_graph(graph, load("host"), jobs=1), tmp_path / "bundle")
    (inputs,) = samples(built, 1)
    wanted = Interpreter(graph).run(inputs)
    with runtime.load(tmp_path / "bundle", 1) as session:
        found = session.run(inputs)
    real = any(not node.is_integer and node.op.name not in ("quantize", "dequantize") for node in graph.nodes)
    for name, array in wanted.items():
        np.testing.assert_allclose(found[name], array, *((1e-4, 1e-5) if real else (0, 0)), err_msg=name)
