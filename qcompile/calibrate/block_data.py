"""What a block reads and what it should give, taken while the integer and the float network run side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.calibrate.block_partition import LAYERS, Block, float_block
from qcompile.calibrate.paired_run import Lane, pair_layers, real_values
from qcompile.ir.graph import Graph, Node, Value
from qcompile.ir.origin import original_name

Array = npt.NDArray[Any]

_ANY_EXTENT = ("conv2d", "dense", "add", "relu", "clip")
"""Float operations that do not care how large the image is."""

_WINDOWS = 3
"""Windows cut from each sample of a large image."""


@dataclass(frozen=True)
class BlockData:
    """One block with examples.

    Args:
        block: of the integer graph.
        weights: of the float layer of each layer, real units.
        entry: what the integer block reads, real units, float32 [examples, …].
        target: what the float block gives for what it reads itself, the same examples.
    """

    block: Block
    weights: dict[Node, Array]
    entry: Array
    target: Array


def walk_blocks(
    reference: Graph,
    graph: Graph,
    blocks: Sequence[Block],
    samples: list[Mapping[str, Array]],
    visit: Callable[[BlockData], None],
    crop: int,
    seed: int,
) -> list[tuple[Node, str]]:
    """Run both graphs and show each block with its examples before it runs.

    Args:
        reference: float graph.
        graph: integer graph; `visit` may replace constants of the block it is shown.
        blocks: of `graph`.
        samples: {input name: array}, real values.
        visit: called block by block.
        crop: extent of the windows that large images are cut into, elements.
        seed: of their places.

    Returns:
        The layers whose originals cannot be told, with the reason.
    """
    values = {value.name: value for value in reference.values()}
    pairs, _ = pair_layers(reference, graph)
    weights = {pair.node: pair.reference.inputs[1].constant() for pair in pairs}
    plans: dict[Node, tuple[Block, Value, list[Node]]] = {}
    refused = []
    for block in blocks:
        entry, exit_ = (values.get(original_name(v.name, values)) for v in (block.entry, block.exit))
        nodes = float_block(entry, exit_) if entry is not None and exit_ is not None else None
        if entry is None or nodes is None or not all(node in weights for node in block.layers):
            refused += [(node, "its float original cannot be told") for node in block.layers]
        else:
            plans[block.nodes[0]] = block, entry, nodes
    random = np.random.default_rng(seed)
    real = Lane(reference, samples, [entry for _, entry, _ in plans.values()])
    integer = Lane(graph, samples, ())
    for node in graph.nodes:
        if node in plans:
            block, entry, nodes = plans[node]
            exact = real.advance_to(entry)
            given = [real_values(block.entry, array) for array in integer.values[block.entry]]
            visit(_data(block, nodes, entry, exact, given, weights, crop, random))
            real.release(entry)
        integer.run(node)
    return refused


def _data(
    block: Block,
    nodes: list[Node],
    entry: Value,
    exact: list[Array],
    given: list[Array],
    weights: Mapping[Node, Array],
    crop: int,
    random: np.random.Generator,
) -> BlockData:
    small = all(node.op.name in _ANY_EXTENT for node in nodes)
    pairs = []
    for p, q in zip(exact, given, strict=True):
        pairs += _windows(p, q, crop, random) if small else [(p, q)]
    target = [_evaluate(nodes, entry, p) for p, _ in pairs]
    chosen = {node: weights[node] for node in block.nodes if node.op.name in LAYERS}
    return BlockData(block, chosen, np.concatenate([q for _, q in pairs]), np.concatenate(target))


def _windows(p: Array, q: Array, crop: int, random: np.random.Generator) -> list[tuple[Array, Array]]:
    """Return windows of a large image at seeded places, the same in both; a small one as it is.

    A window is an image of its own, with zeros around it: its border is none of the network's, but the float and
    the integer block see the same one.
    """
    if p.ndim != 4 or max(p.shape[1:3]) <= crop * 3 // 2:
        return [(p, q)]
    height, width = extents = tuple(min(extent, crop) for extent in p.shape[1:3])
    found = []
    for _ in range(_WINDOWS):
        top, left = (int(random.integers(0, full - part + 1)) for full, part in zip(p.shape[1:3], extents, strict=True))
        place = np.s_[:, top : top + height, left : left + width]
        found.append((p[place], q[place]))
    return found


def _evaluate(nodes: Sequence[Node], entry: Value, array: Array) -> Array:
    """Return the result of the last of some float nodes on another extent than the graph's."""
    known = {entry: array}
    for node in nodes:
        operands = [known[v] if v in known else v.constant() for v in node.inputs]
        known.update(zip(node.outputs, node.op.evaluate(node.attrs, operands), strict=True))
    return known[nodes[-1].outputs[0]]
