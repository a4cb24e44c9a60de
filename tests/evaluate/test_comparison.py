"""Float against integers: every layer is matched with its counterpart, and noise is measured right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qcompile import driver, ops
from qcompile.calibrate.sample import graph_inputs
from qcompile.calibrate.synthetic import synthetic_samples
from qcompile.evaluate.analysis import analyze_graphs
from qcompile.evaluate.comparison import Comparison, compare_graphs, judged_outputs, match_tensors
from qcompile.ir.graph import Graph
from qcompile.ir.parser import parse_graph
from qcompile.ops.interpreter import Interpreter
from qcompile.quant.affine import dequantize
from qcompile.quant.qparams import QParams
from qcompile.report.terminal import accuracy_text

MODELS = Path(__file__).parents[2] / "examples" / "models"


def stages(model: Path, **settings: object) -> tuple[Graph, Graph]:
    """Return the simplified float graph and the integer graph, ranges from made-up inputs."""
    config = driver.resolve_config(model, None, settings)
    context, _, graph = driver.prepare(model, config, None, None)
    reference, _ = driver.simplify(graph, config, context, ())
    final, _ = driver.to_precision(reference, config, context, ())
    return reference, final


@pytest.fixture(scope="module", params=["fashion_mobilenetv2", "fashion_resnet14"])
def pair(request: pytest.FixtureRequest) -> tuple[Graph, Graph]:
    return stages(MODELS / f"{request.param}.onnx")


def inputs(graph: Graph, count: int) -> list[dict[str, np.ndarray]]:
    return list(synthetic_samples(graph_inputs(graph), count, seed=4))


def test_every_tensor_has_its_counterpart(pair: tuple[Graph, Graph]) -> None:
    reference, final = pair
    matched = match_tensors(reference, final)
    for node in final.nodes:
        (value,) = node.outputs
        assert value in matched, f"{node} has no counterpart"
    by_name = {v.name: v for node in reference.nodes for v in node.outputs}
    for value, name in matched.items():
        if name in by_name:
            assert by_name[name].shape == value.shape
    # a convolution with a fused clamp or addition stands for the last tensor that it computes
    ops = {by_name[name].producer.op.name for name in matched.values() if name in by_name}  # type: ignore[union-attr]
    assert ops & {"relu", "clip"}
    assert ("add" in ops) == (reference.name == "fashion_mobilenetv2"), "resnet's additions are followed by a relu"


def test_noise_is_that_of_the_tensors(pair: tuple[Graph, Graph]) -> None:
    """Compute the ratio for one layer by hand."""
    reference, final = pair
    given = inputs(reference, 3)
    result = compare_graphs(reference, final, given)
    assert (result.samples, result.verified) == (3, True)
    matched = match_tensors(reference, final)
    value = [v for v in matched if v.producer.op.name == "conv2d"][4]  # type: ignore[union-attr]
    assert value.qparams is not None
    signal = noise = 0.0
    for sample in given:
        real: dict[str, np.ndarray] = {}
        integer: dict[str, np.ndarray] = {}
        Interpreter(reference).run(sample, on_value=lambda v, a, into=real: into.update({v.name: a}))  # type: ignore[misc]
        Interpreter(final).run(sample, on_value=lambda v, a, into=integer: into.update({v.name: a}))  # type: ignore[misc]
        exact = real[matched[value]].astype(np.float64)
        error = dequantize(integer[value.name], value.qparams) - exact
        signal, noise = signal + np.sum(exact**2), noise + np.sum(error**2)
    found = {t.name: t.sqnr_db for t in result.tensors}[matched[value]]
    assert found == pytest.approx(10 * np.log10(signal / noise), abs=1e-6)


def test_errors_are_in_the_order_of_computation(pair: tuple[Graph, Graph]) -> None:
    reference, final = pair
    result = compare_graphs(reference, final, inputs(reference, 1))
    order = [(node.loc or node.outputs[0].name, node.op.name) for node in final.nodes]
    assert [(t.loc, t.op) for t in result.tensors] == order
    assert result.tensors[-1].sqnr_db == pytest.approx(result.outputs["logits"])


def test_a_graph_is_equal_to_itself(pair: tuple[Graph, Graph]) -> None:
    reference, _ = pair
    result = compare_graphs(reference, reference, inputs(reference, 2))
    assert set(result.outputs.values()) == {200.0}
    assert {t.sqnr_db for t in result.tensors} == {200.0}


class Counted(list):  # type: ignore[type-arg]
    """Samples that know their number."""

    @property
    def size(self) -> int:
        return len(self)


def test_samples_are_spread_over_all(pair: tuple[Graph, Graph]) -> None:
    reference, final = pair
    given = Counted(inputs(reference, 12))
    reports: list[tuple[int, int, str]] = []
    result = compare_graphs(reference, final, given, count=3, progress=lambda *report: reports.append(report))
    assert result.samples == 3
    assert reports == [(i, 3, "comparing with float") for i in (1, 2, 3)]
    same = compare_graphs(reference, final, [given[1], given[5], given[9]])
    assert result == same


def test_without_samples(pair: tuple[Graph, Graph]) -> None:
    reference, final = pair
    result: Comparison = compare_graphs(reference, final, None, seed=1)
    assert not result.verified
    assert result == compare_graphs(reference, final, None, seed=1)
    assert result != compare_graphs(reference, final, None, seed=2)


def test_quantized_inputs_and_outputs() -> None:
    reference, final = stages(MODELS / "fashion_resnet14.onnx", io="int8")
    assert final.inputs[0].dtype == "int8"
    given = inputs(reference, 2)
    assert compare_graphs(reference, final, given).outputs["logits"] > 20


INDICES = """
graph "best" {
  input %x : f32[1,8]
  const @w : f32[8,8] = normal(1, 1)
  const @b : f32[8] = normal(2, 1)
  %y = dense(%x, @w, @b) : f32[1,8] loc("scores")
  %most = reduce_max(%y) {axes=[1], keepdims=true} : f32[1,1]
  %best = first_index(%y, %most) {axis=1} : i64[1,1]
  output "best" = %best
  output "y" = %y
}
"""


def test_indices_are_no_signal_with_noise() -> None:
    """A class that differs is another one, near as its number may be: outputs of integers set no worst output."""
    reference = parse_graph(INDICES, ops.all_ops())
    actual = reference.clone()
    weight = next(node for node in actual.nodes if node.op.name == "dense").inputs[1]
    weight.data = np.roll(weight.constant(), 1, axis=0) + 0.01
    weight.data.setflags(write=False)
    given = inputs(reference, 2)
    result = compare_graphs(reference, actual, given)
    assert set(result.outputs) == {"y"}
    assert result.worst_output_db == result.outputs["y"]
    assert judged_outputs(reference, ["best"]) == ["best"]
    reference.outputs[0].qparams = QParams((0.5,), (0,), "int8")  # of a model that keeps an output in codes
    assert judged_outputs(reference, ["best", "y"]) == ["best", "y"]
    reference.outputs[0].qparams = None
    assert set(analyze_graphs(reference, actual, given).outputs) == {"y"}


MASKED = """
graph "masked" {
  input %x : f32[1,8]
  input %length : i64[1]
  const @few : i64[1] = [FEW]
  const @w : f32[8,8] = normal(1, 1)
  const @b : f32[8] = normal(2, 1)
  const @other : f32[1] = [OTHER]
  %y = dense(%x, @w, @b) : f32[1,8] loc("scores")
  %shown = greater(%length, @few) : i1[1]
  %masked = where(%shown, %y, @other) : f32[1,8]
  output "y" = %masked
}
"""


@pytest.mark.parametrize(
    ("few", "other", "empty"),
    [
        (5, 0.0, "4 made-up inputs whose answers are zero throughout"),
        (5, -7.0, "4 made-up inputs whose answers rounding does not change"),
        (-1, 0.0, ""),
    ],
)
def test_nothing_follows_from_made_up_inputs_that_leave_nothing(few: int, other: float, empty: str) -> None:
    """Made-up lengths are zeros and ones."""
    text = MASKED.replace("FEW", str(few)).replace("OTHER", str(other))
    reference = parse_graph(text, ops.all_ops())
    actual = reference.clone()
    weight = next(node for node in actual.nodes if node.op.name == "dense").inputs[1]
    weight.data = weight.constant() + np.float32(0.01)
    weight.data.setflags(write=False)
    found = compare_graphs(reference, actual, None)
    assert found.empty == empty
    assert (found.worst_output_db < 100.0) == (not empty)
    shown = accuracy_text({"outputs": found.outputs, "samples": 4, "verified": False, "empty": found.empty})
    assert shown.startswith(f"unknown: nothing follows from {empty}" if empty else "unverified: SQNR")


def test_samples_of_the_user_may_have_no_noise_but_not_no_signal() -> None:
    reference = parse_graph(MASKED.replace("FEW", "5").replace("OTHER", "0.0"), ops.all_ops())
    zeros = [{"x": np.ones((1, 8), np.float32), "length": np.array([n])} for n in (1, 2)]
    assert compare_graphs(reference, reference, zeros).empty == "2 samples whose answers are zero throughout"
    assert compare_graphs(reference, reference, [{**zeros[0], "length": np.array([9])}]).empty == ""
