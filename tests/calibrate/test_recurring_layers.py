"""Weights of layers in loops, behind them, and of several layers at once are rounded for what the layers read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from qcompile import driver, ops
from qcompile.calibrate.layer_moments import moment_bytes
from qcompile.calibrate.paired_run import LayerPair
from qcompile.calibrate.recurring_layers import SharedLayer, batches, shared_layers
from qcompile.ir.graph import Graph
from qcompile.ir.parser import parse_graph
from qcompile.ops.interpreter import Interpreter
from qcompile.passmgr import PassContext, PassManager
from tests.networks.rolled_models import recurrent

Sample = dict[str, np.ndarray]

QUANTIZE = 'insert-observers,calibrate,assign-precision{keep_int16=["*"]},quantize,fuse-requantize,quantize-states'


def network(tmp_path: Path, steps: int) -> tuple[Graph, list[Sample]]:
    """Return an LSTM and samples for it."""
    model, feed = recurrent("LSTM", "forward", steps=steps, batch=1, hidden=32)
    onnx.save(model, tmp_path / "m.onnx")
    random = np.random.default_rng(0)
    samples = [{n: random.normal(0, 1, a.shape).astype(np.float32) for n, a in feed.items()} for _ in range(48)]
    config = driver.resolve_config(tmp_path / "m.onnx", None, {"precision": "int8"})
    context, _, graph = driver.prepare(tmp_path / "m.onnx", config, samples, None)
    return driver.simplify(graph, config, context, ())[0], samples


def error(graph: Graph, samples: list[Sample], pipeline: str) -> tuple[float, Graph]:
    """Return noise over signal of the first output on samples that nothing was fitted to, dB."""
    made = PassManager(pipeline).run(graph, PassContext(samples=lambda: iter(samples[:32])))
    signal = noise = 0.0
    for sample in samples[32:]:
        a, b = (next(iter(Interpreter(g).run(sample).values())) for g in (graph, made))
        signal, noise = signal + np.square(a).sum(), noise + np.square(a - b).sum()
    return float(10 * np.log10(noise / signal)), made


@pytest.mark.parametrize("steps", [3, 40])
def test_steps_of_a_recurrent_layer_gain(tmp_path: Path, steps: int) -> None:
    graph, samples = network(tmp_path, steps)
    assert any(node.op.region for node in graph.nodes) == (steps > 3)
    plain, _ = error(graph, samples, QUANTIZE)
    rounded, made = error(graph, samples, f"{QUANTIZE},round-weights")
    assert rounded < plain - 1
    layers = [node for node in made.nodes if node.op.name == "dense"]
    before = {node.inputs[1].content_digest() for node in graph.nodes if node.op.name == "dense"}
    assert len({node.inputs[1].content_digest() for node in layers}) <= len(before)


def test_layers_are_observed_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many fit in memory together, each gets the same weights."""
    graph, samples = network(tmp_path, 40)
    _, together = error(graph, samples, f"{QUANTIZE},round-weights")
    monkeypatch.setattr("qcompile.calibrate.layer_correction._MOMENT_BYTES", 1)
    _, apart = error(graph, samples, f"{QUANTIZE},round-weights")
    assert together.structural_hash() == apart.structural_hash()
    pairs = [[LayerPair(n, n, None)] for n in graph.nodes if n.op.name == "dense"]
    sizes = [moment_bytes(group[0].node) for group in pairs]
    assert len(pairs) == 2
    assert [len(some) for some in batches(pairs, sum(sizes))] == [2]
    assert [len(some) for some in batches(pairs, sum(sizes) - 1)] == [1, 1]


