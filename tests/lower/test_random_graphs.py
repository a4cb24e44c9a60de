"""Graphs at random: fusion, aliases, shared memory and direct outputs must never change a result."""

from __future__ import annotations

from typing import Any

import pytest
from graph_checks import check
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qcompile import ops
from qcompile.ir import Graph, TensorType, Value
from qcompile.quant.qparams import QParams
from qcompile.targets import Target

EXTENTS = [(2, 3, 4, 8), (2, 3, 4, 5), (1, 6, 5, 16)]


class Grower:
    """Appends random operations to a graph."""

    def __init__(self, data: st.DataObject, quantized: bool) -> None:
        self.data, self.quantized, self.graph = data, quantized, Graph("random")
        self.values: list[Value] = []
        shape = data.draw(st.sampled_from(EXTENTS))
        for name in ("x", "y"):
            value = self.graph.add_input(name, TensorType("int8" if quantized else "float32", shape))
            value.qparams = self.grid() if quantized else None
            self.values.append(value)

    def grid(self) -> QParams:
        scale, zero_point = self.data.draw(st.sampled_from([0.05, 0.02, 0.07])), self.data.draw(st.integers(-128, 127))
        return QParams((scale,), (zero_point,))

    def append(self, name: str, inputs: list[Value], attrs: dict[str, Any], params: QParams | None) -> None:
        op = ops.get(name)
        node = self.graph.add_node(op, inputs, op.Attrs(**attrs), loc=f"{name}_{len(self.graph.nodes)}")
        node.output.qparams = params if self.quantized else None
        self.values.append(node.output)

    def grow(self) -> None:
        pick = self.data.draw
        x = pick(st.sampled_from(self.values))
        kind = pick(st.sampled_from(["table", "sum", "turn", "reshape", "concat", "slice", "pool", "product"]))
        alike = [v for v in self.values if v.shape == x.shape]
        if kind == "table":
            self.append(pick(st.sampled_from(["relu", "sigmoid", "tanh"])), [x], {}, self.grid())
        elif kind in ("sum", "product"):
            name = "add" if kind == "sum" else "mul"
            self.append(name, [x, pick(st.sampled_from(alike))], {}, self.grid())
        elif kind == "turn":
            perm = tuple(pick(st.permutations(range(len(x.shape)))))
            self.append("transpose", [x], {"perm": perm}, x.qparams)
        elif kind == "reshape":
            shape = (*x.shape[:-2], x.shape[-2] * x.shape[-1]) if len(x.shape) > 3 else (x.type.size // 2, 1, 2, 1)
            self.append("reshape", [x], {"shape": shape}, x.qparams)
        elif kind == "concat" and x.type.size < 5000:
            axis = pick(st.integers(0, len(x.shape) - 1))
            self.append("concat", [x, pick(st.sampled_from(alike))], {"axis": axis}, self.grid())
        elif kind == "slice":
            sizes = tuple(max(1, d - pick(st.integers(0, 1))) for d in x.shape)
            starts = tuple(d - s for d, s in zip(x.shape, sizes, strict=True))
            steps = (1,) * len(sizes)
            self.append("slice", [x], {"starts": starts, "steps": steps, "sizes": sizes}, x.qparams)
        elif kind == "pool" and len(x.shape) == 4 and min(x.shape[1:3]) > 1:
            self.append("max_pool", [x], {"kernel": (2, 2), "layout": "NHWC"}, x.qparams)


@pytest.mark.parametrize("quantized", [False, True])
@settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data(), size=st.integers(4, 14))
def test_random_graphs(data: st.DataObject, size: int, quantized: bool, machine: Target) -> None:
    grower = Grower(data, quantized)
    for _ in range(size):
        grower.grow()
    unread = [v for v in grower.values if not v.uses]
    also = data.draw(st.lists(st.sampled_from(grower.values), max_size=2))
    grower.graph.set_outputs([*unread, *also], [f"y{n}" for n in range(len(unread) + len(also))])
    check(grower.graph, machine)
