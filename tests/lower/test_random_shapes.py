"""Shapes at random: vectors, their remainders, merged and broken axes, in real and integer form."""

from __future__ import annotations

import numpy as np
import pytest
from graph_checks import check
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qcompile import ops
from qcompile.ir import Graph, TensorType
from qcompile.quant.qparams import QParams
from qcompile.targets import Target

few = settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
extents = st.integers(1, 9)
long = st.sampled_from([256, 300, 513])
channels = st.sampled_from([1, 2, 3, 4, 7, 8, 16, 17, 31, 33, 64, 65, 100])


def grid(scale: float, zero_point: int) -> QParams:
    return QParams((scale,), (zero_point,))


def append(graph: Graph, name: str, values: list, attrs: dict, params: QParams | None = None) -> None:
    op = ops.get(name)
    built = op.Attrs(**attrs)
    node = graph.add_node(op, values, built, loc=f"{name}_{len(graph.nodes)}")
    node.output.qparams = params
    graph.set_outputs([*graph.outputs, node.output])


def add_input(graph: Graph, name: str, shape: tuple[int, ...], params: QParams | None):
    value = graph.add_input(name, TensorType("int8" if params is not None else "float32", shape))
    value.qparams = params
    return value


@pytest.mark.parametrize("quantized", [False, True])
@few
@given(shape=st.tuples(extents, extents, extents, channels), data=st.data())
def test_broadcasting(shape: tuple[int, ...], data: st.DataObject, quantized: bool, machine: Target) -> None:
    """Each operand keeps or drops each extent; leading axes may be missing."""
    graph = Graph("broadcast")
    kept = data.draw(st.lists(st.booleans(), min_size=4, max_size=4))
    other = tuple(d if keep else 1 for d, keep in zip(shape, kept, strict=True))[data.draw(st.integers(0, 3)) :]
    x = add_input(graph, "x", shape, grid(0.05, -7) if quantized else None)
    y = add_input(graph, "y", other, grid(0.03, 11) if quantized else None)
    for name in ("add", "mul"):
        append(graph, name, [x, y], {}, grid(0.07, 3) if quantized else None)
        append(graph, name, [y, x], {}, grid(0.06, -128) if quantized else None)
    check(graph, machine)


@pytest.mark.parametrize("quantized", [False, True])
@few
@given(shape=st.tuples(extents, extents, extents, channels), perm=st.permutations(range(4)))
def test_transpose(shape: tuple[int, ...], perm: list[int], quantized: bool, machine: Target) -> None:
    graph = Graph("transpose")
    x = add_input(graph, "x", shape, grid(0.05, -7) if quantized else None)
    append(graph, "transpose", [x], {"perm": tuple(perm)}, x.qparams)
    append(graph, "relu", [graph.outputs[0]], {}, grid(0.05, -128) if quantized else None)
    check(graph, machine)


@pytest.mark.parametrize("quantized", [False, True])
@few
@given(
    shape=st.tuples(st.integers(1, 2), st.integers(3, 9), st.integers(3, 9), channels),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    strides=st.tuples(st.integers(1, 2), st.integers(1, 3)),
    pad=st.booleans(),
)
def test_pools(shape, kernel, strides, pad: bool, quantized: bool, machine: Target) -> None:
    graph = Graph("pools")
    x = add_input(graph, "x", shape, grid(0.05, -7) if quantized else None)
    pads = (kernel[0] - 1, kernel[1] - 1, kernel[0] // 2, kernel[1] // 2) if pad else (0, 0, 0, 0)
    attrs = {"kernel": kernel, "strides": strides, "pads": pads, "layout": "NHWC"}
    append(graph, "max_pool", [x], attrs, x.qparams)
    append(graph, "avg_pool", [x], attrs, grid(0.04, 5) if quantized else None)
    check(graph, machine)


@few
@given(shape=st.tuples(extents, extents, channels), axes=st.sets(st.integers(0, 2), min_size=1), keep=st.booleans())
def test_reductions(shape: tuple[int, ...], axes: set[int], keep: bool, machine: Target) -> None:
    graph = Graph("reductions")
    x = add_input(graph, "x", shape, None)
    for name in ("reduce_sum", "reduce_max", "reduce_mean"):
        append(graph, name, [x], {"axes": tuple(sorted(axes)), "keepdims": keep})
    check(graph, machine, rtol=1e-4)  # a sum of many numbers may be near zero


@few
@given(shape=st.tuples(extents, channels, st.sampled_from([1, 5, 16, 19])), axis=st.integers(0, 2))
def test_softmax(shape: tuple[int, ...], axis: int, machine: Target) -> None:
    graph = Graph("softmax")
    x = add_input(graph, "x", shape, None)
    append(graph, "softmax", [x], {"axis": axis})
    append(graph, "log_softmax", [x], {"axis": axis})
    check(graph, machine)


@pytest.mark.parametrize("quantized", [False, True])
@few
@given(rows=st.integers(1, 14), inner=channels | long, columns=channels, batch=st.sampled_from([(), (3,), (2, 3)]))
def test_matmul(rows: int, inner: int, columns: int, batch, quantized: bool, machine: Target) -> None:
    graph = Graph("matmul")
    a = add_input(graph, "a", (*batch, rows, inner), grid(0.05, -7) if quantized else None)
    b = add_input(graph, "b", (*batch[1:], inner, columns), grid(0.03, 11) if quantized else None)
    append(graph, "matmul", [a, b], {}, grid(0.07, 3) if quantized else None)
    check(graph, machine)


@pytest.mark.parametrize("quantized", [False, True])
@few
@given(
    shape=st.tuples(extents, extents, st.sampled_from([1, 3, 8])),
    outputs=st.sampled_from([1, 5, 16]),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 2)),
    pads=st.tuples(*[st.integers(0, 1)] * 4),
)
def test_conv_transpose(shape, outputs: int, kernel, strides, pads, quantized: bool, machine: Target) -> None:
    spans = [(shape[a] - 1) * strides[a] + kernel[a] for a in (0, 1)]
    if spans[0] <= pads[0] + pads[2] or spans[1] <= pads[1] + pads[3]:
        return
    graph = Graph("upsample")
    rng = np.random.default_rng(sum(shape))
    x = add_input(graph, "x", (1, *shape), grid(0.05, -7) if quantized else None)
    weight = rng.integers(-127, 128, (outputs, *kernel, shape[2]))
    if quantized:
        w = graph.add_constant("w", weight.astype(np.int8))
        w.qparams = QParams(tuple(0.01 * (1 + n % 3) for n in range(outputs)), axis=0)
        b = graph.add_constant("b", rng.integers(-900, 900, outputs).astype(np.int32))
    else:
        w = graph.add_constant("w", (weight / 127).astype(np.float32))
        b = graph.add_constant("b", rng.normal(size=outputs).astype(np.float32))
    attrs = {"strides": strides, "pads": pads, "layout": "NHWC"}
    append(graph, "conv_transpose2d", [x, w, b], attrs, grid(0.3, 3) if quantized else None)
    check(graph, machine)
