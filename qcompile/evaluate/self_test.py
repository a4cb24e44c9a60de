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
from qcompile.ops.evaluation import Array
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

_LAST_BITS, _EXPONENT, _LARGE = np.uint32(15), np.uint32(0x7F800000), np.uint32(0x7F000000)
"""Bits of a float32: the last ones, the exponent, and that of numbers above 1e38."""

_MIX = 0x9E3779B1
"""2^32 over the golden ratio: multiples of it spread over all numbers of 32 bits."""

_TRIES, _ELEMENTS = 64, 2**23
"""Other roundings at most, to see whether an answer hangs on how results within the network are rounded; and how many
elements of results they may compute together."""

_FEW, _CLOSER = 16, 16
"""An output of few elements may be the same for two roundings by chance: cut off at zero, or within the tolerance. It
is believed where it moves, but by far less than the tolerance."""

_COPIES = frozenset({
    *("concat", "expand", "gather", "gather_elements", "gather_nd", "identity", "loop_begin", "loop_end", "max_pool"),
    *("pad", "reshape", "slice", "split", "transpose", "where"),
})  # fmt: skip
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
    of large scores, sums whose terms cancel), outputs that hang on them say nothing of the program and are left out;
    of a few seeds the one is taken that leaves out the fewest.

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
    integers = [node.is_integer or _rounds(node) for node in graph.nodes if not _copies(node)]
    tolerance = 0.0 if all(integers) else MIXED_TOLERANCE if any(integers) else FLOAT_TOLERANCE
    if any(value.dtype in NARROW for value in graph.values()):
        tolerance = max(tolerance, HALF_TOLERANCE)
    return tolerance


def _copies(node: Node) -> bool:
    """Return whether a node only moves values, or counts in integers."""
    if node.op.name in _COPIES or (node.op.name == "scatter" and node.attrs.reduction == "none"):
        return True
    counts = not any(np.dtype(v.dtype).kind == "f" or v.dtype in NARROW for v in (*node.inputs, *node.outputs))
    return counts and not node.is_integer


def _rounds(node: Node) -> bool:
    """Return whether a node of real operands rounds them to few bits."""
    return node.op.rounds or node.op.name == "fake_quantize"


def _records(graph: Graph, seed: int, tolerance: float) -> dict[str, Any]:
    """Return what is kept of each output, without those that the last digits decide."""
    kept = {state.input for state in graph.states}
    given = self_test.inputs([v for v in graph.inputs if v.name not in kept], seed)
    answers = _answers(graph, given, Interpreter(graph))
    records = {name: self_test.record(array, tolerance) for name, array in answers.items()}
    if tolerance == 0:
        return records
    near = {name: x * np.float32(1 + _NUDGE) if x.dtype == np.float32 else x for name, x in given.items()}
    elements = sum(value.type.size for value in graph.values())
    for attempt in range(max(1, min(_TRIES, _ELEMENTS // max(elements, 1)))):
        others = _answers(graph, near, _Coarse(graph, attempt))
        records = {name: kept for name, kept in records.items() if self_test.agrees(others[name], kept, tolerance)}
        if all(_clear(answers[name], others[name], tolerance) for name in records):
            break
    return records


def _clear(answer: Array, other: Array, tolerance: float) -> bool:
    """Return whether two answers that agree do so by no chance."""
    if answer.size > _FEW or answer.dtype != np.float32:
        return True
    with np.errstate(all="ignore"):
        moved = float(np.abs(answer - other).max(initial=0.0))
        return 0 < moved * _CLOSER <= tolerance * float(np.abs(answer).max(initial=0.0))


class _Coarse(Interpreter):
    """Rounds results to fewer bits than float32 has: where terms of a sum cancel, the answer hangs on each of them.

    Numbers of few bits stay as they are, and equal ones equal, so that counts, indices and what is picked do not
    change.

    Args:
        graph: what is compiled.
        attempt: which numbers are rounded up, and which down.
    """

    def __init__(self, graph: Graph, attempt: int) -> None:
        super().__init__(graph)
        self.key = np.uint32(attempt * _MIX % 2**32)

    def evaluate(self, node: Node, inputs: list[Array]) -> tuple[Array, ...]:
        """Evaluate one node, and round what it gives; a tensor that a loop fills is not rounded at every step."""
        if _copies(node):
            return super().evaluate(node, inputs)
        return tuple(self._rounded(a) if a.dtype == np.float32 else a for a in super().evaluate(node, inputs))

    def _rounded(self, array: Array) -> Array:
        bits = np.atleast_1d(array).view(np.uint32)
        kept, exponent = bits & ~_LAST_BITS, bits & _EXPONENT
        mixed = (kept ^ self.key) * np.uint32(_MIX)
        steps = ((mixed ^ mixed >> np.uint32(15)) * np.uint32(_MIX) >> np.uint32(30)) - np.uint32(1)
        # The largest numbers, which masks are made of, must not become infinite, nor the smallest others.
        exact = (kept == bits) | (exponent >= _LARGE) | (exponent == 0)
        return np.where(exact, bits, kept + steps * (_LAST_BITS + np.uint32(1))).view(np.float32).reshape(array.shape)


def _answers(graph: Graph, given: Mapping[str, Any], interpreter: Interpreter) -> dict[str, Any]:
    """Return the outputs that the self-test compares: those of its last run."""
    kept = initial_states(graph)
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
