"""Extents that the data decide: each operator that sees one answers as ONNX Runtime does, or says why it cannot."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx.parser
import onnxruntime
import pytest

from qcompile import ops
from qcompile.errors import UnsupportedOpError
from qcompile.ir.counted import trimmed
from qcompile.ir.parser import parse_graph
from qcompile.ir.printer import print_graph
from qcompile.onnx_import import import_onnx
from qcompile.onnx_import.bounds import import_bounded
from qcompile.ops.interpreter import Interpreter

ROWS, WIDTH = 12, 4
FOUND = """
    zero = Constant<value = int64[1] {0}>()
    one = Constant<value = int64[1] {1}>()
    three = Constant<value = int64[1] {3}>()
    both = NonZero(x)
    found = Squeeze(both, zero)
    rows = Gather<axis = 0>(y, found)
    column = Gather(x, found)
    shape = Shape(rows)
    count = Gather(shape, zero)
"""
"""What every case starts from: the rows of y where x is not zero, their number, the elements of x there."""

CASES = {
    "indices": "out = Identity(both)",
    "rows": "out = Relu(rows)",
    "a fixed part of its shape": "f = Shape<start = 1>(rows)  out = Cast<to = 1>(f)",
    "its number": "out = Cast<to = 1>(count)",
    "its number alone": "z = Squeeze(zero)  n = Gather(shape, z)  out = Cast<to = 1>(n)",
    "size": "s = Size(rows)  out = Cast<to = 1>(s)",
    "arithmetic with its number": "d = Mul(count, three)  e = Add(d, one)  f = Div(e, three)  out = Cast<to = 1>(f)",
    "range": "c = Squeeze(count)  s = Squeeze(one)  z = Squeeze(zero)  r = Range(z, c, s)  out = Mul(r, found)",
    "constant of its shape": "ones = ConstantOfShape<value = float[1] {2}>(shape)  out = Mul(ones, rows)",
    "expand": "t = Concat<axis = 0>(count, three)  c = Unsqueeze(column, one)  out = Expand(c, t)",
    "expand to itself": "t = Concat<axis = 0>(count, one)  c = Unsqueeze(column, one)  out = Expand(c, t)",
    "expand as PyTorch writes it": "t = Concat<axis = 0>(count, three)  m = Constant<value = int64[2] {-1, -1}>()  "
    "e = Equal(t, m)  f = Where(e, m, t)  c = Unsqueeze(column, one)  out = Expand(c, f)",
    "reshape to one row": "m = Constant<value = int64[1] {-1}>()  out = Reshape(rows, m)",
    "reshape by its number": "m = Constant<value = int64[2] {2, 2}>()  s = Concat<axis = 0>(count, m)  "
    "out = Reshape(rows, s)",
    "transpose and move": "t = Transpose<perm = [1, 0]>(rows)  m = Constant<value = int64[2] {2, -1}>()  "
    "out = Reshape(t, m)",
    "first three": "out = Slice(rows, zero, three, zero)",
    "all but the first": "e = Constant<value = int64[1] {99}>()  out = Slice(rows, one, e, zero)",
    "all but the last": "e = Constant<value = int64[1] {-1}>()  out = Slice(rows, zero, e, zero)",
    "every third": "e = Constant<value = int64[1] {99}>()  out = Slice(rows, zero, e, zero, three)",
    "as many of another": "out = Slice(y, zero, count, zero)",
    "columns": "out = Slice(rows, one, three, one)",
    "best three": "k = Min(count, three)  v, i = TopK<axis = 0>(column, k)  out = Gather<axis = 0>(rows, i)",
    "sorted": "v, i = TopK<axis = 0, largest = 0>(column, count)  out = Gather<axis = 0>(rows, i)",
    "joined with itself": "out = Concat<axis = 0>(rows, rows, y)",
    "behind a fixed one": "out = Concat<axis = 0>(y, rows)",
    "before a fixed one": "out = Concat<axis = 0>(rows, y)",
    "joined twice": "a = Concat<axis = 0>(rows, y, rows)  c = Concat<axis = 0>(column, x, column)  "
    "d = Unsqueeze(c, one)  out = Mul(a, d)",
    "beside": "out = Concat<axis = 1>(rows, rows)",
    "sum": "out = ReduceSum<keepdims = 0>(rows, zero)",
    "mean": "z = Concat<axis = 0>(rows, y)  out = ReduceMean<keepdims = 0>(z, zero)",
    "largest": "z = Concat<axis = 0>(rows, y)  out = ReduceMax<keepdims = 0>(z, zero)",
    "softmax": "out = Softmax<axis = 0>(rows)",
    "running sum": "a = Squeeze(zero)  out = CumSum(rows, a)",
    "product over it": "t = Transpose<perm = [1, 0]>(rows)  out = MatMul(t, rows)",
    "product of rows": "t = Transpose<perm = [1, 0]>(y)  out = MatMul(rows, t)",
    "what is not zero of it": "g = Greater(column, v0)  n = NonZero(g)  out = Identity(n)",
    "compress": "g = Greater(column, v0)  out = Compress<axis = 0>(rows, g)",
    "elements": "i = Unsqueeze(found, one)  out = GatherElements<axis = 0>(y, i)",
    "by tuples": "t = Transpose<perm = [1, 0]>(both)  out = GatherND(y, t)",
    "by tuples into it": "g = Greater(column, v0)  n = NonZero(g)  t = Transpose<perm = [1, 0]>(n)  "
    "out = GatherND(rows, t)",
    "by tuples from its end": "g = Greater(rows, v0)  n = NonZero(g)  t = Transpose<perm = [1, 0]>(n)  "
    "f = Constant<value = int64[1] {4}>()  e = Concat<axis = 0>(count, f)  b = Sub(t, e)  out = GatherND(rows, b)",
    "scatter elements": "out = ScatterElements<axis = 0>(x, found, found_f)",
    "scatter elements of it": "k = Min(count, three)  v, i = TopK<axis = 0>(column, k)  w = Neg(v)  "
    "out = ScatterElements<axis = 0>(column, i, w)",
    "scatter to the only place": "u = Unsqueeze(rows, zero)  d = Shape(u)  n = Neg(u)  i = Expand(zero, d)  "
    "out = ScatterElements<axis = 0>(u, i, n)",
    "scatter from its end": "m = Constant<value = int64[1] {-1}>()  r = Concat<axis = 0>(x, column)  "
    "w = Constant<value = float[1] {9}>()  out = ScatterElements<axis = 0>(r, m, w)",
    "scatter rows": "t = Transpose<perm = [1, 0]>(both)  n = Neg(rows)  out = ScatterND(y, t, n)",
    "padded": "p = Constant<value = int64[4] {1, 0, 2, 1}>()  out = Pad(rows, p, v0)",
    "regions": "r = Relu(column)  i = Cast<to = 7>(r)  z = Mul(i, zero)  b = Abs(rows)  "
    "t = Constant<value = int64[2] {0, 1}>()  f = Unsqueeze(y, t)  "
    "out = RoiAlign<output_height = 2, output_width = 1, sampling_ratio = 2>(f, b, z)",
    "sampled": "t = Constant<value = int64[2] {0, 1}>()  f = Unsqueeze(y, t)  c = Slice(rows, one, three, one)  "
    "g = Unsqueeze(c, t)  out = GridSample(f, g)",
    "where": "g = Greater(rows, v0)  out = Where(g, rows, v0)",
    "split": "p, q = Split<axis = 1, num_outputs = 2>(rows)  out = Sub(q, p)",
    "resized": 's = Constant<value = float[2] {2, 1}>()  out = Resize<mode = "nearest">(rows, , s)',
    "a choice": "m = ReduceMax<keepdims = 0>(x)  g = Greater(m, v0)  "
    "out = If<then_branch = a () => (float[n, 4] p) { p = Neg(rows) }, else_branch = b () => (float[n, 4] q) "
    "{ q = Abs(rows) }>(g)",
    "none or some": "m = ReduceMax<keepdims = 0>(x)  g = Greater(m, v1)  "
    "out = If<then_branch = a () => (float[n, 4] p) { p = Neg(rows) }, else_branch = b () => (float[n, 4] q) "
    "{ q = Constant<value = float[0, 4] {}>() }>(g)",
    "none or all": "m = ReduceMax<keepdims = 0>(x)  g = Greater(v1, m)  "
    "out = If<then_branch = a () => (float[n, 4] p) { p = Constant<value = float[0, 4] {}>() }, "
    "else_branch = b () => (float[n, 4] q) { q = Abs(y) }>(g)",
    "quantized": "s = Constant<value = float {0.02}>()  z = Constant<value = int8 {3}>()  "
    "q = QuantizeLinear(rows, s, z)  out = DequantizeLinear(q, s, z)",
    "moved while quantized": "s = Constant<value = float {0.02}>()  z = Constant<value = int8 {3}>()  "
    "q = QuantizeLinear(y, s, z)  g = Gather<axis = 0>(q, found)  t = Transpose<perm = [1, 0]>(g)  "
    "out = DequantizeLinear(t, s, z)",
    "images": "m = Constant<value = int64[3] {1, 2, 2}>()  t = Concat<axis = 0>(count, m)  i = Reshape(rows, t)  "
    "w = Constant<value = float[1, 1, 2, 2] {1, -2, 3, 0.5}>()  v = ConvTranspose(i, w)  c = Conv(v, w)  "
    "f = Flatten(c)  p = GlobalAveragePool(i)  q = Flatten(p)  out = Add(f, q)",
    "layer": "w = Constant<value = float[4, 2] {1, -2, 3, 0.5, 2, 1, 4, -1}>()  "
    "b = Constant<value = float[2] {1, 2}>()  g = Gemm(rows, w, b)  out = Softmax<axis = 1>(g)",
    "place of the largest": "z = Concat<axis = 0>(rows, y)  a = ArgMax<axis = 0>(z)  out = Cast<to = 1>(a)",
    "repeated": "u = Unsqueeze(rows, zero)  r = Constant<value = int64[3] {3, 1, 2}>()  out = Tile(u, r)",
    "repeated along it": "r = Constant<value = int64[2] {2, 1}>()  out = Tile(rows, r)",
    "nothing left": "n = Sub(column, column)  w = NonZero(n)  s = Squeeze(w, zero)  out = Gather<axis = 0>(rows, s)",
}
"""What follows, by what it is about."""

REFUSED = {
    "two counts": ("r = Relu(x)  u = NonZero(r)  w = Squeeze(u, zero)  s = Cast<to = 1>(w)  "
                   "out = Add(s, column)", "different open extents"),
    "a fixed one": ("out = Add(rows, y)", "fixed extent"),
    "more than there may be": ("v, i = TopK<axis = 0>(column, three)  out = Identity(v)", "more elements than"),
    "the last": ("s = Constant<value = int64[1] {-2}>()  e = Constant<value = int64[1] {99}>()  "
                 "out = Slice(rows, s, e, zero)", "where its range begins"),
    "split along it": ("p, q = Split<axis = 0, num_outputs = 2>(rows)  out = Sub(q, p)", "splits the open axis"),
    "normalized along it": ("t = Transpose<perm = [1, 0]>(rows)  w = Constant<value = int64[1] {12}>()  "
                            "s = ConstantOfShape<value = float[1] {1}>(w)  "
                            "out = LayerNormalization<axis = 1>(t, s)", "data decide an extent"),
    "smoothly resized": ("s = Constant<value = float[2] {2, 1}>()  out = Resize<mode = \"linear\">(rows, , s)",
                         "repeats the last element"),
    "this or that": ("m = ReduceMax<keepdims = 0>(x)  g = Greater(m, v0)  "
                     "out = If<then_branch = a () => (float[n, 4] p) { p = Neg(rows) }, "
                     "else_branch = b () => (float[n, 4] q) { q = Abs(y) }>(g)",
                     "which of them is run"),
    "impossible overlap": ("i = Constant<value = float[1] {1.5}>()  b = Unsqueeze(y, zero)  "
                           "s = Constant<value = int64[3] {1, 1, 12}>()  p = Reshape(x, s)  "
                           "n = NonMaxSuppression(b, p, three, i)  out = Cast<to = 1>(n)", "iou_threshold is 1.5"),
    "a sequence": ("out = Scan<num_scan_inputs = 1, body = b (float[4] r) => (float[4] q) { q = Neg(r) }>(rows)",
                   "data decide"),
    "as often": ("t = Squeeze(count)  c = Constant<value = bool {1}>()  "
                 "out = Loop<body = b (int64 i, bool k, float[12,4] s) => (bool l, float[12,4] q) "
                 "{ l = Identity(k)  q = Neg(s) }>(t, c, y)", "a number that the data decide"),
}  # fmt: skip
"""What is refused, and what the error says."""


def model(body: str) -> Any:
    extra = "v0 = Constant<value = float {0}>()  v1 = Constant<value = float {1}>()  found_f = Cast<to = 1>(found)"
    text = (
        f'<ir_version: 8, opset_import: ["" : 18]> g (float[{ROWS}] x, float[{ROWS},{WIDTH}] y) => (float out) '
        f"{{ {FOUND} {extra} {body} }}"
    )
    made = onnx.parser.parse_model(text)
    if "Identity(both)" in body or "Identity(n)" in body:
        made.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    if "Mul(r, found)" in body:
        made.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    made.graph.output[0].type.tensor_type.ClearField("shape")
    return made


def samples() -> list[dict[str, Any]]:
    """Return inputs with no row, one, some and all."""
    rng = np.random.default_rng(5)
    chosen = [np.zeros(ROWS), np.arange(ROWS) == 7, rng.random(ROWS) > 0.5, rng.random(ROWS) > 0.3, np.ones(ROWS)]
    return [
        {"x": (rng.normal(0, 1, ROWS) * c).astype("f4"), "y": rng.normal(0, 1, (ROWS, WIDTH)).astype("f4")}
        for c in chosen
    ]


@pytest.mark.parametrize("name", CASES)
def test_cases_agree_with_onnx_runtime(name: str) -> None:
    made = model(CASES[name])
    graph = import_onnx(made)
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    for sample in samples():
        (wanted,) = session.run(None, sample)
        with np.errstate(all="ignore"):
            got = trimmed(graph.counted, Interpreter(graph).run(sample))["out"]
        assert got.shape == wanted.shape
        assert got.dtype == wanted.dtype
        np.testing.assert_allclose(got, wanted, 1e-5, 1e-6)


def test_counts_beside_an_open_extent() -> None:
    """Numbers of both kinds may meet; what the data find in an open tensor has no form."""
    head = '<ir_version: 8, opset_import: ["" : 18]> g (float[S] a, float[6] x) => (float[n] out) {'
    meet = (
        "b = NonZero(x) s = Shape(a) c = Size(b) m = Mul(s, c) f = Cast<to = 1>(b) g = Cast<to = 1>(m) out = Mul(f, g)"
    )
    graph = import_bounded(onnx.parser.parse_model(f"{head} {meet} }}"), {"a": ["S:1..8"]})
    x = np.array([1, 0, 1, 0, 0, 1], np.float32)
    for size in (1, 5, 8):
        got = Interpreter(graph).run({"a": np.zeros(size, np.float32), "x": x})
        assert trimmed(graph.counted, got)["out"].tolist() == [[0, 6 * size, 15 * size]]
    with pytest.raises(UnsupportedOpError, match="NonZero_0"):
        import_bounded(onnx.parser.parse_model(f"{head} b = NonZero(a) out = Cast<to = 1>(b) }}"), {"a": ["S:1..8"]})


def test_best_elements_of_an_open_extent() -> None:
    """The rules for sorting serve extents that the caller leaves open, too; but not a number that follows from one."""
    head = '<ir_version: 8, opset_import: ["" : 18]> g (float[S, 3] x) => (float[n, 3] out) {'
    three = "k = Constant<value = int64[1] {3}>()"
    best = "v, i = TopK<axis = 0>(x, k)  n = Neg(x)  out = GatherElements<axis = 0>(n, i)"
    graph = import_bounded(onnx.parser.parse_model(f"{head} {three} {best} }}"), {"x": ["S:3..8", 3]})
    for size in (3, 5, 8):
        x = np.random.default_rng(size).standard_normal((size, 3)).astype(np.float32)
        np.testing.assert_array_equal(Interpreter(graph).run({"x": x})["out"], -np.sort(x, axis=0)[::-1][:3])
    with pytest.raises(UnsupportedOpError, match="arithmetic with open extents"):
        import_bounded(onnx.parser.parse_model(f"{head} k = Shape<end = 1>(x)  {best} }}"), {"x": ["S:3..8", 3]})


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_form_is_refused_by_the_name_of_its_node(name: str) -> None:
    body, says = REFUSED[name]
    with pytest.raises(UnsupportedOpError, match=says) as error:
        import_onnx(model(body))
    assert error.value.message.startswith("node ")


def test_counted_axes_survive_the_text() -> None:
    graph = import_onnx(model(CASES["rows"]))
    assert [(c.output, c.axis, c.count) for c in graph.counted] == [("out", 0, "out.count")]
    assert graph.notes == ["the data decide how many elements 'out' has; 'out.count' tells, zeros follow them"]
    text = print_graph(graph)
    assert '  counted {output="out", axis=0, count="out.count"}\n' in text
    pool = {value.content_digest()[:16]: value.data for value in graph.constants()}
    again = parse_graph(text, ops.all_ops(), constants=pool)
    assert again.counted == graph.counted == graph.clone().counted
