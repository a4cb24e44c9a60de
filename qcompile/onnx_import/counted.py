"""Extents that the data decide: how many elements are not zero, how many boxes stay.

Such a tensor has its largest size in the graph, and a number beside it that a run computes: its first elements are
the actual ones, and what lies behind is of no meaning. `Counts` follows these axes through the operations as
`qcompile.shapes` follows those that the caller leaves open, with a symbol for each number, and lets whatever would see
elements past the end see neutral ones. Shapes are computed from the numbers; an output tells its own (`ir.counted`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from qcompile import ops
from qcompile.errors import UnsupportedOpError
from qcompile.ir.counted import CountedAxis
from qcompile.ir.graph import Graph, Node, Value
from qcompile.ir.opdef import OpDef
from qcompile.ir.symbol import JOINT, Axes, Extent
from qcompile.onnx_import.shape_numbers import Numbers, numbers_of
from qcompile.ops.mask_tail import MaskTailAttrs
from qcompile.ops.onnx_node import OnnxNode
from qcompile.ops.open_reshape import OpenReshapeAttrs
from qcompile.ops.rescale_mean import RescaleMeanAttrs
from qcompile.ops.reshape import reshaped
from qcompile.shapes.analysis import advance
from qcompile.shapes.step import Analysis

MOST = 1 << 21
"""As many elements as may be counted: a table of what follows from each number must be made."""

_PICKING = ("Gather", "GatherElements", "Compress")
"""Operators whose constant places are the model's own, not made from the largest extents."""


