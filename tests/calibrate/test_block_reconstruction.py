"""Blocks: where they begin and end, their gradients, and that reconstruction lowers the error of the block."""

from __future__ import annotations

import numpy as np
import pytest

from qcompile import ops
from qcompile.calibrate.block_gradients import Convolution, round_through
from qcompile.calibrate.block_network import BlockNetwork, finish
from qcompile.calibrate.block_partition import find_blocks
from qcompile.calibrate.paired_run import pair_layers
from qcompile.ir.graph import Graph
from qcompile.ir.parser import parse_graph
from qcompile.ops.arithmetic import activate_layer
from qcompile.ops.conv2d import Conv2dAttrs
from qcompile.ops.convolution import convolve
from qcompile.ops.interpreter import Interpreter
from qcompile.passmgr import PassContext, PassManager
from qcompile.quant.affine import dequantize
from qcompile.quant.noise_power import decibels, deviation_power
from qcompile.quant.qparams import QParams

TEXT = """
graph "bottlenecks" {
  input %x : f32[1,8,8,8]
  const @w1 : f32[16,1,1,8] = normal(1, 0.3)
  const @b1 : f32[16] = normal(2)
  const @w2 : f32[16,3,3,1] = normal(3, 0.3)
  const @b2 : f32[16] = normal(4)
  const @w3 : f32[8,1,1,16] = normal(5, 0.2)
  const @b3 : f32[8] = normal(6)
  const @w4 : f32[12,3,3,4] = normal(7, 0.2)
  const @b4 : f32[12] = normal(8)
  const @w5 : f32[5,192] = normal(9, 0.1)
  const @b5 : f32[5] = normal(10)
  %a = conv2d(%x, @w1, @b1) {layout="NHWC"} : f32[1,8,8,16] loc("expand")
  %s = silu(%a) : f32[1,8,8,16] loc("silu")
  %b = conv2d(%s, @w2, @b2) {layout="NHWC", groups=16, pads=[1,1,1,1], activation="relu"} : f32[1,8,8,16] loc("depth")
  %c = conv2d(%b, @w3, @b3) {layout="NHWC"} : f32[1,8,8,8] loc("project")
  %d = add(%c, %x) : f32[1,8,8,8] loc("add")
  %e = conv2d(%d, @w4, @b4) {layout="NHWC", groups=2, strides=[2,2], pads=[1,1,1,1]} : f32[1,4,4,12] loc("grouped")
  %f = clip(%e) {min=0.0, max=6.0} : f32[1,4,4,12] loc("clip")
  %g = reshape(%f) {shape=[1,192]} : f32[1,192] loc("flat")
  %y = dense(%g, @w5, @b5) : f32[1,5] loc("fc")
  output "y" = %y
}
"""
EIGHT = "divisors=[1.0, 2.0, 0.5, 4.0, 1.0, 3.0, 1.0, 0.8]"
SWISH, CLIP = f'activation="channel_hard_swish", {EIGHT}', f'activation="channel_clip", beta=2.0, {EIGHT}'
DIVIDED = f"""
graph "divided" {{
  input %x : f32[1,8,8,8]
  const @w1 : f32[8,1,1,8] = normal(1, 0.5)
  const @b1 : f32[8] = normal(2)
  const @w2 : f32[8,3,3,1] = normal(3, 0.2)
  const @w3 : f32[8,1,1,8] = normal(5, 0.3)
  %a = conv2d(%x, @w1, @b1) {{layout="NHWC", {SWISH}}} : f32[1,8,8,8] loc("expand")
  %b = conv2d(%a, @w2, @b1) {{layout="NHWC", groups=8, pads=[1,1,1,1], {CLIP}}} : f32[1,8,8,8] loc("depth")
  %c = conv2d(%b, @w3, @b1) {{layout="NHWC"}} : f32[1,8,8,8] loc("project")
  %y = add(%c, %x) : f32[1,8,8,8] loc("add")
  output "y" = %y
}}
"""
RECIPE = 'fuse-activation{tables=false},insert-observers{observer="minmax"},calibrate,assign-precision,quantize'