def test_moments_are_those_of_all_readers(tmp_path: Path) -> None:
    graph, _ = network(tmp_path, 3)
    layers = [node for node in graph.nodes if node.op.name == "dense"]
    (group,) = (g for g in shared_layers([LayerPair(n, n, None) for n in layers]) if len(g) > 1)
    random = np.random.default_rng(1)
    seen = {p.reference.inputs[0].name: [random.normal(0, 1, p.reference.inputs[0].shape)] for p in group}
    shared = SharedLayer(group, 64, 0, means_only=False)
    shared.update(seen)
    every = np.concatenate([array.reshape(-1, array.shape[-1]) for (array,) in seen.values()])
    np.testing.assert_allclose(shared.moments.means[0][0], every.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(shared.moments.covariances[0][0], np.cov(every.T, bias=True), atol=1e-5)
    for moments, (array,) in zip(shared.own, seen.values(), strict=True):
        np.testing.assert_allclose(moments.means[0][0], array.reshape(-1, array.shape[-1]).mean(axis=0), atol=1e-6)


def test_moments_are_those_of_all_windows() -> None:
    """Layers with the same weights but other dilations, strides or pads read other patches."""
    text = """graph "g" { input %x : f32[1,9,9,2]
      const @w : f32[3,3,3,2] = normal(1, 0.1)
      const @b : f32[3] = normal(2, 0.1)
      %a = conv2d(%x, @w, @b) {layout="NHWC", pads=[1,1,1,1]} : f32[1,9,9,3]
      %c = conv2d(%x, @w, @b) {layout="NHWC", pads=[2,2,2,2], dilations=[2,2]} : f32[1,9,9,3]
      %d = conv2d(%x, @w, @b) {layout="NHWC", strides=[3,3]} : f32[1,3,3,3]
      output "a" = %a output "c" = %c output "d" = %d }"""
    pairs = [LayerPair(node, node, None) for node in parse_graph(text, ops.all_ops()).nodes]
    (group,) = shared_layers(pairs)
    seen = {"x": [np.cumsum(np.random.default_rng(0).normal(size=(1, 9, 9, 2)), axis=1).astype(np.float32)]}
    together, *alone = (SharedLayer(layers, 1, 0, means_only=False) for layers in (group, *([p] for p in pairs)))
    for shared in (together, *alone):
        shared.update(seen)
    wanted = sum(one.moments.count * squares(one) for one in alone) / together.moments.count
    assert together.moments.count == 81 + 81 + 9
    np.testing.assert_allclose(squares(together), wanted, rtol=1e-4, atol=1e-5)


def squares(layer: SharedLayer) -> np.ndarray:
    """Return E[p·pᵀ] of the patches of a layer's one group."""
    mean = layer.moments.means[0][0]
    return np.asarray(layer.moments.covariances[0][0] + np.outer(mean, mean))


def test_layers_of_other_groups_are_apart() -> None:
    text = """graph "g" { input %x : f32[1,9,9,2] input %y : f32[1,9,9,4]
      const @w : f32[4,3,3,2] = normal(1, 0.1)
      const @b : f32[4] = normal(2, 0.1)
      %a = conv2d(%x, @w, @b) {layout="NHWC"} : f32[1,7,7,4]
      %c = conv2d(%y, @w, @b) {layout="NHWC", groups=2} : f32[1,7,7,4]
      output "a" = %a output "c" = %c }"""
    pairs = [LayerPair(node, node, None) for node in parse_graph(text, ops.all_ops()).nodes]
    assert [len(group) for group in shared_layers(pairs)] == [1, 1]


def test_a_convolution_of_several_sizes(tmp_path: Path) -> None:
    """Its weights are rounded for what it reads at every size, as in the heads of a detector."""
    body = "f = Conv<pads = [1, 1, 1, 1]>(x, v)  a = Relu(f)  p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(a)"
    body += "  y = Conv<pads = [1, 1, 1, 1]>(a, w)  z = Conv<pads = [1, 1, 1, 1]>(p, w)"
    head = '<ir_version: 8, opset_import: ["" : 18]> g (float[1, 3, 16, 16] x) => (float[1, 8, 16, 16] y, '
    model = onnx.parser.parse_model(f"{head} float[1, 8, 8, 8] z) {{ {body} }}")
    random = np.random.default_rng(0)
    for name, inputs in (("v", 3), ("w", 8)):
        weight = random.normal(0, 0.2, (8, inputs, 3, 3)).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(weight, name))
    onnx.save(model, tmp_path / "m.onnx")
    samples = [{"x": random.normal(0, 1, (1, 3, 16, 16)).astype(np.float32)} for _ in range(24)]
    config = driver.resolve_config(tmp_path / "m.onnx", None, {"precision": "int8"})
    context, _, graph = driver.prepare(tmp_path / "m.onnx", config, samples, None)
    graph, _ = driver.simplify(graph, config, context, ())
    quantize = "insert-observers,calibrate,assign-precision,quantize,fuse-requantize"
    plain, rounded = (
        PassManager(pipeline).run(graph, PassContext(samples=lambda: iter(samples[:16])))
        for pipeline in (quantize, f"{quantize},round-weights")
    )
    weights = {
        node.inputs[1].content_digest()
        for node in rounded.nodes
        if node.op.name == "conv2d" and node.output.name[0] in "yz"
    }
    assert len(weights) == 1
    noise = {"plain": 0.0, "rounded": 0.0}
    for sample in samples[16:]:
        wanted = Interpreter(graph).run(sample)
        for key, made in (("plain", plain), ("rounded", rounded)):
            got = Interpreter(made).run(sample)
            noise[key] += sum(
                np.square(got[name] - array).sum() / np.square(array).sum() for name, array in wanted.items()
            )
    assert noise["rounded"] < noise["plain"]
