from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_graphs import graphs, names, qparams

from qcompile import ops
from qcompile.errors import UsageError
from qcompile.ir.graph import Graph
from qcompile.ir.literal import Scanner
from qcompile.ir.parser import parse_graph
from qcompile.ir.printer import constant_pool, print_graph, print_literal, print_qparams
from qcompile.ir.types import SHORT_DTYPE, TensorType
from qcompile.ir.verify import verify

slow = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@given(graphs())
@slow
def test_print_and_parse(graph: Graph) -> None:
    verify(graph)
    text = print_graph(graph)
    again = parse_graph(text, ops.all_ops(), constant_pool(graph))
    verify(again)
    assert print_graph(again) == text
    assert again.structural_hash() == graph.structural_hash()
    assert [n.loc for n in again.nodes] == [n.loc for n in graph.nodes]
    assert [v.name for v in again.values()] == [v.name for v in graph.values()]


@given(graphs())
@slow
def test_clone(graph: Graph) -> None:
    text = print_graph(graph)
    copy = graph.clone()
    verify(copy)
    assert print_graph(copy) == text
    assert copy.structural_hash() == graph.structural_hash()
    assert not {id(v) for v in copy.values()} & {id(v) for v in graph.values()}
    if copy.nodes:
        copy.nodes[0].output.name = copy.unique_name("changed")
        assert print_graph(graph) == text


@given(graphs())
@slow
def test_texts_without_contents(graph: Graph) -> None:
    alone = parse_graph(print_graph(graph, noise=True), ops.all_ops())
    verify(alone)
    assert [v.type for v in alone.values()] == [v.type for v in graph.values()]
    assert [n.op.name for n in alone.nodes] == [n.op.name for n in graph.nodes]


literals = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4).map(tuple),
    max_leaves=8,
)


@given(literals)
def test_literals(value: object) -> None:
    scan = Scanner(print_literal(value), "literal")
    again = scan.literal()
    assert again == value
    assert type(again) is type(value)
    assert scan.kind == "end"


@given(qparams())
def test_qparams(value: object) -> None:
    text = f'graph "g" {{ input %x : i8[1,4,4,4] {print_qparams(value)} output "x" = %x }}'  # type: ignore[arg-type]
    assert parse_graph(text, {}).inputs[0].qparams == value


@pytest.mark.parametrize("dtype", list(SHORT_DTYPE))
def test_every_element_type(dtype: str) -> None:
    graph = Graph("types")
    data = np.array([[0, 1], [1, 1]]).astype(dtype)
    graph.set_outputs([graph.add_constant("c", data), graph.add_constant("empty", data[:0])], ["c", "empty"])
    again = parse_graph(print_graph(graph), {})
    assert again.outputs[0].type == TensorType(dtype, (2, 2))
    assert np.array_equal(again.outputs[0].constant(), data)
    assert again.outputs[1].shape == (0, 2)


def test_special_numbers() -> None:
    graph = Graph("numbers")
    data = np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45, 0.1, 3.4028235e38, 16777217], np.float32)
    graph.set_outputs([graph.add_constant("c", data)])
    again = parse_graph(print_graph(graph), {}).outputs[0].constant()
    assert again.tobytes() == data.tobytes()


def test_large_constants_are_digests() -> None:
    graph = Graph("g")
    graph.set_outputs([graph.add_constant("c", np.arange(9, dtype=np.float32))])
    text = print_graph(graph)
    assert "= #" in text
    assert print_graph(graph, elide=True) == 'graph "g" {\n  const @c : f32[9] = #\n  output "c" = @c\n}\n'
    with pytest.raises(UsageError, match=r"the constant #[0-9a-f]{16} is not given"):
        parse_graph(text, {})
    assert np.array_equal(parse_graph(text, {}, constant_pool(graph)).outputs[0].constant(), np.arange(9))


def test_digests_tell_dtype_shape_and_contents_apart() -> None:
    from qcompile.ir.printer import digest

    base = np.arange(12, dtype=np.float32)
    others = [base, base.reshape(3, 4), base.astype(np.int32), base + 1, base.reshape(4, 3)]
    assert len({digest(a) for a in others}) == len(others)
    assert digest(base[::-1][::-1]) == digest(base)


