"""What lowering makes of a graph: few steps, the same bytes every time, clear refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from graph_checks import check, graph_of, graph_texts
from program_execution import Executable

from qcompile import ops, targets
from qcompile.errors import LoweringError
from qcompile.ir import Graph, OpDef, TensorType
from qcompile.lower import lower_graph
from qcompile.lower.arena import plan_arena
from qcompile.lower.lowering import generate
from qcompile.targets import Target

RPI5 = targets.load("rpi5")
VNNI = targets.load("x86-64-v4-vnni")


def steps(text: str, target: Target = RPI5) -> list[str]:
    return [step.op for step in generate(graph_of(text), target).steps]


IMAGE = """
graph "image" {
  input %image : f32[1,3,64,64]
  const @w : i8[8,3,3,3] = normal(1, 40) q(scale=0.02)
  const @b : i32[8] = normal(2, 300)
  %q = quantize(%image) : i8[1,3,64,64] q(scale=0.02, zp=-5)
  %t = transpose(%q) {perm=[0,2,3,1]} : i8[1,64,64,3] q(scale=0.02, zp=-5)
  %c = conv2d(%t, @w, @b) {pads=[1,1,1,1], layout="NHWC"} : i8[1,64,64,8] q(scale=0.1)
  %d = dequantize(%c) : f32[1,64,64,8]
  %n = transpose(%d) {perm=[0,3,1,2]} : f32[1,8,64,64]
  output "y" = %n
}
"""


def test_an_image_is_quantized_and_turned_in_one_step() -> None:
    assert steps(IMAGE) == ["transpose", "conv2d", "transpose"]


def test_chains_of_elementwise_operations_are_one_loop() -> None:
    text = """
    graph "chain" {
      input %x : f32[4,100]
      const @s : f32[100] = normal(1)
      %a = mul(%x, @s) : f32[4,100]
      %b = add(%a, @s) : f32[4,100]
      %c = sigmoid(%b) : f32[4,100]
      %d = exp(%c) : f32[4,100]
      output "y" = %d
    }
    """
    assert steps(text) == ["exp"]


def test_a_chain_of_hundreds_of_operations_is_cut_where_code_can_be_made_of_it(machine: Target) -> None:
    """Code of an expression is made by recursion; unrolled iterations make expressions of any depth."""
    lines, last = ["input %x : f32[4,16]", "const @s : f32[16] = normal(1)"], "x"
    for n in range(400):
        operation = f"sin(%{last})" if n % 2 else f"add(%{last}, @s)"
        lines, last = [*lines, f"%a{n} = {operation} : f32[4,16]"], f"a{n}"
    text = "\n".join(['graph "chain" {', *lines, f'output "y" = %{last}', "}"])
    assert 1 < len(steps(text)) < 10
    check(graph_of(text), machine)


def test_a_costly_result_with_two_readers_is_computed_once() -> None:
    text = """
    graph "fork" {
      input %x : f32[4,100]
      %a = sigmoid(%x) : f32[4,100]
      %b = neg(%a) : f32[4,100]
      %c = exp(%a) : f32[4,100]
      output "b" = %b
      output "c" = %c
    }
    """
    assert steps(text) == ["sigmoid", "neg", "exp"]


def test_a_costly_operand_is_not_computed_again_for_every_tap() -> None:
    text = """
    graph "pool" {
      input %x : f32[1,16,16,8]
      %a = tanh(%x) : f32[1,16,16,8]
      %p = max_pool(%a) {kernel=[3,3], layout="NHWC"} : f32[1,14,14,8]
      output "y" = %p
    }
    """
    assert steps(text) == ["tanh", "max_pool"]


def test_parts_of_a_concat_are_computed_in_their_place() -> None:
    text = """
    graph "concat" {
      input %x : f32[4,100]
      input %y : f32[4,50]
      %a = sigmoid(%x) : f32[4,100]
      %b = tanh(%y) : f32[4,50]
      %c = concat(%a, %b) {axis=1} : f32[4,150]
      output "y" = %c
    }
    """
    assert steps(text) == ["concat", "concat"]


def test_a_reshape_costs_nothing_and_outputs_are_written_directly() -> None:
    text = """
    graph "alias" {
      input %x : f32[4,100]
      %s = softmax(%x) : f32[4,100]
      %r = reshape(%s) {shape=[2,200]} : f32[2,200]
      %e = exp(%r) : f32[2,200]
      output "y" = %e
    }
    """
    program = lower_graph(graph_of(text), VNNI)
    assert [step.op for step in program.steps] == ["softmax", "exp"]
    assert program.steps[0].args[0].space == "input"
    assert program.steps[1].args[-1].space == "output"
    assert program.arena_bytes == 4 * 100 * 4 + 64


def test_operands_that_a_kernel_reads_past_are_copied_first() -> None:
    """A convolution may read past its operand's end; the caller's memory does not allow that."""
    context = generate(graph_of(graph_texts("layers")["layers"]), VNNI)
    for step in context.steps:
        if step.op in ("conv2d", "dense"):
            assert step.args[0] is not None
            assert step.args[0].space == "arena"


def test_the_plan_is_close_to_the_lower_bound(machine: Target) -> None:
    plan = plan_arena(generate(graph_of(IMAGE), machine).steps)
    assert plan.size == plan.lower_bound


def test_outputs_may_be_inputs_constants_and_each_other(machine: Target) -> None:
    text = """
    graph "same" {
      input %x : f32[3,5]
      input %q : i8[3,5] q(scale=0.1)
      const @c : f32[4] = normal(1)
      %y = neg(%x) : f32[3,5]
      %r = reshape(%x) {shape=[15]} : f32[15]
      %s = reshape(%y) {shape=[15]} : f32[15]
      output "x" = %x
      output "q" = %q
      output "c" = @c
      output "y" = %y
      output "again" = %y
      output "r" = %r
      output "s" = %s
    }
    """
    check(graph_of(text), machine)


def test_a_copied_input_does_not_disturb_who_reads_the_original(machine: Target) -> None:
    """The table wants its own copy of x while a sum that reads the caller's x is still waiting to be emitted."""
    text = """
    graph "copy" {
      input %x : i8[2,3,4,8] q(scale=0.05)
      %s = add(%x, %x) : i8[2,3,4,8] q(scale=0.05)
      %t = relu(%x) : i8[2,3,4,8] q(scale=0.05)
      %r = reshape(%s) {shape=[2,3,32]} : i8[2,3,32] q(scale=0.05)
      output "t" = %t
      output "r" = %r
    }
    """
    check(graph_of(text), machine)


