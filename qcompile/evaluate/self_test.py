"""Foresees what a bundle must answer to a made-up input, and checks a finished bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from qcompile.errors import InternalError
from qcompile.ir.graph import Graph, Node
from qcompile.ir.initial import initial_states
from qcompile.ir.types import NARROW
from qcompile.ops.interpreter import Interpreter
from qcompile.runtime import self_test

FLOAT_TOLERANCE = 1e-3
"""For a float model, relative to the largest value: far more than rounding gives, far less than any fault."""

HALF_TOLERANCE = 0.03
"""For numbers of 16 bits: kernels sum products in another precision than the interpreter, some 50 dB a layer."""

MIXED_TOLERANCE = 0.2
"""Where integers follow a float operation, one rounding error can become one step of a quantized tensor, and at a
softmax that the noise of the self-test leaves undecided a step moves a probability by some hundredths; a fault of the
program moves it by any amount."""

KEEPING_RUNS = 3
"""How often the self-test runs a model that keeps tensors between runs; the last answer counts."""

_SEEDS = 3
"""Seeds to try for one that leaves no output out."""

_NUDGE = 2.0**-18
"""By how much inputs are changed, relative to their size, to see whether an answer hangs on their last digits."""

_COPIES = frozenset({"reshape", "transpose", "identity", "slice", "split", "concat", "gather", "pad", "max_pool"})
"""Float operations that only move values: their bits are the same everywhere."""


@dataclass(frozen=True)
class Check:
    """How a finished bundle was found to run on this machine.

    Args:
        exact: whether its answer was compared bit for bit, not within a tolerance.
        compared: outputs that were compared, at least one but for networks whose answers hang on the last digits.
        median_ms: wall clock of one inference on one thread, milliseconds; a first impression, not a benchmark.
    """

    exact: bool
    compared: int
    median_ms: float


def foresee(graph: Graph, seed: int) -> dict[str, Any]:
    """Return the manifest's self-test: the seed, the tolerance, and what identifies each output's values.

    Integers give the same bits everywhere. Where float operations remain, the last digits differ between
    processors, and the tolerance is above zero. Where these digits decide more than that (steps, counts, a softmax
    of large scores), outputs that hang on them say nothing of the program and are left out; of a few seeds the one is
    taken that leaves out the fewest.

    Args:
        graph: what is compiled.
        seed: of the input; the first one to try.
    """
    tolerance = _tolerance(graph)
    best: dict[str, Any] = {}
    for attempt in range(_SEEDS):
        chosen = (seed + attempt) % 2**32
        records = _records(graph, chosen, tolerance)
        if attempt == 0 or len(records) > len(best["outputs"]):
            best = {"seed": chosen, "runs": _runs(graph), "tolerance": tolerance, "outputs": records}
        if len(records) == len(graph.outputs) - len(graph.states):
            break
    return best


def _tolerance(graph: Graph) -> float:
    integers = [node.is_integer or _rounds(node) for node in graph.nodes if node.op.name not in _COPIES]
    tolerance = 0.0 if all(integers) else MIXED_TOLERANCE if any(integers) else FLOAT_TOLERANCE
    if any(value.dtype in NARROW for value in graph.values()):
        tolerance = max(tolerance, HALF_TOLERANCE)
    return tolerance


def _rounds(node: Node) -> bool:
    """Return whether a node of real operands rounds them to few bits."""
    return node.op.rounds or node.op.name == "fake_quantize"


def _records(graph: Graph, seed: int, tolerance: float) -> dict[str, Any]:
    """Return what is kept of each output, without those that the last digits of the inputs decide."""
    kept = {state.input for state in graph.states}
    given = self_test.inputs([v for v in graph.inputs if v.name not in kept], seed)
    records = {name: self_test.record(array, tolerance) for name, array in _answers(graph, given).items()}
    if tolerance == 0:
        return records
    near = {name: x * np.float32(1 + _NUDGE) if x.dtype == np.float32 else x for name, x in given.items()}
    others = _answers(graph, near)
    return {name: kept for name, kept in records.items() if self_test.agrees(others[name], kept, tolerance)}


def _answers(graph: Graph, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the outputs that the self-test compares: those of its last run."""
    interpreter, kept = Interpreter(graph), initial_states(graph)
    outputs: dict[str, Any] = {}
    with np.errstate(all="ignore"):
        for _ in range(_runs(graph)):
            outputs = interpreter.run({**given, **kept})
            kept = {state.input: outputs[state.output] for state in graph.states}
    states = {state.output for state in graph.states}
    return {name: array for name, array in outputs.items() if name not in states}


def _runs(graph: Graph) -> int:
    return min(KEEPING_RUNS, _most_runs(graph)) if graph.states else 1


def _most_runs(graph: Graph) -> int:
    """Return how many runs at the largest sizes a growing sequence has room for."""
    sizes = {symbol.name: symbol.most for symbol in graph.symbols}
    rooms = [s.most // (int(s.new) if s.new.isdigit() else sizes[s.new]) for s in graph.symbols if s.past]
    return min(rooms, default=KEEPING_RUNS)


def check_bundle(path: Path, runs: int = 5) -> Check | None:
    """Run a new bundle on its self-test.

    Args:
        path: its directory.
        runs: inferences to time.

    Returns:
        None where the bundle is for another machine.

    Raises:
        InternalError: it does not answer what the interpreter does.
    """
    from qcompile import runtime

    try:
        session = runtime.load(path)
    except runtime.BundleError:
        return None
    with session:
        wrong = self_test.failures(session)
        if wrong:
            outputs = ", ".join(f"'{name}'" for name in wrong)
            raise InternalError(f"the model in {path} does not compute what the interpreter does: output {outputs}")
        times = []
        inputs = session.zeros()
        for _ in range(runs):
            if "length" in session.manifest:
                session.reset()
            start = perf_counter()
            session.run(inputs)
            times.append((perf_counter() - start) * 1e3)
        test = session.manifest["recipe"]["self_test"]
    return Check(test["tolerance"] == 0.0, len(test["outputs"]), float(np.median(times)))
