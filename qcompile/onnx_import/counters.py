"""What a loop's body knows before it runs: states that follow from the iteration alone, as counters do.

Exporters count iterations in a state of their own, cut rows out of tensors by it and compare it with a limit. The
values of all iterations are computed at import: how much such a cut takes is then known, and where the comparison ends
the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from qcompile.ir.graph import Value

Array = npt.NDArray[Any]

MOST_FOLLOWED = 4096
"""Iterations that are followed at import; nobody counts in longer loops to cut tensors."""

_SMALL = 16
"""Elements of a tensor that may be a counter, or what it is compared with."""

_SAME = ("Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze")
"""Operators that keep a truth value one."""


@dataclass(frozen=True)
class Counters:
    """What is known of all iterations.

    Args:
        trips: iterations at most, as the condition limits them.
        tables: of a state, by its number, what each iteration starts from, and what the last one leaves.
        exact: whether all of these are run, as the condition depends on nothing else.
    """

    trips: int | None
    tables: Mapping[int, Array] = field(default_factory=dict)
    exact: bool = False


def find_counters(
    body: Any, starts: Sequence[Value], trips: int | None, look_up: Callable[[str], Value | None], opset: int
) -> Counters:
    """Follow the counters of a Loop through its iterations.

    Args:
        body: GraphProto: iteration, condition and states in; condition, states and results out.
        starts: of the states.
        trips: iterations at most; None where only the condition ends the loop.
        look_up: returns what a name from outside stands for.
        opset: version of the default operator set.
    """
    formal = [value.name for value in body.input]
    small = {k: v.data for k, v in enumerate(starts) if v.data is not None and v.type.size == 1}
    passed = {k for k in small if body.output[1 + k].name == formal[2 + k]}
    fixed = {t.name: numpy_helper.to_array(t) for t in body.initializer}
    fixed.update({formal[2 + k]: small[k] for k in passed})
    chosen = set(small) - passed
    while True:
        known = _Known(body, {formal[0], *(formal[2 + k] for k in chosen)}, fixed, look_up)
        lost = {k for k in chosen if body.output[1 + k].name not in known}
        if not lost:
            break
        chosen -= lost
    limit = _Limit(body, known)
    if not chosen and not limit.names:
        return Counters(trips)
    return _followed(known, limit, {k: small[k] for k in sorted(chosen)}, trips, opset)


def _followed(known: _Known, limit: _Limit, starts: dict[int, Array], trips: int | None, opset: int) -> Counters:
    """Run what is known iteration by iteration, until the condition cannot hold."""
    body = known.body
    counters = {body.input[2 + k].name: start for k, start in starts.items()}
    following = {body.input[2 + k].name: body.output[1 + k].name for k in starts}
    run = known.evaluator([*following.values(), *limit.names], opset)
    history = {name: [start] for name, start in counters.items()}
    for iteration in range(MOST_FOLLOWED if trips is None else min(trips, MOST_FOLLOWED)):
        found = run({body.input[0].name: np.asarray(iteration, np.int64), **counters})
        if found is None or any(found[new].shape != counters[old].shape for old, new in following.items()):
            return Counters(trips)
        counters = {old: found[new] for old, new in following.items()}
        for name, value in counters.items():
            history[name].append(value)
        if not limit.may_hold(found) or iteration + 1 == trips:
            tables = {k: np.stack(history[body.input[2 + k].name]) for k in starts}
            return Counters(iteration + 1, tables, limit.whole)
    return Counters(trips)


class _Known:
    """The part of a body that follows from some of its inputs and constants.

    Args:
        body: GraphProto.
        inputs: names of these inputs.
        fixed: constants of the body.
        look_up: returns what a name from outside stands for.
    """

    def __init__(
        self, body: Any, inputs: set[str], fixed: Mapping[str, Array], look_up: Callable[[str], Value | None]
    ) -> None:
        self.body, self._inputs, self._fixed, self._look_up = body, inputs, dict(fixed), look_up
        self._formal = {value.name for value in body.input}
        self._makers: dict[str, Any] = {}
        for node in body.node:
            for attribute in node.attribute:
                if node.op_type == "Constant" and attribute.name == "value":
                    self._fixed[node.output[0]] = numpy_helper.to_array(attribute.t)
            plain = all(a.type not in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.attribute)
            if plain and node.domain in ("", "ai.onnx") and all(self._has(name) for name in node.input if name):
                self._makers.update(dict.fromkeys(node.output, node))

    def _has(self, name: str) -> bool:
        if name in self._makers or name in self._inputs or name in self._fixed:
            return True
        value = None if name in self._formal else self._look_up(name)
        if value is None or value.data is None or value.type.size > _SMALL:
            return False
        self._fixed[name] = value.data
        return True

    def __contains__(self, name: str) -> bool:
        return name in self._makers or name in self._inputs

    def is_zero(self, name: str) -> bool:
        """Return whether a tensor is a constant of zeros."""
        return self._has(name) and name in self._fixed and not self._fixed[name].any()

    def evaluator(self, names: Sequence[str], opset: int) -> Callable[[Mapping[str, Array]], dict[str, Array] | None]:
        """Return what computes tensors from the inputs; None as its result where they cannot be computed."""
        from onnx.reference import ReferenceEvaluator

        from qcompile.onnx_graph import needed

        made = [n for n in self.body.node if n.output[0] in self._makers and n.output[0] not in self._fixed]
        nodes = needed(made, set(names))
        inputs = [onnx.ValueInfoProto(name=name) for name in sorted(self._inputs)]
        outputs = [onnx.ValueInfoProto(name=name) for name in names]
        tensors = [numpy_helper.from_array(array, name) for name, array in self._fixed.items()]
        graph = helper.make_graph(nodes, "counters", inputs, outputs, tensors)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])

        def run(given: Mapping[str, Array]) -> dict[str, Array] | None:
            try:
                with np.errstate(all="ignore"):
                    return dict(zip(names, map(np.asarray, evaluate.run(None, dict(given))), strict=True))
            # The reference implementation raises whatever NumPy raises; either way nothing is known then.
            except Exception:
                return None

        try:
            evaluate = ReferenceEvaluator(model)
        except Exception:
            return lambda given: None
        return run


class _Limit:
    """When the condition of a loop cannot hold any more, whatever the data are: a part of a conjunction is false.

    Attributes:
        names: known tensors that it depends on.
        whole: whether it depends on nothing else.
    """

    def __init__(self, body: Any, known: _Known) -> None:
        makers = {name: node for node in body.node for name in node.output}
        self.names: list[str] = []
        self.whole = True
        pending = [body.output[0].name]
        while pending:
            name = pending.pop()
            node = makers.get(name)
            if name in known:
                self.names.append(name)
            elif node is not None and node.op_type == "And":
                pending.extend(node.input)
            elif node is not None and node.op_type in _SAME:
                pending.append(node.input[0])
            elif node is not None and node.op_type == "Add" and (copied := self._copied(node, known)):
                pending.append(copied)
            else:
                self.whole = False
        self.names.sort()

    @staticmethod
    def _copied(node: Any, known: _Known) -> str:
        """Return the operand to which nothing is added, as exporters copy tensors; nothing for a real sum."""
        for copied, other in (node.input, reversed(node.input)):
            if known.is_zero(other):
                return str(copied)
        return ""

    def may_hold(self, found: Mapping[str, Array]) -> bool:
        """Return whether the condition may hold after an iteration."""
        return all(bool(found[name].all()) for name in self.names)
