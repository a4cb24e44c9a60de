"""Open extents in a program: which tiles count at smaller sizes, which axes of the caller's tensors are open."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from qcompile.ir.graph import Graph, Value
from qcompile.ir.program import Live, Only, OpenAxis
from qcompile.ir.symbol import FIRST_RUN, Axes, Extent
from qcompile.kernels.conv_plan import ConvPlan, choose_plan
from qcompile.kernels.conv_workload import ConvWorkload
from qcompile.kernels.depthwise import depthwise_kernel
from qcompile.kernels.isa import Isa
from qcompile.kernels.kernel import Kernel
from qcompile.shapes.analysis import analyse
from qcompile.shapes.demand import Demand
from qcompile.shapes.first_run import needed_first
from qcompile.shapes.step import Analysis
from qcompile.targets import Target

_ROWS = 8
_PIXELS = 16


class OpenAxes:
    """What lowering knows of a graph's open extents.

    Args:
        graph: in its final form.

    Attributes:
        extents: all extents that the program needs, those that kernels read first.
    """

    def __init__(self, graph: Graph) -> None:
        self._analysis = analyse(graph) if graph.symbols else Analysis()
        self.extents = list(dict.fromkeys((*graph.extents, *self._analysis.extents())))
        self._demand, self._first = Demand(graph), needed_first(graph)

    def only(self, values: Sequence[Value]) -> Only | None:
        """Return the sizes at which what makes some tensors is run, None for all."""
        used = [value for value in values if value.uses]
        if used and self._first.issuperset(used):
            return self._from(FIRST_RUN, 1)
        found = [self._demand.of(value) for value in used]
        needs = [need for need in found if need is not None]
        if not needs or len(needs) < len(found) or len({extent for extent, _ in needs}) > 1:
            return None
        return self._from(needs[0][0], min(least for _, least in needs))

    def _from(self, extent: Extent, least: int) -> Only:
        if extent not in self.extents:
            self.extents.append(extent)
        return Only(self.extents.index(extent), least)

    def of(self, value: Value) -> Axes:
        """Return the open extents of a tensor's axes."""
        return self._analysis.of(value)

    def walked(self, value: Value) -> Axes:
        """Return the open extents of those axes of a tensor along which the rest need not be made.

        What a mask writes is the rest itself.
        """
        axes, node = list(self.of(value)), value.producer
        while node is not None and node.op.name == "mask_tail":
            axes[node.attrs.axis] = None
            node = node.inputs[0].producer
        return tuple(axes)

    def cut(self, work: ConvWorkload, isa: Isa, target: Target, plan: ConvPlan | None) -> ConvPlan | None:
        """Return a plan of which smaller sizes run less: a row of pixels in blocks of a few register tiles.

        Args:
            work: a layer along an open axis.
            isa: instruction set.
            target: cache sizes.
            plan: as measured, or None.
        """
        row = work.canonical()
        plain = row.kernel == (1, 1) and row.strides == (1, 1) and not any(row.pads)
        if not plain or row.out_height > 1 or row.batch > 1 or depthwise_kernel(work, isa) is not None:
            return plan
        chosen = plan or choose_plan(row, isa, target.l2_bytes)
        columns = -(-_PIXELS // chosen.tiling.columns) * chosen.tiling.columns
        blocking = replace(chosen.blocking, columns=min(columns, chosen.blocking.columns))
        return replace(chosen, blocking=blocking)

    def block(self, value: Value, length: int) -> int:
        """Return how many rows of a tensor a tile should make so that tiles end where open axes do.

        Args:
            value: the tensor.
            length: elements of a row.

        Returns:
            0 where it has no open axis, or none that the rows walk along.
        """
        for axis, extent in enumerate(self.walked(value)):
            rows = math.prod(value.shape[axis:]) // max(length, 1)
            if extent is not None and rows:
                return next(n for n in range(min(_ROWS, rows), 0, -1) if rows % n == 0)
        return 0

    def live(self, kernel: Kernel, shape: Sequence[int], axes: Axes) -> Live | None:
        """Return which tiles of a kernel count, None where that cannot be told or is all of them.

        Args:
            kernel: says what its tiles make.
            shape: of what it makes, elements.
            axes: its open extents; the first one that the tiles follow is taken.
        """
        if math.prod(count for count, _ in kernel.levels) != kernel.tiles or math.prod(shape) % kernel.row:
            return None
        for axis, extent in enumerate(axes):
            elements = math.prod(shape[axis + 1 :])
            if extent is not None and elements % kernel.row == 0:
                found = self._level(kernel, math.prod(shape) // kernel.row, shape[axis], elements // kernel.row, extent)
                if found is not None:
                    return found
        return None

    def _level(self, kernel: Kernel, total: int, size: int, rows: int, extent: Extent) -> Live | None:
        """Find the factor of the tile number that walks along one axis of `size` indices, `rows` rows each."""
        around = total
        for position, (count, span) in enumerate(kernel.levels):
            if span == 0:
                continue
            whole = size * rows
            uniform = (count - 1) * span < around < (count + 1) * span
            # A factor may also walk along several axes at once, whole indices of the outer ones after each other.
            joined = around % whole == 0 and whole % span == 0 and around == count * span
            if span < whole and (joined or (around == whole and uniform)):
                unit = math.prod(c for c, _ in kernel.levels[position + 1 :])
                segment = (whole // span if joined else count) * unit
                return Live(self.extents.index(extent), rows, span, unit, segment)
            around = span
        return None

    def places(self, values: Sequence[Value]) -> tuple[OpenAxis, ...]:
        """Return the open axes of the caller's tensors."""
        return tuple(
            OpenAxis(number, axis, self.extents.index(extent))
            for number, value in enumerate(values)
            for axis, extent in enumerate(self.of(value))
            if extent is not None
        )
