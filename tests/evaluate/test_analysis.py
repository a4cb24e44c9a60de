"""The analysis on graphs whose faults are known, and the causes on findings made up for them."""

from __future__ import annotations

import re
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from analysed_graphs import PIPELINE, TEXT, excluded_by, quantized, samples

from qcompile import ops
from qcompile.cost import precision_of
from qcompile.evaluate.analysis import analyze_graphs
from qcompile.evaluate.cause import HEALTHY, Findings, explain, origin
from qcompile.evaluate.comparison import compare_graphs
from qcompile.evaluate.node_statistics import NodeStatistics
from qcompile.ir.graph import Graph, Value
from qcompile.ir.parser import parse_graph
from qcompile.ops.interpreter import Interpreter
from qcompile.passmgr import PassContext, PassManager
from qcompile.passmgr.selection import selected
from qcompile.quant.affine import quantize
from qcompile.report.analysis_html import analysis_html


def with_weights(text: str, changes: dict[str, np.ndarray]) -> Graph:
    """Return a graph with some constants scaled along their first axis."""
    graph = parse_graph(text, ops.all_ops(), source="test")
    for value in graph.constants():
        if value.name in changes:
            value.data = (value.constant() * changes[value.name]).astype(np.float32)
            value.data.setflags(write=False)
            value._content = None
    return graph


@pytest.fixture(scope="module")
def healthy() -> tuple[Graph, Graph]:
    return quantized(parse_graph(TEXT, ops.all_ops(), source="test"))


def test_a_healthy_network_only_rounds(healthy: tuple[Graph, Graph]) -> None:
    result = analyze_graphs(*healthy, samples(), count=4)
    assert result.samples == 4
    assert result.verified
    assert {node.name for node in result.nodes} >= {"First", "Second"}
    assert [node.cause for node in result.nodes] == [HEALTHY] * len(result.nodes)
    first = next(node for node in result.nodes if node.name == "First")
    assert first.alone_db is not None
    assert first.alone_db > 30
    assert sum(first.histogram) == 4 * 6 * 6 * 16
    assert first.exclusion == "--keep-float First"
    assert len(first.weight_peaks) == 16


def test_weights_that_are_fitted_to_noise_are_not_its_cause(healthy: tuple[Graph, Graph]) -> None:
    """Where half of the first layer is lost, least squares has the second one make up for it by other weights."""
    reference, final = healthy
    broken = final.clone()
    first, second = (
        next(n for n in broken.nodes if n.loc == name and n.op.name == "conv2d") for name in ("First", "Second")
    )
    lost = first.inputs[1].constant().copy()
    lost[::2] = 0
    change(first.inputs[1], lost)
    assert first.inputs[2].is_constant
    change(first.inputs[2], np.where(np.arange(16) % 2, first.inputs[2].constant(), 0).astype(np.int32))
    seen: list[dict[str, np.ndarray]] = []
    for sample in samples():
        values: dict[str, np.ndarray] = {}
        Interpreter(reference).run(sample, on_value=lambda v, a, to=values: to.update({v.name: a}))
        seen.append(values)
    relu = np.concatenate([v["relu"].reshape(-1, 16) for v in seen])
    exact = np.concatenate([v["second"].reshape(-1, 8) for v in seen])
    weights, params = second.inputs[1], second.inputs[1].qparams
    assert params is not None
    kept = np.concatenate([relu[:, 1::2], np.ones((len(relu), 1))], axis=1)
    fitted, *_ = np.linalg.lstsq(kept, exact, rcond=None)
    whole = np.zeros((8, 1, 1, 16))
    whole[..., 1::2] = fitted[:-1].T.reshape(8, 1, 1, 8)
    change(weights, quantize(whole.astype(np.float32), params))
    after = {node.name: node for node in analyze_graphs(reference, broken, samples(), count=2).nodes}["Second"]
    assert after.findings.weights_db is not None
    assert after.findings.nearest_db is not None
    assert after.findings.weights_db < 10.0 < 30.0 < after.findings.nearest_db
    assert after.findings.offset_db is not None
    assert after.findings.offset_db > 1.0
    assert origin(after.findings) == "fitted"
    assert after.cause.startswith("noise of 'First', which arrives with ")
    assert "the weights are fitted to offset it" in after.cause
    assert after.exclusion == "--keep-float First", "in float the layer would still read that noise"


