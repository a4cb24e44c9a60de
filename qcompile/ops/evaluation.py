"""Evaluates nodes in NumPy, and graphs with exactly their own types."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.errors import InternalError, UsageError
from qcompile.ir.graph import Graph, Node, Value
from qcompile.ir.opdef import OpDef
from qcompile.ir.regions import last_readers, regions, run_in_course
from qcompile.ir.types import DTYPES, NARROW

Array = npt.NDArray[Any]
_MOVES = ("expand", "gather", "identity", "reshape", "slice", "split", "transpose")
"""Operations whose results have elements of their first operand, and no others."""

Apply = Callable[[list[Array]], Sequence[Array]]
"""Computes the results of one node from its operands."""

Prepare = Callable[[Node], Apply]
OnValue = Callable[[Value, Array], None]


class FixedRun:
    """Evaluates a graph node by node and frees each tensor with its last reader.

    Args:
        graph: what its types say is what its tensors have.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        # Loops run their nodes often: what each one frees is found once.
        self._freed = freed_by_node(graph)

    def run(self, inputs: Mapping[str, Array], on_value: OnValue | None, prepare: Prepare) -> dict[str, Array]:
        """Evaluate the graph once.

        Args:
            inputs: one array per graph input, by name, of its exact shape and dtype.
            on_value: called with every input and every result as soon as it is known.
            prepare: returns what computes a node on given operands; called once for each.

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
        freed, prepared_nodes = self._freed, dict[Node, Apply]()

        def put(value: Value, array: Array) -> None:
            environment[value] = array
            if on_value is not None:
                on_value(value, array)

        def step(node: Node) -> None:
            apply = prepared_nodes.get(node)
            if apply is None:
                apply = prepared_nodes[node] = prepare(node)
            operands = [environment[v] if v.data is None else v.data for v in node.inputs]
            # Before the node runs, so that it may write over what it reads last.
            for value in freed[node]:
                environment.pop(value, None)
            for value, result in zip(node.outputs, apply(operands), strict=True):
                environment[value] = result
                if on_value is not None:
                    on_value(value, result)

        run_in_course(self._graph.nodes, step, lambda value: _read(value, environment), put, environment.pop)
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
    return any(value.type.dtype in NARROW for value in (*node.inputs, *node.outputs))


def freed_by_node(graph: Graph) -> dict[Node, tuple[Value, ...]]:
    """Return the tensors that nobody reads behind each node; those that a loop begins with are left out."""
    last, kept = last_readers(graph), set(graph.outputs)
    inside = {v for region in regions(graph.nodes) for node in region.nodes for v in node.outputs}

    def freed(node: Node) -> tuple[Value, ...]:
        # The end of a loop runs with each iteration; what comes from outside is read by the next one, too.
        read = () if node.op.region == "begin" else node.inputs
        if node.op.region == "end":
            condition = node.inputs[1] if node.attrs.conditional else None
            read = tuple(v for v in node.inputs if v in inside and v is not condition)
        return tuple({v: None for v in read if last[v] is node and v not in kept})

    return {node: freed(node) for node in graph.nodes}


def _holders(inputs: Sequence[Array]) -> tuple[int, int]:
    """Return how many references there are to the first array, and to the one whose memory it shows."""
    return sys.getrefcount(inputs[0]), sys.getrefcount(inputs[0].base)


# As this interpreter counts references: of an array in a list only, and of one that such an array alone shows.
_ALONE, _ALONE_BEHIND = _holders([np.empty(2)[:1]])


def held_alone(inputs: Sequence[Array]) -> bool:
    """Return whether nobody but this list can see the memory of its first array, so that it may be written over."""
    x = inputs[0].base
    if x is not None and not (isinstance(x, np.ndarray) and x.flags.owndata):
        return False
    del x
    holders, behind = _holders(inputs)
    first = inputs[0].flags
    return holders == _ALONE and first.writeable and (first.owndata or behind == _ALONE_BEHIND)


def evaluate_node(node: Node, inputs: list[Array]) -> tuple[Array, ...]:
    """Evaluate one node on given operands, in its float or integer form.

    Args:
        node: as for `prepared`.
        inputs: one array per operand.

    Raises:
        InternalError: the results do not have the types the graph says.
    """
    return tuple(prepared(node)(inputs))


def prepared(node: Node, over: bool = False) -> Apply:
    """Return what evaluates a node, with all found that does not follow from its operands.

    Tensors of 16-bit real numbers are float32 within a node, and rounded once at its end.

    Args:
        node: decides the form: integer where an activation carries QParams.
        over: whether an operand may be written over that only the list of operands holds.

    Raises:
        InternalError: the results do not have the types the graph says.
    """
    op = node.op
    types = [(value.type.shape, DTYPES[value.type.dtype]) for value in node.outputs]
    compute: Apply = partial(op.evaluate_integer, node) if node.is_integer else partial(op.evaluate, node.attrs)
    if _reads_or_makes_narrow(node):
        compute = partial(_narrow, node.outputs, compute)
    elif over and op.overwrites and not node.is_integer:
        compute = partial(_over, compute, partial(op.evaluate_over, node.attrs))

    def checked(result: Array, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        # In networks of small tensors this is run as often as NumPy: an identity is asked for first.
        array = result if type(result) is np.ndarray else np.asarray(result)
        if array.shape != shape or (array.dtype is not dtype and array.dtype != dtype):
            raise InternalError(f"{node}: evaluation gave {array.dtype}{array.shape}, not {dtype}{shape}")
        return array

    def apply(inputs: list[Array]) -> list[Array]:
        return [checked(result, *of) for result, of in zip(compute(inputs), types, strict=True)]

    def apply_to_one(inputs: list[Array]) -> list[Array]:
        (result,) = compute(inputs)
        return [checked(result, shape, dtype)]

    if len(types) != 1:
        return apply
    ((shape, dtype),) = types
    return apply_to_one


def _narrow(outputs: Sequence[Value], compute: Apply, inputs: list[Array]) -> Sequence[Array]:
    results = compute([x.astype(np.float32) if x.dtype.name in NARROW else x for x in inputs])
    return [_rounded(result, value) for value, result in zip(outputs, results, strict=True)]


def _over(compute: Apply, over: Apply, inputs: list[Array]) -> Sequence[Array]:
    return over(inputs) if held_alone(inputs) else compute(inputs)
