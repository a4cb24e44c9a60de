"""What the default recipe makes of networks that plain int8 spoils."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from search_graphs import heads, samples

from qcompile import driver, ops, precision
from qcompile.config import CompileConfig
from qcompile.cost import NodeCosts
from qcompile.ir.graph import Graph, Value
from qcompile.ir.parser import parse_graph
from qcompile.ops.interpreter import Interpreter
from qcompile.passes import quantize
from qcompile.passmgr import PassContext
from qcompile.search import safety_net
from qcompile.search.evaluation import Evaluator
from qcompile.search.leaving import Kept
from qcompile.search.safety_net import (
    CHEAP_TIME,
    CONV_MACS,
    LEAST_DB,
    OTHER_MACS,
    Protected,
    Way,
    protect,
)
from qcompile.search.score import int8_share
from qcompile.search.targets import CLASSES_DB, SIGNAL_DB, STATE_DB, targets

Sample = dict[str, np.ndarray]


def compiled(graph: Graph, given: list[Sample], **settings: Any) -> tuple[Graph, PassContext]:
    def start() -> Iterator[Sample]:
        return iter(given)

    context = PassContext(samples=start)
    final, _ = driver.to_precision(graph, CompileConfig(**settings), context, ())
    return final, context


def plainly(graph: Graph, given: list[Sample], monkeypatch: pytest.MonkeyPatch) -> Graph:
    """Quantize without the safety net."""
    with monkeypatch.context() as patch:
        patch.setattr("qcompile.search.safety_net.protect", lambda ways: (ways[0], _unchecked(ways[0].run)))
        return compiled(graph, given)[0]


def _unchecked(run: Any) -> Any:
    return Protected(*run(Kept(), True), Kept())


def decibel(graph: Graph, final: Graph, given: list[Sample]) -> list[float]:
    return Evaluator(graph, given).output_db(final)


ATTENTION = """
graph "attention" {
  input %x : f32[1,16,32]
  input %mask : f32[1,1,16]
  const @gamma : f32[32] = normal(1, 1)
  const @beta : f32[32] = normal(2, 0.1)
  const @wq : f32[32,32] = normal(3, 0.1)
  const @wk : f32[32,32] = normal(4, 0.1)
  const @wv : f32[32,32] = normal(5, 0.1)
  const @zero : f32[32] = normal(6, 0.01)
  const @far : f32[1] = [SENTINEL]
  %n = layer_norm(%x, @gamma, @beta) : f32[1,16,32] loc("norm")
  %q = dense(%n, @wq, @zero) : f32[1,16,32] loc("query")
  %k = dense(%n, @wk, @zero) : f32[1,16,32] loc("key")
  %v = dense(%n, @wv, @zero) : f32[1,16,32] loc("value")
  %t = transpose(%k) {perm=[0,2,1]} : f32[1,32,16] loc("turn")
  %s = matmul(%q, %t) : f32[1,16,16] loc("scores")
  %m = mul(%mask, @far) : f32[1,1,16] loc("penalty")
  %a = add(%s, %m) : f32[1,16,16] loc("masked")
  %p = softmax(%a) {axis=2} : f32[1,16,16] loc("softmax")
  %y = matmul(%p, %v) : f32[1,16,32] loc("mix")
  output "y" = %y
}
"""


def attention(sentinel: str) -> Graph:
    return parse_graph(ATTENTION.replace("SENTINEL", sentinel), ops.all_ops())


def sentences(count: int = 8) -> list[Sample]:
    random = np.random.default_rng(0)
    made = []
    for _ in range(count):
        mask = np.zeros((1, 1, 16), np.float32)
        mask[..., int(random.integers(4, 12)) :] = 1
        made.append({"x": random.normal(size=(1, 16, 32)).astype(np.float32), "mask": mask})
    return made


@pytest.mark.parametrize("sentinel", ["-1e4", "-1e9", "-3.4e38"])
def test_a_mask_does_not_spoil_attention(sentinel: str, monkeypatch: pytest.MonkeyPatch):
    graph, given = attention(sentinel), sentences()
    plain = plainly(graph, given, monkeypatch)
    assert decibel(graph, plain, given)[0] > 25
    assert {n.loc for n in plain.nodes if n.op.name == "add" and not n.is_integer} == {"masked"}
    assert sum(n.op.name in ("dense", "matmul") and n.is_integer for n in plain.nodes) == 5


def test_a_mask_that_no_sample_used_masks_others(monkeypatch: pytest.MonkeyPatch):
    """What the addition would read from other sentences, no sample tells."""
    graph, full = attention("-1e4"), [{**s, "mask": np.zeros((1, 1, 16), np.float32)} for s in sentences()]
    plain = plainly(graph, full, monkeypatch)
    assert [n.is_integer for n in plain.nodes if n.loc == "masked"] == [False]
    assert decibel(graph, plain, full)[0] > 25
    assert decibel(graph, plain, sentences())[0] > 25


MASKED_MEAN = """
graph "masked mean" {
  input %x : f32[1,16,32]
  input %mask : f32[1,16,1]
  const @w : f32[32,32] = normal(1, 0.2)
  const @b : f32[32] = normal(2, 0.01)
  %d = dense(%x, @w, @b) : f32[1,16,32] loc("tokens")
  %m = mul(%d, %mask) : f32[1,16,32] loc("left")
  %s = reduce_sum(%m) {axes=[1], keepdims=false} : f32[1,32] loc("sum")
  %n = reduce_sum(%mask) {axes=[1], keepdims=false} : f32[1,1] loc("count")
  %r = reciprocal(%n) : f32[1,1] loc("share")
  %y = mul(%s, %r) : f32[1,32] loc("mean")
  output "y" = %y
}
"""


def test_means_of_longer_sentences_than_were_seen(monkeypatch: pytest.MonkeyPatch):
    """Samples of 3 to 6 elements say little of a sum over 16, and nothing of how many these are."""
    random = np.random.default_rng(0)

    def sentence(length: int) -> Sample:
        mask = (np.arange(16) < length).astype(np.float32).reshape(1, 16, 1)
        return {"x": random.normal(0.5, 1, size=(1, 16, 32)).astype(np.float32), "mask": mask}

    graph = parse_graph(MASKED_MEAN, ops.all_ops())
    plain = plainly(graph, [sentence(3 + index % 4) for index in range(16)], monkeypatch)
    assert decibel(graph, plain, [sentence(16) for _ in range(8)])[0] > 30
    assert {n.loc for n in plain.nodes if n.is_integer and n.op.name == "dense"} == {"tokens"}


SHARED = """
graph "one output" {
  input %x : f32[1,8,8,4]
  const @w0 : f32[16,3,3,4] = normal(1, 0.2)
  const @b0 : f32[16] = normal(2, 0.1)
  const @wb : f32[4,1,1,16] = normal(3, 100)
  const @ws : f32[4,1,1,16] = normal(5, 0.05)
  const @b4 : f32[4] = normal(6, 0.02)
  %h = conv2d(%x, @w0, @b0) {pads=[1,1,1,1], layout="NHWC", activation="relu"} : f32[1,8,8,16] loc("trunk")
  %boxes = conv2d(%h, @wb, @b4) {layout="NHWC"} : f32[1,8,8,4] loc("boxes")
  %s = conv2d(%h, @ws, @b4) {layout="NHWC"} : f32[1,8,8,4] loc("logits")
  %scores = sigmoid(%s) : f32[1,8,8,4] loc("scores")
  %both = concat(%boxes, %scores) {axis=3} : f32[1,8,8,8] loc("both")
  output "both" = %both
}
"""


def test_scores_survive_in_one_output_with_boxes(monkeypatch: pytest.MonkeyPatch):
    """An SQNR over the whole output would see the boxes alone."""
    graph, given = parse_graph(SHARED, ops.all_ops()), samples(8)
    plain = plainly(graph, given, monkeypatch)
    for sample in given:
        exact, actual = (Interpreter(g).run(sample)["both"][..., 4:] for g in (graph, plain))
        assert np.abs(actual - exact).max() < 0.01
        assert len(np.unique(actual)) > 20


SPECTRUM = """
graph "spectrum" {
  input %x : f32[1,8,8,4]
  const @w0 : f32[16,3,3,4] = normal(1, 0.2)
  const @b0 : f32[16] = normal(2, 0.1)
  const @w1 : f32[4,3,3,16] = normal(3, 0.2)
  const @b1 : f32[4] = normal(4, 0.1)
  %c = conv2d(%x, @w0, @b0) {pads=[1,1,1,1], layout="NHWC"} : f32[1,8,8,16] loc("filter")
  %p = mul(%c, %c) : f32[1,8,8,16] loc("power")
  %r = sqrt(%p) : f32[1,8,8,16] loc("root")
  %y = conv2d(%r, @w1, @b1) {pads=[1,1,1,1], layout="NHWC"} : f32[1,8,8,4] loc("reader")
  output "y" = %y
}
"""
"""A square root next to zero makes much of little errors."""


def test_what_amplifies_rounding_is_found_by_measurement(monkeypatch: pytest.MonkeyPatch):
    graph, given = parse_graph(SPECTRUM, ops.all_ops()), samples(12)
    plain = plainly(graph, given, monkeypatch)
    final, context = compiled(graph, given)
    assert decibel(graph, final, given)[0] > decibel(graph, plain, given)[0] + 6
    # A root next to zero loses accuracy on sixteen bits as well.
    assert {n.loc for n in final.nodes if not n.is_integer and n.loc} == {"power", "root"}
    assert any("(mul power, sqrt root) went back to float32 for accuracy: SQNR" in note for note in context.notes)


CELL = """
graph "cell" {
  input %x : f32[1,8]
  input %h : f32[1,32]
  const @wx : f32[64,8] = normal(1, 0.5)
  const @wh : f32[64,32] = normal(2, 0.25)
  const @b : f32[64] = normal(3, 0.1)
  const @zero : f32[64] = normal(4, 0.01)
  const @one : f32[1] = [1.0]
  const @long : f32[1] = [4.0]
  %gx = dense(%x, @wx, @b) : f32[1,64] loc("from_input")
  %gh = dense(%h, @wh, @zero) : f32[1,64] loc("from_state")
  %g = add(%gx, %gh) : f32[1,64] loc("gates")
  %z0 = slice(%g) {starts=[0,0], steps=[1,1], sizes=[1,32]} : f32[1,32] loc("z0")
  %n0 = slice(%g) {starts=[0,32], steps=[1,1], sizes=[1,32]} : f32[1,32] loc("n0")
  %z1 = add(%z0, @long) : f32[1,32] loc("z1")
  %z = sigmoid(%z1) : f32[1,32] loc("z")
  %n = tanh(%n0) : f32[1,32] loc("n")
  %u = sub(@one, %z) : f32[1,32] loc("u")
  %fresh = mul(%u, %n) : f32[1,32] loc("fresh")
  %kept = mul(%z, %h) : f32[1,32] loc("kept")
  %next = add(%fresh, %kept) : f32[1,32] loc("next")
  output "next" = %next
}
"""
"""It keeps 98 % of its state: what rounding takes away in each step is not given back soon."""


def _loop(graph: Graph, inputs: np.ndarray) -> np.ndarray:
    run, state, states = Interpreter(graph), np.zeros((1, 32), np.float32), []
    for x in inputs:
        state = run.run({"x": x, "h": state})["next"]
        states.append(state)
    return np.concatenate(states)


def test_a_state_that_is_fed_back_does_not_drift(monkeypatch: pytest.MonkeyPatch):
    graph = parse_graph(CELL, ops.all_ops())
    inputs = np.random.default_rng(1).normal(size=(120, 1, 8)).astype(np.float32)
    states = _loop(graph, inputs)
    given = [{"x": x, "h": h[None]} for x, h in zip(inputs[1:], states[:-1], strict=True)][::8]
    plain, (final, _) = plainly(graph, given, monkeypatch), compiled(graph, given)
    before, after = (_loop(g, inputs) - states for g in (plain, final))
    assert np.square(after).mean() < 0.4 * np.square(before).mean()
    assert all(n.is_integer for n in final.nodes if n.op.name == "dense")


def test_an_accurate_network_is_left_alone():
    graph = parse_graph(SHARED.replace("normal(3, 100)", "normal(3, 0.1)"), ops.all_ops())
    calls: list[tuple[Any, bool]] = []

    def run(kept: Kept, whole: bool) -> Any:
        calls.append((kept, whole))
        return graph, []

    _, found = protect([Way(graph, run, PassContext(samples=lambda: iter(samples(4))), [])])
    assert found.graph is graph
    assert not found.kept
    assert [whole for _, whole in calls] == [False, True]


def test_what_leaves_int8_stays_within_its_budgets(monkeypatch: pytest.MonkeyPatch):
    """Conversions and nodes that move along with their neighbours count."""
    graph, given = heads(), samples(12)
    plain = plainly(graph, given, monkeypatch)
    costs = NodeCosts()
    found = []
    for share in (0.5, 0.1):
        with monkeypatch.context() as patch:
            for name, value in (("MOST_TIME", share), ("MOST_NS", 0.0), ("CHEAP_TIME", 0.0)):
                patch.setattr(f"qcompile.search.safety_net.{name}", value)
            patch.setattr("qcompile.search.safety_net.LEAST_DB", 0.0)
            final, _ = compiled(graph, given)
        assert costs.graph_ms(final) <= (1 + share) * costs.graph_ms(plain)
        assert int8_share(final) >= 1 - CONV_MACS
        found.append(min(decibel(graph, final, given)))
    assert found[0] > found[1] + 0.5


CLASSES = """
graph "classes" {
  input %x : f32[1,1024]
  const @w0 : f32[64,1024] = normal(1, 0.05)
  const @b0 : f32[64] = normal(2, 0.1)
  const @w1 : f32[8,64] = normal(3, 0.2)
  const @b1 : f32[8] = normal(4, 0.1)
  %h = dense(%x, @w0, @b0) {activation="relu"} : f32[1,64] loc("hidden")
  %p = mul(%h, %h) : f32[1,64] loc("power")
  %y = dense(%p, @w1, @b1) : f32[1,8] loc("classes")
  output "y" = %y
}
"""


def test_an_accurate_network_gets_nearer_for_next_to_nothing(monkeypatch: pytest.MonkeyPatch):
    random = np.random.default_rng(0)
    graph = parse_graph(CLASSES, ops.all_ops())
    given = [{"x": random.normal(size=(1, 1024)).astype(np.float32)} for _ in range(600)]
    plain, (final, _) = plainly(graph, given, monkeypatch), compiled(graph, given)
    before, after = (decibel(graph, g, given)[0] for g in (plain, final))
    assert CLASSES_DB < before < after - 1
    assert NodeCosts().graph_ms(final) <= (1 + CHEAP_TIME) * NodeCosts().graph_ms(plain)
    assert all(node.is_integer for node in final.nodes)
    assert int8_share(final) >= 1 - OTHER_MACS


CLIPPED = """
graph "clipped" {
  input %x : f32[1,8]
  const @low : f32[] = [0.0]
  const @high : f32[] = [HIGH]
  %a = maximum(%x, @low) : f32[1,8]
  %y = minimum(%a, @high) : f32[1,8]
  output "y" = %y
}
"""


def test_a_network_is_judged_on_samples_that_its_weights_were_not_fitted_to():
    """What fits weights takes samples at even places."""
    wide, narrow = (parse_graph(CLIPPED.replace("HIGH", high), ops.all_ops()) for high in ("9.0", "1.0"))
    given = [{"x": np.full((1, 8), 4.0 if index % 2 else 0.5, np.float32)} for index in range(600)]
    context = PassContext(samples=lambda: iter(given))
    protect([Way(wide, lambda kept, whole: (narrow, []), context, [])])
    assert any(
        "the worst output has an SQNR of 2.5 dB only: `qcompile analyze` shows" in note for note in context.notes
    )


def test_what_the_data_order_is_not_judged_by_its_sqnr():
    """Rows that change places are as good as before."""
    text = CLIPPED.replace("  output", "  %r = rank(%x) {axis=1} : i32[1,8]\n  output").replace(
        "= %y", '= %y\n  output "r" = %r'
    )
    wide, narrow = (parse_graph(text.replace("HIGH", high), ops.all_ops()) for high in ("9.0", "1.0"))
    context = PassContext(samples=lambda: iter([{"x": np.full((1, 8), 4.0, np.float32)}] * 8))
    protect([Way(wide, lambda kept, whole: (narrow, []), context, [])])
    assert any("dB only: the data decide which elements the outputs hold" in note for note in context.notes)


@pytest.mark.parametrize(
    ("highs", "chosen"), [(("9.0", "1.0"), 0), (("1.0", "9.0"), 1), (("3.0", "3.05"), 1), (("3.0", "3.0"), 0)]
)
def test_the_best_of_two_ways_is_taken_and_the_first_of_equal_ones(highs: tuple[str, str], chosen: int):
    """A clip at 3.05 instead of 3 gains less than half a decibel."""
    wide = parse_graph(CLIPPED.replace("HIGH", "9.0"), ops.all_ops())
    context = PassContext(samples=lambda: iter([{"x": np.full((1, 8), value, np.float32)} for value in (0.5, 4.0)]))
    made = [parse_graph(CLIPPED.replace("HIGH", high), ops.all_ops()) for high in highs]
    ways = [Way(wide, lambda kept, whole, graph=graph: (graph, []), context, []) for graph in made]
    assert protect(ways)[0] is ways[chosen]
    assert protect(ways[1:])[0] is ways[1]


def test_without_samples_nothing_is_checked():
    graph = heads()
    _, found = protect([Way(graph, lambda kept, whole: (graph, []), PassContext(), [])])
    assert found.graph is graph


def test_targets_follow_the_shapes():
    assert targets(parse_graph(CELL, ops.all_ops())) == [STATE_DB]
    assert targets(heads()) == [SIGNAL_DB, SIGNAL_DB]
    dense = """
    graph "classes" {
      input %x : f32[1,8]
      const @w : f32[10,8] = normal(1, 1)
      const @b : f32[10] = normal(2, 1)
      %y = dense(%x, @w, @b) : f32[1,10]
      output "y" = %y
    }
    """
    assert targets(parse_graph(dense, ops.all_ops())) == [CLASSES_DB]


def test_scales_of_weights_are_found_once(monkeypatch: pytest.MonkeyPatch):
    """Every trial of the safety net quantizes all weights; only what it reads differs."""
    asked, chosen = [], quantize._chosen_scales

    def count(weight: Value, spec: Any) -> Any:
        asked.append(weight.constant().tobytes())
        return chosen(weight, spec)

    monkeypatch.setattr(quantize, "_chosen_scales", count)
    _, context = compiled(parse_graph(SPECTRUM, ops.all_ops()), samples(12))
    assert any("for accuracy" in note for note in context.notes), "several trials were needed"
    assert len(asked) == len(set(asked)) == 2
    assert context.memory is None


def test_each_choice_of_nodes_is_quantized_once_without_the_slow_passes(monkeypatch: pytest.MonkeyPatch):
    ran, run = [], precision.run_passes

    def recorded(pipeline: str, *rest: Any) -> Any:
        ran.append(pipeline)
        return run(pipeline, *rest)

    monkeypatch.setattr(precision, "run_passes", recorded)
    compiled(parse_graph(SPECTRUM, ops.all_ops()), samples(12))
    quick = [text for text in ran if "fuse-requantize" in text and "round-weights" not in text]
    assert len(quick) == len(set(quick)) > 1


def test_the_result_does_not_depend_on_chance():
    graph, given = parse_graph(SPECTRUM, ops.all_ops()), samples(12)
    one, two = (compiled(graph, given) for _ in range(2))
    assert one[0].structural_hash() == two[0].structural_hash()
    assert one[1].notes == two[1].notes


def test_what_is_moved_in_float_can_be_read_in_int8():
    """The reader takes the range of what was moved."""
    graph, given = attention("0.0"), sentences()
    final, _ = compiled(graph, given, keep_float=("turn",))
    assert any(n.op.name == "transpose" and not n.is_integer for n in final.nodes)
    assert decibel(graph, final, given)[0] > 25


def test_sixteen_bits_come_before_float_where_they_cost_less():
    graph = parse_graph(CELL, ops.all_ops())
    inputs = np.random.default_rng(1).normal(size=(120, 1, 8)).astype(np.float32)
    states = _loop(graph, inputs)
    given = [{"x": x, "h": h[None]} for x, h in zip(inputs[1:], states[:-1], strict=True)][::8]
    final, context = compiled(graph, given)
    wide = [n for n in final.nodes if n.is_integer and "int16" in (n.inputs[0].dtype, n.outputs[0].dtype)]
    assert {"add", "mul", "sigmoid", "tanh"} <= {n.op.name for n in wide}
    assert all(n.is_integer or n.op.name in ("quantize", "dequantize") for n in final.nodes)
    assert decibel(graph, final, given)[0] > STATE_DB
    assert any("went to 16-bit activations for accuracy: SQNR" in note for note in context.notes)
    assert not any("float32" in note for note in context.notes)


UNEVEN = """
graph "uneven" {
  input %x : f32[1,32,64]
  const @small : f32[] = [1e-12]
  const @minus : f32[] = [-1.0]
  const @w : f32[256,64] = normal(3, 0.2)
  const @b : f32[256] = normal(4, 0.1)
  %s = relu(%x) : f32[1,32,64] loc("above zero")
  %m = reduce_mean(%s) {axes=[2]} : f32[1,32,1] loc("mean")
  %a = add(%m, @small) : f32[1,32,1] loc("not zero")
  %i = pow(%a, @minus) : f32[1,32,1] loc("inverse")
  %n = mul(%x, %i) : f32[1,32,64] loc("even")
  %y = dense(%n, @w, @b) : f32[1,32,256] loc("reader")
  output "y" = %y
}
"""
"""Tokens are multiplied by their inverse size: steps of 16 bits, too, are too great for those 10,000 times smaller."""


def uneven(count: int) -> list[Sample]:
    random = np.random.default_rng(2)
    sizes = 10.0 ** np.linspace(-5, 2, 32)[None, :, None]
    return [{"x": (random.normal(size=(1, 32, 64)) * sizes).astype(np.float32)} for _ in range(count)]


def test_what_sixteen_bits_cannot_hold_is_rescued(monkeypatch: pytest.MonkeyPatch):
    graph, given = parse_graph(UNEVEN, ops.all_ops()), uneven(24)
    assert decibel(graph, plainly(graph, given, monkeypatch), given)[0] < 10
    final, _ = compiled(graph, given)
    assert decibel(graph, final, given)[0] > LEAST_DB
    assert not any(node.is_integer for node in final.nodes if node.op.name in ("relu", "reduce_mean", "add", "mul"))
    assert any(node.is_integer for node in final.nodes if node.op.name == "dense")


@pytest.mark.parametrize("gains", [False, True])
def test_what_gains_no_time_is_told(gains: bool, monkeypatch: pytest.MonkeyPatch):
    def time(costs: NodeCosts, graph: Graph) -> float:
        return 0.5 if gains and any(node.is_integer for node in graph.nodes) else 1.0

    monkeypatch.setattr(NodeCosts, "graph_ms", time)
    _, context = compiled(parse_graph(UNEVEN, ops.all_ops()), uneven(24))
    assert any("--fp32 should be as fast" in note for note in context.notes) != gains


@pytest.mark.parametrize(
    ("targets", "before", "after", "gains"),
    [
        ([48], [30], [30.4], False),
        ([48], [30], [30.6], True),
        ([25], [24.9], [25.1], True),
        ([25], [40], [39], False),
        ([25, 48], [30, 30], [30, 47.5], True),
        ([25, 48], [30, 40], [30, 46], True),
        ([25, 48], [26, 40], [29, 40], True),
        ([25, 48], [30, 40], [29, 46], True),
        ([25, 48], [26, 40], [29, 38], False),
    ],
)
def test_nodes_leave_int8_only_for_what_the_slow_passes_do_not_give(
    targets: list[float], before: list[float], after: list[float], gains: bool
) -> None:
    """Rounding makes up for much: what was gained without it counts for nothing."""
    net = object.__new__(safety_net._Net)
    net._targets = targets
    plain, better = (_checked(found, Kept(real=names)) for found, names in ((before, ()), (after, ("a",))))
    assert net._gains(plain, better) == gains


def _checked(decibels: list[float], kept: Kept) -> safety_net._Checked:
    return safety_net._Checked(safety_net.Protected(Graph("g"), [], kept), decibels, decibels)
