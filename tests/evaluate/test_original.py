"""Accuracy is measured against the user's network, whatever passes the user asked for made of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qcompile import driver, ops, pipelines
from qcompile.config import CompileConfig
from qcompile.evaluate.analysis import analyze_graphs
from qcompile.evaluate.comparison import compare_graphs
from qcompile.ir.graph import Graph
from qcompile.ir.parser import parse_graph
from qcompile.ops.interpreter import Interpreter
from qcompile.passmgr import PassContext, PassManager, PassRegistry
from qcompile.quant.noise_power import NoisePower
from qcompile.search.candidates import Candidates
from qcompile.search.evaluation import split_samples
from qcompile.search.recipe import Recipe
from qcompile.search.state import SearchState

MODEL = Path(__file__).parents[2] / "examples" / "models" / "fashion_resnet14.onnx"
PRUNED = "prune-magnitude{sparsity=0.8, samples=0}"


def samples() -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [{"input": rng.normal(0, 1, (1, 1, 28, 28)).astype(np.float32)} for _ in range(16)]


def simplified(config: CompileConfig) -> tuple[PassContext, object, Graph]:
    context, given, graph = driver.prepare(MODEL, config, samples(), None)
    graph, _ = driver.simplify(graph, config, context, ())
    return context, given, graph


def real_db(original: Graph, made: Graph, judge: int) -> float:
    power = NoisePower()
    for sample in samples()[judge - 1 :: judge]:
        power.add(*(Interpreter(graph).run(sample)["logits"] for graph in (original, made)))
    return power.db


@pytest.mark.parametrize(("precision", "judge"), [("fp32", 2), ("int8", 4)])
def test_the_account_is_against_the_original(precision: str, judge: int) -> None:
    config = driver.resolve_config(MODEL, None, {"precision": precision, "passes": PRUNED})
    context, given, graph = simplified(config)
    assert context.original is not None
    final, _ = driver.to_precision(graph, config, context, ())
    found = driver.measure(driver.comparable(graph, context), final, given, context)  # type: ignore[arg-type]
    assert found is not None
    assert found.outputs["logits"] == pytest.approx(real_db(context.original, final, judge), abs=0.01)
    assert found.outputs["logits"] < 20
    assert max(tensor.sqnr_db for tensor in found.tensors) > 30, "tensors are compared with those of the pruned network"
    # Without passes of the user there is nothing to compare a float build with.
    config = driver.resolve_config(MODEL, None, {"precision": "fp32"})
    context, given, graph = simplified(config)
    assert context.original is None
    assert driver.measure(graph, driver.to_precision(graph, config, context, ())[0], given, context) is None  # type: ignore[arg-type]


def test_a_search_is_after_the_original() -> None:
    config = driver.resolve_config(MODEL, None, {"precision": "int8", "passes": PRUNED})
    context, _, graph = simplified(config)
    split = split_samples(lambda: iter(samples()))
    recipe = Recipe.parse(f"{pipelines.quantization(config)},{pipelines.FINISH_FLOAT}", PassRegistry())
    recipe = recipe.without(["round-weights"])
    score = Candidates(graph, context, split, PassRegistry(), SearchState(None, ""), 1).estimate(recipe, "")
    assert score.sqnr_db < 20


QUANTIZED = """
graph "quantized" {
  input %x : f32[1,8,8,4]
  const @w : f32[8,3,3,4] = #0
  const @b : f32[8] = #1
  %r = fake_quantize(%x) {scale=0.03} : f32[1,8,8,4] loc("input")
  %h = conv2d(%r, @w, @b) {pads=[1,1,1,1], layout="NHWC"} : f32[1,8,8,8] loc("first")
  %hr = fake_quantize(%h) {scale=0.02, zero_point=-128} : f32[1,8,8,8] loc("rounded")
  %y = relu(%hr) : f32[1,8,8,8] loc("last")
  output "y" = %y
}
"""


def test_the_counterpart_of_integers_is_the_rounded_tensor() -> None:
    """A rounding from zero on makes a rectifier needless: the tensor before it has values that no code stands for."""
    rng = np.random.default_rng(0)
    codes = rng.integers(-127, 128, (8, 3, 3, 4)), rng.integers(-999, 1000, 8)
    constants = [(array * scale).astype(np.float32) for array, scale in zip(codes, (0.003, 0.00009), strict=True)]
    graph = parse_graph(QUANTIZED, ops.all_ops(), constants={"0": constants[0], "1": constants[1]})
    made = PassManager(pipelines.absorption(CompileConfig())).run(graph, PassContext())
    assert any(node.is_integer and node.op.name == "conv2d" for node in made.nodes)
    given = [{"x": rng.normal(0, 1, (1, 8, 8, 4)).astype(np.float32)} for _ in range(4)]
    found = compare_graphs(graph, made, given)
    assert min(error.sqnr_db for error in found.tensors) > 40
    rows = analyze_graphs(graph, made, given).nodes
    assert [row.findings.clipping for row in rows if row.op == "conv2d"] == [0.0]