class Counts:
    """Knows which axes of a graph under construction the data decide.

    Args:
        graph: without nodes.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._axes: dict[Value, Axes] = {}
        self._counts: dict[str, Value] = {}
        self._numbers: dict[Extent, Value] = {}
        self._vectors: dict[Extent, Value] = {}
        self._shapes: dict[Value, Numbers] = {}
        self._masked: dict[tuple[Value, int, Extent, float | None], Value] = {}
        self._positions: dict[Value, Value] = {}
        self._flags: dict[tuple[Extent | int, ...], Value] = {}

    # -- what is known ------------------------------------------------------------------------------------

    def axes(self, value: Value) -> Axes:
        """Return the extents of a tensor's axes that the data decide, None where an axis is fixed."""
        return self._axes.get(value) or (None,) * len(value.shape)

    def touches(self, values: Sequence[Value | None]) -> bool:
        """Return whether any tensor has such an axis, or holds numbers that follow from one."""
        return any(value in self._axes or value in self._shapes for value in values)

    def shape_numbers(self, value: Value) -> Numbers | None:
        """Return what a tensor of shape arithmetic holds: integers and extents; None where that is not known."""
        if value.data is not None and value not in self._axes:
            return value.data.astype(object) if value.dtype.startswith(("int", "uint", "bool")) else None
        return self._shapes.get(value)

    # -- what converters say ------------------------------------------------------------------------------

    def new(self, node: OnnxNode, count: Value, most: int) -> Extent:
        """Return the extent that a run computes.

        Args:
            node: what finds the elements.
            count: their number, int64 [1].
            most: the largest it may be.
        """
        if most > MOST:
            node.fail(f"the data decide how many of {most} elements it finds; at most {MOST} can be counted")
        name = f"count of {node.name}".replace(JOINT, "_")
        name += f" ({len(self._counts)})" if name in self._counts else ""
        self._counts[name] = count
        return Extent(name, tuple(range(most + 1)))

    def declare(self, value: Value, axes: Axes) -> Value:
        """Say which axes of a tensor the data decide; return the tensor, or for a constant one that stands for it."""
        if value.is_constant and any(axes):
            value = self._graph.add_node(ops.get("identity"), [value], names=[f"{value.name}.counted"]).output
        self._axes.pop(value, None)
        if any(axes):
            self._axes[value] = axes
        return value

    def renewed(self, value: Value, axes: Axes, name: str) -> Value:
        """Return a tensor under another name that has other such axes."""
        op = ops.get("identity")
        return self.declare(self._graph.add_node(op, [value], names=[name]).output, axes)

    def declare_shape(self, value: Value, numbers: Numbers) -> None:
        """Say what a tensor of shape arithmetic holds."""
        self._shapes[value] = numbers

    def positions(self, node: OnnxNode, flags: Value) -> Value:
        """Return where flags are set: indices, int64, as many as there are.

        Args:
            node: what asks for them.
            flags: bool [N].
        """
        if flags.data is not None and not self.touches([flags]):
            return node.constant("positions", np.flatnonzero(flags.data), "int64")
        if flags not in self._positions:
            base, row = node.outputs[0], flags
            if row.type.size == 1:
                # An axis of at most one element could not be told from one that is stretched.
                row = node.add("concat", [row, node.constant("unset", [False])], f"{base}.flags", axis=0)
            most = row.type.size
            found = node.add("positions", [row], f"{base}.positions")
            whole = {"steps": (1,)}
            count = node.add("slice", [found], f"{base}.count", starts=(0,), sizes=(1,), **whole)
            rows = node.add("slice", [found], f"{base}.found", starts=(1,), sizes=(most,), **whole)
            self._positions[flags] = self.declare(rows, (self.new(node, count, most),))
        return self._positions[flags]

    def first(self, node: OnnxNode, x: Value, axis: int, end: Value) -> Value:
        """Return so many first elements of an axis as a run computes.

        Args:
            node: the ONNX node that takes them.
            x: any tensor.
            axis: of it.
            end: one number; below 0 it counts from the end of the axis.
        """
        base, most = node.outputs[0], node.constant("most", [x.shape[axis]], "int64")
        none = node.constant("none", [0], "int64")
        number = reshaped(node, end, (1,), f"{base}.end")
        if number.dtype != "int64":
            number = node.add("cast", [number], f"{base}.long", dtype="int64")
        turned = node.add("add", [number, most], f"{base}.turned")
        number = node.add("where", [node.add("less", [number, none], f"{base}.below"), turned, number], f"{base}.from0")
        count = node.add("minimum", [node.add("maximum", [number, none], f"{base}.some"), most], f"{base}.count")
        axes = list(self.axes(x))
        axes[axis] = self.new(node, count, x.shape[axis])
        # Other readers of the tensor see all of it.
        part = self._graph.add_node(ops.get("identity"), [x], names=[base], loc=node.name).output
        return self.declare(part, tuple(axes))

    def joined(self, node: OnnxNode, parts: Sequence[Value], axis: int) -> Value:
        """Return tensors one after the other, each up to its actual end.

        Args:
            node: the ONNX node that joins them.
            parts: two or more.
            axis: along which the data decide an extent of one.
        """
        base, others = node.outputs[0], [list(self.axes(part)) for part in parts]
        sizes = tuple(axes[axis] or part.shape[axis] for part, axes in zip(parts, others, strict=True))
        for axes in others:
            axes[axis] = None
        if any(axes != others[0] for axes in others):
            node.fail("the data decide extents of its operands that are to be the same, and may differ")
        concat = ops.get("concat")
        whole = self._graph.add_node(concat, parts, concat.Attrs(axis=axis), names=[f"{base}.parts"]).output
        before, last = [size for size in sizes[:-1] if isinstance(size, int)], sizes[-1]
        if len(before) + 1 == len(sizes) and isinstance(last, Extent):
            others[0][axis] = replace(last, table=tuple(sum(before) + n for n in last.table))
            return self.declare(whole, tuple(others[0]))
        self.declare(whole, tuple(others[0]))
        if sizes not in self._flags:
            self._flags[sizes] = self._inside(node, sizes)
        return node.add("gather", [whole, self.positions(node, self._flags[sizes])], base, axis=axis)

    def _inside(self, node: OnnxNode, sizes: Sequence[Extent | int]) -> Value:
        """Return, for parts that follow each other with their largest extents, whether elements are actual ones."""
        flags = []
        for k, size in enumerate(sizes):
            most = size.most if isinstance(size, Extent) else size
            numbers = node.constant(f"numbers{k}", np.arange(most), "int64")
            end = self.number(size) if isinstance(size, Extent) else node.constant(f"end{k}", [most], "int64")
            flags.append(node.add("less", [numbers, end], f"{node.outputs[0]}.inside{k}"))
        return node.add("concat", flags, f"{node.outputs[0]}.inside", axis=0)

    def number(self, extent: Extent) -> Value:
        """Return an extent as a tensor of one int64 number."""
        if extent not in self._numbers:
            self._numbers[extent] = self._computed(extent)
        return self._numbers[extent]

    def _computed(self, extent: Extent) -> Value:
        """Compute table[count]; by a formula where the table has one of the usual forms."""
        count, table = self._counts[extent.symbol], np.array(extent.table, np.int64)
        slope, first = int(table[-1] - table[-2]) or int(table[1] - table[0]), int(table[0])
        line = slope * np.arange(len(table)) + first
        shift = int(table[-1]) - len(table) + 1
        name = f"{count.name}.extent"

        def apply(op: str, x: Value, number: int) -> Value:
            constant = self._graph.add_constant(f"{name}.{op}", np.array([number], np.int64))
            return self._graph.add_node(ops.get(op), [x, constant], names=[name]).output

        if (table == np.minimum(line, table[-1])).all():
            y = count if slope == 1 else apply("mul", count, slope)
            y = y if first == 0 else apply("add", y, first)
            return y if line[-1] == table[-1] else apply("minimum", y, int(table[-1]))
        if (table == np.maximum(np.arange(len(table)) + shift, 0)).all():
            return apply("maximum", apply("add", count, shift), 0)
        gather = ops.get("gather")
        inputs = [self._graph.add_constant(f"{name}.table", table), count]
        return self._graph.add_node(gather, inputs, gather.Attrs(axis=0), names=[name]).output

    def _vector(self, extents: Sequence[Extent]) -> Value:
        """Return extents as masks read them: int32."""
        cast, concat = ops.get("cast"), ops.get("concat")
        for extent in extents:
            if extent not in self._vectors:
                number, attrs = self.number(extent), cast.Attrs(dtype="int32")
                self._vectors[extent] = self._graph.add_node(cast, [number], attrs, names=[f"{number.name}32"]).output
        found = [self._vectors[extent] for extent in extents]
        return found[0] if len(found) == 1 else self._graph.add_node(concat, found, concat.Attrs(axis=0)).output

    # -- nodes --------------------------------------------------------------------------------------------

    def add(
        self, node: OnnxNode, op: OpDef, inputs: Sequence[Value], attrs: Any, names: Sequence[str]
    ) -> tuple[Value, ...]:
        """Append an IR node of which an operand has such an axis, or holds numbers that follow from one.

        Args:
            node: the ONNX node that asks for it.
            op: operation.
            inputs: operands.
            attrs: its attributes.
            names: wanted names of its results.

        Raises:
            ValueError: the operation refuses these operands.
            UnsupportedOpError: it would see what lies past the end.
        """
        numbers = numbers_of(op, attrs, [self.shape_numbers(value) for value in inputs])
        types = op.infer(attrs, [value.type for value in inputs])
        if numbers is not None and all(isinstance(n, int) for n in numbers.reshape(-1)):
            return (self._graph.add_constant(names[0], numbers.astype(types[0].dtype)),)
        draft = Node(op, inputs, [Value(n, t) for n, t in zip(names, types, strict=True)], attrs, node.name)
        analysis = self._analysed(node, draft)
        read = self._guarded(node, draft, analysis)
        if draft in analysis.repacks:
            before, after = analysis.repacks[draft]
            opened = list(dict.fromkeys(e for e in (*before, *after) if e is not None))
            entries = [tuple(None if e is None else opened.index(e) for e in axes) for axes in (before, after)]
            op, attrs = ops.get("open_reshape"), OpenReshapeAttrs(attrs.shape, *entries)
            read = [*read, self._vector(opened)]
        made = self._graph.add_node(op, read, attrs, names=names, loc=node.name).outputs
        if draft in analysis.means:
            made = (self._rescaled(node, made[0], analysis.means[draft]),)
        for value, drafted in zip(made, draft.outputs, strict=True):
            if any(analysis.of(drafted)):
                self._axes[value] = analysis.of(drafted)
        if numbers is not None:
            self._shapes[made[0]] = numbers
        return made

    def _analysed(self, node: OnnxNode, draft: Node) -> Analysis:
        """Return what the rule of an operation says of a node that is in no graph yet."""
        analysis = Analysis({value: self._axes[value] for value in draft.inputs if value in self._axes})
        if draft.op.name == "expand":
            self._expanded(node, draft, analysis)
            return analysis
        indices = draft.inputs[1] if draft.op.name == "gather" else None
        if indices is not None and indices.is_constant and node.op_type not in _PICKING and self._picks(draft):
            node.fail("the data decide an extent of its operand, and it reads places that follow from the largest")
        single = draft.op.name == "reshape" and any(e is not None and e.most == 1 for e in self.axes(draft.inputs[0]))
        if single:
            node.fail("the data decide whether its operand has one element or none, and it has another shape")
        try:
            advance(analysis, draft)
        except UnsupportedOpError as error:
            self._refuse(node, draft, error.message.partition(": ")[2])
        if analysis.norms or analysis.windows or analysis.joins or analysis.counts:
            self._refuse(node, draft, "it has no form for it")
        return analysis

    def _picks(self, gather: Node) -> bool:
        return self.axes(gather.inputs[0])[gather.attrs.axis] is not None

    def _refuse(self, node: OnnxNode, draft: Node, reason: str) -> None:
        extents = [e for value in draft.inputs for e in self.axes(value) if e is not None]
        node.fail(f"the data decide an extent of its operand ({extents[0].symbol}), and {reason}")

    def _expanded(self, node: OnnxNode, draft: Node, analysis: Analysis) -> None:
        """Note the axes of a tensor that is repeated; what it is repeated to is fixed."""
        x, y = draft.inputs[0], draft.outputs[0]
        new = len(y.shape) - len(x.shape)
        axes = self.axes(x)
        if any(e is not None and x.shape[a] != y.shape[a + new] for a, e in enumerate(axes)):
            node.fail("the data decide whether its operand has one element or none, and it is repeated")
        analysis.axes[y] = ((None,) * new) + axes

    def _guarded(self, node: OnnxNode, draft: Node, analysis: Analysis) -> list[Value]:
        """Return the operands, with neutral elements where the operation sees what lies past the end."""
        read = list(draft.inputs)
        for mask in analysis.masks:
            value = read[mask.operand]
            if mask.fill is None:
                self._refuse(node, draft, "it repeats the last element, of which there may be none")
            read[mask.operand] = self.masked(node, value, mask.axis, mask.extent, mask.fill)
        return read

    def masked(self, node: OnnxNode, value: Value, axis: int, extent: Extent, fill: float | None) -> Value:
        """Return a tensor with other elements past the actual end of an axis.

        Args:
            node: the ONNX node that asks for it.
            value: any tensor.
            axis: of it.
            extent: where the axis ends.
            fill: real value to have there; None for the last element before.
        """
        key = (value, axis, extent, fill)
        if key not in self._masked:
            op, attrs = ops.get("mask_tail"), MaskTailAttrs(axis, 0, fill)
            inputs = [value, self._vector([extent])]
            made = self._graph.add_node(op, inputs, attrs, names=[f"{value.name}.tail"], loc=node.name).output
            self._masked[key] = self.declare(made, self.axes(value))
        return self._masked[key]

    def _rescaled(self, node: OnnxNode, mean: Value, over: tuple[Extent, ...]) -> Value:
        attrs = RescaleMeanAttrs(tuple(range(len(over))), tuple(e.most for e in over))
        inputs, names = [mean, self._vector(over)], [f"{mean.name}.mean"]
        return self._graph.add_node(ops.get("rescale_mean"), inputs, attrs, names=names, loc=node.name).output

    # -- the end ------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Make what the outputs have past their ends zeros, and their actual extents outputs."""
        graph, found = self._graph, []
        values, names = list(graph.outputs), list(graph.output_names)
        known: dict[Extent, str] = {}
        for place, name in enumerate(graph.output_names):
            for axis, extent in enumerate(self.axes(graph.outputs[place])):
                if extent is None:
                    continue
                node = OnnxNode(graph, "", name, [], {}, [name], 0)
                values[place] = self.masked(node, values[place], axis, extent, 0.0)
                if extent not in known:
                    known[extent] = f"{name}.count{axis or ''}"
                    values.append(self.number(extent))
                    names.append(known[extent])
                found.append(CountedAxis(name, axis, known[extent]))
        graph.set_outputs(values, names)
        graph.counted = tuple(found)
        for count in known.values():
            owners = [f"'{entry.output}'" for entry in found if entry.count == count]
            what = f"{', '.join(owners)} {'have' if len(owners) > 1 else 'has'}"
            graph.notes.append(f"the data decide how many elements {what}; '{count}' tells, zeros follow them")