def test_the_result_depends_on_neither_threads_nor_history() -> None:
    text = graph_texts("integer_layers")["integer_layers"]
    first = lower_graph(graph_of(text), RPI5, jobs=1)
    lower_graph(graph_of(IMAGE), VNNI, jobs=1)
    assert lower_graph(graph_of(text), RPI5, jobs=3) == first


def test_progress_ends_at_the_total() -> None:
    seen: list[tuple[int, int, str]] = []
    lower_graph(graph_of(IMAGE), RPI5, progress=lambda *event: seen.append(event))
    assert seen[-1] == (3, 3, "compiling kernels")


def test_tensor_descriptions() -> None:
    program = lower_graph(graph_of(IMAGE), RPI5)
    assert program.inputs[0].layout == program.outputs[0].layout == "NCHW"
    quantized = lower_graph(graph_of(graph_texts("integer_windows")["integer_windows"]), RPI5).inputs[0]
    assert (quantized.dtype, quantized.scale, quantized.zero_point) == ("int8", np.float32(0.05), -20)


class Unlowered(OpDef):
    """y = x, without code."""

    name = "unlowered"

    def infer(self, attrs: Any, inputs: Any) -> tuple[TensorType, ...]:
        return (inputs[0],)


def test_an_operation_without_code_is_refused_by_name() -> None:
    graph = Graph("g")
    x = graph.add_input("x", TensorType("float32", (3,)))
    graph.set_outputs([graph.add_node(Unlowered(), [x], loc="Node_7").output])
    with pytest.raises(LoweringError, match=r"target 'rpi5' has no kernel for 'unlowered' \(node Node_7\)"):
        lower_graph(graph, RPI5)


