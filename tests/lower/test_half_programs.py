"""Graphs of float16 tensors: each is rounded once, when it is stored, on every machine that computes in it."""

from __future__ import annotations

import numpy as np
import pytest
from graph_checks import check_emulated, check_on_this_machine, graph_of, random_inputs

from qcompile.ir.graph import Graph
from qcompile.lower import lower_graph
from qcompile.ops.interpreter import Interpreter
from qcompile.targets import load, with_float16

MOVES = """graph "moves" {
  input %x : f32[1,6,6,8]
  const @m : f16[8] = normal(5)
  const @n : f16[1,6,6,8] = normal(6)
  input %i : i64[3]
  const @table : f16[3,40] = normal(8)
  %rows = gather(@table, %i) : f16[3,40]
  %rs = cast(%rows) {dtype="float32"} : f32[3,40]
  output "rows" = %rs
  %h = cast(%x) {dtype="float16"} : f16[1,6,6,8]
  %a = add(%h, @m) : f16[1,6,6,8]
  %b = mul(%a, @n) : f16[1,6,6,8]
  %s = silu(%b) : f16[1,6,6,8]
  %c = concat(%s, %a) {axis=3} : f16[1,6,6,16]
  %t = transpose(%c) {perm=[0,3,1,2]} : f16[1,16,6,6]
  %p = pad(%c) {pads=[0,1,2,0,0,0,1,0], value=0.1} : f16[1,7,9,16]
  %q = max_pool(%p) {kernel=[3,3], strides=[2,2], pads=[1,1,1,1], layout="NHWC"} : f16[1,4,5,16]
  %v = avg_pool(%c) {kernel=[2,2], layout="NHWC"} : f16[1,5,5,16]
  %r = reshape(%t) {shape=[16,36]} : f16[16,36]
  %l = slice(%r) {starts=[1,2], steps=[2,3], sizes=[5,7]} : f16[5,7]
  %z = resize(%h) {size=[12,12], scales=[2.0,2.0], mode="linear", layout="NHWC"} : f16[1,12,12,8]
  %zs = cast(%z) {dtype="float32"} : f32[1,12,12,8]
  output "z" = %zs
  %ts = cast(%t) {dtype="float32"} : f32[1,16,6,6]
  %qs = cast(%q) {dtype="float32"} : f32[1,4,5,16]
  %vs = cast(%v) {dtype="float32"} : f32[1,5,5,16]
  %ls = cast(%l) {dtype="float32"} : f32[5,7]
  output "t" = %ts
  output "q" = %qs
  output "v" = %vs
  output "l" = %ls
}"""

LAYERS = """graph "layers" {
  input %x : f32[1,12,12,8]
  const @w : f16[24,3,3,8] = normal(1, 0.1)
  const @d : f16[24,3,3,1] = normal(2, 0.3)
  const @p : f16[8,1,1,24] = normal(3, 0.2)
  const @g : f16[5,8] = normal(4, 0.3)
  const @b : f32[24] = normal(5)
  const @c : f32[8] = normal(6)
  const @e : f32[5] = normal(7)
  %h = cast(%x) {dtype="float16"} : f16[1,12,12,8]
  %y = conv2d(%h, @w, @b) {pads=[1,1,1,1], layout="NHWC", activation="gelu"} : f16[1,12,12,24]
  %z = conv2d(%y, @d, @b) {pads=[1,1,1,1], groups=24, layout="NHWC", activation="relu"} : f16[1,12,12,24]
  %u = conv2d(%z, @p, @c, %h) {layout="NHWC", residual=true} : f16[1,12,12,8]
  %m = global_avg_pool(%u) {layout="NHWC"} : f16[1,1,1,8]
  %f = reshape(%m) {shape=[1,8]} : f16[1,8]
  %o = dense(%f, @g, @e) : f16[1,5]
  %us = cast(%u) {dtype="float32"} : f32[1,12,12,8]
  %os = cast(%o) {dtype="float32"} : f32[1,5]
  output "u" = %us
  output "o" = %os
}"""

# Elementwise code does the same float32 operations as the interpreter, so it rounds to the same float16 number but
# for ties that the last bit of a float32 decides; layers sum in another order.
TOLERANCES = {"moves": 1e-3, "layers": 1e-2}


def graphs() -> dict[str, Graph]:
    return {"moves": graph_of(MOVES), "layers": graph_of(LAYERS)}


@pytest.mark.parametrize("name", list(TOLERANCES))
def test_on_this_machine(name: str) -> None:
    check_on_this_machine(graphs()[name], with_float16(load("x86-64-v4-amx")), "avx512_fp16", TOLERANCES[name])


@pytest.mark.arm
@pytest.mark.parametrize("name", list(TOLERANCES))
def test_on_an_emulated_core(name: str) -> None:
    check_emulated(graphs()[name], with_float16(load("rpi5")), TOLERANCES[name])


def test_tensors_take_half_the_memory() -> None:
    target = with_float16(load("rpi5"))
    plain = LAYERS.replace("gelu", "relu")
    whole = graph_of(plain.replace("f16", "f32").replace("float16", "float32"))
    half, real = (lower_graph(graph, target, jobs=1) for graph in (graph_of(plain), whole))
    assert half.arena_bytes < 0.72 * real.arena_bytes
    assert len(half.weights) < 0.75 * len(real.weights)
    assert {step.precision for step in half.steps if step.op == "conv2d"} == {"float16"}


def test_the_interpreter_rounds_each_tensor_once() -> None:
    graph = graph_of(MOVES)
    seen: dict[str, np.ndarray] = {}
    Interpreter(graph).run(random_inputs(graph), on_value=lambda value, array: seen.update({value.name: array}))
    a, n = seen["a"].astype(np.float32), graph.nodes[4].inputs[1].constant().astype(np.float32)
    np.testing.assert_array_equal(seen["b"], (a * n).astype(np.float16))
    assert seen["b"].dtype == np.float16
