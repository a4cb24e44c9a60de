"""What is found out about the open extents of a graph, and one node as its rule sees it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from qcompile.errors import UnsupportedOpError
from qcompile.ir.graph import Node, Value
from qcompile.ir.symbol import JOINT, Axes, Extent


@dataclass(frozen=True)
class Mask:
    """An operand whose elements past the end of an axis must be replaced.

    Args:
        node: the reader.
        operand: which operand.
        axis: the open axis.
        extent: where it ends.
        fill: real value to see past the end; None for the last element before it.
    """

    node: Node
    operand: int
    axis: int
    extent: Extent
    fill: float | None


@dataclass
class Analysis:
    """What is known of a graph.

    Args:
        axes: open extents of each tensor that has any.
        slices: open extents of constants, by reader and operand: the reader uses the first elements only.
        masks: what must be replaced.
        means: nodes that divide by an open extent, with the extents of the axes they average over.
        norms: nodes that normalize over open axes, with the extents of all axes they normalize over.
        counts: nodes that add an open extent to a length.
        joins: nodes that join tensors of which others follow open ones, with the extent of each.
        repacks: reshapes whose elements lie elsewhere at each size, with the extents of operand and result.
        windows: nodes whose windows reach past the actual end, with the height and width of what they average.
    """

    axes: dict[Value, Axes] = field(default_factory=dict)
    slices: dict[tuple[Node, int], Axes] = field(default_factory=dict)
    masks: list[Mask] = field(default_factory=list)
    means: dict[Node, tuple[Extent, ...]] = field(default_factory=dict)
    norms: dict[Node, Axes] = field(default_factory=dict)
    counts: dict[Node, Extent] = field(default_factory=dict)
    joins: dict[Node, Axes] = field(default_factory=dict)
    repacks: dict[Node, tuple[Axes, Axes]] = field(default_factory=dict)
    windows: dict[Node, tuple[Extent | None, Extent | None]] = field(default_factory=dict)

    def of(self, value: Value) -> Axes:
        """Return the open extents of a tensor's axes."""
        return self.axes.get(value) or (None,) * len(value.shape)

    def extents(self) -> list[Extent]:
        """Return all extents that occur, each once, in order."""
        return list(dict.fromkeys(e for axes in self.axes.values() for e in axes if e is not None))

    def only_extent(self, size: int) -> Extent | None:
        """Return the one extent whose largest value is a size, None where there is none or several."""
        found = [e for e in self.extents() if e.most == size]
        return found[0] if len(found) == 1 else None


class Step:
    """One node as its rule sees it.

    Args:
        node: read only.
        analysis: of the graph up to the node; receives what the rule finds.
    """

    def __init__(self, node: Node, analysis: Analysis) -> None:
        self.node, self._analysis = node, analysis
        self.axes = [analysis.of(value) for value in node.inputs]

    def mask(self, operand: int, axis: int, fill: float | None) -> None:
        """Ask for neutral elements past the end of an operand's axis."""
        extent = self.axes[operand][axis]
        if extent is not None:
            self._analysis.masks.append(Mask(self.node, operand, axis, extent, fill))

    def slice(self, operand: int, axes: Axes) -> None:
        """Say that only the first elements of a constant are used."""
        self._analysis.slices[self.node, operand] = axes

    def average(self, extents: tuple[Extent, ...]) -> None:
        """Say that the result is divided by open extents."""
        self._analysis.means[self.node] = extents

    def normalize(self, over: Axes) -> None:
        """Say that elements are normalized over open axes."""
        self._analysis.norms[self.node] = over

    def count(self, extent: Extent) -> None:
        """Say that an open extent is added to a length."""
        self._analysis.counts[self.node] = extent

    def average_windows(self, extents: tuple[Extent | None, Extent | None]) -> None:
        """Say that the result is divided by what windows hold before the end of height and width."""
        self._analysis.windows[self.node] = extents

    def join(self, parts: Axes) -> None:
        """Say that parts of open extents are joined, each up to its actual end."""
        self._analysis.joins[self.node] = parts

    def repack(self, result: Axes) -> None:
        """Say that elements have other places at each size."""
        self._analysis.repacks[self.node] = (self.axes[0], result)

    def counts(self) -> dict[str, int]:
        """Return how many values each symbol has."""
        return {e.symbol: len(e.table) for e in self._analysis.extents() if JOINT not in e.symbol}

    def known(self) -> list[Extent]:
        """Return all extents that occur before the node."""
        return self._analysis.extents()

    def extent_of(self, size: int) -> Extent | None:
        """Return the one known open extent whose largest value is a size, None where there is none or several."""
        return self._analysis.only_extent(size)

    def refuse(self, reason: str, axis: Extent | None = None) -> UnsupportedOpError:
        """Return an error about the node."""
        opened = [e for e in (axis, *(e for a in self.axes for e in a)) if e is not None]
        name = opened[0].symbol if opened else self.node.attrs.symbol
        where = self.node.loc or self.node.outputs[0].name
        return UnsupportedOpError(
            f"node {where} ({self.node.op.name}) does not work with the open extent '{name}': {reason}",
            hint=f"fix the size: give --input-shape a number in place of {name}",
        )


Rule = Callable[[Step], list[Axes]]
"""Returns the open extents of each result's axes."""
