from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from qcompile import ops
from qcompile.errors import InternalError
from qcompile.ir.graph import Graph, Node, Value
from qcompile.ir.parser import parse_graph
from qcompile.ir.types import TensorType
from qcompile.ir.verify import verify
from qcompile.quant.qparams import QParams

FLOAT = """graph "g" {
  input %x : f32[1,4,4,4]
  const @w : f32[4,4,1,1] = normal(1)
  const @b : f32[4] = normal(2)
  %c = conv2d(%x, @w, @b) : f32[1,4,4,4]
  %r = relu(%c) : f32[1,4,4,4]
  %y = add(%r, %c) : f32[1,4,4,4]
  output "y" = %y
}"""

INTEGER = """graph "g" {
  input %x : i8[1,4,4,4] q(scale=0.5, zp=3)
  const @w : i8[4,4,1,1] = normal(1, 40) q(scale=[0.1, 0.2, 0.3, 0.4], axis=0)
  const @b : i32[4] = normal(2, 1000) q(scale=[0.05, 0.1, 0.15, 0.2], axis=0, dtype=int32)
  %c = conv2d(%x, @w, @b) : i8[1,4,4,4] q(scale=2.0)
  %m = max_pool(%c) {kernel=[2, 2]} : i8[1,4,3,3] q(scale=2.0)
  output "m" = %m
}"""


def graph_of(text: str) -> Graph:
    return parse_graph(text, ops.all_ops())


def node(graph: Graph, op: str) -> Node:
    return next(n for n in graph.nodes if n.op.name == op)


@pytest.mark.parametrize("text", [FLOAT, INTEGER])
def test_well_formed(text: str) -> None:
    verify(graph_of(text))


def same_name(graph: Graph) -> None:
    node(graph, "relu").output.name = "c"


def wrong_order(graph: Graph) -> None:
    graph.nodes.reverse()


def operand_of_another_graph(graph: Graph) -> None:
    graph.nodes.remove(node(graph, "conv2d"))


def forgotten_use(graph: Graph) -> None:
    graph.inputs[0].uses.clear()


def invented_use(graph: Graph) -> None:
    graph.inputs[0].uses.append((node(graph, "add"), 0))


def use_by_an_erased_node(graph: Graph) -> None:
    relu = node(graph, "relu")
    relu.inputs[0].uses.append((Node(relu.op, [relu.inputs[0]], [Value("z", relu.output.type)], relu.attrs), 0))


def use_of_an_operand_that_is_not_there(graph: Graph) -> None:
    graph.inputs[0].uses.append((node(graph, "relu"), 5))


def wrong_producer(graph: Graph) -> None:
    node(graph, "relu").output.producer = node(graph, "add")


def result_defined_twice(graph: Graph) -> None:
    relu = node(graph, "relu")
    relu.outputs = (relu.output, relu.output)


def wrong_shape(graph: Graph) -> None:
    node(graph, "relu").output.type = TensorType("float32", (1, 4, 4, 5))


def wrong_element_type(graph: Graph) -> None:
    node(graph, "relu").output.type = TensorType("float64", (1, 4, 4, 4))


def operands_that_do_not_fit(graph: Graph) -> None:
    conv = node(graph, "conv2d")
    conv.attrs = replace(conv.attrs, groups=2)


def data_of_another_shape(graph: Graph) -> None:
    weight = node(graph, "conv2d").inputs[1]
    weight.data = np.zeros((4, 4), np.float32)


def data_of_another_type(graph: Graph) -> None:
    weight = node(graph, "conv2d").inputs[1]
    weight.data = weight.constant().astype(np.float64)


def output_not_computed(graph: Graph) -> None:
    graph.outputs = [Value("stray", TensorType("float32", (1,)))]


def output_without_a_name(graph: Graph) -> None:
    graph.output_names = []


def outputs_of_the_same_name(graph: Graph) -> None:
    graph.outputs *= 2
    graph.output_names = ["y", "y"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (same_name, "two values are named c"),
        (wrong_order, r"add y: operand 0 .r. is not computed before it is read"),
        (operand_of_another_graph, r"relu r: operand 0 .c. is not computed before it is read"),
        (forgotten_use, "conv2d c: x does not list operand 0 among its uses"),
        (invented_use, "x lists a use by add y that does not exist"),
        (use_by_an_erased_node, "c lists a use by relu z that does not exist"),
        (use_of_an_operand_that_is_not_there, "x lists a use by relu r that does not exist"),
        (wrong_producer, "relu r: r names add y as its producer"),
        (result_defined_twice, "relu r: r is defined twice"),
        (wrong_shape, r"results are f32\[1,4,4,5\], the operation gives f32\[1,4,4,4\]"),
        (wrong_element_type, r"results are f64\[1,4,4,4\]"),
        (operands_that_do_not_fit, "conv2d c: weight .* does not fit 4 channels in 2 groups"),
        (data_of_another_shape, r"constant w is f32\[4,4,1,1\], its data are float32 \[4, 4\]"),
        (data_of_another_type, r"constant w is f32\[4,4,1,1\], its data are float64"),
        (output_not_computed, "graph output stray is not computed"),
        (output_without_a_name, "are not named one by one"),
        (outputs_of_the_same_name, "are not named one by one"),
    ],
)
def test_broken_float_graphs(damage: Callable[[Graph], None], message: str) -> None:
    graph = graph_of(FLOAT)
    damage(graph)
    with pytest.raises(InternalError, match=message):
        verify(graph)


def qparams_of_another_type(graph: Graph) -> None:
    graph.inputs[0].qparams = QParams((0.5,), (3,), "int16", -128, 127)


def too_few_scales(graph: Graph) -> None:
    node(graph, "conv2d").inputs[1].qparams = QParams((0.1, 0.2), axis=0)


def an_axis_that_is_not_there(graph: Graph) -> None:
    node(graph, "conv2d").inputs[1].qparams = QParams((0.1, 0.2), axis=7)


def another_grid_behind_a_pool(graph: Graph) -> None:
    node(graph, "max_pool").output.qparams = QParams((1.0,))


def no_grid_behind_a_pool(graph: Graph) -> None:
    node(graph, "max_pool").output.qparams = None


def accumulator_overflow(graph: Graph) -> None:
    conv = node(graph, "conv2d")
    bias = graph.add_constant("huge", np.full(4, 2**31 - 1, np.int32))
    bias.qparams = conv.inputs[2].qparams
    conv.inputs[2].uses.clear()
    conv.inputs = (*conv.inputs[:2], bias)
    bias.uses.append((conv, 2))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (qparams_of_another_type, "x is int8, its QParams say int16"),
        (too_few_scales, "w has 2 scales on an axis of 4"),
        (an_axis_that_is_not_there, "w has 2 scales on axis 7, which does not exist"),
        (another_grid_behind_a_pool, "m must have the QParams of c"),
        (no_grid_behind_a_pool, "m must have the QParams of c"),
        (accumulator_overflow, "beyond int32"),
    ],
)
def test_broken_integer_graphs(damage: Callable[[Graph], None], message: str) -> None:
    graph = graph_of(INTEGER)
    damage(graph)
    with pytest.raises(InternalError, match=message):
        verify(graph)


def test_clamps_may_differ_behind_an_operation_that_moves_elements() -> None:
    graph = graph_of(INTEGER)
    pool = node(graph, "max_pool")
    assert pool.output.qparams is not None
    pool.output.qparams = replace(pool.output.qparams, qmin=-10, qmax=10)
    verify(graph)
