"""Make a graph of the largest sizes right for all smaller ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qcompile import ops
from qcompile.ir.graph import Graph, Node, Value
from qcompile.ir.rewrite import Rewriter
from qcompile.ir.sized import Sized
from qcompile.ir.symbol import Axes, Extent
from qcompile.ir.types import TensorType
from qcompile.ops.mask_tail import MaskTailAttrs
from qcompile.ops.open_avg_pool import OpenAvgPoolAttrs
from qcompile.ops.open_concat import OpenConcatAttrs
from qcompile.ops.open_reshape import OpenReshapeAttrs
from qcompile.ops.rescale_mean import RescaleMeanAttrs
from qcompile.passmgr import AllClose, Pass, PassContext, Tolerance
from qcompile.passmgr.open_norm import expand_norm
from qcompile.shapes.analysis import analyse
from qcompile.shapes.step import Analysis, Mask


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

    Operations whose very form depends on the actual extents (the last element, windows that reach past the end,
    tensors that follow an open one) read them. The fill value is neutral: zero for sums of products, an infinity for a
    maximum. A mean over an open axis is rescaled to its actual extent; a layer normalization over one becomes its
    formula. What computes each element from those at its own place needs nothing.

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
        needed = [m.extent for m in masks] + _needed(graph, analysis)
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
        for node in list(graph.nodes):
            _read_extents(rewriter, node, analysis, extents, operand)
        for node, over in analysis.means.items():
            _rescale(rewriter, node, over, extents, operand)
        for node, axes in analysis.norms.items():
            expand_norm(rewriter, node, axes, extents, operand)
            rewriter.erase(node)


def _needed(graph: Graph, analysis: Analysis) -> list[Extent]:
    """Return the actual extents that operations read, beside those of masks."""
    found = [e for over in analysis.means.values() for e in over]
    for node in graph.nodes:
        found += node.op.read_extents(node.attrs) if isinstance(node.op, Sized) else ()
    found += analysis.counts.values()
    read: list[Axes] = [*analysis.joins.values(), *analysis.windows.values(), *analysis.norms.values()]
    for pair in analysis.repacks.values():
        read += pair
    return found + [e for axes in read for e in axes if e is not None]


def _read_extents(
    rewriter: Rewriter, node: Node, analysis: Analysis, extents: tuple[Extent, ...], operand: Value
) -> None:
    """Let an operation whose form depends on actual extents read them."""

    def entries(axes: Axes) -> tuple[int | None, ...]:
        return tuple(None if e is None else extents.index(e) for e in axes)

    name, attrs = node.op.name, None
    if isinstance(node.op, Sized):
        attrs = node.op.with_entries(node.attrs, [extents.index(e) for e in node.op.read_extents(node.attrs)])
    elif node in analysis.repacks:
        before, after = (entries(axes) for axes in analysis.repacks[node])
        name, attrs = "open_reshape", OpenReshapeAttrs(node.attrs.shape, before, after)
    elif node in analysis.joins:
        name, attrs = "open_concat", OpenConcatAttrs(node.attrs.axis, entries(analysis.joins[node]))
    elif node in analysis.windows:
        height, width = entries(analysis.windows[node])
        name, attrs = "open_avg_pool", OpenAvgPoolAttrs(**vars(node.attrs), entries=(height, width))
    if attrs is not None:
        rewriter.replace_op(node, ops.get(name), [*node.inputs, operand], attrs, same_type=True)


def _rescale(
    rewriter: Rewriter, node: Node, over: tuple[Extent, ...], extents: tuple[Extent, ...], operand: Value
) -> None:
    """Turn a mean over the largest extents into one over the actual ones."""
    attrs = RescaleMeanAttrs(tuple(extents.index(e) for e in over), tuple(e.most for e in over))
    nodes = rewriter.graph.nodes
    position = nodes.index(node) + 1
    after = nodes[position] if position < len(nodes) else None
    inputs, name = [node.output, operand], f"{node.output.name}.mean"
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
