"""Graphs that hypothesis makes: imported, interpreted, and compared with ONNX Runtime.

`QCOMPILE_RANDOM_GRAPHS` sets how many (120; nightly runs take 2,000).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from qcompile.onnx_import import import_onnx
from qcompile.ops.interpreter import Interpreter

ort = pytest.importorskip("onnxruntime")

UNARY = ["Relu", "Sigmoid", "Tanh", "Abs", "Neg", "Erf", "Softplus", "HardSwish", "Floor", "Elu", "Mish", "Identity"]
BINARY = ["Add", "Sub", "Mul", "Max", "Min"]
REDUCTIONS = ["ReduceMean", "ReduceSum", "ReduceMax", "ReduceL2"]


@dataclass
class Sketch:
    """A model under construction.

    Args:
        draw: hypothesis's source of choices.
        values: tensors that nodes can read, with their shapes.
    """

    draw: Callable[[st.SearchStrategy[Any]], Any]
    values: list[tuple[str, tuple[int, ...]]]
    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)

    def pick(self, *ranks: int) -> tuple[str, tuple[int, ...]] | None:
        found = [v for v in self.values if not ranks or len(v[1]) in ranks]
        return self.draw(st.sampled_from(found)) if found else None

    def constant(self, array: Any) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def weights(self, *shape: int) -> str:
        seed = len(self.constants)
        return self.constant(np.random.default_rng(seed).standard_normal(shape).astype(np.float32) * 0.5)

    def add(self, op: str, inputs: list[str], shape: tuple[int, ...], **attributes: Any) -> None:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=f"n{len(self.nodes)}", **attributes))
        self.values.append((name, shape))


def unary(sketch: Sketch) -> None:
    name, shape = sketch.pick() or ("", ())
    sketch.add(sketch.draw(st.sampled_from(UNARY)), [name], shape)


def binary(sketch: Sketch) -> None:
    name, shape = sketch.pick() or ("", ())
    kept = sketch.draw(st.lists(st.booleans(), min_size=len(shape), max_size=len(shape)))
    other = tuple(d if keep else 1 for d, keep in zip(shape, kept, strict=True))
    drop = sketch.draw(st.integers(0, len(other)))
    # Leading extents of the second operand may be left out: broadcasting supplies them.
    operands = [name, sketch.weights(*other[drop:])]
    order = operands if sketch.draw(st.booleans()) else operands[::-1]
    sketch.add(sketch.draw(st.sampled_from(BINARY)), order, shape)


def residual(sketch: Sketch) -> None:
    name, shape = sketch.pick() or ("", ())
    same = [v for v, s in sketch.values if s == shape]
    sketch.add(sketch.draw(st.sampled_from(BINARY)), [name, sketch.draw(st.sampled_from(same))], shape)


def reduction(sketch: Sketch) -> None:
    name, shape = sketch.pick() or ("", ())
    axes = sketch.draw(st.lists(st.integers(0, len(shape) - 1), unique=True, min_size=1) if shape else st.just([]))
    if not axes:
        return
    keep = sketch.draw(st.booleans())
    result = [1 if a in axes else d for a, d in enumerate(shape) if keep or a not in axes]
    op = sketch.draw(st.sampled_from(REDUCTIONS))
    sketch.add(op, [name, sketch.constant(np.array(axes, np.int64))], tuple(result), keepdims=int(keep))


def transpose(sketch: Sketch) -> None:
    name, shape = sketch.pick() or ("", ())
    order = sketch.draw(st.permutations(range(len(shape))))
    given = {"perm": list(order)} if order else {}
    sketch.add("Transpose", [name], tuple(shape[a] for a in order), **given)


def reshape(sketch: Sketch) -> None:
    name, shape = sketch.pick() or ("", ())
    split = sketch.draw(st.integers(0, len(shape)))
    result = (math.prod(shape[:split]), math.prod(shape[split:]))
    sketch.add("Reshape", [name, sketch.constant(np.array([result[0], -1], np.int64))], result)


def slices(sketch: Sketch) -> None:
    name, shape = sketch.pick(1, 2, 3, 4) or ("", ())
    if not shape:
        return
    axis = sketch.draw(st.integers(0, len(shape) - 1))
    begin = sketch.draw(st.integers(0, shape[axis] - 1))
    end = sketch.draw(st.integers(begin + 1, shape[axis]))
    step = sketch.draw(st.integers(1, 3))
    parts = [sketch.constant(np.array([k], np.int64)) for k in (begin, end, axis, step)]
    sketch.add("Slice", [name, *parts], (*shape[:axis], -(-(end - begin) // step), *shape[axis + 1 :]))


def concat(sketch: Sketch) -> None:
    name, shape = sketch.pick(1, 2, 3, 4) or ("", ())
    if not shape:
        return
    axis = sketch.draw(st.integers(0, len(shape) - 1))
    sketch.add("Concat", [name, name], (*shape[:axis], 2 * shape[axis], *shape[axis + 1 :]), axis=axis)


def softmax(sketch: Sketch) -> None:
    name, shape = sketch.pick(1, 2, 3, 4) or ("", ())
    if shape:
        sketch.add("Softmax", [name], shape, axis=sketch.draw(st.integers(-len(shape), len(shape) - 1)))


def dense(sketch: Sketch) -> None:
    name, shape = sketch.pick(2, 3) or ("", ())
    if shape:
        columns = sketch.draw(st.integers(1, 9))
        sketch.add("MatMul", [name, sketch.weights(shape[-1], columns)], (*shape[:-1], columns))


def convolution(sketch: Sketch) -> None:
    name, shape = sketch.pick(4) or ("", ())
    if not shape:
        return
    kernel, stride = sketch.draw(st.sampled_from([1, 2, 3])), sketch.draw(st.integers(1, 2))
    if min(shape[2:]) + 2 < kernel:
        return
    depthwise = sketch.draw(st.booleans())
    out = shape[1] if depthwise else sketch.draw(st.integers(1, 6))
    weight = sketch.weights(out, 1 if depthwise else shape[1], kernel, kernel)
    extents = tuple((d + 2 - kernel) // stride + 1 for d in shape[2:])
    group = shape[1] if depthwise else 1
    sketch.add("Conv", [name, weight], (shape[0], out, *extents), pads=[1] * 4, strides=[stride] * 2, group=group)


def pool(sketch: Sketch) -> None:
    name, shape = sketch.pick(4) or ("", ())
    if not shape or min(shape[2:]) < 2:
        return
    op = sketch.draw(st.sampled_from(["MaxPool", "AveragePool"]))
    sketch.add(op, [name], (*shape[:2], *(d - 1 for d in shape[2:])), kernel_shape=[2, 2])


STEPS = [unary, binary, residual, reduction, transpose, reshape, slices, concat, softmax, dense, convolution, pool]


@st.composite
def models(draw: Any) -> tuple[onnx.ModelProto, tuple[int, ...]]:
    shape = tuple(draw(st.lists(st.integers(1, 7), min_size=1, max_size=4)))
    sketch = Sketch(draw, [("x", shape)])
    for step in draw(st.lists(st.sampled_from(STEPS), min_size=1, max_size=10)):
        step(sketch)
    if not sketch.nodes:
        unary(sketch)
    read = {name for node in sketch.nodes for name in node.input}
    ends = [v for v in sketch.values if v[0] not in read and v[0] != "x"]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, extents) for name, extents in ends]
    graph = helper.make_graph(sketch.nodes, "random", inputs, outputs, sketch.constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), shape


@settings(max_examples=int(os.environ.get("QCOMPILE_RANDOM_GRAPHS", "120")), deadline=None, derandomize=True,
          suppress_health_check=list(HealthCheck))  # fmt: skip
@given(models(), st.integers(0, 2**31))
def test_agrees_with_onnx_runtime(made: tuple[onnx.ModelProto, tuple[int, ...]], seed: int) -> None:
    model, shape = made
    x = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    expected = dict(zip(names, session.run(names, {"x": x}), strict=True))
    got = Interpreter(import_onnx(model)).run({"x": x})
    for name in names:
        assert got[name].shape == expected[name].shape
        largest = max(1.0, float(np.abs(expected[name]).max()))
        np.testing.assert_allclose(got[name], expected[name], rtol=1e-4, atol=1e-4 * largest)
