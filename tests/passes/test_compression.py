"""Compression passes: what is redundant goes without a trace; what is not, at the cost that the pass reports."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from qcompile import ops
from qcompile.calibrate.calibration_set import SampleIterator
from qcompile.compression.account import SIZES, change_text, sqnr_db, weight_bytes
from qcompile.errors import UsageError
from qcompile.ir import Graph, TensorType, Value
from qcompile.ir.regions import total_macs
from qcompile.onnx_import import import_onnx
from qcompile.ops.interpreter import Interpreter
from qcompile.passmgr import PassContext, run_pipeline
from tests.networks.rolled_models import info, model_of

few = settings(max_examples=15, deadline=None, derandomize=True)


class Network:
    """A convolutional network in which some channels are copies of others, or dead.

    Args:
        seed: of its weights.
        spare: channels of every layer that repeat others.
        dead: whether they write zeros instead.
    """

    def __init__(self, seed: int, spare: int, *, dead: bool) -> None:
        self.rng, self.spare, self.dead = np.random.default_rng(seed), spare, dead
        self.graph = Graph("network")
        self.x = self.graph.add_input("x", TensorType("float32", (1, 8, 8, 4)))

    def layer(self, op: str, x: Value, shape: tuple[int, ...], **attrs: object) -> Value:
        """Append a layer; the last of its output channels are spare."""
        weight = self.rng.normal(0, 0.4, shape).astype(np.float32)
        bias = self.rng.normal(0, 0.2, shape[0]).astype(np.float32)
        for n in range(self.spare):
            weight[shape[0] - 1 - n], bias[shape[0] - 1 - n] = (0.0, 0.0) if self.dead else (weight[n], bias[n])
        operands = [x, self.graph.add_constant("w", weight), self.graph.add_constant("b", bias)]
        name = f"{op}_{len(self.graph.nodes)}"
        return self.graph.add_node(ops.get(op), operands, ops.get(op).Attrs(**attrs), loc=name).output

    def add(self, op: str, inputs: list[Value], **attrs: object) -> Value:
        """Append another operation."""
        return self.graph.add_node(ops.get(op), inputs, ops.get(op).Attrs(**attrs)).output

    def build(self, shapes: tuple[bool, bool, bool]) -> Graph:
        """Return the graph: with a depthwise convolution, a residual addition, a concatenation, as wanted."""
        depthwise, residual, joined = shapes
        nhwc = {"layout": "NHWC", "activation": "relu"}
        a = y = self.layer("conv2d", self.x, (12, 3, 3, 4), pads=(1, 1, 1, 1), **nhwc)
        if depthwise:
            y = self.layer("conv2d", y, (12, 3, 3, 1), pads=(1, 1, 1, 1), groups=12, **nhwc)
        y = self.layer("conv2d", y, (12, 1, 1, 12), **nhwc)
        if residual:
            y = self.add("add", [y, a])
        if joined:
            y = self.add("concat", [y, self.layer("conv2d", y, (12, 1, 1, 12), **nhwc)], axis=3)
        y = self.add("max_pool", [y], kernel=(4, 4), strides=(4, 4), layout="NHWC")
        y = self.add("reshape", [y], shape=(1, y.type.size))
        self.spare = 0
        self.graph.set_outputs([self.layer("dense", y, (5, y.shape[1]))], ["y"])
        return self.graph


def context(count: int = 8) -> PassContext:
    rng = np.random.default_rng(9)
    given = [{"x": rng.normal(size=(1, 8, 8, 4)).astype(np.float32)} for _ in range(count)]
    return PassContext(samples=lambda: SampleIterator(iter(given), len(given)))


@few
@given(
    seed=st.integers(0, 99),
    shapes=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    criterion=st.sampled_from(["activations", "l1", "l2"]),
)
def test_dead_channels_go_without_a_trace(seed: int, shapes: tuple[bool, bool, bool], criterion: str) -> None:
    graph = Network(seed, 4, dead=True).build(shapes)
    pipeline = f'prune-channels{{macs=0.9, most=0.34, multiple=1, criterion="{criterion}"}}'
    pruned = run_pipeline(graph, pipeline, context(32))
    assert total_macs(pruned) < 0.7 * total_macs(graph)
    assert {node.inputs[1].shape[0] for node in pruned.nodes if node.op.name == "conv2d"} == {8}
    # By its activations a channel that hardly ever wakes may go in the place of a dead one.
    assert sqnr_db(graph, pruned, context().samples()) > (60 if criterion == "activations" else 90)


@pytest.mark.parametrize("shapes", [(False, False, False), (False, False, True)])
def test_copies_are_made_up_for(shapes: tuple[bool, bool, bool]) -> None:
    """Weights that judge by themselves cannot know that two channels are the same; activations can."""
    graph = Network(3, 4, dead=False).build(shapes)
    pruned = {}
    for criterion in ("activations", "l2"):
        pipeline = f'prune-channels{{macs=0.9, most=0.34, multiple=1, criterion="{criterion}"}}'
        pruned[criterion] = sqnr_db(graph, run_pipeline(graph, pipeline, context(128)), context(200).samples())
    assert pruned["activations"] > 20
    assert pruned["activations"] > pruned["l2"] + 15


def test_channels_remain_in_multiples() -> None:
    graph = Network(1, 0, dead=False).build((True, True, True))
    pruned = run_pipeline(graph, "prune-channels{macs=0.3, multiple=4}", context())
    counts = {node.inputs[1].shape[0] for node in pruned.nodes if node.op.name == "conv2d"}
    assert counts <= {4, 8, 12}
    assert counts != {12}


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_multiples_do_not_cut_what_is_saved(share: float) -> None:
    graph, seen = Network(1, 0, dead=False).build((True, True, True)), context()
    pruned = run_pipeline(graph, f"prune-channels{{macs={share}, multiple=4}}", seen)
    assert total_macs(pruned) <= (1 - share) * total_macs(graph)
    assert not any("out of reach" in note for note in seen.notes)


def test_a_layer_in_a_loop_counts_each_of_its_trips() -> None:
    """A perceptron in a Scan loses as many channels as the share asks for, not all that it may."""
    rng = np.random.default_rng(0)
    node, shape = helper.make_node, [1, 16]
    body = helper.make_graph(
        [
            node("Add", ["s", "e"], ["a"]),
            node("MatMul", ["a", "first"], ["m"]),
            node("Relu", ["m"], ["r"]),
            node("MatMul", ["r", "second"], ["o"]),
            node("Tanh", ["o"], ["next"]),
            node("Identity", ["next"], ["seen"]),
        ],
        "body",
        [info("s", shape), info("e", shape)],
        [info("next", shape), info("seen", shape)],
    )
    scan = node("Scan", ["zero", "x"], ["last", "all"], body=body, num_scan_inputs=1)
    weights = {n: rng.normal(0, 0.2, s).astype("f4") for n, s in (("first", (16, 64)), ("second", (64, 16)))}
    feeds = {"x": np.zeros((50, *shape), "f4")}
    model = model_of([scan], feeds, [info("all", None)], {**weights, "zero": np.zeros(shape, "f4")})
    graph = run_pipeline(import_onnx(model), "canonicalize,fold-constants,eliminate-dead")
    for share in (0.1, 0.3):
        seen = PassContext()
        pruned = run_pipeline(graph, f'prune-channels{{macs={share}, multiple=4, criterion="l2"}}', seen)
        assert share <= 1 - total_macs(pruned) / total_macs(graph) < share + 4 / 64
        assert not any("out of reach" in note for note in seen.notes)


def test_a_share_out_of_reach_is_told() -> None:
    graph, seen = Network(1, 0, dead=False).build((True, True, True)), context()
    pruned = run_pipeline(graph, "prune-channels{macs=0.6, multiple=4, most=0.34}", seen)
    saved = 1 - total_macs(pruned) / total_macs(graph)
    assert f"macs=0.6 is out of reach, {saved:.1%} are saved" in seen.notes[-1]
    run_pipeline(graph, "prune-channels{macs=0.6, multiple=16}", seen)
    assert seen.notes[-1] == "prune-channels: nothing goes: no layer can go down to a multiple of 16 channels"


def test_account_says_what_happened() -> None:
    graph, seen = Network(1, 2, dead=True).build((True, False, False)), context()
    pruned = run_pipeline(graph, "prune-channels{macs=0.2, multiple=1},prune-magnitude{sparsity=0.4}", seen)
    work = f"{total_macs(graph):,} to {total_macs(pruned):,} MACs"
    size = f"{weight_bytes(graph) / 1e3:.2f} to {weight_bytes(pruned) / 1e3:.2f} kB of constants"
    assert seen.notes[0].startswith(f"prune-channels: {work}, {size}, SQNR")
    assert re.search(r"SQNR \d+\.\d dB on 4 calibration samples that nothing was fitted to$", seen.notes[0])
    assert "40% of the weights zero" in seen.notes[1]


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        (18_812_000, 15_230_000, "18.81 to 15.23 MB"),
        (18_812_000, 18_811_600, "18,812.00 to 18,811.60 kB"),
        (12_034, 9_876, "12.03 to 9.88 kB"),
        (1_004_000, 850_000, "1,004.00 to 850.00 kB"),
        (1_200, 0, "1,200 to 0 bytes"),
        (2_000_000, 2_000_000, "2.00 to 2.00 MB"),
    ],
)
def test_sizes_are_said_in_a_unit_in_which_they_differ(before: int, after: int, text: str) -> None:
    assert change_text(before, after, SIZES) == text


def test_without_samples_weights_decide_and_the_note_says_so() -> None:
    graph, seen = Network(1, 2, dead=True).build((False, False, False)), PassContext()
    run_pipeline(graph, "prune-channels{macs=0.2, multiple=1}", seen)
    assert seen.notes[0] == "prune-channels: no calibration samples, so channels are judged by their weights (l2)"
    assert seen.notes[1].endswith("on noise, which says little")


@few
@given(rank=st.integers(1, 6), seed=st.integers(0, 99), measured=st.booleans())
def test_low_rank_is_found(rank: int, seed: int, measured: bool) -> None:
    rng = np.random.default_rng(seed)
    network = Network(seed, 0, dead=False)
    matrix = (rng.normal(size=(24, rank)) @ rng.normal(size=(rank, 20))).astype(np.float32)
    x = network.layer("conv2d", network.x, (20, 1, 1, 4), layout="NHWC", activation="relu")
    bias = network.graph.add_constant("b", rng.normal(size=24).astype(np.float32))
    y = network.graph.add_node(ops.get("dense"), [x, network.graph.add_constant("w", matrix), bias], loc="low").output
    network.graph.set_outputs([y], ["y"])
    options = '{energy=0.999999, keep=["conv2d_0"]}'
    split = run_pipeline(network.graph, f"factorize{options}", context() if measured else PassContext())
    assert next(node.inputs[1].shape for node in split.nodes if node.op.name == "dense") == (rank, 20)
    assert total_macs(split) < total_macs(network.graph)
    assert sqnr_db(network.graph, split, context().samples()) > 50


def test_energy_is_kept() -> None:
    """The share of power that goes is what the pass was allowed, measured where samples say what matters."""
    graph = Network(5, 0, dead=False)
    y = graph.layer("conv2d", graph.x, (64, 1, 1, 4), layout="NHWC", activation="relu")
    y = graph.layer("conv2d", y, (64, 1, 1, 64), layout="NHWC")
    graph.graph.set_outputs([y], ["y"])
    split = run_pipeline(graph.graph, 'factorize{energy=0.99, keep=["conv2d_0"]}', context(32))
    assert total_macs(split) < 0.9 * total_macs(graph.graph)
    assert sqnr_db(graph.graph, split, context(32).samples()) > 18


def test_pruned_network_is_quantized_as_any() -> None:
    graph = Network(2, 4, dead=True).build((True, True, True))
    seen = context()
    pruned = run_pipeline(graph, "prune-channels{macs=0.9, most=0.34, multiple=1},prune-magnitude{sparsity=0.3}", seen)
    integers = run_pipeline(
        pruned, "fuse-activation{tables=false},insert-observers,calibrate,assign-precision,quantize", seen
    )
    assert sum(node.is_integer for node in integers.nodes) > 4
    weights = [n.inputs[1].constant() for n in integers.nodes if n.op.name in ("conv2d", "dense") and n.is_integer]
    zeros = sum(np.count_nonzero(w == 0) for w in weights) / sum(w.size for w in weights)
    # Dead channels held many of the zeros before; of what is left three in ten are, but for what rounding moved.
    assert zeros > 0.22
    outputs = [Interpreter(g).run(next(seen.samples()))["y"] for g in (graph, integers)]
    assert np.corrcoef(outputs[0].ravel(), outputs[1].ravel())[0, 1] > 0.8


@pytest.mark.parametrize(
    "text",
    ["prune-channels{macs=0.0}", "prune-channels{most=1.0}", "prune-channels{multiple=0}", "factorize{energy=0.0}",
     "factorize{gain=1.5}", "prune-magnitude{sparsity=1.0}", "prune-channels{samples=-5}", "factorize{samples=0}",
     "prune-magnitude{smallest=-3}", "round-weights{damping=-1}", "round-weights{sweeps=-1}",
     "reconstruct-blocks{steps=0}", "reconstruct-blocks{batch=0}", "smooth-activations{gain=-1}",
     "assign-precision{spread=nan}", "fold-constants{limit=-1}"],
)  # fmt: skip
def test_options_out_of_range_are_refused(text: str) -> None:
    name, option = re.split("[{=]", text)[:2]
    with pytest.raises(UsageError, match=f"^pass '{name}': option '{option}' must be (at least|more than) ") as refused:
        run_pipeline(Network(1, 0, dead=False).build((False, False, False)), text, context())
    assert (
        refused.value.hint == f"a pass is written as NAME{{option=value}}; `qcompile passes {name}` shows its options"
    )


def test_weights_that_remain_are_fitted() -> None:
    graph = Network(6, 4, dead=False).build((False, False, True))
    found = {}
    for samples in (0, 48):
        seen = context(64)
        given = list(seen.samples())
        seen.samples = lambda given=given: SampleIterator(iter(given), len(given))
        pruned = run_pipeline(graph, f"prune-magnitude{{sparsity=0.5, samples={samples}}}", seen)
        found[samples] = sqnr_db(graph, pruned, context(200).samples())
        assert ("the weights that remain fitted" in seen.notes[0]) == (samples > 0)
        large = [n.inputs[1].constant() for n in pruned.nodes if len(n.inputs) > 2 and n.inputs[1].type.size >= 256]
        assert sum(np.count_nonzero(weight == 0) for weight in large) >= 0.49 * sum(weight.size for weight in large)
    assert found[48] > found[0] + 2


def test_four_bits_are_rounded_by_samples() -> None:
    network = Network(7, 0, dead=False)
    y = network.layer("conv2d", network.x, (64, 1, 1, 4), layout="NHWC", activation="relu")
    y = network.layer("conv2d", y, (64, 1, 1, 64), layout="NHWC", activation="relu")
    network.graph.set_outputs([network.layer("conv2d", y, (16, 1, 1, 64), layout="NHWC")], ["y"])
    found = {}
    for samples in (0, 48):
        seen = context(64)
        given = list(seen.samples())
        seen.samples = lambda given=given: SampleIterator(iter(given), len(given))
        rounded = run_pipeline(network.graph, f"quantize-weights{{bits=4, samples={samples}}}", seen)
        found[samples] = sqnr_db(network.graph, rounded, context(200).samples())
        assert bool(seen.notes) == (samples > 0)
    assert re.search(r"3 layers rounded to 4 bits by 32 calibration samples, SQNR .* dB on others", seen.notes[0])
    assert found[48] > found[0] + 2


def test_weights_without_a_kernel_in_few_bits_are_told() -> None:
    graph, seen = Network(1, 0, dead=False).build((True, False, False)), context()
    run_pipeline(graph, "quantize-weights{bits=1, smallest=16}", seen)
    total, left = 12 * 3 * 3 * 4 + 12 * 9 + 12 * 12 + 5 * 48, 12 * 3 * 3 * 4 + 12 * 9
    told = (
        f"quantize-weights: 2 of 4 layers ({left / total:.0%} of the weights) stay float32: convolutions with a kernel"
    )
    assert any(note.startswith(told) and note.endswith("smaller") for note in seen.notes)
    assert not any("1 bits" in note for note in seen.notes)
    quiet = context()
    run_pipeline(graph, 'quantize-weights{bits=1, smallest=16, keep=["op:conv2d"]}', quiet)
    assert not any("stay float32" in note for note in quiet.notes)


@pytest.mark.parametrize("gain", [0.01, 1.0])
def test_a_split_that_saves_nothing_is_told_instead(gain: float) -> None:
    network = Network(2, 0, dead=False)
    x = network.layer("conv2d", network.x, (4, 1, 1, 4), layout="NHWC")
    y = network.add("reshape", [x], shape=(1, x.type.size))
    network.graph.set_outputs([y], ["y"])
    seen = context()
    split = run_pipeline(network.graph, f"factorize{{energy=1.0, gain={gain}}}", seen)
    assert total_macs(split) == total_macs(network.graph)
    (note,) = seen.notes
    assert note.startswith("factorize: no layer is split, the two products of the best would take 200% of its MACs")
    none = context()
    run_pipeline(network.graph, 'factorize{keep=["op:conv2d"]}', none)
    assert none.notes == ["factorize: no layer can be split (energy=0.999, gain=0.9)"]


def test_no_piece_of_a_split_becomes_empty() -> None:
    """Half a layer's channels are dead; the layer that reads that half alone still reads one of them."""
    network = Network(4, 16, dead=True)
    y = network.layer("conv2d", network.x, (32, 1, 1, 4), layout="NHWC", activation="relu")
    network.spare = 0
    split = network.graph.add_node(ops.get("split"), [y], ops.get("split").Attrs(axis=3, sizes=(16, 16)))
    halves = [network.layer("conv2d", part, (8, 1, 1, 16), layout="NHWC") for part in split.outputs]
    network.graph.set_outputs([network.add("add", halves)], ["y"])
    pruned = run_pipeline(network.graph, 'prune-channels{macs=0.55, multiple=1, criterion="l2"}', context())
    (sizes,) = (node.attrs.sizes for node in pruned.nodes if node.op.name == "split")
    assert sizes[1] == 1
    assert total_macs(pruned) <= 0.45 * total_macs(network.graph)


def test_a_pass_with_nothing_to_do_says_so() -> None:
    network, seen = Network(2, 0, dead=False), context()
    network.graph.set_outputs([network.layer("conv2d", network.x, (4, 1, 1, 4), layout="NHWC")], ["y"])
    run_pipeline(network.graph, "prune-channels, prune-magnitude, prune-magnitude{smallest=1, sparsity=0.01}", seen)
    assert seen.notes == [
        "prune-channels: nothing goes: there is no layer whose channels could go",
        "prune-magnitude: nothing goes: no layer that may lose some has 256 weights",
        "prune-magnitude: nothing changes: 0 of 16 weights are zero already",
    ]