def change(value: Value, data: np.ndarray) -> None:
    assert value.constant().shape == data.shape
    value.data = data.astype(value.constant().dtype)
    value.data.setflags(write=False)


def test_accumulated_error_is_that_of_the_comparison(healthy: tuple[Graph, Graph]) -> None:
    result = analyze_graphs(*healthy, samples(), count=4)
    expected = compare_graphs(*healthy, samples(), count=4)
    assert result.outputs == pytest.approx(expected.outputs)
    by_tensor = {error.name: error.sqnr_db for error in expected.tensors}
    for node in result.nodes:
        assert node.accumulated_db == pytest.approx(by_tensor[node.tensor])


def test_alone_leaves_out_the_errors_before(healthy: tuple[Graph, Graph]) -> None:
    """With other weights in the first integer layer, only the first is worse by itself."""
    reference, final = healthy
    broken = final.clone()
    first = next(node for node in broken.nodes if node.loc == "First" and node.op.name == "conv2d")
    weight = first.inputs[1]
    weight.data = np.roll(weight.constant(), 1, axis=0)
    weight.data.setflags(write=False)
    before = {node.name: node for node in analyze_graphs(reference, final, samples(), count=2).nodes}
    after = {node.name: node for node in analyze_graphs(reference, broken, samples(), count=2).nodes}
    assert (after["First"].alone_db or 0) < 10
    assert after["First"].findings.weights_db is not None
    assert after["First"].findings.weights_db < 10
    assert after["First"].cause.startswith("its weights, which are not the nearest to the float ones (")
    assert after["Second"].alone_db == before["Second"].alone_db
    assert after["Second"].accumulated_db < 10
    assert after["Second"].cause == f"inherited: 'First' arrives with {after['First'].accumulated_db:.1f} dB"
    assert after["Second"].exclusion == "--keep-float First"


def test_outlier_channels_are_found_and_their_reader_blames_them() -> None:
    spread = np.ones((16, 1, 1, 1))
    spread[5] = 200.0
    graph = with_weights(TEXT, {"w1": spread, "b1": spread.reshape(16), "w2": 1 / spread.reshape(1, 1, 1, 16)})
    result = {node.name: node for node in analyze_graphs(*quantized(graph), samples(), count=4).nodes}
    assert result["First"].findings.outliers[0][0] == 5
    assert result["First"].findings.outliers[0][1] > 50
    assert "rounding of its operand 'First', whose widest channel reaches" in result["Second"].cause
    assert result["Second"].exclusion == "--keep-float First --keep-float Second"
    assert (result["Second"].alone_db or 99) < 20


def test_the_exclusion_takes_the_cause_away() -> None:
    spread = np.ones((16, 1, 1, 1))
    spread[5] = 200.0
    graph = with_weights(TEXT, {"w1": spread, "b1": spread.reshape(16), "w2": 1 / spread.reshape(1, 1, 1, 16)})
    reference, final = quantized(graph)
    _, kept = quantized(graph, ["First", "Second"])
    before = analyze_graphs(reference, final, samples(), count=4)
    after = analyze_graphs(reference, kept, samples(), count=4, kept={"First": "kept in float by request"})
    assert after.outputs["p"] > before.outputs["p"] + 20
    assert after.kept == {"First": "kept in float by request"}


