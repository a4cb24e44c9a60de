"""Random models of images whose height and width are both open; each step takes images to images of that kind."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from onnx import TensorProto, helper
from open_sketch import UNARY, Draw, Sketch

CHANNELS = 6
PLANE = ("image",)


class Planes(Sketch):
    """A model of x [1, CHANNELS, H, W] under construction."""

    def image(self) -> str:
        return str(self.pick()[0])

    def done(self, op: str, inputs: list[str], **attributes: Any) -> None:
        self.add(PLANE, op, inputs, **attributes)

    def integers(self, *numbers: int) -> str:
        return self.constant(np.array(numbers, np.int64))

    def extents(self, name: str, start: int, end: int) -> str:
        return self.node("Slice", [self.node("Shape", [name]), self.integers(start), self.integers(end)])

    def tokens(self, name: str) -> str:
        """Return an image as [1, H·W, CHANNELS]."""
        flat = self.node("Reshape", [name, self.integers(0, 0, -1)])
        return self.node("Transpose", [flat], perm=[0, 2, 1])

    def from_tokens(self, tokens: str, like: str) -> None:
        """Add tokens as an image again."""
        columns = self.node("Transpose", [tokens], perm=[0, 2, 1])
        self.done("Reshape", [columns, self.node("Shape", [like])])

    def model(self) -> Any:
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, CHANNELS, "H", "W"])
        outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [None] * 4) for n, _ in self.values[1:][-2:]]
        graph = helper.make_graph(self.nodes, "planes", [x], outputs, self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def unary(s: Planes) -> None:
    s.done(s.draw(st.sampled_from(UNARY)), [s.image()])


def combined(s: Planes) -> None:
    s.done(s.draw(st.sampled_from(["Add", "Mul"])), [s.image(), s.image()])


def convolved(s: Planes) -> None:
    kernel = s.draw(st.sampled_from([1, 3]))
    weight = s.weights(CHANNELS, CHANNELS, kernel, kernel)
    s.done("Conv", [s.image(), weight, s.weights(CHANNELS)], pads=[kernel // 2] * 4)


def pooled(s: Planes) -> None:
    s.done(s.draw(st.sampled_from(["AveragePool", "MaxPool"])), [s.image()], kernel_shape=[3, 3], pads=[1] * 4)


def normalized(s: Planes) -> None:
    operands = [s.image(), s.weights(CHANNELS), s.weights(CHANNELS)]
    if s.draw(st.booleans()):
        s.done("GroupNormalization", operands, num_groups=s.draw(st.sampled_from([1, 2, 3])))
    else:
        s.done("InstanceNormalization", operands)


def layer_normalized(s: Planes) -> None:
    """Normalize whole images, rows of them, or channels."""
    axis = s.draw(st.sampled_from([1, 2, 3]))
    one = s.constant(np.ones(1, np.float32))
    s.done("LayerNormalization", [s.image(), one], axis=axis)


def excited(s: Planes) -> None:
    name = s.image()
    s.done("Mul", [name, s.node("Sigmoid", [s.node("GlobalAveragePool", [name])])])


def spread(s: Planes) -> None:
    name, axis = s.image(), s.draw(st.sampled_from([2, 3]))
    op = s.draw(st.sampled_from(["ReduceMax", "ReduceMean", "ReduceSum"]))
    s.done("Sub", [name, s.node(op, [name, s.integers(axis)], keepdims=1)])


def attention(s: Planes) -> None:
    name = s.image()
    tokens = s.tokens(name)
    keys = s.node("MatMul", [tokens, s.weights(CHANNELS, CHANNELS)])
    scores = s.node("MatMul", [tokens, s.node("Transpose", [keys], perm=[0, 2, 1])])
    s.from_tokens(s.node("MatMul", [s.node("Softmax", [scores], axis=-1), tokens]), name)


def with_class_token(s: Planes) -> None:
    """Put a token in front of the others, compute with all, and take it off again."""
    name = s.image()
    whole = s.node("Concat", [s.weights(1, 1, CHANNELS), s.tokens(name)], axis=1)
    whole = s.node("LayerNormalization", [whole, s.weights(CHANNELS), s.weights(CHANNELS)])
    mean = s.node("ReduceMean", [whole, s.integers(1)], keepdims=1)
    rest = s.node("Slice", [whole, s.integers(1), s.integers(2**31 - 1), s.integers(1)])
    s.from_tokens(s.node("Add", [rest, mean]), name)


def rows(s: Planes) -> None:
    """Join height and width to rows of channels, compute row by row, and split them again."""
    name = s.image()
    last = s.node("Transpose", [name], perm=[0, 2, 3, 1])
    flat = s.node("Reshape", [last, s.integers(-1, CHANNELS)])
    made = s.node("Gemm", [flat, s.weights(CHANNELS, CHANNELS), s.weights(CHANNELS)])
    back = s.node("Reshape", [s.node("Relu", [made]), s.node("Shape", [last])])
    s.done("Transpose", [back], perm=[0, 3, 1, 2])


def windows(s: Planes) -> None:
    """Attend within windows of two by two, which are cut out and put back."""
    name = s.image()
    height, width = (s.node("Div", [s.extents(name, a, a + 1), s.integers(2)]) for a in (2, 3))
    two = s.integers(2)
    cut = s.node("Concat", [s.integers(1, CHANNELS), height, two, width, two], axis=0)
    parts = s.node("Transpose", [s.node("Reshape", [name, cut])], perm=[0, 2, 4, 3, 5, 1])
    inner = s.node("Reshape", [parts, s.integers(-1, 4, CHANNELS)])
    scores = s.node("MatMul", [inner, s.node("Transpose", [inner], perm=[0, 2, 1])])
    made = s.node("MatMul", [s.node("Softmax", [scores], axis=-1), inner])
    grid = s.node("Concat", [s.integers(1), height, width, s.integers(2, 2, CHANNELS)], axis=0)
    back = s.node("Transpose", [s.node("Reshape", [made, grid])], perm=[0, 5, 1, 3, 2, 4])
    s.done("Reshape", [back, s.node("Shape", [name])])


def halves(s: Planes) -> None:
    """Cut an axis in two and put the parts together the other way round."""
    name, axis = s.image(), s.draw(st.sampled_from([2, 3]))
    first = f"{s.node('Split', [name], axis=axis, num_outputs=2)}"
    s.nodes[-1].output.append(f"{first}_rest")
    s.done("Concat", [f"{first}_rest", s.node("Neg", [first])], axis=axis)


def resized(s: Planes) -> None:
    name, mode = s.image(), s.draw(st.sampled_from(["nearest", "linear"]))
    large = s.node("Resize", [name, "", s.constant(np.array([1, 1, 2, 1.5], np.float32))], mode=mode)
    s.done("Resize", [large, "", "", s.node("Shape", [name])], mode=mode)


def summed(s: Planes) -> None:
    axis = s.constant(np.array(s.draw(st.sampled_from([2, 3]))))
    s.done("CumSum", [s.image(), axis], reverse=s.draw(st.integers(0, 1)))


def shuffled(s: Planes) -> None:
    name = s.image()
    cut = s.node("Concat", [s.integers(1, 2, CHANNELS // 2), s.extents(name, 2, 4)], axis=0)
    turned = s.node("Transpose", [s.node("Reshape", [name, cut])], perm=[0, 2, 1, 3, 4])
    s.done("Reshape", [turned, s.node("Shape", [name])])


STEPS = (unary, combined, convolved, pooled, normalized, layer_normalized, excited, spread, attention,
         with_class_token, rows, windows, halves, resized, summed, shuffled)  # fmt: skip


@st.composite
def planes(draw: Draw) -> Any:
    """Return a model of x [1, CHANNELS, H, W] with a few steps."""
    sketch = Planes(draw, [("x", PLANE)])
    for step in draw(st.lists(st.sampled_from(STEPS), min_size=1, max_size=4)):
        step(sketch)
    return sketch.model()
