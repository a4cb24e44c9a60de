"""Random models with open extents, for property tests: each operator keeps its meaning at every size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

Draw = Callable[[st.SearchStrategy[Any]], Any]

LEAST, MOST, WIDTH = 4, 9, 6
UNARY = ("Relu", "Sigmoid", "Tanh", "Abs", "Neg", "HardSwish", "Elu", "Exp")
FIXED, OPEN, BATCH = "fixed", "open", "batch"


@dataclass
class Sketch:
    """A model under construction.

    Args:
        draw: hypothesis's source of choices.
        values: name and kind of each axis: FIXED (WIDTH elements), OPEN (S), BATCH (N) or 1; and the change of S.
    """

    draw: Draw
    values: list[tuple[str, tuple[Any, ...]]]
    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)

    def constant(self, array: Any) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def weights(self, *shape: int) -> str:
        rng = np.random.default_rng(len(self.constants))
        return self.constant(rng.normal(0, 0.5, shape).astype(np.float32))

    def node(self, op: str, inputs: list[str], **attributes: Any) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=f"n{len(self.nodes)}", **attributes))
        return name

    def add(self, axes: tuple[Any, ...], op: str, inputs: list[str], **attributes: Any) -> None:
        self.values.append((self.node(op, inputs, **attributes), axes))

    def pick(self, rank: int | None = None) -> tuple[str, tuple[Any, ...]]:
        return self.draw(st.sampled_from([v for v in self.values if rank is None or len(v[1]) == rank]))

    def model(self) -> Any:
        """Return the model: its outputs are the last values."""
        shapes = {BATCH: "N", OPEN: "S", FIXED: WIDTH}
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [shapes[a] for a in self.values[0][1]])
        last = [(name, axes) for name, axes in self.values[1:]][-2:]
        outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [None] * len(a)) for n, a in last]
        graph = helper.make_graph(self.nodes, "random", [x], outputs, self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def unary(s: Sketch) -> None:
    name, axes = s.pick()
    s.add(axes, s.draw(st.sampled_from(UNARY)), [name])


def with_constant(s: Sketch) -> None:
    name, axes = s.pick()
    if axes and axes[-1] == FIXED:
        s.add(axes, s.draw(st.sampled_from(["Add", "Mul", "Max"])), [name, s.weights(WIDTH)])


def combined(s: Sketch) -> None:
    name, axes = s.pick()
    same = [other for other, kinds in s.values if kinds == axes]
    s.add(axes, s.draw(st.sampled_from(["Add", "Mul", "Sub"])), [name, s.draw(st.sampled_from(same))])


def product(s: Sketch) -> None:
    name, axes = s.pick()
    if len(axes) > 1 and axes[-1] == FIXED:
        s.add(axes, "MatMul", [name, s.weights(WIDTH, WIDTH)])


def attention(s: Sketch) -> None:
    name, axes = s.pick(3)
    if axes == (BATCH, OPEN, FIXED):
        scores = s.node("MatMul", [name, s.node("Transpose", [name], perm=[0, 2, 1])])
        s.add(axes, "MatMul", [s.node("Softmax", [scores], axis=-1), name])


def normalized(s: Sketch) -> None:
    name, axes = s.pick()
    if axes and axes[-1] == FIXED:
        s.add(axes, "LayerNormalization", [name, s.weights(WIDTH), s.weights(WIDTH)], axis=-1)


def softmax(s: Sketch) -> None:
    name, axes = s.pick()
    if axes:
        s.add(axes, "Softmax", [name], axis=s.draw(st.integers(0, len(axes) - 1)))


def reduced(s: Sketch) -> None:
    name, axes = s.pick()
    if axes:
        axis = s.draw(st.integers(0, len(axes) - 1))
        op = s.draw(st.sampled_from(["ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"]))
        s.add((*axes[:axis], 1, *axes[axis + 1 :]), op, [name, s.constant(np.array([axis]))], keepdims=1)


def spread(s: Sketch) -> None:
    """Bring a reduced tensor back to the extents of another by broadcasting."""
    name, axes = s.pick()
    like = [(v, kinds) for v, kinds in s.values if len(kinds) == len(axes)]
    same = [v for v, kinds in like if all(b in (a, 1) for a, b in zip(axes, kinds, strict=True))]
    s.add(axes, s.draw(st.sampled_from(["Add", "Sub"])), [name, s.draw(st.sampled_from(same))])


def transposed(s: Sketch) -> None:
    name, axes = s.pick()
    perm = s.draw(st.permutations(range(len(axes))))
    s.add(tuple(axes[a] for a in perm), "Transpose", [name], perm=list(perm))


def part(s: Sketch) -> None:
    """Take elements counted from the front, from the end, or in reverse, and bring the extent back by a maximum."""
    name, axes = s.pick()
    opened = [a for a, kind in enumerate(axes) if kind == OPEN]
    if not opened:
        return
    start, end, step = s.draw(st.sampled_from([(-1, 99, 1), (-3, 99, 1), (0, -1, 1), (1, -1, 1), (2, 99, 1), (0, 3, 1),
                                               (-1, -99, -1), (0, 99, 2), (-3, -1, 1)]))  # fmt: skip
    numbers = [s.constant(np.array([k])) for k in (start, end, opened[0], step)]
    axes_after = (*axes[: opened[0]], 1, *axes[opened[0] + 1 :])
    cut = s.node("Slice", [name, *numbers])
    if step == -1 and s.draw(st.booleans()):
        s.values.append((cut, axes))
    else:
        op = s.draw(st.sampled_from(["ReduceMax", "ReduceMean", "ReduceSum"]))
        s.add(axes_after, op, [cut, s.constant(np.array([opened[0]]))], keepdims=1)


def picked(s: Sketch) -> None:
    name, axes = s.pick()
    opened = [a for a, kind in enumerate(axes) if kind == OPEN]
    if opened:
        index = s.constant(np.array(s.draw(st.sampled_from([[-1], [0], [-2]]))))
        s.add((*axes[: opened[0]], 1, *axes[opened[0] + 1 :]), "Gather", [name, index], axis=opened[0])


def joined(s: Sketch) -> None:
    """Join along the open axis, then take as many of the first or last elements as there were."""
    name, axes = s.pick(3)
    if axes != (BATCH, OPEN, FIXED):
        return
    same = [other for other, kinds in s.values if kinds == axes]
    front = s.node("Slice", [name, *(s.constant(np.array([k])) for k in (0, 2, 1))])
    parts = s.draw(st.permutations([front, s.draw(st.sampled_from(same))]))
    whole = s.node("Concat", list(parts), axis=1)
    start, end = s.draw(st.sampled_from([(2, 99), (0, -2), (1, -1)]))
    s.add(axes, "Slice", [whole, *(s.constant(np.array([k])) for k in (start, end, 1))])


def heads(s: Sketch) -> None:
    """Split the last axis and join it again, with the shape taken from the tensor."""
    name, axes = s.pick(3)
    if axes != (BATCH, OPEN, FIXED):
        return
    shape = s.node("Shape", [name])
    front = s.node("Slice", [shape, s.constant(np.array([0])), s.constant(np.array([2]))])
    split = s.node("Concat", [front, s.constant(np.array([2, WIDTH // 2]))], axis=0)
    turned = s.node("Transpose", [s.node("Reshape", [name, split])], perm=[0, 2, 1, 3])
    back = s.node("Transpose", [s.node("Tanh", [turned])], perm=[0, 2, 1, 3])
    s.add(axes, "Reshape", [back, s.constant(np.array([0, 0, -1]))])


def by_length(s: Sketch) -> None:
    name, axes = s.pick()
    bounds = [s.constant(np.array([k])) for k in (1, 2)]
    length = s.node("Cast", [s.node("Slice", [s.node("Shape", ["x"]), *bounds])], to=1)
    s.add(axes, s.draw(st.sampled_from(["Div", "Mul"])), [name, length])


def windows(s: Sketch) -> None:
    """Convolve or pool along the open axis, the width being channels."""
    name, axes = s.pick(3)
    if axes != (BATCH, OPEN, FIXED):
        return
    channels = s.node("Transpose", [name], perm=[0, 2, 1])
    kind = s.draw(st.sampled_from(["Conv", "AveragePool", "MaxPool", "Pad"]))
    if kind == "Conv":
        made = s.node("Conv", [channels, s.weights(WIDTH, WIDTH, 3)], pads=[1, 1], kernel_shape=[3])
    elif kind == "Pad":
        padded = s.node("Pad", [channels, s.constant(np.array([0, 0, 2, 0, 0, 1]))],
                        mode=s.draw(st.sampled_from(["constant", "edge", "reflect"])))  # fmt: skip
        made = s.node("MaxPool", [padded], kernel_shape=[4])
    else:
        more = {"count_include_pad": s.draw(st.integers(0, 1))} if kind == "AveragePool" else {}
        made = s.node(kind, [channels], kernel_shape=[3], pads=[1, 1], **more)
    s.add(axes, "Transpose", [made], perm=[0, 2, 1])


def resized(s: Sketch) -> None:
    """Stretch the open axis, then bring it back to the length of the input."""
    name, axes = s.pick(3)
    if axes != (BATCH, OPEN, FIXED):
        return
    channels = s.node("Transpose", [name], perm=[0, 2, 1])
    mode = s.draw(st.sampled_from(["nearest", "linear"]))
    scales = s.constant(np.array([1, 1, s.draw(st.sampled_from([2.0, 1.5, 0.7]))], np.float32))
    large = s.node("Resize", [channels, "", scales], mode=mode)
    back = s.node("Resize", [large, "", "", s.node("Shape", [channels])], mode=mode)
    s.add(axes, "Transpose", [back], perm=[0, 2, 1])


def recurrent(s: Sketch) -> None:
    name, axes = s.pick(3)
    if axes != (BATCH, OPEN, FIXED):
        return
    direction = s.draw(st.sampled_from(["forward", "reverse"]))
    first = s.node("Transpose", [name], perm=[1, 0, 2])
    gates = [s.weights(1, 3 * WIDTH, WIDTH), s.weights(1, 3 * WIDTH, WIDTH)]
    y = s.node("GRU", [first, *gates], hidden_size=WIDTH, direction=direction)
    last = f"{y}_last"
    s.nodes[-1].output.append(last)
    if s.draw(st.booleans()):
        s.add((BATCH, 1, FIXED), "Transpose", [last], perm=[1, 0, 2])
    else:
        s.add(axes, "Transpose", [s.node("Squeeze", [y, s.constant(np.array([1]))])], perm=[1, 0, 2])


def scanned(s: Sketch) -> None:
    """Carry a state along the open axis: each element is its own plus half of the one before."""
    name, axes = s.pick(3)
    if axes != (BATCH, OPEN, FIXED):
        return
    types = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("state", "given", "next", "row")]
    half = numpy_helper.from_array(np.array(0.5, np.float32), "half")
    body = helper.make_graph(
        [helper.make_node("Mul", ["state", "half"], ["less"]), helper.make_node("Add", ["less", "given"], ["next"]),
         helper.make_node("Identity", ["next"], ["row"])],
        "body", types[:2], types[2:], [half],
    )  # fmt: skip
    start = s.node("ReduceMean", [name, s.constant(np.array([1]))], keepdims=0)
    ways = {f"scan_{what}_directions": [s.draw(st.integers(0, 1))] for what in ("input", "output")}
    axis = {"scan_input_axes": [1], "scan_output_axes": [1]}
    state = s.node("Scan", [start, name], body=body, num_scan_inputs=1, **ways, **axis)
    rows = f"{state}_rows"
    s.nodes[-1].output.append(rows)
    s.add((BATCH, 1, FIXED), "Unsqueeze", [state, s.constant(np.array([1]))])
    s.values.append((rows, axes))


def summed(s: Sketch) -> None:
    name, axes = s.pick()
    opened = [a for a, kind in enumerate(axes) if kind == OPEN]
    if opened:
        s.add(axes, "CumSum", [name, s.constant(np.array(opened[0]))], reverse=s.draw(st.integers(0, 1)))


def rows(s: Sketch) -> None:
    """Join batch and sequence to rows, compute row by row, and split them again."""
    name, axes = s.pick(3)
    if axes != (BATCH, OPEN, FIXED):
        return
    flat = s.node("Reshape", [name, s.constant(np.array([-1, WIDTH]))])
    made = s.node("Gemm", [flat, s.weights(WIDTH, WIDTH), s.weights(WIDTH)])
    made = s.node(s.draw(st.sampled_from(["Softmax", "Relu", "LogSoftmax"])), [made])
    if s.draw(st.booleans()):
        made = s.node("Add", [made, flat])
    s.add(axes, "Reshape", [made, s.node("Shape", [name])])


def flattened(s: Sketch) -> None:
    """Join the width and the open axis, in this order, and split them again."""
    name, axes = s.pick(3)
    if axes != (BATCH, OPEN, FIXED):
        return
    rows = s.node("Reshape", [s.node("Transpose", [name], perm=[0, 2, 1]), s.constant(np.array([0, -1]))])
    back = s.node("Reshape", [s.node("Softmax", [rows], axis=1), s.constant(np.array([0, WIDTH, -1]))])
    s.add(axes, "Transpose", [back], perm=[0, 2, 1])


STEPS = (unary, with_constant, combined, product, attention, normalized, softmax, reduced, spread, transposed, part,
         picked, joined, heads, by_length, windows, resized, recurrent, scanned, summed, flattened, rows)  # fmt: skip


@st.composite
def models(draw: Draw) -> Any:
    """Return a model of x [N, S, WIDTH] with a few operators."""
    sketch = Sketch(draw, [("x", (BATCH, OPEN, FIXED))])
    for step in draw(st.lists(st.sampled_from(STEPS), min_size=2, max_size=7)):
        step(sketch)
    if len(sketch.values) == 1:
        unary(sketch)
    return sketch.model()