GATED = """
graph "gated" {
  input %x : f32[1,6,6,8]
  const @w1 : f32[16,1,1,8] = normal(1, 60)
  const @b1 : f32[16] = normal(2, 3)
  const @w2 : f32[8,1,1,8] = normal(3, 0.3)
  const @b2 : f32[8] = normal(4, 0.1)
  %both = conv2d(%x, @w1, @b1) {layout="NHWC"} : f32[1,6,6,16] loc("Both")
  %value, %gate = split(%both) {axis=3, sizes=[8, 8]} : f32[1,6,6,8], f32[1,6,6,8] loc("Split")
  %open = sigmoid(%gate) : f32[1,6,6,8] loc("Gate")
  %shut = mul(%value, %open) : f32[1,6,6,8] loc("Mul")
  %last = conv2d(%shut, @w2, @b2) {layout="NHWC"} : f32[1,6,6,8] loc("Last")
  output "y" = %last
}
"""

FLAT = """
graph "flat" {
  input %x : f32[1,6,6,8]
  const @w : f32[8,1,1,8] = normal(3, 0.3)
  const @b : f32[8] = normal(4, 0.1)
  %turned = transpose(%x) {perm=[0, 2, 1, 3]} : f32[1,6,6,8] loc("Turn")
  %e = sigmoid(%turned) : f32[1,6,6,8] loc("Gate")
  %y = conv2d(%e, @w, @b) {layout="NHWC"} : f32[1,6,6,8] loc("Last")
  output "y" = %y
}
"""


POWERS = """
graph "powers" {
  input %x : f32[1,6,6,8]
  const @w : f32[8,1,1,8] = normal(1, 0.3)
  const @b : f32[8] = normal(2, 0.1)
  %once = conv2d(%x, @w, @b) {layout="NHWC"} : f32[1,6,6,8] loc("Once")
  %twice = mul(%once, %once) : f32[1,6,6,8] loc("Square")
  %thrice = mul(%twice, %once) : f32[1,6,6,8] loc("Cube")
  %fifth = mul(%thrice, %twice) : f32[1,6,6,8] loc("Fifth")
  %turned = transpose(%fifth) {perm=[0, 2, 1, 3]} : f32[1,6,6,8] loc("Turn")
  %y = conv2d(%turned, @w, @b) {layout="NHWC"} : f32[1,6,6,8] loc("Last")
  output "y" = %y
}
"""

WIDE = 300.0
"""Inputs so large against the middle of a sigmoid that their steps are seen in its result."""


def tensor_db(reference: Graph, actual: Graph, name: str, given: list[dict[str, np.ndarray]]) -> float:
    """Return how far the best form of a tensor, real before it is rounded for other readers, is from float."""
    found = compare_graphs(reference, actual, given)
    return max(t.sqnr_db for t in found.tensors if t.name == name)


def spread_channels() -> Graph:
    spread = np.ones((16, 1, 1, 1))
    spread[5] = 200.0
    return with_weights(TEXT, {"w1": spread, "b1": spread.reshape(16), "w2": 1 / spread.reshape(1, 1, 1, 16)})


@pytest.mark.parametrize(
    ("graph", "name", "excluded", "how"),
    [
        (parse_graph(GATED, ops.all_ops()), "Gate", ["Both", "Gate", "Split"], {}),
        (parse_graph(TEXT, ops.all_ops()), "First", ["First", "Second"], {"narrow": "relu"}),
        (parse_graph(POWERS, ops.all_ops()), "Fifth", ["Fifth", "Last", "Turn"], {"narrow": "fifth"}),
        (parse_graph(FLAT, ops.all_ops()), "Gate", ["Gate", "Turn"], {"reach": WIDE}),
        (spread_channels(), "Second", ["First", "Second"], {}),
    ],
    ids=["operand", "clipped", "moved", "input", "outliers"],
)
def test_following_the_exclusion_takes_the_cause_away(
    graph: Graph, name: str, excluded: list[str], how: dict[str, Any]
) -> None:
    given = samples(reach=how.get("reach", 1.0))
    reference, final = quantized(graph, **how)
    before = analyze_graphs(reference, final, given)
    node = next(n for n in before.nodes if n.name == name)
    assert node.cause != HEALTHY
    assert sorted(excluded_by(node)) == excluded
    _, followed = quantized(graph, excluded_by(node), **how)
    after = analyze_graphs(reference, followed, given)
    assert min(after.outputs.values()) > min(before.outputs.values()) + 1.0
    assert tensor_db(reference, followed, node.tensor, given) > tensor_db(reference, final, node.tensor, given) + 3.0
    assert all((n.alone_db or 0.0) > (node.alone_db or 0.0) + 3.0 for n in after.nodes if n.tensor == node.tensor)


