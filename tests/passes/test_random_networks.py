"""Random networks through the whole simplification: each pass within its tolerance, and nothing left to do."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qcompile import ops
from qcompile.ir.graph import Graph, Value
from qcompile.ir.types import TensorType
from qcompile.passmgr import PassManager
from qcompile.passmgr.verify_numerics import VerifyNumerics
from qcompile.pipelines import SIMPLIFY

HEIGHT, WIDTH, CHANNELS = 6, 8, 4


class Builder:
    """Draws operations that each take and make [1, 4, 6, 8]."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.graph = Graph("random")
        self.random = np.random.default_rng(draw(st.integers(0, 1000)))
        self.known: list[Value] = [self.graph.add_input("x", TensorType("float32", (1, CHANNELS, HEIGHT, WIDTH)))]

    def pick(self) -> Value:
        return self.draw(st.sampled_from(self.known[-3:]))

    def add(self, op: str, inputs: list[Value], **attrs: object) -> Value:
        definition = ops.get(op)
        node = self.graph.add_node(definition, inputs, definition.Attrs(**attrs))
        return node.outputs[0]

    def constant(self, *shape: int, low: float = -1.0, high: float = 1.0) -> Value:
        return self.graph.add_constant("c", self.random.uniform(low, high, shape).astype(np.float32))

    def number(self, value: float) -> Value:
        return self.graph.add_constant("n", np.asarray(value, np.float32))

    # -- operations -------------------------------------------------------------------------------------------

    def convolution(self) -> Value:
        groups = self.draw(st.sampled_from([1, 2, CHANNELS]))
        weight = self.constant(CHANNELS, CHANNELS // groups, 3, 3)
        return self.add("conv2d", [self.pick(), weight, self.constant(CHANNELS)], pads=(1, 1, 1, 1), groups=groups)

    def pointwise(self) -> Value:
        weight = self.constant(CHANNELS, CHANNELS, 1, 1)
        return self.add("conv2d", [self.pick(), weight, self.constant(CHANNELS)])

    def normalization(self) -> Value:
        parameters = [self.constant(CHANNELS) for _ in range(3)]
        return self.add("batch_norm", [self.pick(), *parameters, self.constant(CHANNELS, low=0.5, high=2.0)])

    def affine(self) -> Value:
        shape = self.draw(st.sampled_from([(), (1,), (CHANNELS, 1, 1), (1, CHANNELS, 1, 1), (WIDTH,)]))
        op = self.draw(st.sampled_from(["add", "sub", "mul", "div"]))
        return self.add(op, [self.pick(), self.constant(*shape, low=0.5, high=2.0)])

    def activation(self) -> Value:
        return self.add(self.draw(st.sampled_from(["relu", "sigmoid", "tanh", "hard_swish"])), [self.pick()])

    def hard_swish(self) -> Value:
        x = self.pick()
        ramp = self.add("clip", [self.add("add", [x, self.number(3.0)])], min=0.0, max=6.0)
        return self.add("div", [self.add("mul", [x, ramp]), self.number(6.0)])

    def sum(self) -> Value:
        return self.add(self.draw(st.sampled_from(["add", "mul", "maximum"])), [self.pick(), self.pick()])

    def branches(self) -> Value:
        definition = ops.get("split")
        node = self.graph.add_node(definition, [self.pick()], definition.Attrs(axis=1, sizes=(1, 3)))
        return self.add("concat", [node.outputs[1], self.add("relu", [node.outputs[0]])], axis=1)

    def padded(self) -> Value:
        pads = (0, 0, 1, 0, 0, 0, 0, 2)
        x = self.add("pad", [self.pick()], pads=pads, value=self.draw(st.sampled_from([0.0, 1.0])))
        return self.add("slice", [x], starts=(0, 0, 1, 1), steps=(1,) * 4, sizes=(1, CHANNELS, HEIGHT, WIDTH))

    def pool(self) -> Value:
        op = self.draw(st.sampled_from(["max_pool", "avg_pool"]))
        return self.add(op, [self.pick()], kernel=(3, 3), pads=(1, 1, 1, 1))

    def gate(self) -> Value:
        x = self.pick()
        mean = self.add("reduce_mean", [x], axes=(2, 3), keepdims=self.draw(st.booleans()))
        flat = self.add("reshape", [mean], shape=(1, CHANNELS))
        hidden = self.add("dense", [flat, self.constant(CHANNELS, CHANNELS), self.constant(CHANNELS)])
        gate = self.add("reshape", [self.add("sigmoid", [hidden])], shape=(1, CHANNELS, 1, 1))
        return self.add("mul", [x, gate])

    def shuffle(self) -> Value:
        split = self.add("reshape", [self.pick()], shape=(1, 2, 2, HEIGHT, WIDTH))
        moved = self.add("transpose", [split], perm=(0, 2, 1, 3, 4))
        return self.add("reshape", [moved], shape=(1, CHANNELS, HEIGHT, WIDTH))

    def there_and_back(self) -> Value:
        x = self.add("transpose", [self.pick()], perm=(0, 2, 3, 1))
        x = self.add("add", [x, self.constant(CHANNELS)])
        x = self.add("softmax", [x], axis=self.draw(st.integers(-1, 3)))
        return self.add("transpose", [x], perm=(0, 3, 1, 2))

    def rows(self) -> Value:
        x = self.add("reshape", [self.pick()], shape=(1, CHANNELS, HEIGHT * WIDTH))
        x = self.add("transpose", [x], perm=(0, 2, 1))
        x = self.add("matmul", [x, self.constant(CHANNELS, CHANNELS)])
        x = self.add("add", [x, self.constant(CHANNELS)])
        x = self.add("transpose", [x], perm=(0, 2, 1))
        return self.add("reshape", [x], shape=(1, CHANNELS, HEIGHT, WIDTH))


STEPS = [name for name in vars(Builder) if name not in ("pick", "add", "constant", "number") and name[0] != "_"]


@st.composite
def networks(draw: st.DrawFn) -> Graph:
    builder = Builder(draw)
    for step in draw(st.lists(st.sampled_from(STEPS), min_size=1, max_size=12)):
        builder.known.append(getattr(builder, step)())
    outputs = [builder.known[-1]]
    if draw(st.booleans()):
        outputs.append(builder.add("reshape", [builder.pick()], shape=(1, CHANNELS * HEIGHT * WIDTH)))
    builder.graph.set_outputs(outputs, [f"y{k}" for k in range(len(outputs))])
    return builder.graph


@given(networks())
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_simplify(graph: Graph) -> None:
    result = PassManager(SIMPLIFY, [VerifyNumerics()]).run(graph)
    names = {node.op.name for node in result.nodes}
    assert "batch_norm" not in names
    assert not any(getattr(node.attrs, "layout", "NHWC") == "NCHW" for node in result.nodes)
    again = PassManager(SIMPLIFY)
    again.run(again.run(result))
    assert [record.text for record in again.records if record.changed] == []
