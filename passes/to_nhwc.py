"""Put the channels last, and choose where tensors change their layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace as replace_fields
from functools import partial
from typing import Any, ClassVar

from qcompile import ops
from qcompile.ir.graph import Graph, Node, Value
from qcompile.ir.rewrite import Rewriter
from qcompile.passmgr import AllClose, Pass, PassContext, Tolerance
from qcompile.passmgr.facts import CHANNELS_LAST, FLOAT, Fact
from qcompile.passmgr.layouts import (
    Perm,
    broadcast_operands,
    commuted,
    moves_units_only,
    permuted_constant,
    rearranged,
)
from qcompile.passmgr.patterns import made_by, only_reader

TO_LAST: Perm = (0, 2, 3, 1)
TO_FIRST: Perm = (0, 3, 1, 2)

_Variable = int
_LAST: _Variable = -1
_FIRST: _Variable = -2


@dataclass(frozen=True)
class ToNhwc(Pass):
    """Give convolutions, poolings and resizes the layout NHWC, with as few bytes transposed as possible.

    Every operation on four axes works on one of two layouts: convolutions and the like on channels-last
    tensors, reshapes, graph inputs and outputs on tensors as they are, and elementwise operations, concat,
    split, slice, pad, softmax, reductions and channel shuffles on either. A tensor whose producer and readers
    differ is transposed, once for all its readers. The cheapest choice is a minimum cut.

    Formula:
        min over choices of Σ bytes(t) over tensors t with a reader on the other side; a transpose that moves
        only axes of extent 1 costs 1

    Before:
        %c = conv2d(%x, @w, @b) : f32[1,8,4,4]
        %r = relu(%c) : f32[1,8,4,4]
    After:
        %x.nhwc = transpose(%x) {perm=[0, 2, 3, 1]} : f32[1,4,4,3]
        %c = conv2d(%x.nhwc, @w.nhwc, @b) {layout="NHWC"} : f32[1,4,4,8]
        %r = relu(%c) : f32[1,4,4,8]
        %r.nchw = transpose(%r) {perm=[0, 3, 1, 2]} : f32[1,8,4,4]

    Weights OIHW become OHWI. A transpose that the model itself has between the two layouts costs nothing where
    its operand and result are on the sides it leads between.

    Preconditions: no node is in integer form. Refusals: none; an operation that neither layout suits works on
    the tensor as it is.
    """

    name: ClassVar[str] = "to-nhwc"
    requires: ClassVar[tuple[Fact, ...]] = (FLOAT,)
    establishes: ClassVar[tuple[Fact, ...]] = (CHANNELS_LAST,)
    tolerance: ClassVar[Tolerance] = AllClose(1e-6, 1e-6)

    def run(self, graph: Graph, context: PassContext) -> None:
        """Choose sides, then rewrite."""
        if any(_works_on_image(node) for node in graph.nodes):
            sides = _choose_sides(graph)
            _Relayout(context.rewriter(graph), sides).run()


def _works_on_image(node: Node) -> bool:
    return getattr(node.attrs, "layout", "NHWC") == "NCHW" and len(node.inputs[0].shape) == 4


@dataclass(frozen=True)
class _Sides:
    """What was chosen.

    Args:
        last: nodes that work on channels-last tensors.
        triples: last reshape of a channel shuffle → its first reshape and its transpose.
    """

    last: frozenset[Node]
    triples: dict[Node, tuple[Node, Node]]


# -- the choice ------------------------------------------------------------------------------------------------


def _choose_sides(graph: Graph) -> _Sides:
    triples = {node: inner for node in graph.nodes if (inner := _shuffle(node, graph)) is not None}
    hidden = {node for inner in triples.values() for node in inner}
    variables: dict[Node, _Variable] = {}
    fixed: dict[Node, _Variable] = {}
    for index, node in enumerate(graph.nodes):
        if node in hidden:
            continue
        if _works_on_image(node):
            fixed[node] = _LAST
        elif node in triples or _model_transpose(node) is not None or _is_agnostic(node):
            variables[node] = index
        else:
            fixed[node] = _FIRST
    cut = _Cut({**variables, **fixed}, triples)
    for node in graph.nodes:
        if node not in hidden:
            cut.add_results(node, graph)
    for value in graph.inputs:
        cut.add_tensor(value, _FIRST, graph)
    chosen = cut.solve()
    last = {n for n, v in fixed.items() if v == _LAST} | {n for n, v in variables.items() if v in chosen}
    return _Sides(frozenset(last), triples)


def _is_agnostic(node: Node) -> bool:
    """Return whether an operation works on either layout."""
    if commuted(node, TO_FIRST) is None:
        return False
    stretched = broadcast_operands(node)
    for index, value in enumerate(node.inputs):
        if node.op.name == "gather" and index == 1:
            continue
        single = stretched and value.type.size == 1
        if len(value.shape) != 4 and not single and not (stretched and value.is_constant):
            return False
    return True


def _model_transpose(node: Node) -> Perm | None:
    """Return the perm of a transpose that leads from one layout to the other."""
    if node.op.name == "transpose" and node.attrs.perm in (TO_FIRST, TO_LAST):
        return tuple(node.attrs.perm)
    return None


def _shuffle(node: Node, graph: Graph) -> tuple[Node, Node] | None:
    """Return (reshape, transpose) before a reshape that together reorder a tensor of four axes."""
    moved = made_by(node.inputs[0], "transpose") if node.op.name == "reshape" else None
    split = None if moved is None else made_by(moved.inputs[0], "reshape")
    if moved is None or split is None or len(node.output.shape) != 4 or len(split.inputs[0].shape) != 4:
        return None
    if only_reader(moved.output, graph) is not node or only_reader(split.output, graph) is not moved:
        return None
    return (split, moved) if _rearranged(split, moved, node) is not None else None


def _rearranged(split: Node, moved: Node, node: Node) -> tuple[Perm, Perm, Perm] | None:
    shape, fine, target = split.inputs[0].shape, split.output.shape, node.output.shape
    return rearranged(shape, fine, moved.attrs.perm, target, TO_LAST)


class _Cut:
    """The flow network: channels-last on the source's side, as it is on the sink's.

    Args:
        variables: what stands for the choice of each node; _LAST and _FIRST where there is none.
        triples: see _Sides.
    """

    def __init__(self, variables: dict[Node, _Variable], triples: dict[Node, tuple[Node, Node]]) -> None:
        import networkx as nx

        self.network: Any = nx.DiGraph()
        self.network.add_nodes_from([_LAST, _FIRST])
        self.variables = variables
        self.heads = {inner[0]: node for node, inner in triples.items()}
        self._next = max([0, *variables.values()]) + 1

    def add_results(self, node: Node, graph: Graph) -> None:
        """Add the tensors that a node makes."""
        perm, variable = _model_transpose(node), self.variables[node]
        if perm is not None:
            # Channels-last, operand and result are the same bytes; else it is a real transpose.
            self.network.add_edge(_LAST, variable, capacity=_cost(node.inputs[0], perm))
        for value in node.outputs:
            self.add_tensor(value, _FIRST if perm == TO_LAST else variable, graph)

    def add_tensor(self, value: Value, producer: _Variable, graph: Graph) -> None:
        """Charge a tensor if it has a reader on the other side than its producer."""
        if len(value.shape) != 4:
            return
        readers = {self._side(node) for node in value.users()}
        if any(v is value for v in graph.outputs):
            readers.add(_FIRST)
        readers.discard(producer)
        if not readers:
            return
        cost = _cost(value, TO_LAST)
        away, back = self._new(), self._new()
        self.network.add_edge(producer, away, capacity=cost)
        self.network.add_edge(back, producer, capacity=cost)
        for reader in sorted(readers):
            self.network.add_edge(away, reader)
            self.network.add_edge(reader, back)

    def _side(self, reader: Node) -> _Variable:
        """Return the side on which a node wants its operands."""
        node = self.heads.get(reader, reader)
        return _FIRST if _model_transpose(node) == TO_FIRST else self.variables[node]

    def _new(self) -> _Variable:
        self._next += 1
        return self._next

    def solve(self) -> frozenset[_Variable]:
        """Return the variables on the channels-last side."""
        import networkx as nx

        _, (last, _) = nx.minimum_cut(self.network, _LAST, _FIRST)
        return frozenset(last)


def _cost(value: Value, perm: Sequence[int]) -> int:
    return 1 if moves_units_only(value.shape, tuple(perm)) else value.type.nbytes


# -- the rewrite -----------------------------------------------------------------------------------------------


class _Relayout:
    """Rebuilds the nodes on the channels-last side, and transposes what crosses."""

    def __init__(self, rewriter: Rewriter, sides: _Sides) -> None:
        self.rewriter = rewriter
        self.sides = sides
        self.last: dict[Value, Value] = {}
        self.first: dict[Value, Value] = {}
        self.rebuilt: set[Value] = set()

    def run(self) -> None:
        """Rewrite in topological order; what was rebuilt is dead at the end."""
        graph = self.rewriter.graph
        hidden = {n for node, inner in self.sides.triples.items() if node in self.sides.last for n in inner}
        for node in list(graph.nodes):
            if node in hidden:
                continue
            if node in self.sides.last:
                self._rebuild(node)
            else:
                for index, value in enumerate(node.inputs):
                    self.rewriter.set_operand(node, index, self._as_it_is(value, node))
        graph.outputs = [self._as_it_is(value, None) for value in graph.outputs]
        self.rewriter.eliminate_dead()

    def _rebuild(self, node: Node) -> None:
        perm = _model_transpose(node)
        if node in self.sides.triples:
            self._rebuild_shuffle(node, *self.sides.triples[node])
        elif perm == TO_FIRST:
            self.last[node.output] = self._as_it_is(node.inputs[0], node)
            self.rebuilt.add(node.output)
        elif perm == TO_LAST:
            self.first[node.output] = self._channels_last(node.inputs[0], node)
        else:
            on_image = _works_on_image(node)
            attrs = replace_fields(node.attrs, layout="NHWC") if on_image else commuted(node, TO_FIRST)
            operands = [self._operand(node, index) for index in range(len(node.inputs))]
            self._insert(node, node.op.name, operands, attrs, node.outputs)

    def _rebuild_shuffle(self, node: Node, split: Node, moved: Node) -> None:
        found = _rearranged(split, moved, node)
        assert found is not None
        fine, perm, target = found
        reshape, transpose = ops.get("reshape"), ops.get("transpose")
        x = self._channels_last(split.inputs[0], node)
        apart = self._insert(node, "reshape", [x], reshape.Attrs(shape=fine), split.outputs)
        mixed = self._insert(node, "transpose", [apart], transpose.Attrs(perm=perm), moved.outputs)
        self._insert(node, "reshape", [mixed], reshape.Attrs(shape=target), node.outputs)

    def _insert(self, node: Node, op: str, operands: list[Value], attrs: Any, results: Sequence[Value]) -> Value:
        """Insert the channels-last twin of a node; its results take the names."""
        names = [value.name for value in results]
        graph = self.rewriter.graph
        twin = graph.add_node(ops.get(op), operands, attrs, names=names, loc=node.loc, before=node)
        twin.precision = node.precision
        for old, new in zip(results, twin.outputs, strict=True):
            old.name, new.name = new.name, old.name
            new.stats, new.qspec = old.stats, old.qspec
            self.last[old] = new
            self.rebuilt.add(old)
        return twin.outputs[0]

    def _operand(self, node: Node, index: int) -> Value:
        value = node.inputs[index]
        if node.op.name == "gather" and index == 1:
            return value
        if value.is_constant and broadcast_operands(node):
            return self._constant(value)
        return self._channels_last(value, node) if len(value.shape) == 4 else self._as_it_is(value, node)

    def _constant(self, value: Value) -> Value:
        data = permuted_constant(value.constant(), TO_FIRST)
        if data is value.data:
            return value
        if value not in self.last:
            self.last[value] = self.rewriter.moved(
                f"{value.name}.nhwc", value, partial(permuted_constant, perm=TO_FIRST)
            )
        return self.last[value]

    def _channels_last(self, value: Value, before: Node) -> Value:
        if value.is_constant:
            return self._constant(value)
        if value not in self.last:
            source = self._as_it_is(value, before)
            self.last[value] = self._transpose(source, TO_LAST, f"{value.name}.nhwc", before)
        return self.last[value]

    def _as_it_is(self, value: Value, before: Node | None) -> Value:
        if value not in self.first:
            if value not in self.rebuilt:
                return value
            last = self.last[value]
            self.first[value] = self._transpose(last, TO_FIRST, f"{last.name}.nchw", before)
        return self.first[value]

    def _transpose(self, value: Value, perm: Perm, name: str, before: Node | None) -> Value:
        transpose = ops.get("transpose")
        loc = value.producer.loc if value.producer is not None else ""
        node = self.rewriter.insert(before, transpose, [value], transpose.Attrs(perm=perm), name=name, loc=loc)
        return node.output
