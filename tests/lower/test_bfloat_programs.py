"""Graphs of bfloat16 tensors: each is rounded once, when it is stored, on every machine that multiplies them."""

from __future__ import annotations

from pathlib import Path

import emulation
import numpy as np
import pytest
from graph_checks import compare, graph_of, random_inputs
from program_execution import Executable
from test_half_programs import LAYERS, MOVES

from qcompile.ir.graph import Graph
from qcompile.ir.printer import print_graph
from qcompile.lower import lower_graph
from qcompile.ops.interpreter import Interpreter
from qcompile.targets import load, with_bfloat16

# One rounding of a bfloat16 number is 1/512 of it; a tie that the last bit of a float32 decides is twice that.
TOLERANCES = {"moves": 1e-2, "layers": 4e-2}


def graphs() -> dict[str, Graph]:
    texts = {"moves": MOVES, "layers": LAYERS}
    return {name: graph_of(text.replace("f16", "bf16").replace("float16", "bfloat16")) for name, text in texts.items()}


@pytest.mark.parametrize("name", list(TOLERANCES))
def test_on_this_machine(name: str) -> None:
    info = Path("/proc/cpuinfo")
    if not info.exists() or "avx512_bf16" not in info.read_text():
        pytest.skip("this processor lacks avx512_bf16")
    graph = graphs()[name]
    inputs = random_inputs(graph, 1)
    program = lower_graph(graph, with_bfloat16(load("zen4")), jobs=1)
    compare(Executable(program).run(inputs, 3), Interpreter(graph).run(inputs), TOLERANCES[name])


@pytest.mark.arm
@pytest.mark.parametrize("name", list(TOLERANCES))
def test_on_an_emulated_core(name: str) -> None:
    if emulation.emulator() is None:
        pytest.skip("qemu-aarch64 is not installed (Debian: qemu-user)")
    graph = graphs()[name]
    inputs = random_inputs(graph, 2)
    program = lower_graph(graph, with_bfloat16(load("graviton3")), jobs=1)
    compare(emulation.run_emulated(program, inputs), Interpreter(graph).run(inputs), TOLERANCES[name])


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