def test_noise() -> None:
    text = """graph "g" {
      const @a : f32[100] = normal(3, 0.5)
      const @b : f32[100] = uniform(3, 2, 5)
      const @c : i8[100] = normal(3, 20)
      output "a" = @a
      output "b" = @b
      output "c" = @c
    }"""
    a, b, c = (v.constant() for v in parse_graph(text, {}).outputs)
    assert 0.3 < a.std() < 0.7
    assert 2 <= b.min() <= b.max() <= 5
    assert c.dtype == np.int8
    assert np.array_equal(a, parse_graph(text, {}).outputs[0].constant())


HEAD = 'graph "g" {\n  input %x : f32[2]\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: expected 'graph', found the end"),
        ("graph g {", "expected a quoted string, found 'g'"),
        (HEAD, "expected a value name, found the end"),
        (HEAD + "  %y = relu(%z) : f32[2]\n}", "value z is not defined before it is used"),
        (HEAD + "  %y = rleu(%x) : f32[2]\n}", "unknown operation 'rleu'"),
        (HEAD + "  %y = relu(%x : f32[2]\n}", "line 3: expected ',', found ':'"),
        (HEAD + "  %y = relu(%x) : f31[2]\n}", "unknown element type 'f31'"),
        (HEAD + "  %y = relu(%x) {alpha=1} : f32[2]\n}", "op 'relu' has no option 'alpha'"),
        (HEAD + '  %y = clip(%x) {min="low"} : f32[2]\n  output "y" = %y\n}', "min"),
        (HEAD + "  %y = transpose(%x) {perm=[1]} : f32[2]\n}", "op 'transpose': perm [1] is not an order"),
        (HEAD + "  %y = transpose(%x) : f32[2]\n}", "op 'transpose': "),
        (HEAD + "  %y, %z = relu(%x) : f32[2]\n}", "expected ','"),
        (HEAD + "  %x = relu(%x) : f32[2]\n}", "value x is defined twice"),
        (HEAD + "  const @c : f32[2] = [1.0]\n}", "the contents are not 2 numbers for f32[2]"),
        (HEAD + '  const @c : f32[2] = ["a", "b"]\n}', "the contents are not 2 numbers"),
        (HEAD + "  const @c : f32[2] = ones\n}", "expected a constant's contents, found 'ones'"),
        (HEAD + "  const @c : f32[2] = normal()\n}", "normal takes a seed and up to 1 numbers"),
        (HEAD + "  const @c : f32[2] = uniform(1, 2, 3, 4)\n}", "uniform takes a seed and up to 2 numbers"),
        (HEAD + "  const @c : f32[2] = normal(-1)\n}", "normal takes a seed"),
        (HEAD + "  const @c : f32[-2] = [1.0]\n}", "expected an extent, found '-2'"),
        (HEAD + "  const @c : f32[1.5] = [1.0]\n}", "expected an extent"),
        (HEAD + "  input %z : i8[2] q(zp=1)\n}", "expected 'scale' within q(…)"),
        (HEAD + "  input %z : i8[2] q(scale=-1.0)\n}", "scale must be positive"),
        (HEAD + "  input %z : i8[2] q(scale=1.0, dtype=int7)\n}", "unknown quantized type 'int7'"),
        (HEAD + "  input %z : i8[2] q(scale=1.0, size=3)\n}", "q(…) has no field 'size'"),
        (HEAD + "  input %z : i8[2] q(scale=1.0, zp=200)\n}", "zero_point"),
        (HEAD + "  input %z : i8[2] q(scale=word)\n}", "q(…)"),
        (HEAD + "  input %z : i8[2] spec(size=3)\n}", "spec has no option 'size'"),
        (HEAD + '  output "y" = %x\n  output y = %x\n}', "expected a quoted string"),
        (HEAD + "  %y = relu(%x) : f32[2] loc(here)\n}", "expected a quoted string"),
        (HEAD + "}}", "expected the end, found '}'"),
        (HEAD + "  $\n}", "expected a token, found '$"),
    ],
)
def test_faulty_text(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_graph(text, ops.all_ops(), source="net.qir")
    assert message in str(caught.value)
    assert "net.qir" in str(caught.value)


@given(st.text(max_size=60) | names.map(lambda n: HEAD + n))
@settings(max_examples=200)
def test_any_text_gives_a_graph_or_a_usage_error(text: str) -> None:
    with contextlib.suppress(UsageError):
        verify(parse_graph(text, ops.all_ops()))
