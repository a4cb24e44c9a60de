"""Layers with weights of a few bits, shapes at random: every cut into blocks, groups and words gives the sums."""

from __future__ import annotations

import numpy as np
import pytest
from graph_checks import check
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qcompile import ops
from qcompile.ir import Graph, TensorType
from qcompile.lower import lower_graph
from qcompile.ops.unpack_groups import packed
from qcompile.targets import Target


@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    rows=st.sampled_from([1, 1, 2, 3, 4, 5, 7, 13]),
    inner=st.sampled_from([1, 3, 31, 32, 33, 64, 100, 131]),
    columns=st.sampled_from([1, 5, 16, 17, 33, 64, 65, 130]),
    bits=st.sampled_from([1, 2, 4, 8]),
    group=st.sampled_from([32, 64]),
    zeros=st.booleans(),
    wide=st.booleans(),
    seed=st.integers(0, 99),
)
def test_random_shapes(
    rows: int, inner: int, columns: int, bits: int, group: int, zeros: bool, wide: bool, seed: int, machine: Target
) -> None:
    graph = product(rows, inner, columns, bits, group, zeros=zeros, wide=wide, seed=seed)
    check(graph, machine)


def product(
    rows: int,
    inner: int,
    columns: int,
    bits: int,
    group: int,
    *,
    zeros: bool = False,
    wide: bool = False,
    seed: int = 0,
) -> Graph:
    """Return a dense layer with random packed weights; `wide` has float32 scales."""
    rng = np.random.default_rng(seed)
    graph = Graph("packed")
    x = graph.add_input("x", TensorType("float32", (rows, inner)))
    low = -(1 << (bits - 1))
    codes = rng.integers(low, low + (1 << bits), (columns, inner)).astype(np.int8)
    per_group = (columns, -(-inner // group))
    operands = [graph.add_constant("q", packed(codes, bits))]
    scale = rng.uniform(-0.1, 0.1, per_group)
    operands.append(graph.add_constant("scale", scale.astype(np.float32 if wide else np.float16)))
    if zeros:
        operands.append(graph.add_constant("zero", rng.integers(-9, 9, per_group).astype(np.int8)))
    op = ops.get("unpack_groups")
    centre = 0.0 if zeros else -0.5 if bits == 1 else 0.0
    weight = graph.add_node(op, operands, op.Attrs((columns, inner), bits, group, centre), names=["w"]).output
    bias = graph.add_constant("b", rng.normal(size=columns).astype(np.float32))
    graph.set_outputs([graph.add_node(ops.get("dense"), [x, weight, bias], loc="layer").output], ["y"])
    return graph


@pytest.mark.parametrize(("bits", "most"), [(8, 1.2), (4, 0.7), (2, 0.4), (1, 0.25)])
def test_program_holds_the_packed_weights_alone(bits: int, most: float, machine: Target) -> None:
    """Bytes for one weight: the bits, and a half for each group of 32."""
    program = lower_graph(product(1, 256, 64, bits, 32), machine, jobs=1)
    assert len(program.weights) < most * 256 * 64
    assert program.arena_bytes == 0
    assert [step.precision for step in program.steps] == [f"int{bits} weights"]