def test_a_function_between_integers_is_not_blamed_for_its_operand() -> None:
    """The maker of a second result of a split is found; in float the function alone computes the same integers."""
    graph = parse_graph(GATED, ops.all_ops())
    reference, final = quantized(graph)
    gate = next(n for n in analyze_graphs(reference, final, samples()).nodes if n.name == "Gate")
    assert gate.cause == "rounding of its operand 'Both', which it amplifies"
    _, alone = quantized(graph, ["Gate"])
    runs = [Interpreter(made).run(samples(1)[0])["y"] for made in (final, alone)]
    np.testing.assert_array_equal(*runs)


def test_inputs_are_blamed_as_inputs_and_names_are_those_of_nodes() -> None:
    for text in (FLAT, GATED, TEXT):
        graph = parse_graph(text, ops.all_ops())
        for node in analyze_graphs(*quantized(graph), samples()).nodes:
            selected(graph, excluded_by(node), option="--keep-float")
    graph = parse_graph(FLAT, ops.all_ops())
    found = {node.name: node for node in analyze_graphs(*quantized(graph, reach=WIDE), samples(reach=WIDE)).nodes}
    assert found["Gate"].cause == "rounding of the graph's input, which it amplifies"


def test_the_noisier_operand_is_blamed_by_what_it_does_to_the_result() -> None:
    """Of a sum the larger operand matters, though the smaller one is written with fewer decibels."""
    small = '%fifth = mul(%thrice, %twice) : f32[1,6,6,8] loc("Fifth")'
    large = '%large = mul(%x, %x) : f32[1,6,6,8] loc("Large")'
    total = '%sum = add(%large, %fifth) : f32[1,6,6,8] loc("Sum")'
    text = POWERS.replace("normal(1, 0.3)", "normal(1, 0.1)").replace("transpose(%fifth)", "transpose(%sum)")
    text = text.replace(small, f"{small}\n  {large}\n  {total}")
    nodes = analyze_graphs(*quantized(parse_graph(text, ops.all_ops())), samples()).nodes
    found = {node.name: node.findings for node in nodes}
    assert found["Fifth"].rounding_db < found["Large"].rounding_db
    assert found["Sum"].source == "Large"


@pytest.mark.parametrize("name", ["First", "Second"])
def test_a_float_node_between_integers_is_told(name: str) -> None:
    graph = parse_graph(TEXT, ops.all_ops(), source="test")
    reference, _ = quantized(graph)
    _, mixed = quantized(graph, [name])
    reasons = dict.fromkeys(("First", "Second"), "kept in float by request")
    assert analyze_graphs(reference, mixed, samples(), count=4, kept=reasons).kept == {name: "kept in float by request"}


def test_dead_and_lost_channels() -> None:
    scale = np.ones((16, 1, 1, 1))
    scale[3] = 0.0
    scale[7] = 1e-4
    graph = with_weights(TEXT, {"w1": scale, "b1": scale.reshape(16)})
    found = {n.name: n.findings for n in analyze_graphs(*quantized(graph), samples(), count=4).nodes}["First"]
    assert 3 in found.dead
    assert found.lost == (7,)


