"""Keys and values of an encoder in a merged decoder: its first run computes them, all others read them.

Such a model has an If: one branch is a first run, which makes `present.0.encoder.key` from `encoder_hidden_states`, the
other takes it as `past_key_values.0.encoder.key`. A bundle runs the second branch always, and keeps what it needs of
the first; only the run that starts a sequence computes that.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from onnx import NodeProto, helper, numpy_helper

from qcompile import ops
from qcompile.errors import UnsupportedOpError
from qcompile.ir.graph import Graph, Node, Value
from qcompile.ir.rewrite import Rewriter
from qcompile.ir.state import State
from qcompile.ir.symbol import Symbol
from qcompile.ops.cache_advance import LENGTH

HELD = "{}_length"
"""Name of the kept tensor that holds the length of another sequence."""


def split_branches(graph: Any, outputs: Iterable[str], source: str) -> None:
    """Let some outputs of a merged decoder come from the branch of the first run, whatever branch makes the others.

    Args:
        graph: GraphProto, changed in place.
        outputs: what only the first run computes.
        source: the model, for messages.

    Raises:
        UnsupportedOpError: no If makes them.
    """
    wanted = set(outputs)
    for node in [node for node in graph.node if node.op_type == "If" and wanted & set(node.output)]:
        first = NodeProto()
        first.CopyFrom(node)
        first.name, first.input[0] = f"{node.name}/first_run", f"{node.name}/goes_on"
        graph.initializer.append(numpy_helper.from_array(np.array([False]), first.input[0]))
        for position, name in enumerate(node.output):
            if name not in wanted:
                first.output[position] = ""
                continue
            # The branches have tensors of that name, too, and a name has one meaning wherever it is seen.
            first.output[position], node.output[position] = f"{first.name}/{name}", ""
            graph.node.append(helper.make_node("Identity", [first.output[position]], [name]))
            wanted.remove(name)
        graph.node.insert(0, first)
    if wanted:
        raise UnsupportedOpError(f"output '{min(wanted)}' of {source} is made by no branch of a first run")


def hold_lengths(graph: Graph, symbols: Iterable[Symbol], first: Node, length: Value) -> dict[str, Value]:
    """Keep the lengths of other sequences from the run that reads them on.

    Args:
        graph: changed; the kept tensors are states of it then.
        symbols: of these sequences.
        first: node before which the new ones go.
        length: filled places of the growing sequence before the run.

    Returns:
        The lengths that hold in a run, by the names of the symbols.
    """
    found, op = {}, ops.get("cache_hold")
    for symbol in symbols:
        (name, axis), kept = symbol.places[0], HELD.format(symbol.name)
        x = next(value for value in graph.inputs if value.name == name)
        operands = [graph.add_input(kept, LENGTH), x, length]
        held = Rewriter(graph).insert(first, op, operands, op.Attrs(axis=axis), name=f"{kept}_now").output
        graph.outputs.append(held)
        graph.output_names.append(f"{kept}_next")
        graph.states = (*graph.states, State(kept, f"{kept}_next"))
        found[symbol.name] = held
    return found
