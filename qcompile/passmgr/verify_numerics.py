"""Checks after every pass that the graph still computes what it did, within the pass's tolerance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.ir.graph import Graph, Value
from qcompile.passmgr.context import PassContext
from qcompile.passmgr.execution import Instrument, PassRecord, Rejection
from qcompile.passmgr.passbase import Pass
from qcompile.passmgr.stimuli import stimuli
from qcompile.passmgr.tolerance import AllClose, MinSqnrDb, Tolerance
from qcompile.quant.affine import dequantize, quantize

Array = npt.NDArray[Any]
Outputs = dict[str, Array]


class VerifyNumerics(Instrument):
    """Runs the interpreter before and after each pass, and compares.

    A float network may magnify rounding errors beyond any fixed bound. Where a bound is broken, the network
    before the pass is evaluated in float64 as well: its own rounding error, ten times over, is allowed on top.

    Exact passes and passes within an absolute bound see normal, zero, saturating and tie inputs. A pass that
    promises an SQNR does so for inputs of the kind it was calibrated on: it sees the first calibration
    sample, or normal noise where there is none.

    Args:
        seed: of the inputs.

    Raises:
        Rejection: an output moved further than the pass declares; the pass manager turns it into an error
            that names the pass.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self._latest: tuple[Graph, dict[str, Outputs]] | None = None

    def after_pass(self, item: Pass, before: Graph, after: Graph, record: PassRecord, context: PassContext) -> None:
        """Compare the graphs."""
        if not record.changed:
            return
        known = self._latest[1] if self._latest is not None and self._latest[0] is before else {}
        results: dict[str, Outputs] = {}
        for kind, inputs in self._inputs(item, before, context):
            expected = known[kind] if kind in known else evaluate(before, inputs)
            results[kind] = evaluate(after, inputs)
            problem = compare(item.tolerance, after, expected, results[kind])
            if problem is not None and isinstance(item.tolerance, AllClose):
                noise = rounding_noise(before, inputs, expected)
                problem = compare(item.tolerance, after, expected, results[kind], noise)
            if problem is not None:
                raise Rejection(f"on {kind} input, {problem}")
        self._latest = after, results

    def _inputs(self, item: Pass, graph: Graph, context: PassContext) -> list[tuple[str, dict[str, Array]]]:
        kinds = list(stimuli(graph, self.seed))
        if not isinstance(item.tolerance, MinSqnrDb):
            return kinds
        sample = next(context.samples(), None) if context.samples is not None else None
        return [("calibration", sample)] if sample is not None else kinds[:1]


def evaluate(graph: Graph, inputs: dict[str, Array]) -> Outputs:
    """Return what a graph computes, quantized outputs as real values; a growing sequence starts empty.

    Args:
        graph: float or integer form.
        inputs: one array per graph input; real values are quantized for an input that is kept in integers.
    """
    from qcompile.ir.initial import initial_states
    from qcompile.ops.interpreter import Interpreter
    from qcompile.shapes.specialize import at_middle

    given = graph.inputs[:-1] if graph.extents else graph.inputs
    sized = at_middle(graph, inputs) if graph.symbols else inputs
    start = initial_states(graph) if any(state.in_place for state in graph.states) else {}
    taken = {v.name: start[v.name] if v.name in start else _at_input(v, sized[v.name]) for v in given}
    with np.errstate(all="ignore"):
        outputs = Interpreter(graph).run(taken)
    return {name: _real(value, outputs[name]) for name, value in _named_outputs(graph).items()}


def _at_input(value: Value, array: Array) -> Array:
    if value.qparams is None or array.dtype.kind != "f":
        return array
    return quantize(array, value.qparams)


def rounding_noise(graph: Graph, inputs: dict[str, Array], outputs: Outputs) -> dict[str, float]:
    """Return how far each float output is from its value in float64, real units.

    Args:
        graph: in float form; integer nodes have no rounding to speak of and are not evaluated.
        inputs: one array per graph input.
        outputs: what the graph computes in float32.
    """
    if any(node.is_integer for node in graph.nodes):
        return {}
    values: dict[Value, Array] = {v: _widened(inputs[v.name]) for v in graph.inputs}
    values.update({v: _widened(v.constant()) for v in graph.constants()})
    last_reader = {value: node for node in graph.nodes for value in node.inputs}
    kept = set(graph.outputs)
    with np.errstate(all="ignore"):
        for node in graph.nodes:
            results = node.op.evaluate(node.attrs, [values[v] for v in node.inputs])
            values.update(zip(node.outputs, results, strict=True))
            for value in set(node.inputs) - kept:
                if last_reader[value] is node:
                    del values[value]
    noise = {}
    for name, value in _named_outputs(graph).items():
        if outputs[name].dtype.kind == "f":
            difference = np.abs(values[value] - outputs[name])
            noise[name] = float(np.max(difference, initial=0.0, where=np.isfinite(difference)))
    return noise


def _widened(array: Array) -> Array:
    return array.astype(np.float64) if array.dtype == np.float32 else array


NOISE_FACTOR = 10.0
"""Multiple of a network's own rounding error that a rewrite may add to its declared bound."""


def compare(
    tolerance: Tolerance, after: Graph, expected: Outputs, actual: Outputs, noise: Mapping[str, float] | None = None
) -> str | None:
    """Return what breaks a tolerance, naming output and worst element, or None.

    Args:
        tolerance: that the pass declares.
        after: the graph that computed `actual`.
        expected: real outputs before the pass.
        actual: real outputs after the pass.
        noise: rounding error of each output before the pass, see `rounding_noise`.
    """
    if list(expected) != list(actual):
        return f"the outputs {list(expected)} became {list(actual)}"
    for name, value in _named_outputs(after).items():
        if expected[name].shape != actual[name].shape:
            return f"output '{name}' of shape {expected[name].shape} became {actual[name].shape}"
        lsb = max(value.qparams.scale) if value.qparams is not None else None
        bound = tolerance
        if noise and name in noise and isinstance(tolerance, AllClose):
            bound = replace(tolerance, atol=tolerance.atol + NOISE_FACTOR * noise[name])
        problem = bound.violation(expected[name], actual[name], lsb)
        if problem is not None:
            return f"output '{name}': {problem}"
    return None


def _named_outputs(graph: Graph) -> dict[str, Value]:
    """Return the results to compare: how a cache is stored is its own affair."""
    caches = {state.output for state in graph.states if state.in_place}
    named = zip(graph.output_names, graph.outputs, strict=True)
    return {name: value for name, value in named if name not in caches}


def _real(value: Value, array: Array) -> Array:
    return dequantize(array, value.qparams) if value.qparams is not None else array
