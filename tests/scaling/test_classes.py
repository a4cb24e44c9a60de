"""Which channels must be scaled alike."""

from __future__ import annotations

from qcompile import ops
from qcompile.ir.graph import Graph
from qcompile.ir.parser import parse_graph
from qcompile.scaling.classes import ScaleClasses

HEAD = """graph "g" {
  input %x : f32[1,4,4,4]
  const @w : f32[4,1,1,4] = normal(1, 0.5)
  const @v : f32[4,1,1,4] = normal(2, 0.5)
  const @b : f32[4] = [0.0, 0.0, 0.0, 0.0]
  %a = conv2d(%x, @w, @b) {layout="NHWC", activation="relu"} : f32[1,4,4,4]
"""


def graph_of(body: str) -> Graph:
    return parse_graph(HEAD + body + "}\n", ops.all_ops(), source="test")


def roots(classes: ScaleClasses, graph: Graph, name: str) -> list[int]:
    value = next(value for value in graph.values() if value.name == name)
    return [classes.root(int(n)) for n in classes.numbers[value].ravel()]


def is_free(classes: ScaleClasses, graph: Graph, name: str) -> bool:
    return not classes.frozen & set(roots(classes, graph, name))


def test_shuffled_channels_keep_their_numbers() -> None:
    graph = graph_of("""  %r = reshape(%a) {shape=[1,4,4,2,2]} : f32[1,4,4,2,2]
  %t = transpose(%r) {perm=[0,1,2,4,3]} : f32[1,4,4,2,2]
  %s = reshape(%t) {shape=[1,4,4,4]} : f32[1,4,4,4]
  %y = conv2d(%s, @v, @b) {layout="NHWC"} : f32[1,4,4,4]
  output "y" = %y
""")
    classes = ScaleClasses(graph)
    a, b, c, d = roots(classes, graph, "a")
    assert roots(classes, graph, "s") == [a, c, b, d]
    assert is_free(classes, graph, "a")


ADDED = """  const @u : f32[4,1,1,4] = normal(3, 0.5)
  %c = conv2d(%a, @v, @b) {layout="NHWC"} : f32[1,4,4,4]
  %s = add(%a, %c) : f32[1,4,4,4]
  %m = global_avg_pool(%s) {layout="NHWC"} : f32[1,1,1,4]
  %t = sub(%s, %m) : f32[1,4,4,4]
  %y = conv2d(%t, @u, @b) {layout="NHWC"} : f32[1,4,4,4]
  output "y" = %y
"""


def test_added_tensors_share_their_classes_by_channel() -> None:
    graph = graph_of(ADDED)
    classes = ScaleClasses(graph)
    assert roots(classes, graph, "a") == roots(classes, graph, "c") == roots(classes, graph, "t")
    assert len(set(roots(classes, graph, "a"))) == 4
    assert is_free(classes, graph, "a")


def test_layers_that_share_their_weights_stay() -> None:
    graph = graph_of(ADDED.replace("@u, @b", "@v, @b"))
    assert not is_free(ScaleClasses(graph), graph, "a")


def test_parts_of_a_concatenation_stay_apart() -> None:
    graph = graph_of("""  %l, %r = split(%a) {axis=3, sizes=[1,3]} : f32[1,4,4,1], f32[1,4,4,3]
  %c = concat(%r, %l) {axis=3} : f32[1,4,4,4]
  %d = slice(%c) {starts=[0,0,0,3], steps=[1,1,1,-2], sizes=[1,4,4,2]} : f32[1,4,4,2]
  %e = concat(%d, %d) {axis=3} : f32[1,4,4,4]
  %y = conv2d(%e, @v, @b) {layout="NHWC"} : f32[1,4,4,4]
  output "y" = %y
""")
    classes = ScaleClasses(graph)
    a, b, _, d = roots(classes, graph, "a")
    assert roots(classes, graph, "d") == [a, b + 1]
    assert roots(classes, graph, "e") == [a, b + 1, a, b + 1]
    assert d == b + 2


def test_places_of_an_image_that_become_channels_are_one_class_for_a_convolution_behind() -> None:
    graph = graph_of("""  %r = reshape(%a) {shape=[1,8,8,1]} : f32[1,8,8,1]
  %q = reshape(%r) {shape=[1,4,4,4]} : f32[1,4,4,4]
  %m = max_pool(%r) {kernel=[2,2], strides=[2,2], layout="NHWC"} : f32[1,4,4,1]
  %z = reshape(%m) {shape=[1,2,2,4]} : f32[1,2,2,4]
  %y = conv2d(%z, @v, @b) {layout="NHWC"} : f32[1,2,2,4]
  output "y" = %y
  output "q" = %q
""")
    classes = ScaleClasses(graph)
    # The pooling mixes neighbours, which are channels of %a.
    assert len(set(roots(classes, graph, "a"))) == 1
    assert not is_free(classes, graph, "a")


def test_a_gate_stays_and_what_it_multiplies_may_change() -> None:
    graph = graph_of("""  %p = global_avg_pool(%a) {layout="NHWC"} : f32[1,1,1,4]
  %g = sigmoid(%p) : f32[1,1,1,4]
  %m = mul(%a, %g) : f32[1,4,4,4]
  %y = conv2d(%m, @v, @b) {layout="NHWC"} : f32[1,4,4,4]
  output "y" = %y
""")
    classes = ScaleClasses(graph)
    assert not is_free(classes, graph, "a")  # The sigmoid reads the average of it.
    graph = graph_of("""  %p = global_avg_pool(%x) {layout="NHWC"} : f32[1,1,1,4]
  %g = sigmoid(%p) : f32[1,1,1,4]
  %m = mul(%a, %g) : f32[1,4,4,4]
  %y = conv2d(%m, @v, @b) {layout="NHWC"} : f32[1,4,4,4]
  output "y" = %y
""")
    classes = ScaleClasses(graph)
    assert is_free(classes, graph, "a")
    assert is_free(classes, graph, "m")
    assert not is_free(classes, graph, "g")


def test_a_constant_beside_a_tensor_is_divided_with_it() -> None:
    graph = graph_of("""  const @k : f32[4] = [1.0, 2.0, 3.0, 4.0]
  %s = add(@k, %a) : f32[1,4,4,4]
  %y = conv2d(%s, @v, @b) {layout="NHWC"} : f32[1,4,4,4]
  output "y" = %y
""")
    classes = ScaleClasses(graph)
    (constant,) = classes.constants
    assert constant.operand == 0
    assert constant.numbers.ravel().tolist() == [int(n) for n in classes.numbers[graph.nodes[0].output].ravel()]


def test_graph_inputs_outputs_and_padding_with_other_than_zero_stay() -> None:
    graph = graph_of("""  %p = pad(%a) {pads=[0,1,1,0,0,1,1,0], value=1.0} : f32[1,6,6,4]
  %y = conv2d(%p, @v, @b) {layout="NHWC"} : f32[1,6,6,4]
  output "y" = %y
""")
    classes = ScaleClasses(graph)
    assert all(not is_free(classes, graph, name) for name in ("x", "a", "p", "y"))
