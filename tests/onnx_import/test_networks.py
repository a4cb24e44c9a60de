"""Whole networks: those that the onnx package carries without their weights, given random ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from qcompile.onnx_import import import_onnx
from qcompile.ops.interpreter import Interpreter

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"


def network(name: str) -> Any:
    """Return a model whose large constants are seeded noise, scaled so that activations neither vanish nor explode."""
    model = onnx.load(LIGHT / f"light_{name}.onnx")
    graph = model.graph
    rng = np.random.default_rng(len(name))
    shapes = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    for node in [n for n in graph.node if n.op_type == "ConstantOfShape"]:
        shape = tuple(int(d) for d in shapes[node.input[0]])
        fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 1
        weight = rng.normal(0, (2 / fan_in) ** 0.5, shape) if len(shape) > 1 else rng.uniform(0.5, 1.5, shape)
        graph.initializer.append(numpy_helper.from_array(weight.astype(np.float32), node.output[0]))
        graph.node.remove(node)
    # Since version 4, initializers need not be listed as inputs.
    model.ir_version = max(model.ir_version, 4)
    return model


@pytest.mark.parametrize("name", ["squeezenet", "shufflenet", "resnet50"])
def test_networks_agree_with_onnx_runtime(name: str) -> None:
    model = network(name)
    graph = import_onnx(model)
    feed = {v.name: np.random.default_rng(0).normal(size=v.shape).astype(v.dtype) for v in graph.inputs}
    assert len(feed) == 1
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (output,) = session.get_outputs()
    (expected,) = session.run(None, feed)
    got = Interpreter(graph).run(feed)[output.name]
    assert np.std(expected) > 0
    np.testing.assert_allclose(got, expected, atol=1e-4 * np.abs(expected).max())


def test_a_deep_network_is_imported_whole() -> None:
    model = network("densenet121")
    counts: dict[str, int] = {}
    for node in import_onnx(model).nodes:
        counts[node.op.name] = counts.get(node.op.name, 0) + 1
    operators = [n.op_type for n in model.graph.node]
    names = {"conv2d": "Conv", "batch_norm": "BatchNormalization", "relu": "Relu", "concat": "Concat"}
    for op, operator in names.items():
        assert counts[op] == operators.count(operator) > 50
