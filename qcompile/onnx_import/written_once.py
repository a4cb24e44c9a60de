"""Keys and values of an encoder in a merged decoder: its first run computes them, all others read them.

Such a model has an If: one branch is a first run, which makes `present.0.encoder.key` from `encoder_hidden_states`, the
other takes it as `past_key_values.0.encoder.key`. A bundle runs the second branch always, and keeps what it needs of
the first; only the run that starts a sequence computes that.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import NodeProto, helper, numpy_helper

from qcompile import ops
from qcompile.errors import UnsupportedOpError
from qcompile.ir.graph import Graph, Node, Value
from qcompile.ir.rewrite import Rewriter
from qcompile.ir.state import State

_MOVES = ("transpose", "reshape", "identity", "cast", "mul")
"""What is done to a kept tensor before it is kept, where nothing else reads it."""


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


@dataclass(frozen=True)
class WrittenOnce:
    """A tensor that is kept from the first run on.

    Args:
        cache: graph input that holds it.
        moves: what the model does to it, done before it is kept.
    """

    cache: Value
    moves: tuple[Node, ...]

    def placed(self, array: Any) -> Any:
        """Return what is kept of a tensor that the model would be given."""
        for node in self.moves:
            operands = [value.constant() if value.is_constant else array for value in node.inputs]
            array = node.op.evaluate(node.attrs, operands)[0]
        return array


def keep_written(graph: Graph, pair: tuple[str, str], length: Value) -> tuple[State, WrittenOnce]:
    """Keep a tensor that the first run makes.

    Args:
        graph: has it as an input and as an output; changed.
        pair: names of output and input.
        length: filled places before the run.
    """
    rewriter, (output, name) = Rewriter(graph), pair
    position = graph.output_names.index(output)
    cache = next(value for value in graph.inputs if value.name == name)
    made, chain = graph.outputs[position], _moves(cache, graph)
    last = chain[-1].output if chain else cache
    before = min(cache.users(), key=graph.nodes.index)
    moves = []
    for node in chain:
        operands = [value if value.is_constant else made for value in node.inputs]
        moves.append(rewriter.insert(before, node.op, operands, node.attrs, name=f"{made.name}.kept", loc=node.loc))
        made = moves[-1].output
    rewriter.set_type(cache, last.type, None)
    fill = rewriter.insert(before, ops.get("cache_fill"), [cache, made, length], name=f"{name}.kept", loc=before.loc)
    rewriter.replace_value(last, fill.output, except_in=fill)
    for node in reversed(chain):
        rewriter.erase(node)
    graph.outputs[position] = fill.output
    return State(name, output, in_place=True), WrittenOnce(cache, tuple(moves))


def _moves(value: Value, graph: Graph) -> list[Node]:
    """Return the nodes that read one tensor after the other, each nothing else that is computed."""
    found: list[Node] = []
    while len(value.uses) == 1 and value not in graph.outputs:
        node = value.users()[0]
        others = [operand for operand in node.inputs if operand is not value]
        if node.op.name not in _MOVES or not all(v.is_constant for v in others):
            break
        if node.output.type.nbytes > value.type.nbytes:
            break
        found.append(node)
        value = node.output
    return found
