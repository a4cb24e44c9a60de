"""Layers that divide each channel by a number of its own: a multiplication behind the activation, then the grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from qcompile import driver, ops
from qcompile.ir.graph import Graph
from qcompile.ir.parser import parse_graph
from qcompile.onnx_export.qdq import write_qdq
from qcompile.ops.interpreter import Interpreter
from qcompile.passmgr import PassContext, PassManager

EIGHT = "divisors=[0.5, 1.0, 2.0, 3.0, 4.0, 0.25, 1.5, 0.75]"
SWISH, CLIP = f'activation="channel_hard_swish", {EIGHT}', f'activation="channel_clip", beta=6.0, {EIGHT}'
TEXT = f"""
graph "divided" {{
  input %x : f32[1,3,12,12]
  const @w0 : f32[8,3,3,3] = normal(1, 0.5)
  const @w1 : f32[8,3,3,1] = normal(2, 0.5)
  const @w2 : f32[5,8] = normal(3, 0.5)
  const @b : f32[8] = normal(4)
  const @b2 : f32[5] = normal(5)
  %t = transpose(%x) {{perm=[0,2,3,1]}} : f32[1,12,12,3]
  %a = conv2d(%t, @w0, @b) {{layout="NHWC", strides=[2,2], pads=[1,1,1,1], {SWISH}}} : f32[1,6,6,8] loc("Conv_0")
  %c = conv2d(%a, @w1, @b) {{layout="NHWC", groups=8, pads=[1,1,1,1], {CLIP}}} : f32[1,6,6,8] loc("Conv_1")
  %v = global_avg_pool(%c) {{layout="NHWC"}} : f32[1,1,1,8] loc("Pool_2")
  %f = reshape(%v) {{shape=[1,8]}} : f32[1,8] loc("Flatten_3")
  %y = dense(%f, @w2, @b2) {{activation="channel_hard_swish", divisors=[0.5, 2.0, 1.0, 4.0, 9]}} : f32[1,5] loc("Gemm")
  output "y" = %y
}}
"""
RECIPE = 'insert-observers{observer="minmax"},calibrate,assign-precision,quantize,fuse-requantize'


def samples(count: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(seed)
    return [{"x": random.normal(0, 1, (1, 3, 12, 12)).astype("f4")} for _ in range(count)]


def quantized() -> Graph:
    source = parse_graph(TEXT, ops.all_ops(), source="divided")
    return PassManager(RECIPE).run(source, PassContext(samples=lambda: iter(samples(16))))


def answers(graph: Graph) -> np.ndarray:
    return np.concatenate([Interpreter(graph).run(sample)["y"] for sample in samples(20, seed=9)])


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("qdq") / "q.onnx"
    write_qdq(quantized(), path)
    return path


def test_the_grid_is_behind_the_multiplication(exported: Path) -> None:
    made = {name: node for node in onnx.load(exported).graph.node for name in node.output}
    factors = [node for node in made.values() if node.op_type == "Mul"]
    assert [made[node.input[0]].op_type for node in factors] == ["HardSwish", "Clip", "HardSwish"]
    rounded = [made[n.input[0]].op_type for n in made.values() if n.op_type == "QuantizeLinear" and n.input[0] in made]
    assert rounded == ["Mul", "Mul", "GlobalAveragePool"]  # the last layer's result is real


def test_onnx_runtime_computes_what_the_integers_do(exported: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(exported), options, providers=["CPUExecutionProvider"])
    found = np.concatenate([session.run(None, sample)[0] for sample in samples(20, seed=9)])
    ours = answers(quantized())
    assert np.square(found - ours).sum() < 1e-4 * np.square(ours).sum()


def test_importing_again_gives_the_same_integers(exported: Path) -> None:
    config = driver.resolve_config(exported, None, {"precision": "int8"})
    context, _, graph = driver.prepare(exported, config, samples(16), None)
    simplified, _ = driver.simplify(graph, config, context, ())
    again = driver.to_precision(simplified, config, context, ())[0]
    ours = quantized()
    found, wanted = ([n.attrs for n in g.nodes if n.op.name == "conv2d" and n.is_integer] for g in (again, ours))
    assert found == wanted
    # The last layer's result was not rounded, so that it is a float layer of the same numbers now.
    np.testing.assert_allclose(answers(again), answers(ours), rtol=1e-5, atol=1e-5)
