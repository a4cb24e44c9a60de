"""From which size on a tensor is needed at all: what steps past the actual end of a sequence compute, is not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.ir.graph import Graph, Node, Value
from qcompile.ir.symbol import Extent, Symbol

Needs = Mapping[str, int]
"""By symbol, the first of its values (counted from 0) at which a tensor is needed; others do not matter."""

_ELEMENTWISE = ("quantize", "dequantize", "requantize", "cast", "identity", "mask_tail")


class Demand:
    """Knows from which sizes on the tensors of a graph are needed.

    A part of a concat is needed where an open_slice takes elements of it, an operand of `where` where the condition,
    computed from open extents, chooses it; every operand is needed where a result is.

    Args:
        graph: with symbols; read only.
    """

    def __init__(self, graph: Graph) -> None:
        self._symbols = {symbol.name: symbol for symbol in graph.symbols if not symbol.past}
        self._outputs = set(graph.outputs)
        self._sizes = _Sizes(graph, self._symbols)
        self._needs: dict[Value, Needs] = {value: {} for value in graph.outputs}
        self._reads: dict[tuple[Node, int], Needs] = {}
        for node in reversed(graph.nodes) if self._symbols else ():
            self._visit(node)

    def of(self, value: Value) -> tuple[Extent, int] | None:
        """Return the extent that decides, and its least value at which a tensor is needed; None where it always is."""
        needs = self._needs.get(value)
        if not needs:
            return None
        name, position = max(needs.items(), key=lambda item: (item[1], item[0]))
        symbol = self._symbols[name]
        least = symbol.values[position] if position < len(symbol.values) else symbol.most + 1
        return Extent(name, tuple(symbol.values)), least

    def _visit(self, node: Node) -> None:
        found = [self._needs[value] for value in node.outputs if value in self._needs]
        if not found:
            return
        own, start = _either(found), 0
        for index, value in enumerate(node.inputs):
            needs = own
            if node.op.name == "concat":
                size = value.shape[node.attrs.axis]
                needs = self._of_part(node.output, node.attrs.axis, range(start, start + size))
                start += size
            elif node.op.name == "where" and index > 0:
                needs = _both(own, self._sizes.chosen(node.inputs[0], index == 1))
            self._reads[node, index] = needs
            if not value.is_constant:
                self._needs[value] = _either([self._needs[value], needs]) if value in self._needs else needs

    def _of_part(self, whole: Value, axis: int, part: range) -> Needs:
        """Return where elements of an axis are needed by the readers of a tensor."""
        if whole in self._outputs or not part:
            return {}
        found = []
        for user, index in whole.uses:
            needs = self._reads.get((user, index))
            if needs is None:
                continue
            if user.op.name == "open_slice" and user.attrs.axis == axis:
                found.append(_both(needs, self._taken(user, part)))
            elif user.op.name in _ELEMENTWISE and user.output.shape == whole.shape:
                found.append(self._of_part(user.output, axis, part))
            else:
                found.append(needs)
        return _either(found)

    def _taken(self, node: Node, part: range) -> Needs:
        """Return where an open_slice takes elements of a part."""
        attrs = node.attrs
        if attrs.symbol not in self._symbols:
            return {}
        for position, (start, size) in enumerate(zip(attrs.starts, attrs.sizes, strict=True)):
            ends = (start, start + (size - 1) * attrs.step)
            if size and min(ends) < part.stop and max(ends) >= part.start:
                return {attrs.symbol: position} if position else {}
        return {attrs.symbol: len(attrs.starts)}


class _Sizes:
    """Tensors that follow from one open extent alone.

    Args:
        graph: read only.
        symbols: by name.
    """

    def __init__(self, graph: Graph, symbols: Mapping[str, Symbol]) -> None:
        self._symbols = symbols
        self._follows: dict[Value, set[str]] = {}
        self._tables: dict[Value, list[npt.NDArray[Any]]] = {}
        for node in graph.nodes:
            if node.op.name == "open_extent":
                self._follows[node.output] = {node.attrs.symbol}
            elif node.inputs and all(value.is_constant or value in self._follows for value in node.inputs):
                names = {name for value in node.inputs for name in self._follows.get(value, ())}
                self._follows.update(dict.fromkeys(node.outputs, names))

    def chosen(self, condition: Value, wanted: bool) -> Needs:
        """Return where a condition has an element of some truth."""
        names = self._follows.get(condition, set())
        if len(names) != 1 or not names <= set(self._symbols):
            return {}
        name = next(iter(names))
        for position, array in enumerate(self._table(condition, len(self._symbols[name].values))):
            if bool(np.any(array == wanted)):
                return {name: position} if position else {}
        return {name: len(self._symbols[name].values)}

    def _table(self, value: Value, count: int) -> list[npt.NDArray[Any]]:
        if value.is_constant:
            return [value.constant()] * count
        if value not in self._tables:
            node = value.producer
            assert node is not None
            if node.op.name == "open_extent":
                rows = [node.op.evaluate(replace(node.attrs, at=at), []) for at in range(count)]
            else:
                operands = [self._table(v, count) for v in node.inputs]
                rows = [node.op.evaluate(node.attrs, [row[at] for row in operands]) for at in range(count)]
            for index, output in enumerate(node.outputs):
                self._tables[output] = [row[index] for row in rows]
        return self._tables[value]


def _either(needs: Sequence[Needs]) -> Needs:
    """Return where any of several is needed."""
    if not needs:
        return {}
    common: Iterable[str] = set(needs[0]).intersection(*needs[1:])
    return {name: min(n[name] for n in needs) for name in common}


def _both(a: Needs, b: Needs) -> Needs:
    """Return where two conditions hold at once."""
    return {name: max(a.get(name, 0), b.get(name, 0)) for name in {*a, *b}}
