"""Gradients of single operations, beside differences of what the operations compute."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from qcompile import ops
from qcompile.ir.graph import Graph, Value
from qcompile.ir.parser import parse_graph
from qcompile.ops.arithmetic import activate
from qcompile.ops.interpreter import Interpreter
from qcompile.scaling.gradients import Evaluated, gradients
from qcompile.scaling.tape import Tape
from qcompile.shapes.specialize import Specializer

Array = npt.NDArray[Any]

CONV = "const @w : f32[{w}] = normal(1, 0.5)\n const @b : f32[{o}] = normal(2, 0.5)\n"
PAIR = "input %z : {z}\n"

OPERATIONS = {
    "conv2d": (
        "f32[2,7,8,3]",
        CONV.format(w="4,3,2,3", o=4)
        + '%y = conv2d(%x, @w, @b) {layout="NHWC", strides=[2,1], pads=[1,0,2,1], dilations=[1,2]} : f32[2,4,7,4]',
    ),
    "grouped": (
        "f32[1,5,5,4]",
        CONV.format(w="6,3,3,2", o=6)
        + '%y = conv2d(%x, @w, @b) {layout="NHWC", groups=2, pads=[1,1,1,1]} : f32[1,5,5,6]',
    ),
    "depthwise": (
        "f32[1,6,6,3]",
        CONV.format(w="3,3,3,1", o=3)
        + '%y = conv2d(%x, @w, @b) {layout="NHWC", groups=3, strides=[2,2], pads=[0,0,1,1]} : f32[1,3,3,3]',
    ),
    "transposed": (
        "f32[1,3,4,4]",
        CONV.format(w="6,3,3,2", o=6)
        + '%y = conv_transpose2d(%x, @w, @b) {layout="NHWC", groups=2, strides=[2,2], pads=[1,0,1,1], '
        + "output_padding=[1,0]} : f32[1,6,8,6]",
    ),
    "channels_first": (
        "f32[1,3,4,4]",
        CONV.format(w="2,3,3,3", o=2) + "%y = conv2d(%x, @w, @b) : f32[1,2,2,2]",
    ),
    "dense": ("f32[2,3,5]", CONV.format(w="4,5", o=4) + "%y = dense(%x, @w, @b) : f32[2,3,4]"),
    "matmul": ("f32[2,1,3,5]", PAIR.format(z="f32[4,5,2]") + "%y = matmul(%x, %z) : f32[2,4,3,2]"),
    "add": ("f32[2,3,4]", PAIR.format(z="f32[3,1]") + "%y = add(%x, %z) : f32[2,3,4]"),
    "mul": ("f32[2,1,4]", PAIR.format(z="f32[2,3,1]") + "%y = mul(%x, %z) : f32[2,3,4]"),
    "div": ("f32[2,3,4]", "const @d : f32[4] = uniform(3, 0.5, 2.0)\n %y = div(%x, @d) : f32[2,3,4]"),
    "maximum": ("f32[2,3,4]", PAIR.format(z="f32[4]") + "%y = maximum(%x, %z) : f32[2,3,4]"),
    "sigmoid": ("f32[2,3,4]", "%y = sigmoid(%x) : f32[2,3,4]"),
    "gelu": ("f32[2,3,4]", "%y = gelu(%x) : f32[2,3,4]"),
    "clip": ("f32[2,3,4]", "%y = clip(%x) {min=-0.5, max=0.5} : f32[2,3,4]"),
    "prelu": (
        "f32[1,4,4,3]",
        'const @s : f32[3] = [0.1, 0.3, -0.5]\n %y = prelu(%x, @s) {layout="NHWC"} : f32[1,4,4,3]',
    ),
    "floor": ("f32[2,3,4]", "%y = floor(%x) : f32[2,3,4]"),
    "concat": ("f32[1,2,3]", PAIR.format(z="f32[1,4,3]") + "%y = concat(%z, %x) {axis=1} : f32[1,6,3]"),
    "transpose": ("f32[2,3,4]", "%y = transpose(%x) {perm=[2,0,1]} : f32[4,2,3]"),
    "reshape": ("f32[2,3,4]", "%y = reshape(%x) {shape=[6,4]} : f32[6,4]"),
    "slice": ("f32[2,6,4]", "%y = slice(%x) {starts=[0,1,3], steps=[1,2,-1], sizes=[2,3,4]} : f32[2,3,4]"),
    "pad": ("f32[1,3,4]", '%y = pad(%x) {pads=[0,2,1,0,1,2], mode="reflect"} : f32[1,6,7]'),
    "filled": ("f32[1,3,4]", "%y = pad(%x) {pads=[0,2,1,0,1,2], value=-3.5} : f32[1,6,7]"),
    "expand": ("f32[2,1,4]", "%y = expand(%x) {shape=[2,3,4]} : f32[2,3,4]"),
    "nearest": (
        "f32[1,3,2,2]",
        '%y = resize(%x) {size=[5,4], scales=[1.6667, 2.0], layout="NHWC"} : f32[1,5,4,2]',
    ),
    "reduce_mean": ("f32[2,3,4]", "%y = reduce_mean(%x) {axes=[0,2], keepdims=false} : f32[3]"),
    "reduce_sum": ("f32[2,3,4]", "%y = reduce_sum(%x) {axes=[1]} : f32[2,1,4]"),
    "reduce_max": ("f32[2,3,4]", "%y = reduce_max(%x) {axes=[1], keepdims=false} : f32[2,4]"),
    "global_avg_pool": ("f32[1,3,3,2]", '%y = global_avg_pool(%x) {layout="NHWC"} : f32[1,1,1,2]'),
    "avg_pool": (
        "f32[1,5,6,2]",
        '%y = avg_pool(%x) {kernel=[3,2], strides=[2,2], pads=[1,0,0,1], ceil_mode=true, layout="NHWC"} : f32[1,3,3,2]',
    ),
    "padded_average": (
        "f32[1,4,4,2]",
        "%y = avg_pool(%x) {kernel=[3,3], strides=[2,2], pads=[1,1,1,1], count_include_pad=true, "
        'layout="NHWC"} : f32[1,2,2,2]',
    ),
    "max_pool": (
        "f32[1,5,6,2]",
        '%y = max_pool(%x) {kernel=[3,2], strides=[2,1], pads=[1,0,1,1], layout="NHWC"} : f32[1,3,6,2]',
    ),
    "softmax": ("f32[2,3,4]", "%y = softmax(%x) {axis=1} : f32[2,3,4]"),
    "layer_norm": (
        "f32[2,3,4]",
        "const @g : f32[4] = normal(4, 1.0)\n const @o : f32[4] = normal(5, 1.0)\n"
        "%y = layer_norm(%x, @g, @o) : f32[2,3,4]",
    ),
}


def _inputs(graph: Graph) -> dict[str, Array]:
    rng = np.random.default_rng(1)
    return {value.name: rng.normal(0, 1, value.shape).astype(np.float32) for value in graph.inputs}


def _differences(graph: Graph, inputs: dict[str, Array], signs: Array, name: str) -> Array:
    """Return how the sum of the results with their signs changes with each element of an input."""
    step, found = np.float32(1e-2), np.zeros(inputs[name].size)
    for index in range(inputs[name].size):
        ends = []
        for change in (step, -step):
            moved = inputs[name].copy()
            moved.flat[index] += change
            result = Interpreter(graph).run({**inputs, name: moved})["y"].astype(np.float64)
            ends.append(float((result * signs).sum()))
        found[index] = (ends[0] - ends[1]) / (2 * float(step))
    return found.reshape(inputs[name].shape)


@pytest.mark.parametrize("name", OPERATIONS)
def test_gradients_are_what_small_changes_make(name: str) -> None:
    shape, body = OPERATIONS[name]
    graph = parse_graph(f'graph "g" {{\n input %x : {shape}\n {body}\n output "y" = %y\n}}', ops.all_ops(), source="t")
    inputs = _inputs(graph)
    signs = np.random.default_rng(2).choice([-1.0, 1.0], graph.outputs[0].shape).astype(np.float32)
    node = graph.nodes[-1]
    arrays = [inputs[v.name] if v.name in inputs else v.constant() for v in node.inputs]
    of = Evaluated(node, arrays, node.op.evaluate(node.attrs, arrays))
    found = gradients(of, [signs], np.random.default_rng(0))
    assert sorted(found) == [index for index, value in enumerate(node.inputs) if not value.is_constant]
    for index, gradient in found.items():
        assert gradient.dtype == np.float32
        assert gradient.shape == arrays[index].shape
        if name == "channels_first":  # is not followed: the noise is as large as the signal lets it be
            result = of.results[0]
            assert np.square(gradient * arrays[index]).sum() == pytest.approx(np.square(result).sum(), rel=1e-4)
            continue
        expected = _differences(graph, inputs, signs, node.inputs[index].name)
        if name == "floor":
            expected = np.zeros_like(expected)
        # Next to a kink a difference is none of both slopes.
        near = np.isclose(gradient, expected, rtol=2e-2, atol=2e-2)
        assert near.mean() > (0.85 if name in ("clip", "maximum", "max_pool", "reduce_max", "prelu") else 0.999), name


SPLIT = """graph "g" {
  input %x : f32[1,6]
  %a, %b = split(%x) {axis=1, sizes=[2,4]} : f32[1,2], f32[1,4]
  %c = relu(%b) : f32[1,4]
  output "y" = %c
}
"""


def test_a_result_that_nobody_reads_adds_nothing() -> None:
    graph = parse_graph(SPLIT, ops.all_ops(), source="t")
    seen: dict[str, Array] = {}
    x = np.array([[1.0, 2.0, 3.0, -4.0, 5.0, -6.0]], np.float32)
    tape = Tape(graph, {"x": x})

    def on_gradient(value: Value, array: Array, after: Array, before: Array) -> None:
        seen[value.name] = after

    tape.follow({graph.outputs[0]: np.array([[1.0, 2.0, 3.0, 4.0]], np.float32)}, np.random.default_rng(0), on_gradient)
    assert seen["c"].tolist() == [[1.0, 2.0, 3.0, 4.0]]
    assert seen["b"] == pytest.approx(np.array([[1.0, 0.0, 3.0, 0.0]]), abs=1e-3)
    assert seen["a"].tolist() == [[0.0, 0.0]]


FUSED = """graph "g" {
  input %x : f32[1,3,4]
  const @w : f32[4,4] = normal(1, 0.5)
  const @b : f32[4] = normal(2, 0.5)
  %a = dense(%x, @w, @b) {activation="ACTIVATION", alpha=0.2, beta=0.6} : f32[1,3,4]
  %y = add(%a, %x) {activation="relu"} : f32[1,3,4]
  output "y" = %y
}
"""


@pytest.mark.parametrize("activation", ["relu", "clip", "leaky_relu", "hard_swish", "silu"])
def test_a_fused_activation_is_followed_at_the_sums_that_it_reads(activation: str) -> None:
    graph = parse_graph(FUSED.replace("ACTIVATION", activation), ops.all_ops(), source="t")
    x = np.random.default_rng(5).normal(0, 1, (1, 3, 4)).astype(np.float32)
    seen: dict[str, tuple[Array, Array]] = {}

    def on_gradient(value: Value, array: Array, after: Array, before: Array) -> None:
        seen[value.name] = after, before

    Tape(graph, {"x": x}).follow(
        {graph.outputs[0]: np.ones((1, 3, 4), np.float32)}, np.random.default_rng(0), on_gradient
    )
    layer = graph.nodes[0]
    weight, bias = (value.constant() for value in layer.inputs[1:])
    total = x @ weight.T + bias

    def result(sums: Array) -> Array:
        return np.maximum(activate(sums, activation, 0.2, 0.6) + x, 0.0)

    step = 1e-3
    expected = (result(total + np.float32(step)) - result(total - np.float32(step))) / (2 * step)
    assert seen["a"][1] == pytest.approx(expected, abs=1e-2)
    assert seen["a"][0] == pytest.approx(seen["y"][1], abs=1e-3)
    assert set(np.rint(seen["y"][1]).ravel()) == {0.0, 1.0}


OPEN = """graph "g" {
  symbol {name="N", least=2, most=6, places=[["x", 1]]}
  input %x : f32[1,6,4]
  const @w : f32[3,4] = normal(1, 0.5)
  const @b : f32[3] = normal(2, 0.5)
  %a = dense(%x, @w, @b) : f32[1,6,3]
  %y = reduce_mean(%a) {axes=[1]} : f32[1,1,3]
  output "y" = %y
}
"""


def test_open_extents_have_those_of_the_sample() -> None:
    graph = parse_graph(OPEN, ops.all_ops(), source="t")
    seen: dict[str, Array] = {}

    def on_gradient(value: Value, array: Array, after: Array, before: Array) -> None:
        seen[value.name] = after

    specializer = Specializer(graph)
    for length in (2, 5):
        tape = Tape(graph, {"x": np.ones((1, length, 4), np.float32)}, specializer)
        assert tape.shape(graph.outputs[0]) == (1, 1, 3)
        given = {graph.outputs[0]: np.ones((1, 1, 3), np.float32)}
        tape.follow(given, np.random.default_rng(0), on_gradient)
        assert seen["a"] == pytest.approx(np.full((1, length, 3), 1 / length))


LOOP = """graph "g" {
  input %x : f32[3,4]
  input %h : f32[1,4]
  const @w : f32[4,4] = normal(1, 0.5)
  const @b : f32[4] = normal(2, 0.5)
  const @v : f32[2,4] = normal(3, 0.5)
  const @c : f32[2] = normal(4, 0.5)
  %a = dense(%h, @w, @b) : f32[1,4]
  %t, %s = loop_begin(%a) {trips=3} : i64[], f32[1,4]
  %at = reshape(%t) {shape=[1]} : i64[1]
  %row = gather(%x, %at) : f32[1,4]
  %m = dense(%s, @w, @b) : f32[1,4]
  %new = add(%m, %row) : f32[1,4]
  %n, %last = loop_end(%t, %new) : i64[], f32[1,4]
  %y = dense(%last, @v, @c) : f32[1,2]
  output "y" = %y
}
"""


def test_the_last_iteration_of_a_loop_is_followed_and_what_it_started_from() -> None:
    graph = parse_graph(LOOP, ops.all_ops(), source="t")
    sample = {value.name: np.ones(value.shape, np.float32) for value in graph.inputs}
    seen: dict[str, tuple[Array, Array]] = {}

    def on_gradient(value: Value, array: Array, after: Array, before: Array) -> None:
        seen[value.name] = array, after

    Tape(graph, sample).follow({graph.outputs[0]: np.ones((1, 2), np.float32)}, np.random.default_rng(0), on_gradient)
    noise = {name: float(np.square(seen[name][1]).mean() * np.square(seen[name][0]).sum()) for name in seen}
    # What leaves the loop is what its last iteration made; noise keeps its ratio on the way into it.
    assert noise["new"] == pytest.approx(noise["last"])
    assert noise["a"] == pytest.approx(noise["s"])
    assert noise["s"] > 0.0


def test_a_mask_hides_no_derivative_beside_it() -> None:
    x = np.array([[0.5, -1.0, -3.4e38, 2.0]], np.float32)
    graph = parse_graph(
        'graph "g" {\n input %x : f32[1,4]\n %y = sigmoid(%x) : f32[1,4]\n output "y" = %y\n}',
        ops.all_ops(),
        source="t",
    )
    node = graph.nodes[0]
    of = Evaluated(node, [x], node.op.evaluate(node.attrs, [x]))
    found = gradients(of, [np.ones((1, 4), np.float32)], np.random.default_rng(0))[0]
    y = of.results[0]
    assert found == pytest.approx(y * (1 - y), abs=1e-3)
