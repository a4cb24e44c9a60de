"""Make a graph of the largest sizes right for all smaller ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qcompile import ops
from qcompile.ir.graph import Graph, Value
from qcompile.ir.rewrite import Rewriter
from qcompile.ir.sized import Sized
from qcompile.ir.symbol import Extent
from qcompile.ir.types import TensorType
from qcompile.ops.mask_tail import MaskTailAttrs
from qcompile.ops.open_avg_pool import OpenAvgPoolAttrs
from qcompile.ops.open_concat import OpenConcatAttrs
from qcompile.ops.rescale_mean import RescaleMeanAttrs
from qcompile.passmgr import AllClose, Pass, PassContext, Tolerance
from qcompile.shapes.analysis import Analysis, Mask, analyse


@dataclass(frozen=True)
class BoundDynamicAxes(Pass):
    """Mask what lies past the actual end of an open axis wherever an operation would see it.

    Before:
        input %x : f32[4,8]
        %y = softmax(%x) {axis=0} : f32[4,8]
        symbol {name="N", least=1, most=4, places=[["x", 0]]}
    After:
        input %x : f32[4,8]
        input %extents : i32[1]
        %y.tail = mask_tail(%x, %extents) {fill=-inf} : f32[4,8]
        %y = softmax(%y.tail) {axis=0} : f32[4,8]

    The fill value is neutral: zero for sums of products, an infinity for a maximum. A mean over an open axis is
    rescaled to its actual extent. What computes each element from those at its own place needs nothing.

    Preconditions: the graph has symbols, and is in its final form. Refusals: none; an operation that cannot serve all
    sizes is an error.
    """

    name: ClassVar[str] = "bound-dynamic-axes"
    tolerance: ClassVar[Tolerance] = AllClose(1e-5)

    def run(self, graph: Graph, context: PassContext) -> None:
        """Insert the masks."""
        if not graph.symbols or graph.extents:
            return
        analysis = analyse(graph)
        masks = [mask for mask in analysis.masks if not _is_masked(analysis, mask)]
        sized = {node: node.op.read_extents(node.attrs) for node in graph.nodes if isinstance(node.op, Sized)}
        needed = [m.extent for m in masks] + [e for more in analysis.means.values() for e in more]
        needed += [e for more in sized.values() for e in more]
        needed += analysis.counts.values()
        needed += [e for parts in analysis.joins.values() for e in parts if e is not None]
        needed += [e for extents in analysis.windows.values() for e in extents if e is not None]
        if not needed:
            return
        extents = tuple(dict.fromkeys(needed))
        operand = graph.add_input("extents", TensorType("int32", (len(extents),)))
        graph.extents = extents
        rewriter = context.rewriter(graph)
        _insert_masks(rewriter, masks, extents, operand)
        for node, extent in analysis.counts.items():
            rewriter.set_operand(node, 1, operand)
            rewriter.set_attrs(node, entry=extents.index(extent))
        for node, parts in analysis.joins.items():
            ends = tuple(None if e is None else extents.index(e) for e in parts)
            join, inputs = OpenConcatAttrs(node.attrs.axis, ends), [*node.inputs, operand]
            rewriter.replace_op(node, ops.get("open_concat"), inputs, join, same_type=True)
        for node, counted in analysis.windows.items():
            height, width = (None if e is None else extents.index(e) for e in counted)
            pool = OpenAvgPoolAttrs(**vars(node.attrs), entries=(height, width))
            rewriter.replace_op(node, ops.get("open_avg_pool"), [node.inputs[0], operand], pool, same_type=True)
        for node, read in sized.items():
            numbers = [extents.index(e) for e in read]
            final = node.op.with_entries(node.attrs, numbers)  # type: ignore[attr-defined]
            rewriter.replace_op(node, node.op, [*node.inputs, operand], final, same_type=True)
        for node, over in analysis.means.items():
            attrs = RescaleMeanAttrs(tuple(extents.index(e) for e in over), tuple(e.most for e in over))
            position = graph.nodes.index(node) + 1
            after = graph.nodes[position] if position < len(graph.nodes) else None
            inputs = [node.output, operand]
            name = f"{node.output.name}.mean"
            scaled = rewriter.insert(after, ops.get("rescale_mean"), inputs, attrs, name=name, loc=node.loc)
            rewriter.replace_value(node.output, scaled.output, except_in=scaled)


def _insert_masks(rewriter: Rewriter, masks: list[Mask], extents: tuple[Extent, ...], operand: Value) -> None:
    """Insert each mask before its reader; readers of one tensor that want the same share one."""
    made: dict[tuple[Value, int, Extent, float | None], Value] = {}
    for mask in masks:
        value = mask.node.inputs[mask.operand]
        key = (value, mask.axis, mask.extent, mask.fill)
        if key not in made:
            attrs = MaskTailAttrs(mask.axis, extents.index(mask.extent), mask.fill)
            name = f"{value.name}.tail"
            op = ops.get("mask_tail")
            node = rewriter.insert(
                mask.node, op, [value, operand], attrs, name=name, types=[value.type], loc=mask.node.loc
            )
            node.output.qparams, node.precision = value.qparams, mask.node.precision
            made[key] = node.output
        rewriter.set_operand(mask.node, mask.operand, made[key])


def _is_masked(analysis: Analysis, mask: Mask) -> bool:
    """Return whether a tensor is zero past the end anyway: the caller's, or a softmax over masked scores."""
    value = mask.node.inputs[mask.operand]
    if mask.fill != 0.0:
        return False
    if value.producer is None:
        return value.qparams is None
    node = value.producer
    own = node.op.name == "softmax" and node.attrs.axis % len(value.shape) == mask.axis
    return own and analysis.of(value)[mask.axis] == mask.extent
