"""Which nodes a user means: names, globs, regular expressions, operations, and the way between two tensors."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import cache

from qcompile.errors import PassError, UsageError
from qcompile.ir.graph import Graph, Node, Value
from qcompile.ir.opdef import Quantization

FORMS = "a node name, a glob (block2*), /a regular expression/, op:softmax, or FROM..TO"
"""The forms of a pattern, in words."""

_OPERATION = "op:"


class _NoSuchEndError(UsageError):
    """An end of FROM..TO does not exist.

    Args:
        name: what was given.
        hint: what may have been meant.
    """

    def __init__(self, name: str, *, hint: str) -> None:
        super().__init__(f"there is no tensor or node '{name}'", hint=hint)
        self.name = name


def select_nodes(graph: Graph, pattern: str) -> list[Node]:
    """Return the nodes that a pattern means, in the order of the graph.

    A pattern is, in this order:
        NAME        the node of this ONNX name, or the one that makes the tensor of this name
        op:NAME     every node of an operation: the IR's name or ONNX's (op:softmax, op:Gemm), or a glob of these
        /REGEX/     every node whose name, or a result's name, the regular expression is found in
        FROM..TO    every node on a way from one tensor (or node) to another, both nodes included; an end that is
                    left out is the graph's own inputs or outputs
        GLOB        every node whose name, or a result's name, matches

    Args:
        graph: to choose from.
        pattern: what the user wrote.

    Returns:
        The nodes; empty where nothing matches.

    Raises:
        UsageError: the regular expression is malformed, or an end of FROM..TO does not exist.
    """
    return _named(graph).get(pattern) or _described(graph, pattern)


def _named(graph: Graph) -> dict[str, list[Node]]:
    """Return the nodes of every name, in the order of the graph."""
    found: dict[str, list[Node]] = {}
    for node in graph.nodes:
        for name in dict.fromkeys(_names(node)):
            found.setdefault(name, []).append(node)
    return found


def _described(graph: Graph, pattern: str) -> list[Node]:
    """Return the nodes that a pattern means which is not a name."""
    if pattern.startswith(_OPERATION):
        names = _operations(pattern.removeprefix(_OPERATION))
        return [node for node in graph.nodes if any(fnmatchcase(node.op.name, name) for name in names)]
    if len(pattern) > 2 and pattern.startswith("/") and pattern.endswith("/"):
        return _found_by_regex(graph, pattern)
    if ".." in pattern:
        return _between(graph, *pattern.split("..", 1))
    return [node for node in graph.nodes if any(fnmatchcase(name, pattern) for name in _names(node))]


def selected(graph: Graph, patterns: Sequence[str], *, option: str, original: Graph | None = None) -> set[Node]:
    """Return all nodes that any of the patterns means.

    Args:
        graph: to choose from.
        patterns: as `select_nodes` reads them.
        option: what gave the patterns, for messages ("--keep-float").
        original: the graph before nodes were merged; tells where a merged node is now.

    Raises:
        PassError: a pattern matches nothing; the hint says what may have been meant.
        UsageError: a pattern is malformed.
    """
    chosen: set[Node] = set()
    named = _named(graph) if patterns else {}
    for pattern in patterns:
        try:
            nodes = named.get(pattern) or _described(graph, pattern)
        except UsageError as error:
            hint = _hint_of_end(graph, pattern, original, error)
            raise UsageError(f"{option} '{pattern}': {error.message}", hint=hint) from None
        if not nodes:
            raise PassError(f"{option} '{pattern}' matches no node", hint=_hint(graph, pattern, original))
        chosen.update(nodes)
    return chosen


def check_selection(graph: Graph, patterns: Sequence[str], *, option: str, original: Graph | None = None) -> None:
    """Raise UsageError if a pattern is malformed or matches no node; arguments as for `selected`."""
    try:
        selected(graph, patterns, option=option, original=original)
    except PassError as error:
        raise UsageError(error.message, hint=error.hint) from None


def idle_selections(graph: Graph, keep_float: Sequence[str], keep_int16: Sequence[str]) -> list[str]:
    """Return which nodes stay in float though 16 bits were asked for, and why, one sentence a reason.

    Args:
        graph: float.
        keep_float: patterns of `--keep-float`, each of which matches nodes.
        keep_int16: patterns of `--keep-int16`.
    """
    real = selected(graph, keep_float, option="--keep-float")
    idle: dict[str, list[Node]] = {}
    for node in sorted(selected(graph, keep_int16, option="--keep-int16"), key=graph.nodes.index):
        if node in real:
            idle.setdefault("--keep-float names it, too", []).append(node)
        elif node.op.integer is Quantization.FLOAT_ONLY:
            idle.setdefault(f"'{node.op.name}' has no integer form", []).append(node)
    return [f"--keep-int16 does nothing for {_counted(nodes)}: {why}" for why, nodes in idle.items()]


def _counted(nodes: Sequence[Node]) -> str:
    first = nodes[0].loc or nodes[0].outputs[0].name
    return f"{len(nodes)} nodes ({first}, …)" if len(nodes) > 1 else first


def _names(node: Node) -> tuple[str, ...]:
    return (node.loc, *(value.name for value in node.outputs)) if node.loc else tuple(v.name for v in node.outputs)


@cache
def _onnx_names() -> dict[str, str]:
    """Return ONNX operator type, in lower case, to IR operation."""
    from qcompile import ops

    return {onnx.lower(): name for name, op in sorted(ops.all_ops().items()) for onnx in op.onnx}


def _operations(name: str) -> tuple[str, ...]:
    known = _onnx_names().get(name.lower())
    return (name, known) if known is not None else (name,)


def _found_by_regex(graph: Graph, pattern: str) -> list[Node]:
    try:
        expression = re.compile(pattern[1:-1])
    except re.error as error:
        hint = "what stands between two slashes is one; a node name or a glob needs none"
        raise UsageError(f"this is not a regular expression: {error}", hint=hint) from None
    return [node for node in graph.nodes if any(expression.search(name) for name in _names(node))]


def _between(graph: Graph, start: str, stop: str) -> list[Node]:
    """Return the nodes on a way from one end to the other."""
    view = graph.to_networkx()
    first = _end(graph, start, reading=True) if start else set(graph.nodes)
    last = _end(graph, stop, reading=False) if stop else set(graph.nodes)
    behind, ahead = _reached(first, view.successors), _reached(last, view.predecessors)
    return [node for node in graph.nodes if node in behind and node in ahead]


def _reached(nodes: set[Node], neighbours: Callable[[Node], Iterable[Node]]) -> set[Node]:
    """Return nodes and all that a way leads to from any of them, each looked at once."""
    found, waiting = set(nodes), list(nodes)
    while waiting:
        more = [node for node in dict.fromkeys(neighbours(waiting.pop())) if node not in found]
        found.update(more)
        waiting += more
    return found


def _end(graph: Graph, name: str, *, reading: bool) -> set[Node]:
    """Return the nodes at an end: the node of that name, or the readers or the producer of the tensor."""
    named = {node for node in graph.nodes if node.loc == name}
    if named:
        return named
    values: dict[str, Value] = {value.name: value for value in graph.values()}
    values.update(zip(graph.output_names, graph.outputs, strict=True))
    if name not in values:
        known = [*values, *(node.loc for node in graph.nodes)]
        raise _NoSuchEndError(name, hint=_did_you_mean(name, known))
    producer = values[name].producer
    if reading:
        return set(values[name].users())
    return {producer} if producer is not None else set()


def _hint(graph: Graph, pattern: str, original: Graph | None) -> str:
    if pattern.startswith(_OPERATION):
        known = sorted({node.op.name for node in graph.nodes})
        close = get_close_matches(pattern.removeprefix(_OPERATION).lower(), known, n=1)
        merged = "; activations and batch norms are part of the layer before them"
        return (f"did you mean 'op:{close[0]}'?" if close else f"operations here: {', '.join(known)}") + merged
    if ".." in pattern:
        return "no way leads from the first tensor to the second; is the order right?"
    host = _merged_into(graph, pattern, original) if original is not None else None
    if host is not None:
        return f"it is part of '{host}' by now: give that name"
    if original is not None and select_nodes(original, pattern):
        return "nothing is left of it: the network does without"
    return _did_you_mean(pattern, [name for node in graph.nodes for name in _names(node)])


def _hint_of_end(graph: Graph, pattern: str, original: Graph | None, error: UsageError) -> str | None:
    """Return what may have been meant by a pattern that cannot be read."""
    if isinstance(error, _NoSuchEndError) and original is not None:
        # A name may hold two dots itself.
        for name in (pattern, error.name):
            host = _merged_into(graph, name, original) if name in _named(original) else None
            if host is not None:
                return f"'{name}' is part of '{host}' by now: give that name"
    return error.hint


def _merged_into(graph: Graph, pattern: str, original: Graph | None) -> str | None:
    """Return the name of the node that a node of the original graph became part of."""
    remaining = {node.loc for node in graph.nodes if node.loc}
    for node in select_nodes(original, pattern) if original is not None else []:
        current: Node | None = node
        while current is not None:
            if current.loc in remaining:
                return current.loc
            current = current.inputs[0].producer if current.inputs else None
    return None


def _did_you_mean(word: str, known: Sequence[str]) -> str:
    close = get_close_matches(word.strip("*/"), known, n=1)
    if close:
        return f"did you mean '{close[0]}'?"
    return f"give {FORMS}; `qcompile inspect MODEL` lists the names"
