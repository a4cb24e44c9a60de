"""The analysis of networks in which something says nothing: steps that no sample reaches, tensors that are zero."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from qcompile import ops
from qcompile.assessment import analyze
from qcompile.evaluate.analysis import analyze_graphs
from qcompile.ir.parser import parse_graph
from qcompile.passmgr import PassContext, PassManager
from qcompile.quant.noise_power import LIMIT_DB

ZEROS = """
graph "zeros" {
  input %x : f32[1,4,4,8]
  const @w : f32[8,1,1,8] = normal(1, 0.3)
  const @v : f32[8,1,1,8] = normal(2, 0.3)
  const @b : f32[8] = normal(3, 0.1)
  const @c : f32[8] = normal(4, 0.1)
  %dead = conv2d(%x, @w, @b) {layout="NHWC"} : f32[1,4,4,8] loc("Dead")
  %first = relu(%dead) : f32[1,4,4,8] loc("Relu")
  %alive = conv2d(%x, @v, @c) {layout="NHWC"} : f32[1,4,4,8] loc("Alive")
  %y = add(%first, %alive) : f32[1,4,4,8] loc("Sum")
  output "y" = %y
}
"""
PASSES = "insert-observers,calibrate,assign-precision,quantize,fuse-requantize,eliminate-dead"


def test_a_tensor_that_is_zero_in_all_samples_is_not_judged() -> None:
    graph = parse_graph(ZEROS, ops.all_ops(), source="test")
    for value in graph.constants():
        if value.name == "b":
            value.data = np.full(8, -1000, np.float32)
            value._content = None
    random = np.random.default_rng(0)
    samples = [{"x": random.normal(size=(1, 4, 4, 8)).astype(np.float32)} for _ in range(4)]
    context = PassContext(samples=lambda: iter(samples))
    final = PassManager(PASSES).run(graph, context)
    assert context.reference is not None
    result = analyze_graphs(context.reference, final, samples, count=4)
    names = {node.name for node in result.nodes}
    assert names >= {"Dead", "Alive"}
    assert not names & {"Relu"}


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
