"""The analysis of a recurrent network whose number of steps is open, on samples that do not reach the last one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from qcompile.assessment import analyze
from qcompile.quant.noise_power import LIMIT_DB


def test_steps_that_no_sample_reaches_are_not_judged(tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    weights = {"w": (2, 16, 5), "r": (2, 16, 4), "b": (2, 32)}
    node = helper.make_node("LSTM", ["x", "w", "r", "b"], ["y"], name="recur", hidden_size=4, direction="bidirectional")
    graph = helper.make_graph(
        [node],
        "open",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["T", 1, 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["T", 2, 1, 4])],
        [numpy_helper.from_array(random.normal(0, 0.5, s).astype(np.float32), n) for n, s in weights.items()],
    )
    model = tmp_path / "open.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), model)
    (tmp_path / "given.py").write_text(
        "import numpy as np\n"
        "def samples():\n"
        "    random = np.random.default_rng(0)\n"
        "    return [{'x': random.normal(size=(n, 1, 5)).astype('float32')} for n in [1, 3, 2, 3, 2, 1, 3, 2] * 4]\n"
    )
    settings = {"calib": f"{tmp_path / 'given.py'}:samples", "input_shapes": {"x": ["T:1..4", 1, 5]}}
    result = analyze(model, settings=settings)
    assert result.nodes
    assert {node.name for node in result.nodes} >= {"recur"}
    assert min(node.accumulated_db for node in result.nodes) > -LIMIT_DB
    assert min(node.alone_db for node in result.worst(1) if node.alone_db is not None) > 10
