"""A graph as text, as a drawing for Graphviz, or in a few numbers."""

from __future__ import annotations

import json
from collections import Counter

from qcompile.errors import UsageError, did_you_mean
from qcompile.ir.graph import Graph
from qcompile.ir.printer import print_fields, print_graph
from qcompile.ir.regions import total_macs
from qcompile.report.terminal import bytes_text, macs_text

FORMATS = ("text", "dot", "summary")


def render_graph(graph: Graph, format: str) -> str:
    """Return a graph in one of FORMATS.

    Raises:
        UsageError: the format is unknown.
    """
    if format not in FORMATS:
        raise UsageError(f"unknown format '{format}'", hint=did_you_mean(format, list(FORMATS)))
    return {"text": print_graph, "dot": _dot, "summary": _summary}[format](graph)


def _dot(graph: Graph) -> str:
    """Return the graph in the DOT language: one box a node, one edge a tensor."""
    lines = [f"digraph {json.dumps(graph.name)} {{", '  rankdir=TB; node [shape=box, fontname="sans-serif"];']
    numbers = {node: f"n{i}" for i, node in enumerate(graph.nodes)}
    for i, value in enumerate(graph.inputs):
        lines.append(f"  in{i} [shape=ellipse, label={_label(value.name, str(value.type))}];")
    for node, number in numbers.items():
        fill = ', style=filled, fillcolor="#d9ead3"' if node.is_integer else ""
        label = _label(node.op.name, print_fields(node.attrs), node.loc)
        lines.append(f"  {number} [label={label}{fill}];")
        for value in node.inputs:
            source = numbers.get(value.producer) if value.producer else None
            if source is None and value in graph.inputs:
                source = f"in{graph.inputs.index(value)}"
            if source is not None:
                lines.append(f"  {source} -> {number} [label={json.dumps(str(value.type))}];")
    for i, (name, value) in enumerate(zip(graph.output_names, graph.outputs, strict=True)):
        lines.append(f"  out{i} [shape=ellipse, label={json.dumps(name)}];")
        if value.producer is not None:
            lines.append(f"  {numbers[value.producer]} -> out{i} [label={json.dumps(str(value.type))}];")
    return "\n".join([*lines, "}"]) + "\n"


def _label(*lines: str) -> str:
    """Return a quoted label of several lines; json writes a line break as DOT does."""
    return json.dumps("\n".join(line for line in lines if line))


def _summary(graph: Graph) -> str:
    """Return inputs, outputs, operations by count, weights and multiply-accumulates."""
    weights = sum(v.type.nbytes for v in graph.constants())
    macs = total_macs(graph)
    lines = [f"input {v.name}: {v.type}" for v in graph.inputs]
    lines += [f"output {n}: {v.type}" for n, v in zip(graph.output_names, graph.outputs, strict=True)]
    lines.append(f"{len(graph.nodes)} nodes, {bytes_text(weights)} of constants, {macs_text(macs)} MACs")
    lines += [f"  {count:4d} {op}" for op, count in Counter(node.op.name for node in graph.nodes).most_common()]
    return "\n".join(lines) + "\n"