def test_channels_first_convolutions_are_refused() -> None:
    text = """
    graph "g" {
      input %x : f32[1,3,8,8]
      const @w : f32[4,3,3,3] = normal(1)
      const @b : f32[4] = normal(2)
      %y = conv2d(%x, @w, @b) : f32[1,4,6,6] loc("Conv_0")
      output "y" = %y
    }
    """
    with pytest.raises(LoweringError, match=r"Conv_0.*NCHW") as caught:
        lower_graph(graph_of(text), RPI5)
    assert caught.value.hint is not None
    assert "to-nhwc" in caught.value.hint


def test_real_layers_that_divide_their_channels_are_refused() -> None:
    text = """
    graph "g" {
      input %x : f32[4,3]
      const @w : f32[2,3] = normal(1)
      const @b : f32[2] = normal(2)
      %y = dense(%x, @w, @b) {activation="channel_hard_swish", divisors=[1.0, 2.0]} : f32[4,2] loc("Gemm_0")
      output "y" = %y
    }
    """
    with pytest.raises(LoweringError, match=r"Gemm_0.*no code for channel_hard_swish of real numbers") as caught:
        lower_graph(graph_of(text), RPI5)
    assert caught.value.hint is not None
    assert "quantize" in caught.value.hint


def test_weights_computed_at_run_time_are_refused() -> None:
    text = """
    graph "g" {
      input %x : f32[1,8,8,3]
      input %w : f32[4,3,3,3]
      const @b : f32[4] = normal(2)
      %y = conv2d(%x, %w, @b) {layout="NHWC"} : f32[1,6,6,4] loc("Conv_0")
      output "y" = %y
    }
    """
    with pytest.raises(LoweringError, match=r"Conv_0.*weights \(w\) are computed at run time"):
        lower_graph(graph_of(text), RPI5)


def test_a_zero_point_per_channel_is_refused() -> None:
    text = """
    graph "g" {
      input %x : i8[4,2] q(scale=[0.1, 0.2], zp=[1, 2], axis=1)
      %y = dequantize(%x) : f32[4,2] loc("Dequantize_0")
      output "y" = %y
    }
    """
    with pytest.raises(LoweringError, match="zero point"):
        lower_graph(graph_of(text), RPI5)


def test_float_activations_without_an_epilogue_become_steps(machine: Target) -> None:
    text = """
    graph "g" {
      input %x : f32[1,8,8,3]
      const @w : f32[4,3,3,3] = normal(1)
      const @b : f32[4] = normal(2)
      %y = conv2d(%x, @w, @b) {activation="gelu", layout="NHWC"} : f32[1,6,6,4]
      output "y" = %y
    }
    """
    graph = graph_of(text)
    assert [step.op for step in lower_graph(graph, machine).steps][-2:] == ["conv2d", "gelu"]
    check(graph, machine)


def test_every_registered_operation_has_code() -> None:
    assert all(type(op).lower is not OpDef.lower for op in ops.all_ops().values())


def test_empty_tensors_need_no_step(machine: Target) -> None:
    text = """
    graph "empty" {
      input %x : f32[0,5]
      input %z : f32[3,5]
      %y = exp(%x) : f32[0,5]
      %c = concat(%y, %z) {axis=0} : f32[3,5]
      output "c" = %c
      output "y" = %y
    }
    """
    graph = graph_of(text)
    inputs = {"x": np.zeros((0, 5), np.float32), "z": np.ones((3, 5), np.float32)}
    got = Executable(lower_graph(graph, machine)).run(inputs)
    np.testing.assert_array_equal(got["c"], inputs["z"])
    assert got["y"].shape == (0, 5)
