"""Quantized models in the forms in which tools export them: integers, within a step of ONNX Runtime at every output."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from qcompile import driver, runtime, targets
from qcompile.bundle import write_bundle
from qcompile.config import CompileConfig
from qcompile.ir.graph import Graph
from qcompile.lower import lower_graph
from qcompile.onnx_import import import_onnx
from qcompile.ops.interpreter import Interpreter
from qcompile.passmgr import PassContext, PassRecord

from .quantized_styles import LAST, SHAPE, STYLES, QdqModel
from .test_bit_exact import CORES

IN_FLOAT = {"around everything": ["'softmax' has no integer form"]}
"""Why the roundings of a style that stay do so."""

styles = pytest.mark.parametrize("style", STYLES)


def shape_of(style: str) -> tuple[int, ...]:
    return LAST if style == "channels last" else SHAPE


def sample(style: str, seed: int) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(seed).normal(0, 1, shape_of(style)).astype(np.float32)}


@cache
def compiled(style: str) -> tuple[QdqModel, Any, Graph, list[PassRecord], list[str]]:
    """Return a style's description, its ONNX model, its integer graph, what the passes said, and notes for the user."""
    built = STYLES[style]()
    model = built.model(shape_of(style))
    config, context = CompileConfig(precision="int8"), PassContext()
    graph, _ = driver.simplify(import_onnx(model), config, context, ())
    final, records = driver.to_precision(graph, config, context, ())
    return built, model, final, records, context.notes


@styles
def test_every_output_is_within_one_step(style: str) -> None:
    built, model, graph, _, _ = compiled(style)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Without VNNI its products of uint8 and int8 saturate at 16 bits, unless it is told not to.
    options.add_session_config_entry("session.x64quantprecision", "1")
    if "16" in style:  # what ONNX Runtime 1.32 fuses of them differs by a hundred steps from its own operators
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    for seed in range(4):
        inputs = sample(style, seed)
        expected = dict(zip(built.outputs, session.run(list(built.outputs), inputs), strict=True))
        got = Interpreter(graph).run(inputs)
        for name, step in built.outputs.items():
            assert len(np.unique(expected[name])) >= 3, f"{name} says too little"
            assert np.abs(got[name] - expected[name]).max() <= 1.01 * step, name


@styles
def test_what_stays_in_float_is_reported(style: str) -> None:
    _, _, graph, records, notes = compiled(style)
    reasons = IN_FLOAT.get(style, [])
    left = [node for node in graph.nodes if node.op.name == "fake_quantize"]
    assert len(left) == len(reasons)
    said = [skip.reason for record in records if record.text.startswith("absorb-qdq") for skip in record.skips]
    assert len(said) == len(reasons)
    assert all(reason in text for reason, text in zip(reasons, said, strict=True))
    noted = [note for note in notes if " in float32: " in note]
    assert len(noted) == min(1, len(reasons))
    assert all(reason in noted[0] for reason in reasons)
    around = {"quantize", "dequantize", "fake_quantize", "softmax"}
    assert not [str(node) for node in graph.nodes if not node.is_integer and node.op.name not in around]


def test_layouts_of_converters_leave_no_transpose() -> None:
    _, model, graph, _, _ = compiled("channels last")
    assert sum(node.op_type == "Transpose" for node in model.graph.node) == 6
    assert not [node for node in graph.nodes if node.op.name == "transpose"]


@styles
def test_the_compiled_bundle_gives_the_same_bits(style: str, tmp_path: Path) -> None:
    built, _, graph, _, _ = compiled(style)
    write_bundle(lower_graph(graph, targets.load("host"), jobs=1), tmp_path / "bundle")
    inputs = sample(style, 9)
    expected = Interpreter(graph).run(inputs)
    with runtime.load(tmp_path / "bundle", 1) as session:
        got = session.run(inputs)
        for name, step in built.outputs.items():
            # Softmax is a float node: its last bits differ between processors, and so may the code next to a tie.
            near = 1.01 * step if name == "shares" else 0.0
            assert np.abs(got[name] - expected[name]).max() <= near, name


@pytest.mark.arm
@pytest.mark.parametrize("style", ["static uint8, uint8 per channel", "integer operators", "int16, uint8"])
def test_asymmetric_weights_on_arm(style: str, run_emulated) -> None:
    _, _, graph, _, _ = compiled(style)
    inputs = sample(style, 11)
    expected = Interpreter(graph).run(inputs)
    got = run_emulated(lower_graph(graph, targets.load("rpi4"), jobs=1), CORES["rpi4"], inputs, 1)
    for name, array in expected.items():
        np.testing.assert_array_equal(got[name], array)
