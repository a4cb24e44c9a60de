from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from random_graphs import graphs

from qcompile import ops
from qcompile.errors import InternalError
from qcompile.ir.graph import Graph, Value
from qcompile.ir.parser import parse_graph
from qcompile.ir.rewrite import Rewriter
from qcompile.ir.types import TensorType
from qcompile.ir.verify import verify
from qcompile.quant.qparams import QParams, QSpec

TEXT = """graph "g" {
  input %x : f32[2,4]
  const @k : f32[4] = [1.0, 2.0, 3.0, 4.0]
  %a = relu(%x) : f32[2,4] loc("Relu_0")
  %b = mul(%a, @k) : f32[2,4] loc("Mul_1")
  %c = add(%b, %a) : f32[2,4] loc("Add_2")
  %p, %q = split(%c) {axis=1, sizes=[2, 2]} : f32[2,2], f32[2,2] loc("Split_3")
  output "p" = %p
  output "c" = %c
}"""


@pytest.fixture
def graph() -> Graph:
    return parse_graph(TEXT, ops.all_ops())


def values(graph: Graph) -> dict[str, Value]:
    return {v.name: v for v in graph.values()}


# -- values and graphs -----------------------------------------------------------------------------------------


def test_constants_are_read_only_copies() -> None:
    data = np.zeros((2, 3), np.float32)
    value = Graph().add_constant("c", data)
    data[0, 0] = 1
    assert value.constant()[0, 0] == 0
    with pytest.raises(ValueError, match="read-only"):
        value.constant()[0, 0] = 1
    assert value.constant().T.base is not None
    assert Graph().add_constant("t", value.constant().T).constant().flags.c_contiguous


def test_a_constants_type_must_be_that_of_its_contents() -> None:
    with pytest.raises(InternalError, match="its type says"):
        Value("c", TensorType("float32", (3,)), np.zeros(2, np.float32))


def test_what_is_no_constant(graph: Graph) -> None:
    with pytest.raises(InternalError, match="x is not a constant"):
        graph.inputs[0].constant()
    with pytest.raises(InternalError, match="has 2 results"):
        _ = graph.nodes[3].output


def test_types() -> None:
    t = TensorType("int16", (2, 3))
    assert (t.rank, t.size, t.nbytes, str(t)) == (2, 6, 12, "i16[2,3]")
    assert t.with_dtype("bool").nbytes == 6
    assert TensorType("float32", ()).size == 1
    with pytest.raises(ValueError, match="unknown element type"):
        TensorType("complex64", ())
    with pytest.raises(ValueError, match="negative extent"):
        TensorType("int8", (-1,))


def test_names_are_unique() -> None:
    graph = Graph()
    assert [graph.add_input("x", TensorType("int8", ())).name for _ in range(3)] == ["x", "x.1", "x.2"]
    assert graph.add_input("x.1", TensorType("int8", ())).name == "x.1.1"


def test_users_and_values(graph: Graph) -> None:
    by_name = values(graph)
    assert [n.loc for n in by_name["a"].users()] == ["Mul_1", "Add_2"]
    assert by_name["a"].uses == [(graph.nodes[1], 0), (graph.nodes[2], 1)]
    assert list(by_name) == ["x", "k", "a", "b", "c", "p", "q"]
    assert [v.name for v in graph.constants()] == ["k"]


def test_add_node_refuses_what_the_operation_refuses(graph: Graph) -> None:
    x = graph.inputs[0]
    with pytest.raises(ValueError, match="do not broadcast"):
        graph.add_node(ops.get("add"), [x, graph.add_constant("k3", np.zeros(3, np.float32))])
    verify(graph)


# -- structural hash -------------------------------------------------------------------------------------------


def test_names_and_locations_do_not_matter(graph: Graph) -> None:
    text = TEXT.replace("%a", "%other").replace("Relu_0", "").replace("@k", "@j").replace('"g"', '"h"')
    assert parse_graph(text, ops.all_ops()).structural_hash() == graph.structural_hash()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("[1.0, 2.0, 3.0, 4.0]", "[1.0, 2.0, 3.0, 4.5]"),
        ("relu", "sigmoid"),
        ("add(%b, %a)", "add(%a, %b)"),
        ("sizes=[2, 2]} : f32[2,2], f32[2,2]", "sizes=[1, 3]} : f32[2,1], f32[2,3]"),
        ('"p" = %p', '"p" = %q'),
        ('output "p"', 'output "other"'),
        ("input %x : f32[2,4]", "input %x : f32[2,4] spec()"),
        ('loc("Relu_0")', 'precision(int8) loc("Relu_0")'),
    ],
)
def test_everything_that_decides_the_result_matters(graph: Graph, old: str, new: str) -> None:
    assert old in TEXT
    assert parse_graph(TEXT.replace(old, new), ops.all_ops()).structural_hash() != graph.structural_hash()


def test_quantization_matters(graph: Graph) -> None:
    seen = {graph.structural_hash()}
    value = values(graph)["a"]
    for change in (QParams((0.5,)), QParams((0.5,), (1,)), QParams((0.5,), qmin=0)):
        value.qparams = change
        seen.add(graph.structural_hash())
    value.qparams, value.qspec = None, QSpec(observer="mse")
    seen.add(graph.structural_hash())
    assert len(seen) == 5


def test_equal_constants_of_other_types_differ() -> None:
    hashes = set()
    for dtype, shape in (("float32", (4,)), ("int32", (4,)), ("float32", (2, 2))):
        graph = Graph()
        graph.set_outputs([graph.add_constant("c", np.zeros(shape, dtype))], ["c"])
        hashes.add(graph.structural_hash())
    assert len(hashes) == 3


