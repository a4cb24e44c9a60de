"""Random well-formed graphs: odd names, every kind of annotation, constants small and large."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from qcompile import ops
from qcompile.ir.graph import Graph, Value
from qcompile.ir.types import TensorType
from qcompile.quant.qparams import QParams, QSpec

SHAPE = (1, 4, 4, 4)

names = st.text(min_size=1, max_size=12) | st.sampled_from(["x", "a/b:0", "a//b", "input", "q", "1.5", "inf", "%"])
scales = st.floats(2.0**-20, 2.0**10, width=32)


@st.composite
def qparams(draw: st.DrawFn, *, per_channel: bool = True) -> QParams:
    axis = draw(st.none() | st.integers(0, 3)) if per_channel else None
    count = 1 if axis is None else SHAPE[axis]
    low, high = sorted(draw(st.tuples(st.integers(-128, 127), st.integers(-128, 127))))
    zero_points = draw(st.lists(st.integers(-128, 127), min_size=count, max_size=count))
    return QParams(
        tuple(draw(st.lists(scales, min_size=count, max_size=count))), tuple(zero_points), "int8", low, high, axis
    )


qspecs = st.builds(
    QSpec,
    observer=st.sampled_from(["minmax", "percentile{percentile=99.9}", "entropy"]),
    symmetric=st.booleans(),
    axis=st.none() | st.integers(0, 3),
    kind=st.sampled_from(["own", "shared", "derived", "fixed"]),
    source=st.none() | names,
    range=st.none() | st.tuples(st.floats(-1e3, 0), st.floats(0, 1e3)),
)


@st.composite
def constants(draw: st.DrawFn, shape: tuple[int, ...]) -> np.ndarray:
    special = st.sampled_from([0.0, -0.0, np.inf, -np.inf, 0.1, 1e-45, 3.4e38])
    fill = draw(special | st.floats(width=32, allow_nan=False))
    noise = np.random.default_rng(draw(st.integers(0, 99))).normal(size=shape).astype(np.float32)
    return np.where(noise > 1, np.float32(fill), noise).astype(np.float32)


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    graph = Graph(draw(names))
    known = [graph.add_input(draw(names), TensorType("float32", SHAPE)) for _ in range(draw(st.integers(1, 3)))]
    for value in known:
        if draw(st.booleans()):
            value.qspec = draw(qspecs)
    for _ in range(draw(st.integers(0, 8))):
        known.append(_node(draw, graph, known))
    outputs = draw(st.lists(st.sampled_from(known), min_size=1, max_size=3))
    graph.set_outputs(outputs, draw(st.lists(names, min_size=len(outputs), max_size=len(outputs), unique=True)))
    return graph


def _node(draw: st.DrawFn, graph: Graph, known: list[Value]) -> Value:
    x, y = draw(st.sampled_from(known)), draw(st.sampled_from(known))
    name, loc = draw(names), draw(st.just("") | names)
    kind = draw(st.sampled_from(["relu", "clip", "add", "mul", "transpose", "conv2d", "quantize", "softmax"]))
    op = ops.get(kind)
    inputs, attrs = [x], None
    if kind == "clip":
        attrs = op.Attrs(min=draw(st.floats(-1e3, 0)), max=draw(st.floats(0, 1e3) | st.just(np.inf)))
    elif kind == "add":
        inputs = [x, y]
    elif kind == "mul":
        inputs = [x, graph.add_constant(name, draw(constants(draw(st.sampled_from([(), (1,), (4,), SHAPE])))))]
    elif kind == "transpose":
        attrs = op.Attrs(perm=(0, *draw(st.permutations([1, 2, 3]))))
    elif kind == "conv2d":
        weight = graph.add_constant(
            f"{name}.w",
            draw(
                constants(
                    (4, 4, 1, 1) if (layout := draw(st.sampled_from(["NCHW", "NHWC"]))) == "NCHW" else (4, 1, 1, 4)
                )
            ),
        )
        bias = graph.add_constant(f"{name}.b", draw(constants((4,))))
        inputs = [x, weight, bias]
        attrs = op.Attrs(layout=layout, activation=draw(st.sampled_from(["none", "relu"])))
    elif kind == "quantize":
        made = graph.add_node(op, [x], names=[name], types=[TensorType("int8", SHAPE)], loc=loc)
        made.output.qparams = draw(qparams(per_channel=False))
        back = graph.add_node(ops.get("dequantize"), [made.output], types=[TensorType("float32", SHAPE)])
        return back.output
    node = graph.add_node(op, inputs, attrs, names=[name], loc=loc)
    node.precision = draw(st.sampled_from(["", "int8", "float32"]))
    if draw(st.booleans()):
        node.output.qspec = draw(qspecs)
    return node.output
