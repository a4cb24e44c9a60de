"""Random graphs of QuantizeLinear and DequantizeLinear, as converters of other tools write them, beside ONNX Runtime.

Each is also tried in operators on integers (QLinearConv, …), as ONNX Runtime's own optimizer writes it.

Every rounded tensor is an output. Where ONNX Runtime found the same operands, its results are at most one step away,
of 65,536 at most five: additions have factors of 14 bits there, and tables are interpolated, so that the kink of a
LeakyReLU may lie between two of their points. Its products with weights of 4 bits (MatMulNBits) are up to 26 steps off
themselves. Where an operand was a step off already, that step goes through the next node, too; of 65,536 it may become
another of 256 in a layer that rounds to 8 bits at run time. `QCOMPILE_RANDOM_QDQ` sets how many graphs (24; nightly
runs take 1,000).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from qcompile import driver
from qcompile.config import CompileConfig
from qcompile.ir.graph import Graph
from qcompile.onnx_import import import_onnx
from qcompile.ops.interpreter import Interpreter
from qcompile.passmgr import PassContext

from .qdq_sketch import sketch
from .quantized_styles import SHAPE

COUNT = int(os.environ.get("QCOMPILE_RANDOM_QDQ", "24"))


def integers(model: Any) -> tuple[Graph, list[str]]:
    config, context = CompileConfig(precision="int8"), PassContext()
    graph, _ = driver.simplify(import_onnx(model), config, context, ())
    return driver.to_precision(graph, config, context, ())[0], context.notes


def expected(model: Any, names: Sequence[str], inputs: dict[str, Any], level: Any) -> dict[str, Any]:
    """Return what ONNX Runtime makes of the model, with fusions of its own up to a level."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = level
    # Without VNNI its products of uint8 and int8 saturate at 16 bits, unless it is told not to.
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip(names, session.run(list(names), inputs), strict=True))


def with_integer_operators(model: Any, path: Path) -> Any:
    """Return what ONNX Runtime's optimizer makes of the model: QLinearConv, QLinearAdd, QLinearConcat, …"""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(path)
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(path)


@pytest.mark.parametrize("form", ["pairs", "operators"])
@pytest.mark.parametrize("seed", range(COUNT))
def test_every_rounded_tensor(seed: int, form: str, tmp_path: Path) -> None:
    s = sketch(seed)
    model = s.m.model()
    if form == "operators":
        model = with_integer_operators(model, tmp_path / "m.onnx")
    graph, notes = integers(model)
    inputs = {"x": np.random.default_rng(seed).normal(0, 1, SHAPE).astype(np.float32)}
    levels = onnxruntime.GraphOptimizationLevel
    # Its operators on integers are all there is to fuse, and only an optimizer exchanges those that saturate.
    level = levels.ORT_DISABLE_ALL if form == "pairs" else levels.ORT_ENABLE_EXTENDED
    wanted, found = expected(model, list(s.m.outputs), inputs, level), Interpreter(graph).run(inputs)
    exact: dict[str, bool] = {}
    wide = 5.01 if form == "pairs" else 32.01
    most, behind = (wide, 256.01) if s.m.dtype in ("int16", "uint16") else (1.01, 6.01)
    for name, step in s.m.outputs.items():
        steps = np.abs(found[name] - wanted[name]).max() / step
        exact[name] = steps < 0.01
        same = all(exact[s.outputs[operand]] for operand in s.operands[name])
        assert steps <= (most if same else behind), f"{name} is {steps:.2f} steps away"
    left = [str(node) for node in graph.nodes if node.op.name == "fake_quantize"]
    assert bool(left) == any(" in float32: " in note for note in notes), f"{left} {notes}"