def samples(count: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(seed)
    return [{"x": random.standard_normal((1, 8, 8, 8)).astype(np.float32)} for _ in range(count)]


def context_of(given: list[dict[str, np.ndarray]]) -> PassContext:
    return PassContext(samples=lambda: iter(given))


def quantized(context: PassContext, text: str = TEXT) -> Graph:
    source = parse_graph(text, ops.all_ops(), source="blocks")
    return PassManager(f"{RECIPE},fuse-requantize").run(source, context)


def networks(context: PassContext, graph: Graph) -> list[BlockNetwork]:
    assert context.reference is not None
    pairs, _ = pair_layers(context.reference, graph)
    weights = {p.node: p.reference.inputs[1].constant() for p in pairs}
    blocks, _ = find_blocks(graph)
    return [BlockNetwork(b, {n: weights[n] for n in b.layers}) for b in blocks]


@pytest.mark.parametrize(
    ("shape", "weight", "options"),
    [
        ((2, 5, 6, 3), (4, 3, 3, 3), {"pads": (1, 1, 1, 1)}),
        ((2, 6, 6, 4), (6, 3, 2, 2), {"groups": 2, "strides": (2, 1), "pads": (0, 1, 1, 0)}),
        ((1, 7, 7, 5), (5, 3, 3, 1), {"groups": 5, "dilations": (2, 2), "pads": (2, 2, 2, 2)}),
        ((3, 4, 4, 6), (2, 1, 1, 6), {"strides": (2, 2)}),
    ],
)
def test_convolution_and_its_gradients(shape, weight, options) -> None:  # type: ignore[no-untyped-def]
    random = np.random.default_rng(0)
    x, w = random.standard_normal(shape), random.standard_normal(weight)
    attrs = Conv2dAttrs(layout="NHWC", **options)
    window = Convolution(x, w, attrs)
    np.testing.assert_allclose(window.result, convolve(x, w, attrs), atol=1e-12)
    g = random.standard_normal(window.result.shape)
    of_x, of_w = window.gradients(g)
    # The convolution is linear in both, so a difference quotient is exact.
    dx, dw = random.standard_normal(shape), random.standard_normal(weight)
    assert (of_x * dx).sum() == pytest.approx((g * convolve(dx, w, attrs)).sum())
    assert (of_w * dw).sum() == pytest.approx((g * convolve(x, dw, attrs)).sum())


def test_rounding_lets_through_what_it_does_not_clamp() -> None:
    params = QParams((0.5,), (-2,), "int8", -128, 2)
    y, through = round_through(np.array([-100.0, 0.2, 0.3, 1.9, 2.1, 9.0], np.float32), params)
    np.testing.assert_array_equal(y, [-63.0, 0.0, 0.5, 2.0, 2.0, 2.0])
    np.testing.assert_array_equal(through, [0, 1, 1, 1, 1, 0])


def test_blocks_are_residual_blocks_and_chains() -> None:
    graph = quantized(context_of(samples(4)))
    blocks, others = find_blocks(graph)
    names = [[node.loc for node in block.layers] for block in blocks]
    assert names == [["expand", "depth", "project"], ["grouped"], ["fc"]]
    assert others == []
    alone, _ = find_blocks(graph, chain=1)
    assert [len(block.layers) for block in alone] == [3, 1, 1]


@pytest.mark.parametrize("text", [TEXT, DIVIDED])
def test_a_block_in_real_numbers_is_the_integer_block(text: str) -> None:
    context = context_of(samples(4))
    graph = quantized(context, text)
    seen = {}
    Interpreter(graph).run(samples(1, seed=3)[0], on_value=lambda value, array: seen.update({value: array}))
    for network in networks(context, graph):
        entry, exit_ = network.block.entry, network.block.exit
        given = dequantize(seen[entry], entry.qparams)
        found, wanted = network.forward(given), seen[exit_]
        if exit_.qparams is None:
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
        else:
            # Both round the same sums, but not in the same precision: a tie may fall on either side.
            step = np.abs(found - dequantize(wanted, exit_.qparams)) / exit_.qparams.scalar_scale
            assert step.max() < 1.01
            assert (step > 0.01).mean() < 0.02


@pytest.mark.parametrize("place", [0, 1])
def test_a_change_goes_through_divisors_as_far_as_the_clamps(place: int) -> None:
    context = context_of(samples(4))
    node = networks(context, quantized(context, DIVIDED))[0].layers[place].node
    params = node.output.qparams
    assert params is not None
    total = np.repeat(np.linspace(-9.0, 9.0, 1001)[:, None], 8, axis=1)
    real, through = finish(node, total.astype(np.float32))
    low, high = ((q - params.scalar_zero_point) * params.scalar_scale for q in (params.qmin, params.qmax))
    exact = activate_layer(node.attrs, total)
    assert np.abs(real - np.clip(exact, low, high)).max() <= 0.51 * params.scalar_scale
    # Within a step of a clamp or a kink either slope will do.
    more = [activate_layer(node.attrs, total + shift) for shift in (-0.1, -1e-3, 1e-3, 0.1)]
    slope = (more[2] - more[1]) / 2e-3
    smooth = np.abs((more[3] - more[0]) / 0.2 - slope) < 0.02
    inside = (exact > low + params.scalar_scale) & (exact < high - params.scalar_scale)
    outside = (exact < low - params.scalar_scale) | (exact > high + params.scalar_scale)
    assert (smooth & inside).mean() > 0.2
    np.testing.assert_allclose(through[smooth & inside], slope[smooth & inside], atol=0.03)
    assert not through[outside].any()


@pytest.mark.parametrize("text", [TEXT, DIVIDED])
def test_the_gradient_of_a_block_points_downhill(text: str) -> None:
    context = context_of(samples(4))
    network = networks(context, quantized(context, text))[0]
    random = np.random.default_rng(1)
    entry = random.standard_normal((4, 8, 8, 8)).astype(np.float32)
    target = network.forward(entry) + random.standard_normal((4, 8, 8, 8)).astype(np.float32)
    start = np.square(network.forward(entry) - target).mean()
    network.backward(2 * (network.forward(entry) - target) / target.size)
    gradients = [layer.weight_gradient for layer in network.layers]
    assert all(np.abs(g).max() > 0 for g in gradients)
    for layer, gradient in zip(network.layers, gradients, strict=True):
        kept = layer.weight
        layer.weight = kept - 0.02 * np.abs(kept).max() * gradient / np.abs(gradient).max()
        assert np.square(network.forward(entry) - target).mean() < start
        layer.weight = kept


@pytest.mark.parametrize(("text", "blocks", "gain"), [(TEXT, 3, 0.3), (DIVIDED, 1, -0.1)])
def test_reconstruction_lowers_the_error_on_inputs_it_never_saw(text: str, blocks: int, gain: float) -> None:
    context = context_of(samples(48))
    graph = quantized(context, text)
    inputs = samples(24, seed=9)
    assert context.reference is not None
    exact = np.concatenate([Interpreter(context.reference).run(s)["y"] for s in inputs])
    done: list[tuple[int, int, str]] = []
    context.on_progress = lambda *step: done.append(step)
    after = PassManager("reconstruct-blocks{steps=120}").run(graph.clone(), context)
    before_db, after_db = (
        decibels(*deviation_power(exact, np.concatenate([Interpreter(g).run(s)["y"] for s in inputs])))
        for g in (graph, after)
    )
    assert after_db > before_db + gain  # the second's error is that of its codes, not that of its weights
    assert done[-1] == (blocks, blocks, "reconstructing blocks")
    for old, new in zip(graph.nodes, after.nodes, strict=True):
        if old.op.name in ("conv2d", "dense"):
            moved = old.inputs[1].constant().astype(int) - new.inputs[1].constant()
            assert np.abs(moved).max() <= 1


POSITIONS = """
graph "positions" {
  input %x : f32[20,8]
  const @w : f32[8,8] = normal(1, 0.3)
  const @v : f32[8,8] = normal(2, 0.3)
  const @b : f32[8] = normal(3)
  const @p : f32[20,8] = normal(4)
  %a = dense(%x, @w, @b) : f32[20,8]
  %s = add(%a, @p) : f32[20,8]
  %y = dense(%s, @v, @b) {activation="relu"} : f32[20,8]
  output "y" = %y
}
"""


def test_a_constant_for_one_sample_is_no_part_of_a_block() -> None:
    random = np.random.default_rng(0)
    context = context_of([{"x": random.standard_normal((20, 8)).astype(np.float32)} for _ in range(8)])
    graph = quantized(context, POSITIONS)
    blocks, others = find_blocks(graph)
    assert blocks == [] or all("p" not in {v.name for n in b.nodes for v in n.inputs} for b in blocks)
    assert any("the constant" in reason and "fits one sample" in reason for _, reason in others)
    PassManager("reconstruct-blocks{steps=2}").run(graph, context)
