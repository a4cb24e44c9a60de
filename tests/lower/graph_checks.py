"""Compares a lowered graph with the interpreter."""

from __future__ import annotations

from pathlib import Path

import emulation
import numpy as np
import pytest
from program_execution import Executable

from qcompile import ops
from qcompile.ir.graph import Graph
from qcompile.ir.parser import parse_graph
from qcompile.lower import lower_graph
from qcompile.ops.interpreter import Interpreter
from qcompile.targets import Target

GRAPHS = Path(__file__).parent / "graphs"


def graph_names() -> list[str]:
    """Return the names of all graphs/<name>.qir."""
    return sorted(path.stem for path in GRAPHS.glob("*.qir"))


def graph_texts(*names: str) -> dict[str, str]:
    """Return the texts of graphs/<name>.qir by name."""
    return {name: (GRAPHS / f"{name}.qir").read_text() for name in names}


def graph_of(text: str) -> Graph:
    """Return a graph from its text; the constant pool is empty."""
    return parse_graph(text, ops.all_ops())


def random_inputs(graph: Graph, seed: int = 0) -> dict[str, np.ndarray]:
    """Return inputs of the right types: normal floats, all codes, small indices."""
    rng = np.random.default_rng(seed)
    found = {}
    for value in graph.inputs:
        if value.dtype.startswith("float"):
            found[value.name] = rng.normal(0, 2, value.shape).astype(value.dtype)
        elif value.dtype == "bool":
            found[value.name] = rng.integers(0, 2, value.shape).astype(bool)
        elif value.dtype == "int8":
            found[value.name] = rng.integers(-128, 128, value.shape).astype(np.int8)
        else:
            found[value.name] = rng.integers(0, 3, value.shape).astype(value.dtype)
    return found


def check(graph: Graph, machine: Target, *, rtol: float = 1e-5, pieces: int = 3) -> None:
    """Lower, run, and compare every output: integers bit for bit, floats within tolerances.

    Args:
        graph: channels last.
        machine: one that this processor can run.
        rtol: tolerance relative to each element, and a tenth of it relative to the largest.
        pieces: into how many ranges the tiles of each step are cut.
    """
    executable = Executable(lower_graph(graph, machine, jobs=1))
    for seed in (1, 2):
        inputs = random_inputs(graph, seed)
        want = Interpreter(graph).run(inputs)
        got = executable.run(inputs, pieces if seed == 1 else 1)
        compare(got, want, rtol)


def compare(got: dict[str, np.ndarray], want: dict[str, np.ndarray], rtol: float) -> None:
    """Compare outputs: integers and truth values bit for bit, floats within a tolerance; see `check`."""
    for name, expected in want.items():
        assert got[name].dtype == expected.dtype
        assert got[name].shape == expected.shape
        if expected.dtype.kind == "f" and rtol:
            finite = np.abs(expected[np.isfinite(expected)]).max(initial=1.0)
            np.testing.assert_allclose(got[name], expected, rtol, rtol * finite / 10, err_msg=name)
        else:
            np.testing.assert_array_equal(got[name], expected, err_msg=name)


def check_on_this_machine(graph: Graph, target: Target, flag: str, tolerance: float) -> None:
    """Compare a program with the interpreter where the processor has what it needs, a flag of /proc/cpuinfo."""
    info = Path("/proc/cpuinfo")
    if not info.exists() or flag not in info.read_text():
        pytest.skip(f"this processor lacks {flag}")
    inputs = random_inputs(graph, 1)
    program = lower_graph(graph, target, jobs=1)
    compare(Executable(program).run(inputs, 3), Interpreter(graph).run(inputs), tolerance)


def check_emulated(graph: Graph, target: Target, tolerance: float) -> None:
    """Compare a program with the interpreter on an emulated core."""
    if emulation.emulator() is None:
        pytest.skip("qemu-aarch64 is not installed (Debian: qemu-user)")
    inputs = random_inputs(graph, 2)
    program = lower_graph(graph, target, jobs=1)
    compare(emulation.run_emulated(program, inputs), Interpreter(graph).run(inputs), tolerance)
