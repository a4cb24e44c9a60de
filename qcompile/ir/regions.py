"""Loops: stretches of a graph's node list that run again and again.

A region starts with a `loop_begin` and ends with the `loop_end` that reads its iteration number. Between them are
ordinary nodes, which every pass sees as any others. They read anything that is computed before the region; what they
make leaves it through loop_end only. Regions are not nested: inner loops are unrolled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from qcompile.errors import InternalError
from qcompile.ir.graph import Graph, Node, Value

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Region:
    """One loop.

    Args:
        nodes: from loop_begin to loop_end, both included, in order.
        first: position of the first of them in the graph.
    """

    nodes: tuple[Node, ...]
    first: int

    @property
    def begin(self) -> Node:
        """The loop_begin."""
        return self.nodes[0]

    @property
    def end(self) -> Node:
        """The loop_end."""
        return self.nodes[-1]

    @property
    def trips(self) -> int:
        """How often the region runs at most."""
        return int(self.begin.attrs.trips)

    @property
    def condition(self) -> Value | None:
        """What says whether there is another iteration, None where all run."""
        return self.end.inputs[1] if self.end.attrs.conditional else None

    @property
    def states(self) -> list[tuple[Value, Value, Value]]:
        """Of each state what an iteration starts from, what it makes of it, and what the loop leaves."""
        made = self.end.inputs[2 if self.end.attrs.conditional else 1 :]
        return list(zip(self.begin.outputs[1:], made, self.end.outputs[1:], strict=True))


def regions(nodes: Sequence[Node]) -> list[Region]:
    """Return the loops among nodes in order of computation.

    Raises:
        InternalError: they are not closed, nested, or do not belong together.
    """
    found: list[Region] = []
    start: int | None = None
    for position, node in enumerate(nodes):
        if node.op.region == "begin":
            if start is not None:
                raise InternalError(f"{node} is inside of the loop that {nodes[start]} begins")
            start = position
        elif node.op.region == "end":
            if start is None or node.inputs[0] is not nodes[start].outputs[0]:
                raise InternalError(f"{node} does not end the loop that is open there")
            found.append(Region(tuple(nodes[start : position + 1]), start))
            start = None
    if start is not None:
        raise InternalError(f"the loop that {nodes[start]} begins has no end")
    return found


_MOST_COUNTED = 2**20
"""Trips above this are no number of iterations: only a condition ends such a loop."""


def times_run(graph: Graph) -> dict[Node, int]:
    """Return how often an inference runs each node: in a loop once a trip; once where nobody knows the trips."""
    found = dict.fromkeys(graph.nodes, 1)
    for region in regions(graph.nodes):
        if region.trips <= _MOST_COUNTED:
            found.update(dict.fromkeys(region.nodes, region.trips))
    return found


def total_macs(graph: Graph) -> int:
    """Return the multiply-accumulates of one inference; those of loops as often as `times_run` says."""
    return sum(times * node.op.macs(node) for node, times in times_run(graph).items())


def computed_bytes(graph: Graph) -> int:
    """Return what all tensors that are computed take together, bytes."""
    return sum(value.type.nbytes for value in graph.values() if not value.is_constant)


def last_readers(graph: Graph) -> dict[Value, Node]:
    """Return the node after which nobody needs a value any more; a loop needs what it reads until its end."""
    found = {value: node for node in graph.nodes for value in node.inputs}
    for region in regions(graph.nodes):
        inside, within = {value for node in region.nodes for value in node.outputs}, set(region.nodes)
        for value in (v for node in region.nodes for v in node.inputs if v not in inside):
            if found[value] in within:
                found[value] = region.end
    return found


def verify_regions(graph: Graph) -> None:
    """Check that loops are closed, keep the types of their states, and leak nothing.

    Raises:
        InternalError: what does not hold, with the node and value.
    """
    found = regions(graph.nodes)
    if found and graph.symbols:
        raise InternalError(f"graph {graph.name} has open extents and a loop")
    for region in found:
        before, after = region.begin.outputs[1:], region.end.inputs[2 if region.end.attrs.conditional else 1 :]
        if [v.type for v in before] != [v.type for v in after]:
            raise InternalError(f"{region.end}: the states change their types")
        inside = set(region.nodes)
        for value in (v for node in region.nodes[:-1] for v in node.outputs):
            strangers = [user for user in value.users() if user not in inside]
            if strangers or any(v is value for v in graph.outputs):
                raise InternalError(f"{value.name} is read outside of the loop that makes it")


def run_in_course(
    nodes: Sequence[Node],
    step: Callable[[Node], None],
    read: Callable[[Value], Array],
    put: Callable[[Value, Array], None],
    release: Callable[[Value], object],
) -> None:
    """Run nodes one after the other, those of loops as often as it takes.

    Args:
        nodes: in order of computation; a loop is among them as a whole or not at all.
        step: computes the results of a node and keeps them.
        read: returns a value that is known.
        put: makes a value known.
        release: forgets what an iteration made once the next one has it.
    """
    at = first = 0
    while at < len(nodes):
        node = nodes[at]
        step(node)
        at += 1
        if node.op.region == "begin":
            first = at
        elif node.op.region == "end":
            begin = node.inputs[0].producer
            assert begin is not None
            done = int(read(node.outputs[0]))
            if done < begin.attrs.trips and not (node.attrs.conditional and not read(node.inputs[1]).any()):
                for value, result in zip(begin.outputs, node.outputs, strict=True):
                    put(value, read(result))
                    release(result)
                at = first