GOOD = Findings(
    alone_db=40.0,
    accumulated_db=39.0,
    rounding_db=41.0,
    weights_db=50.0,
    range=(-1.0, 1.0),
    seen=(-1.0, 1.0),
    codes=1.0,
    clipped=0.0,
    clipping=0.0,
    channels=8,
    dead=(),
    lost=(),
    outliers=(),
)


@pytest.mark.parametrize(
    ("changes", "where", "words"),
    [
        ({}, "", HEALTHY),
        ({"accumulated_db": 5.0, "operand": "A", "operand_db": 5.5}, "inherited", "'A' arrives with 5.5 dB"),
        ({"alone_db": 10.0, "rounding_db": 10.5}, "result", "long tails"),
        ({"alone_db": 10.0, "rounding_db": 10.5, "codes": 0.1}, "result", "range waste: the values use 10%"),
        ({"alone_db": 10.0, "rounding_db": 10.5, "clipping": 0.9, "clipped": 0.02}, "result", "clipping: 2.00%"),
        ({"alone_db": 10.0, "rounding_db": 10.5, "outliers": ((3, 32.0),)}, "result", "keeps 8 of 256 codes"),
        ({"alone_db": 10, "rounding_db": 10, "outliers": ((3, 32.0),), "lost": (1, 2)}, "result", "rounded away: 1, 2"),
        ({"alone_db": 10.0, "weights_db": 10.1}, "weights", "10.1 dB by themselves"),
        ({"alone_db": 10.0, "weights_db": 10.1, "nearest_db": 11.0, "offset_db": 2.0}, "weights", "rounding of its w"),
        ({"alone_db": 10.0, "weights_db": 10.1, "nearest_db": 40.0, "offset_db": -2.0}, "weights", "nearest 40.0 dB"),
        ({"alone_db": 10.0, "weights_db": 10.1, "nearest_db": 40.0, "offset_db": 2.0}, "fitted", "noise of the input"),
        ({"alone_db": 10.0, "source": "B"}, "operands", "its operand 'B', which it amplifies"),
        ({"alone_db": 10.0, "source": "B", "source_outlier": 20.0}, "operands", "equalize"),
        ({"alone_db": 10.0}, "operands", "the graph's input"),
    ],
)  # fmt: skip
def test_causes_in_words(changes: dict[str, object], where: str, words: str) -> None:
    found = replace(GOOD, **changes)  # type: ignore[arg-type]
    assert origin(found) == where
    assert words in explain(found)


def test_nodes_that_compute_in_16_bits_say_so() -> None:
    """Their results have no share of 256 codes, and what is wrong with these is not wrong with them."""
    spread = np.ones((16, 1, 1, 1))
    spread[5] = 200.0
    graph = with_weights(TEXT, {"w1": spread, "b1": spread.reshape(16)})
    context = PassContext(samples=lambda: iter(samples()))
    final = PassManager(PIPELINE.replace("keep_float=[]", 'keep_float=[],keep_int16=["First", "Second"]')).run(
        graph, context
    )
    assert context.reference is not None
    nodes = analyze_graphs(context.reference, final, samples(), count=2).nodes
    found = {(node.name, node.op): node for node in nodes}
    assert found["First", "conv2d"].precision == "int16"
    assert found["First", "conv2d"].findings.codes is None
    assert found["First", "conv2d"].findings.rounding_db > 60
    eight = {node.name: node for node in analyze_graphs(*quantized(graph), samples(), count=2).nodes}["First"]
    assert eight.precision == "int8"
    assert eight.findings.codes is not None
    assert "codes" not in explain(replace(GOOD, alone_db=10.0, rounding_db=10.5, codes=None, outliers=((3, 32.0),)))


