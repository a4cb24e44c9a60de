"""Layers of 16-bit activations, and those quantized at run time, of shapes at random."""

from __future__ import annotations

import numpy as np
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
channels = st.sampled_from([1, 3, 4, 8, 17, 33, 64])


def wide(scale: float, zero_point: int) -> QParams:
    return QParams((scale,), (zero_point,), "int16", -32768, 32767)


@few
@given(
    shape=st.tuples(st.integers(1, 2), st.integers(3, 7), st.integers(3, 9), channels),
    filters=channels,
    kernel=st.sampled_from([(1, 1), (3, 3), (2, 3)]),
    pads=st.tuples(*[st.integers(0, 1)] * 4),
    zero_points=st.tuples(*[st.sampled_from([0, -32768, 1234])] * 2),
    depthwise=st.booleans(),
)
def test_layers_of_sixteen_bits(shape, filters, kernel, pads, zero_points, depthwise: bool, machine: Target) -> None:
    graph, rng = Graph("wide"), np.random.default_rng(sum(shape) + filters)
    filters, per_group = (shape[3], 1) if depthwise else (filters, shape[3])
    x = graph.add_input("x", TensorType("int16", shape))
    x.qparams = wide(0.001, zero_points[0])
    w = graph.add_constant("w", rng.integers(-127, 128, (filters, *kernel, per_group)).astype(np.int8))
    w.qparams = QParams((0.01,), (0,), "int8", -127, 127)
    b = graph.add_constant("b", rng.integers(-(2**30), 2**30, filters).astype(np.int32))
    op = ops.get("conv2d")
    attrs = op.Attrs(pads=pads, groups=shape[3] if depthwise else 1, layout="NHWC")
    real = [TensorType("float32", value.shape) for value in (x, w, b)]
    (result,) = op.infer(attrs, real)
    for dtype, params in (("int16", wide(0.01, zero_points[1])), ("int8", QParams((3.0,), (5,))), ("float32", None)):
        node = graph.add_node(op, [x, w, b], attrs, types=[result.with_dtype(dtype)], loc=f"conv_{dtype}")
        node.output.qparams = params
        graph.set_outputs([*graph.outputs, node.output])
    check(graph, machine, rtol=0)


@few
@given(size=channels, scale=st.sampled_from([1e-4, 3e-3]), zero_point=st.sampled_from([0, -32768, 1234]))
def test_tables_of_sixteen_bits(size: int, scale: float, zero_point: int, machine: Target) -> None:
    graph = Graph("tables")
    x = graph.add_input("x", TensorType("int16", (3, size)))
    x.qparams = wide(scale, zero_point)
    for name in ("silu", "tanh"):
        for dtype, params in (("int16", wide(1e-4, -7)), ("int8", QParams((0.003,), (-90,)))):
            op = ops.get(name)
            node = graph.add_node(op, [x], types=[TensorType(dtype, (3, size))], loc=f"{name}_{dtype}")
            node.output.qparams = params
            graph.set_outputs([*graph.outputs, node.output])
    check(graph, machine, rtol=0)


@few
@given(rows=st.integers(1, 14), inner=channels | st.sampled_from([300, 513]), columns=channels, each=st.booleans())
def test_layers_quantized_at_run_time(rows: int, inner: int, columns: int, each: bool, machine: Target) -> None:
    graph, rng = Graph("dynamic"), np.random.default_rng(rows + inner)
    x = graph.add_input("x", TensorType("float32", (rows, inner)))
    axes = (1,) if each else (0, 1)
    extremes = [ops.get(name) for name in ("reduce_min", "reduce_max")]
    ends = [graph.add_node(op, [x], op.Attrs(axes=axes)).output for op in extremes]
    scale, zero = graph.add_node(ops.get("dynamic_scale"), ends, names=["scale", "zero"]).outputs
    q = graph.add_node(ops.get("dynamic_quantize"), [x, scale, zero]).output
    w = graph.add_constant("w", rng.integers(-127, 128, (columns, inner)).astype(np.int8))
    sums = graph.add_node(ops.get("dense_integer"), [q, w, zero]).output
    constants = [graph.add_constant(n, rng.normal(size=columns).astype(np.float32)) for n in ("scales", "bias")]
    y = graph.add_node(ops.get("rescale"), [sums, scale, *constants]).output
    graph.set_outputs([q, sums, y])
    check(graph, machine, rtol=0)
