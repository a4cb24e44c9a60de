"""Finds the blocks of an integer graph: what lies between two places where all data goes through one tensor."""

from __future__ import annotations

from dataclasses import dataclass

from qcompile.ir.graph import Graph, Node, Value

LAYERS = ("conv2d", "dense")
"""Operations whose weights a block may change."""

MEMBERS = (*LAYERS, "add", "requantize")
"""Integer operations that a block may consist of."""

CHAIN = 3
"""Layers in a row that become one block: those of an inverted bottleneck."""


@dataclass(frozen=True)
class Block:
    """Nodes with one tensor in and one tensor out.

    Args:
        nodes: in order of computation.
        entry: the only tensor they read from outside, constants apart.
        exit: the only tensor of theirs that others read.
    """

    nodes: tuple[Node, ...]
    entry: Value
    exit: Value

    @property
    def layers(self) -> tuple[Node, ...]:
        """The nodes with weights."""
        return tuple(node for node in self.nodes if node.op.name in LAYERS)


def find_blocks(graph: Graph, *, chain: int = CHAIN) -> tuple[list[Block], list[tuple[Node, str]]]:
    """Return the blocks of an integer graph.

    Each stretch between two cuts is a block by itself where it branches (a residual block); stretches of one layer
    in a row are joined, up to some layers.

    Args:
        graph: in integer form.
        chain: layers in a row to join at most.

    Returns:
        The blocks in order of computation, and the layers in none of them with the reason.
    """
    blocks: list[Block] = []
    others: list[tuple[Node, str]] = []
    row: Block | None = None  # layers in a row, which the next one may join
    for stretch in _stretches(graph):
        reason = _obstacle(graph, stretch)
        joins = reason is None and len(stretch.layers) <= 1
        if joins and row is not None and len(row.layers) + len(stretch.layers) <= chain:
            row = Block((*row.nodes, *stretch.nodes), row.entry, stretch.exit)
            continue
        if row is not None:
            blocks.append(row)
        row = stretch if joins else None
        if reason is not None:
            others += [(node, reason) for node in stretch.nodes if node.op.name in LAYERS and node.is_integer]
        elif not joins:
            blocks.append(stretch)
    if row is not None:
        blocks.append(row)
    return [block for block in blocks if block.layers], others


def _stretches(graph: Graph) -> list[Block]:
    """Return what lies between neighbouring cuts."""
    last = {value: index for index, node in enumerate(graph.nodes) for value in node.inputs}
    live = {value for value in graph.inputs if value in last}
    found: list[Block] = []
    entry = next(iter(live)) if len(live) == 1 else None
    start = 0
    for index, node in enumerate(graph.nodes):
        live |= {value for value in node.outputs if value in last or value in graph.outputs}
        live -= {value for value in node.inputs if last[value] <= index}
        ahead = [v for v in live if last.get(v, -1) > index or v in node.outputs]
        if len(ahead) != 1 or ahead[0] not in node.outputs:
            continue
        if entry is not None:
            found.append(Block(tuple(graph.nodes[start : index + 1]), entry, ahead[0]))
        entry, start = ahead[0], index + 1
    return found


def _obstacle(graph: Graph, block: Block) -> str | None:
    """Return why the nodes between two cuts are no block, None where they are."""
    strangers = [node for node in block.nodes if not _is_member(node)]
    if strangers:
        return f"{strangers[0]} stands in the way"
    inside = {value for node in block.nodes for value in node.outputs} - {block.exit}
    if inside & set(graph.outputs):
        return "a tensor within is a graph output"
    for node in block.nodes:
        for value in (node.inputs[index] for index in node.op.operand_activations(node)):
            if value.is_constant and not _fits_any_batch(value, len(node.output.shape)):
                return f"the constant {value.name} that {node} reads fits one sample and one extent only"
    return None


def _fits_any_batch(value: Value, rank: int) -> bool:
    """Return whether a constant fits examples of many samples behind each other, and windows of images."""
    shape = (1,) * (rank - len(value.shape)) + value.shape
    return shape[0] == 1 and (rank != 4 or shape[1:3] == (1, 1))


def _is_member(node: Node) -> bool:
    if node.op.name not in MEMBERS or not node.is_integer:
        return False
    if node.op.name == "conv2d" and node.attrs.layout != "NHWC":
        return False
    return node.op.name not in LAYERS or all(v.is_constant for v in node.inputs[1:3])


def float_block(entry: Value, exit: Value) -> list[Node] | None:
    """Return the nodes of the float graph between two of its tensors, in no particular order of branches.

    Args:
        entry: of the float graph.
        exit: of the float graph.

    Returns:
        Nodes in order of computation; None where something else than the entry feeds them.
    """
    order: list[Node] = []
    seen: set[Value] = {entry}
    return order if _collect(exit, seen, order) else None


def _collect(value: Value, seen: set[Value], order: list[Node]) -> bool:
    """Append the nodes behind a value, operands first; return False where they reach an input of the graph."""
    pending: list[tuple[Value, bool]] = [(value, False)]
    while pending:
        current, ready = pending.pop()
        node = current.producer
        if ready and node is not None:
            if node not in order:
                order.append(node)
            continue
        if current in seen or current.is_constant:
            continue
        seen.add(current)
        if node is None:
            return False
        pending.append((current, True))
        pending += [(operand, False) for operand in node.inputs]
    return True