def test_nodes_compute_in_what_they_read() -> None:
    """As reports and the search have it: a layer that reads 8 bits does, though its result is written in 16."""
    weights = {"w1": np.ones((16, 1, 1, 1)), "b1": np.zeros(16)}
    context = PassContext(samples=lambda: iter(samples()))
    pipeline = PIPELINE.replace("keep_float=[]", 'keep_float=[],keep_int16=["Second"]')
    final = PassManager(pipeline).run(with_weights(TEXT, weights), context)
    assert context.reference is not None
    found = {node.name: node.precision for node in analyze_graphs(context.reference, final, samples(), count=2).nodes}
    first = next(node for node in final.nodes if node.loc == "First")
    assert (first.inputs[0].dtype, first.output.dtype) == ("int8", "int16")
    assert found["First"] == precision_of(first) == "int8"
    assert found["Second"] == "int16"


def test_conversions_of_real_numbers_compute_in_what_they_make() -> None:
    weights = {"w1": np.ones((16, 1, 1, 1)), "b1": np.zeros(16)}
    pipeline = PIPELINE.replace("keep_float=[]", 'keep_float=[],keep_int16=["First", "Second"]')
    final = PassManager(pipeline).run(with_weights(TEXT, weights), PassContext(samples=lambda: iter(samples())))
    quantize = next(node for node in final.nodes if node.op.name == "quantize")
    assert quantize.output.dtype == "int16"
    assert precision_of(quantize) == "int16"


def test_masks_are_no_signal() -> None:
    """What a mask of −inf hides does not take part in the range of values that were seen."""
    node = parse_graph(TEXT, ops.all_ops(), source="test").nodes[0]
    statistics = NodeStatistics(node, None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        statistics.update(np.where(np.arange(16) < 8, -np.inf, 1.0).astype(np.float32).reshape(1, 1, 1, 16))
    found = Findings.of(statistics, {})
    assert (found.seen, found.range) == ((0.0, 1.0), (0.0, 1.0))


def test_weights_before_and_after_equalization_are_shown_side_by_side() -> None:
    spread = np.geomspace(1.0, 1e3, 16).reshape(-1, 1, 1, 1)
    source = with_weights(TEXT, {"w1": spread})
    context = PassContext(samples=lambda: iter(samples()))
    final = PassManager(PIPELINE.replace("insert-observers", "equalize-weights,insert-observers")).run(source, context)
    assert context.reference is not None
    first, second, *_ = (
        n for n in analyze_graphs(context.reference, final, samples(), original=source).nodes if n.op == "conv2d"
    )
    assert max(first.original_peaks) / min(first.original_peaks) > 500
    assert max(first.weight_peaks) / min(first.weight_peaks) < 100
    assert second.original_peaks
    html = analysis_html(analyze_graphs(context.reference, final, samples(), original=source))
    assert html.count("before equalization") >= 2
    assert html.count("after equalization") >= 2
    same = analyze_graphs(context.reference, final, samples(), original=context.reference)
    assert not any(node.original_peaks for node in same.nodes)


def test_the_report_ranks_the_nodes(healthy: tuple[Graph, Graph]) -> None:
    result = analyze_graphs(*healthy, samples(), count=2)
    html = analysis_html(result)
    section = html[html.index("<h2>Sensitivity</h2>") : html.index("<h2>Nodes</h2>")]
    lengths = [float(w) for w in re.findall(r'<rect x="400" [^>]*width="(\d+)"', section)]
    assert len(lengths) == min(15, sum(node.alone_db is not None for node in result.nodes))
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] == 520


def test_the_report_shows_every_node_and_opens_offline(healthy: tuple[Graph, Graph]) -> None:
    result = analyze_graphs(*healthy, samples(), count=2)
    html = analysis_html(result)
    assert html == analysis_html(result)
    for node in result.nodes:
        assert node.name in html
    assert "src=" not in html
    assert "http" not in html
    assert html.count("<path") == len(result.nodes) + sum(bool(node.weight_peaks) for node in result.nodes)
    assert "made-up" in analysis_html(analyze_graphs(*healthy, None))