# -- networkx --------------------------------------------------------------------------------------------------


def test_networkx_view(graph: Graph) -> None:
    view = graph.to_networkx()
    assert list(view.nodes) == graph.nodes
    relu, mul, add, split = graph.nodes
    edges = {(u, v, d["value"].name, d["operand"]) for u, v, d in view.edges(data=True)}
    assert edges == {(relu, mul, "a", 0), (mul, add, "b", 0), (relu, add, "a", 1), (add, split, "c", 0)}
    assert nx.is_directed_acyclic_graph(view)
    assert nx.immediate_dominators(nx.DiGraph(view), relu)[add] is relu


def test_an_operand_read_twice_is_two_edges() -> None:
    text = 'graph "g" { input %x : f32[2] %a = relu(%x) : f32[2] %y = mul(%a, %a) : f32[2] output "y" = %y }'
    view = parse_graph(text, ops.all_ops()).to_networkx()
    assert view.number_of_edges() == 2


# -- rewriter --------------------------------------------------------------------------------------------------


def test_insert(graph: Graph) -> None:
    edit = Rewriter(graph)
    add = graph.nodes[2]
    node = edit.insert(add, ops.get("tanh"), [values(graph)["b"]], name="t", loc="new")
    edit.set_operand(add, 0, node.output)
    verify(graph)
    assert [n.op.name for n in graph.nodes] == ["relu", "mul", "tanh", "add", "split"]
    assert [n.op.name for n in values(graph)["b"].users()] == ["tanh"]


def test_replace_value_reaches_readers_and_outputs(graph: Graph) -> None:
    edit = Rewriter(graph)
    c = values(graph)["c"]
    node = edit.insert(graph.nodes[3], ops.get("neg"), [c], name="n")
    edit.replace_value(c, node.output, except_in=node)
    verify(graph)
    assert [v.name for v in graph.outputs] == ["p", "n"]
    assert graph.output_names == ["p", "c"]
    assert c.uses == [(node, 0)]


def test_replace_node(graph: Graph) -> None:
    edit = Rewriter(graph)
    edit.replace_node(graph.nodes[1], [values(graph)["a"]])
    verify(graph)
    assert [n.op.name for n in graph.nodes] == ["relu", "add", "split"]
    with pytest.raises(InternalError, match="1 replacements for the 2 results"):
        edit.replace_node(graph.nodes[2], [graph.inputs[0]])


def test_replace_op_keeps_name_notes_and_place(graph: Graph) -> None:
    edit = Rewriter(graph)
    old = graph.nodes[1]
    old.precision = "int8"
    old.output.stats = (np.zeros(4, np.float32), np.ones(4, np.float32))
    new = edit.replace_op(old, ops.get("add"), old.inputs)
    verify(graph)
    assert (new.output.name, new.loc, new.precision) == ("b", "Mul_1", "int8")
    assert new.output.stats is old.output.stats
    assert graph.nodes[1] is new
    with pytest.raises(InternalError, match=r"transpose gives f32\[4,2\] in place of"):
        edit.replace_op(new, ops.get("transpose"), [graph.inputs[0]], ops.get("transpose").Attrs(perm=(1, 0)))


def test_absorb() -> None:
    text = """graph "g" {
      input %x : f32[2]
      %a = add(%x, %x) : f32[2] loc("Add_0")
      %r = relu(%a) : f32[2] loc("Relu_1")
      output "r" = %r
    }"""
    graph = parse_graph(text, ops.all_ops())
    add, relu = graph.nodes
    add.output.stats = (np.zeros(2, np.float32), np.ones(2, np.float32))
    edit = Rewriter(graph)
    edit.set_attrs(add, activation="relu")
    edit.absorb(add, relu)
    verify(graph)
    assert graph.nodes == [add]
    assert (add.output.name, add.loc, add.output.stats is not None) == ("r", "Add_0", True)
    assert graph.outputs == [add.output]


def test_erase_refuses_what_is_read(graph: Graph) -> None:
    edit = Rewriter(graph)
    with pytest.raises(InternalError, match="a is still read"):
        edit.erase(graph.nodes[0])
    with pytest.raises(InternalError, match="p is still read"):
        edit.erase(graph.nodes[3])


def test_eliminate_dead(graph: Graph) -> None:
    edit = Rewriter(graph)
    graph.set_outputs([values(graph)["b"]], ["b"])
    assert edit.eliminate_dead() == 2
    verify(graph)
    assert [n.op.name for n in graph.nodes] == ["relu", "mul"]
    assert edit.eliminate_dead() == 0


def test_sort(graph: Graph) -> None:
    order = list(graph.nodes)
    graph.nodes.reverse()
    Rewriter(graph).sort()
    assert graph.nodes == order
    verify(graph)


def test_sort_finds_cycles(graph: Graph) -> None:
    edit = Rewriter(graph)
    edit.set_operand(graph.nodes[1], 0, values(graph)["c"])
    with pytest.raises(InternalError, match="has a cycle"):
        edit.sort()


@given(graphs())
@settings(max_examples=40, deadline=None)
def test_sorting_and_cleaning_keep_any_graph_well_formed(graph: Graph) -> None:
    edit = Rewriter(graph)
    edit.eliminate_dead()
    before = graph.structural_hash()
    edit.sort()
    verify(graph)
    assert graph.structural_hash() == before
