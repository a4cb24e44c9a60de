"""Graphs of bfloat16 tensors: each is rounded once, when it is stored, on every machine that multiplies them."""

from __future__ import annotations

import numpy as np
import pytest
from graph_checks import check_emulated, check_on_this_machine, graph_of, random_inputs
from test_half_programs import LAYERS, MOVES

from qcompile.ir.graph import Graph
from qcompile.ir.printer import print_graph
from qcompile.ops.interpreter import Interpreter
from qcompile.targets import load, with_bfloat16

# One rounding of a bfloat16 number is 1/512 of it; a tie that the last bit of a float32 decides is twice that.
TOLERANCES = {"moves": 1e-2, "layers": 4e-2}


def graphs() -> dict[str, Graph]:
    texts = {"moves": MOVES, "layers": LAYERS}
    return {name: graph_of(text.replace("f16", "bf16").replace("float16", "bfloat16")) for name, text in texts.items()}


@pytest.mark.parametrize("name", list(TOLERANCES))
def test_on_this_machine(name: str) -> None:
    check_on_this_machine(graphs()[name], with_bfloat16(load("zen4")), "avx512_bf16", TOLERANCES[name])


@pytest.mark.arm
@pytest.mark.parametrize("name", list(TOLERANCES))
def test_on_an_emulated_core(name: str) -> None:
    check_emulated(graphs()[name], with_bfloat16(load("graviton3")), TOLERANCES[name])


def test_the_interpreter_rounds_each_tensor_once() -> None:
    graph = graphs()["moves"]
    seen: dict[str, np.ndarray] = {}
    Interpreter(graph).run(random_inputs(graph), on_value=lambda value, array: seen.update({value.name: array}))
    a, n = seen["a"].astype(np.float32), graph.nodes[4].inputs[1].constant().astype(np.float32)
    np.testing.assert_array_equal(seen["b"], (a * n).astype("bfloat16"))
    assert seen["b"].dtype.name == "bfloat16"


def test_the_text_of_a_graph_reads_back() -> None:
    text = """graph "g" {
  input %x : f32[3]
  const @c : bf16[3] = [0.10009765625, 1.2676506002282294e+30, -2.0]
  %h = cast(%x) {dtype="bfloat16"} : bf16[3]
  %y = add(%h, @c) : bf16[3]
  output "y" = %y
}
"""
    assert print_graph(graph_of(text)) == text
