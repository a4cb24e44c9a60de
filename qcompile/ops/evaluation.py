"""Evaluates nodes in NumPy, and graphs with exactly their own types."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.errors import InternalError, UsageError
from qcompile.ir.graph import Graph, Node, Value
from qcompile.ir.opdef import OpDef
from qcompile.ir.regions import last_readers, run_in_course
from qcompile.ir.types import DTYPES, NARROW

Array = npt.NDArray[Any]
_MOVES = ("expand", "gather", "identity", "reshape", "slice", "split", "transpose")
"""Operations whose results have elements of their first operand, and no others."""

Evaluate = Callable[[Node, list[Array]], tuple[Array, ...]]
OnValue = Callable[[Value, Array], None]


class FixedRun:
    """Evaluates a graph node by node and frees each tensor after its last reader.

    Args:
        graph: what its types say is what its tensors have.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        last, kept = last_readers(graph), set(graph.outputs)
        # Loops run their nodes often: what each one frees is found once.
        self._freed = {
            node: () if node.op.region else tuple({v: None for v in node.inputs if last[v] is node and v not in kept})
            for node in graph.nodes
        }

    def run(self, inputs: Mapping[str, Array], on_value: OnValue | None, evaluate: Evaluate) -> dict[str, Array]:
        """Evaluate the graph once.

        Args:
            inputs: one array per graph input, by name, of its exact shape and dtype.
            on_value: called with every input and every result as soon as it is known.
            evaluate: computes one node on given operands.

        Returns:
            One array per graph output, by output name; quantized outputs as integers in LSB.

        Raises:
            UsageError: an input is missing or unknown, or has another shape or dtype.
        """
        environment: dict[Value, Array] = {}
        for value in self._graph.inputs:
            environment[value] = self._bind(value, inputs)
            if on_value is not None:
                on_value(value, environment[value])
        unknown = set(inputs) - {v.name for v in self._graph.inputs}
        if unknown:
            raise UsageError(f"model {self._graph.name} has no input named {sorted(unknown)}")
        freed = self._freed

        def put(value: Value, array: Array) -> None:
            environment[value] = array
            if on_value is not None:
                on_value(value, array)

        def step(node: Node) -> None:
            results = evaluate(node, [_read(v, environment) for v in node.inputs])
            for value, result in zip(node.outputs, results, strict=True):
                put(value, result)
            for value in freed[node]:
                environment.pop(value, None)

        run_in_course(self._graph.nodes, step, lambda value: _read(value, environment), put)
        named = zip(self._graph.output_names, self._graph.outputs, strict=True)
        return {name: _read(value, environment) for name, value in named}

    def _bind(self, value: Value, inputs: Mapping[str, Array]) -> Array:
        if value.name not in inputs:
            names = ", ".join(v.name for v in self._graph.inputs)
            raise UsageError(f"input '{value.name}' is missing", hint=f"give all of: {names}")
        array = np.asarray(inputs[value.name])
        if array.shape != value.shape or array.dtype.name != value.dtype:
            raise UsageError(f"input '{value.name}' must be {value.type}, got {array.dtype.name}{list(array.shape)}")
        return array


def _read(value: Value, environment: Mapping[Value, Array]) -> Array:
    return value.data if value.data is not None else environment[value]


def _rounded(result: Array, value: Value) -> Array:
    """Return a float32 result as it is stored: 16 bits are rounded to nearest, ties to even, too large is infinite."""
    if value.dtype not in NARROW:
        return result
    with np.errstate(over="ignore"):
        return np.asarray(result).astype(value.dtype)


def keep_steps(op: OpDef, attrs: Any, inputs: Sequence[Value], made: Sequence[Value]) -> None:
    """Let constants that were moved at compile time keep the scales of their elements.

    Args:
        op: what computed them.
        attrs: its attributes.
        inputs: its constant operands.
        made: its results.
    """
    if op.name not in _MOVES or inputs[0].steps is None:
        return
    steps = np.broadcast_to(inputs[0].steps, inputs[0].shape)
    for value, moved in zip(made, op.evaluate(attrs, [steps, *(v.constant() for v in inputs[1:])]), strict=True):
        value.steps = np.asarray(moved)


def _reads_or_makes_narrow(node: Node) -> bool:
    # A loop, not any(…): in networks of small tensors this is run as often as NumPy.
    for values in (node.inputs, node.outputs):
        for value in values:
            if value.type.dtype in NARROW:
                return True
    return False


def evaluate_node(node: Node, inputs: list[Array]) -> tuple[Array, ...]:
    """Evaluate one node on given operands, in its float or integer form.

    Tensors of 16-bit real numbers are float32 within a node, and rounded once at its end.

    Args:
        node: decides the form: integer where an activation carries QParams.
        inputs: one array per operand.

    Raises:
        InternalError: the results do not have the types the graph says.
    """
    half = _reads_or_makes_narrow(node)
    if half:
        inputs = [x.astype(np.float32) if x.dtype.name in NARROW else x for x in inputs]
    results = node.op.evaluate_integer(node, inputs) if node.is_integer else node.op.evaluate(node.attrs, inputs)
    if half:
        results = tuple(_rounded(result, value) for value, result in zip(node.outputs, results, strict=True))
    checked = []
    for value, result in zip(node.outputs, results, strict=True):
        array, expected = np.asarray(result), value.type
        if array.shape != expected.shape or array.dtype != DTYPES[expected.dtype]:
            raise InternalError(f"{node}: evaluation gave {array.dtype}{array.shape} for {value}")
        checked.append(array)
    return tuple(checked)
