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

from qcompile.errors import UnsupportedOpError


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
