"""Turn what a quantized model says about its tensors into decisions for integers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from qcompile import ops
from qcompile.calibrate.weights import constant_scales, grid_scales, stored_scales
from qcompile.ir.graph import Graph, Node, Value
from qcompile.ir.opdef import Quantization
from qcompile.ir.rewrite import Rewriter
from qcompile.ops.arithmetic import hides_sum
from qcompile.ops.fake_quantize import FakeQuantizeAttrs
from qcompile.passmgr import MinSqnrDb, Pass, PassContext, Tolerance
from qcompile.passmgr.facts import CALIBRATED, PRECISION, Fact
from qcompile.quant.qparams import QParams, QSpec

INT8, INT16, FLOAT = "int8", "int16", "float32"

NAMED = 3
"""Roundings left in float that the note to the user names."""


@dataclass(frozen=True)
class AbsorbQdq(Pass):
    """Run the nodes between a quantized model's roundings in int8 or int16, with the model's own scales.

    A node runs in integers where its operands are rounded to 8 or 16 bits (fake_quantize), or only moved since, its
    weights lie on a grid of 255 steps, and its result is rounded, is only moved, or is a sum of products read in float.
    A sum of products that an addition of 8 bits takes in need not be rounded before it. A node takes 16-bit activations
    where one of its operands (or the result, unless that is a sum of products) has more than 8 bits. Where only the
    moved result of a node is rounded, the result itself is rounded first. A clip before a rounding becomes its clamp,
    a rounding of what is rounded already a clip from grid to grid, which quantize makes a requantization, and a prelu
    between the sums of a layer and their rounding that layer's activation. What is computed in float and rounded in
    several ways is quantized once for each.

    Before:
        %xr = fake_quantize(%x) {scale=0.02, zero_point=-3} : f32[1,8,8,3]
        %y = conv2d(%xr, @w, @b) : f32[1,4,4,8]
        %yr = fake_quantize(%y) {scale=0.1} : f32[1,4,4,8]
    After:
        %y = conv2d(%x, @w, @b) : f32[1,4,4,8] spec(observer="grid", kind="fixed", range=[-12.8, 12.7]) precision(int8)

    Preconditions: weights and layouts are final; quantize follows.

    Refusals: a rounding stays, with the reason, where its producer has no integer form or other readers, where it has
    more than 16 bits, or where integers are rounded in two ways.
    """

    name: ClassVar[str] = "absorb-qdq"
    establishes: ClassVar[tuple[Fact, ...]] = (CALIBRATED, PRECISION)
    tolerance: ClassVar[Tolerance] = MinSqnrDb(10.0)

    def run(self, graph: Graph, context: PassContext) -> None:
        """Decide, annotate and remove the roundings that integers do by themselves."""
        if graph.is_quantized:
            _fold_clamps(context.rewriter(graph))
            _part_roundings(context.rewriter(graph))
            _round_before_moves(context.rewriter(graph))
            _Absorption(graph, context).run()
        for node in graph.nodes:
            node.precision = node.precision or FLOAT


class _Absorption:
    """Decides for one graph.

    Attributes:
        integer: nodes that run in int8 or int16.
        grids: grid of each real tensor that integers stand for.
        reasons: why the other nodes do not.
        precisions: which of both, of the integer nodes.
    """

    def __init__(self, graph: Graph, context: PassContext) -> None:
        self.graph, self.context = graph, context
        self.rewriter = context.rewriter(graph)
        self.outputs = set(graph.outputs)
        self.integer: set[Node] = set()
        self.grids: dict[Value, FakeQuantizeAttrs] = {}
        self.reasons: dict[Node, str] = {}
        self.precisions: dict[Node, str] = {}
        self.copies: list[Node] = []

    def run(self) -> None:
        for node in list(self.graph.nodes):
            if _is_rounding(node):
                self._round(node)
                continue
            reason = self._obstacle(node)
            if reason is None:
                self.integer.add(node)
            else:
                self.reasons[node] = reason
        for node in list(self.graph.nodes):
            if _is_rounding(node):
                self._rewire(node)
        self._drop_copies()
        self._annotate()
        self._rectify()
        self.rewriter.eliminate_dead()
        for node in self.graph.nodes:
            node.precision = self.precisions.get(node, FLOAT) if node in self.integer else FLOAT
        self._report()

    def _report(self) -> None:
        """Say which roundings stay in float, and why."""
        left = [node for node in self.graph.nodes if node.op.name == "fake_quantize"]
        for node in left:
            self.context.skip(node, self._why_left(node))
        if left:
            plural = "s of the model stay" if len(left) > 1 else " of the model stays"
            more = f" and {len(left) - NAMED} more, which the report lists" if len(left) > NAMED else ""
            named = ", ".join(f"{node.loc or node.output.name} ({self._why_left(node)})" for node in left[:NAMED])
            self.context.note(f"{len(left)} rounding{plural} in float32: {named}{more}")

    # -- decisions ----------------------------------------------------------------------------------------

    def _round(self, node: Node) -> None:
        """Take a rounding as the grid of the tensor it rounds; one in float that has another grid, of a copy."""
        source = node.inputs[0]
        if source.is_constant or self.grids.setdefault(source, node.attrs) == node.attrs:
            return
        if source.producer is None or source.producer not in self.integer:
            copies = (copy for copy in self.copies if copy.inputs[0] is source)
            copy = next((copy for copy in copies if self.grids[copy.output] == node.attrs), None)
            if copy is None:
                loc = source.producer.loc if source.producer is not None else ""
                copy = self.rewriter.insert(node, ops.get("identity"), [source], name=f"{source.name}.copy", loc=loc)
                self.grids[copy.output] = node.attrs
                self.copies.append(copy)
            self.rewriter.set_operand(node, 0, copy.output)

    def _grid(self, value: Value) -> FakeQuantizeAttrs | None:
        """Return the grid on which an operand lies, None where it does not lie on one."""
        if value.is_constant:
            return _constant_grid(value)
        producer = value.producer
        if producer is None:
            return None
        if _is_rounding(producer):
            known = self.grids.get(producer.inputs[0])
            return known if known == producer.attrs else None
        return self.grids.get(value) if producer in self.integer and self._moves(producer) else None

    @staticmethod
    def _moves(node: Node) -> bool:
        return node.op.integer is Quantization.SHARED

    def _obstacle(self, node: Node) -> str | None:
        """Return why a node cannot run in int8, None if it can; its result's grid is noted then."""
        kind = node.op.integer
        if kind is Quantization.FLOAT_ONLY:
            return f"'{node.op.name}' has no integer form"
        if any(v.dtype != "float32" for v in node.outputs):
            return f"it computes {node.outputs[0].dtype}"
        if hides_sum(node):
            return f"its fused {node.attrs.activation} hides the tensor before it"
        indices = node.op.operand_activations(node)
        loose = [node.inputs[i] for i in indices if self._grid(node.inputs[i]) is None]
        if len(loose) == 1 and (self._is_sum(node, loose[0]) or self._rectifies_sum(node)):
            loose = []
        if loose or not indices:
            return f"{loose[0].name if loose else 'nothing'} is not rounded to 8 or 16 bits"
        reason = self._weights(node) if kind is Quantization.ACCUMULATE else None
        return reason or self._result(node) or node.op.integer_obstacle(node) or self._width(node)

    def _width(self, node: Node) -> str | None:
        """Note whether a node takes 8-bit or 16-bit activations; return why it cannot take what it has to."""
        values = [node.inputs[i] for i in node.op.operand_activations(node)]
        grids = [self._grid(value) for value in values]
        if node.op.integer is not Quantization.ACCUMULATE:
            readers = [user for value in node.outputs for user in value.users()]
            grids += [user.attrs for user in readers if _is_rounding(user)]
        wide = any(grid is not None and _is_wide(grid) for grid in grids)
        self.precisions[node] = INT16 if wide else INT8
        if self._rectifies_sum(node):
            return None
        loose = [value.name for value, grid in zip(values, grids, strict=False) if grid is None]
        if wide and loose:
            return f"{loose[0]} is not rounded before an addition of 16 bits"
        return node.op.int16_obstacle(node) if wide else None

    def _is_sum(self, node: Node, value: Value) -> bool:
        """Return whether an operand is a sum of products that an addition can take in without rounding it before."""
        maker = value.producer
        fits = node.op.name == "add" and node.inputs[0].shape == node.inputs[1].shape
        return (
            fits
            and maker in self.integer
            and self.precisions[maker] == INT8
            and maker.op.adds_residual
            and maker.attrs.activation == "none"
            and value.users() == [node]
            and value not in self.outputs
        )

    def _rectifies_sum(self, node: Node) -> bool:
        """Return whether a prelu applies to sums of products that no rounding follows: their layer does it then."""
        maker = node.inputs[0].producer
        return (
            node.op.name == "prelu"
            and maker is not None
            and maker in self.integer
            and self.precisions[maker] == INT8
            and maker.op.name in ("conv2d", "dense")
            and maker.attrs.activation == "none"
            and not maker.attrs.residual
            and (len(node.output.shape) == 2 or node.attrs.layout == getattr(maker.attrs, "layout", "") == "NHWC")
            and node.inputs[1].is_constant
            and float(np.max(node.inputs[1].constant(), initial=0.0)) <= 1.0
            and node.inputs[0].users() == [node]
            and node.inputs[0] not in self.outputs
        )

    def _weights(self, node: Node) -> str | None:
        weight, bias = node.inputs[1], node.inputs[2]
        if not weight.is_constant or not bias.is_constant:
            return "its weight or bias is computed at run time"
        if constant_scales(weight) is None:
            return f"the weights {weight.name} do not lie on a symmetric grid of 8 bits"
        return None

    def _result(self, node: Node) -> str | None:
        """Return why the result cannot be integers."""
        if self._moves(node):
            grid = self._grid(node.inputs[0])
            assert grid is not None
            other = [u for v in node.outputs for u in v.users() if _is_rounding(u) and u.attrs != grid]
            if other:
                return f"its result is rounded in another way than {node.inputs[0].name}"
            for value in node.outputs:
                self.grids[value] = grid
            return None
        readers = node.output.users()
        rounded = [reader for reader in readers if _is_rounding(reader)]
        accumulates = node.op.integer is Quantization.ACCUMULATE
        if not rounded and accumulates and getattr(node.attrs, "activation", "none") == "none":
            return None
        if len(rounded) < len(readers) or not rounded or node.output in self.outputs:
            return f"its result {node.output.name} is read without being rounded"
        if any(reader.attrs != rounded[0].attrs for reader in rounded):
            return f"its result {node.output.name} is rounded in two ways"
        return None

    # -- the rewrite --------------------------------------------------------------------------------------

    def _rewire(self, rounding: Node) -> None:
        """Let integer readers, and all readers of an integer tensor, read what the rounding reads."""
        source, result = rounding.inputs[0], rounding.output
        if self.grids.get(source) != rounding.attrs:
            return
        made = source.producer is not None and source.producer in self.integer
        for node, index in list(result.uses):
            if made or (node in self.integer and index in node.op.operand_activations(node)):
                self.rewriter.set_operand(node, index, source)
        if made:
            self.graph.outputs = [source if v is result else v for v in self.graph.outputs]

    def _drop_copies(self) -> None:
        """Take out the copies that no integer node reads."""
        for copy in self.copies:
            if not any(user in self.integer for user in copy.output.users()):
                self.rewriter.replace_value(copy.output, copy.inputs[0])
                self.rewriter.erase(copy)

    def _annotate(self) -> None:
        for node in self.graph.nodes:
            if node not in self.integer:
                continue
            values = [node.inputs[i] for i in node.op.operand_activations(node)] + list(node.outputs)
            for value in values:
                grid = self.grids.get(value) or (_constant_grid(value) if value.is_constant else None)
                if grid is not None:
                    dtype = INT16 if _is_wide(grid) else INT8
                    bounds, clamp = _range(grid), _clamp(grid)
                    value.qspec = QSpec(observer="grid", dtype=dtype, kind="fixed", range=bounds, clamp=clamp)
            if node.op.integer is Quantization.SHARED:
                for value in node.outputs:
                    assert value.qspec is not None
                    value.qspec = replace(value.qspec, kind="shared", source=node.inputs[0].name)
            if node.op.integer is Quantization.ACCUMULATE:
                node.inputs[1].qspec = QSpec(observer="grid", symmetric=True, axis=0)
                node.inputs[2].qspec = QSpec(
                    observer="grid", dtype="int32", symmetric=True, kind="derived", source=node.inputs[1].name
                )

    def _rectify(self) -> None:
        """Let layers apply the prelu that reads their sums."""
        for node in list(self.graph.nodes):
            maker = node.inputs[0].producer if node.inputs else None
            if node not in self.integer or not self._rectifies_sum(node) or maker is None:
                continue
            # The shortest numbers that mean these float32 values.
            slopes = tuple(float(str(slope)) for slope in node.inputs[1].constant().astype(np.float32))
            self.rewriter.set_attrs(maker, activation="prelu", slopes=slopes)
            self.rewriter.absorb(maker, node)

    def _why_left(self, rounding: Node) -> str:
        attrs, source = rounding.attrs, rounding.inputs[0]
        if not _is_rounding(rounding):
            return f"it rounds to {attrs.qmax - attrs.qmin + 1} steps, more than 16 bits"
        if self.grids.get(source) != attrs:
            return f"{source.name} is rounded in another way as well"
        around = [*rounding.output.users(), *([source.producer] if source.producer is not None else [])]
        node = next((node for node in around if node in self.reasons), None)
        return f"{node} stays in float: {self.reasons[node]}" if node else "it is a graph output"


_COMMUTING = ("reshape", "transpose", "max_pool")
"""Operations that give the same whether their operand or their result is rounded."""


def _round_before_moves(rewriter: Rewriter) -> None:
    """Round what a node moves, too, where only the moved result is rounded: its maker can then be of integers."""
    for node in reversed(list(rewriter.graph.nodes)):
        if node.op.name not in _COMMUTING or node.output in rewriter.graph.outputs:
            continue
        source, readers = node.inputs[0], node.output.users()
        if source.producer is None or source.producer.op.name == "fake_quantize" or source.users() != [node]:
            continue
        ways = {reader.attrs if _is_rounding(reader) else None for reader in readers}
        if len(ways) != 1 or None in ways or source in rewriter.graph.outputs:
            continue
        name = f"{source.name}.rounded"
        rounding = rewriter.insert(node, readers[0].op, [source], readers[0].attrs, name=name, loc=readers[0].loc)
        rewriter.set_operand(node, 0, rounding.output)


def _fold_clamps(rewriter: Rewriter) -> None:
    """Let roundings clamp their integers where a clip stands before them, to what they make of its bounds.

    Rounding keeps the order of numbers: it makes no difference which of the two comes first, as long as the bounds are
    rounded just as all other numbers are.
    """
    for node in list(rewriter.graph.nodes):
        clip = node.inputs[0].producer if _is_rounding(node) else None
        if clip is None or clip.op.name != "clip":
            continue
        attrs: FakeQuantizeAttrs = node.attrs
        grid = QParams((attrs.scale,), (attrs.zero_point,), INT16, attrs.qmin, attrs.qmax)
        grid = grid.clamped(clip.attrs.min, clip.attrs.max)
        if grid.qmin <= attrs.zero_point <= grid.qmax:
            rewriter.set_attrs(node, qmin=grid.qmin, qmax=grid.qmax)
            rewriter.set_operand(node, 0, clip.inputs[0])
    rewriter.eliminate_dead()


def _part_roundings(rewriter: Rewriter) -> None:
    """Put bounds between a rounding and another one of its result: going from one grid to another is an operation.

    What rounds to the same grid again does nothing and is taken out.
    """
    between: dict[tuple[Value, FakeQuantizeAttrs], Value] = {}
    for node in list(rewriter.graph.nodes):
        source = node.inputs[0] if _is_rounding(node) else None
        if source is None or source.producer is None or not _is_rounding(source.producer):
            continue
        attrs: FakeQuantizeAttrs = node.attrs
        if attrs == source.producer.attrs:
            rewriter.replace_value(node.output, source)
            rewriter.erase(node)
            continue
        if (source, attrs) not in between:
            ends = [attrs.scale * (end - attrs.zero_point) for end in (attrs.qmin, attrs.qmax)]
            bounds = ops.get("clip").Attrs(*ends)
            name = f"{node.output.name}.bounded"
            bounded = rewriter.insert(node, ops.get("clip"), [source], bounds, name=name, loc=node.loc)
            between[source, attrs] = bounded.output
        rewriter.set_operand(node, 0, between[source, attrs])


def _is_rounding(node: Node) -> bool:
    return node.op.name == "fake_quantize" and node.attrs.qmin >= -32768 and node.attrs.qmax <= 32767


def _is_wide(grid: FakeQuantizeAttrs) -> bool:
    """Return whether a grid has more than 8 bits."""
    return grid.qmin < -128 or grid.qmax > 127


def _range(grid: FakeQuantizeAttrs) -> tuple[float, float]:
    """Return the real bounds from which QParams.from_range (or from_int16_range) finds scale and zero_point again."""
    least, most = (-32768.0, 32767.0) if _is_wide(grid) else (-128.0, 127.0)
    return grid.scale * (least - grid.zero_point), grid.scale * (most - grid.zero_point)


def _clamp(grid: FakeQuantizeAttrs) -> tuple[float, float] | None:
    """Return the real bounds of a grid that does not use all of its integers, None of one that does."""
    if (grid.qmin, grid.qmax) in ((-128, 127), (-32768, 32767)):
        return None
    return grid.scale * (grid.qmin - grid.zero_point), grid.scale * (grid.qmax - grid.zero_point)


def _constant_grid(value: Value) -> FakeQuantizeAttrs | None:
    """Return the grid that a constant is stored on, else the coarsest one of 8 bits on which it lies."""
    data = value.constant()
    if data.dtype != np.float32 or not data.size or not np.isfinite(data).all():
        return None
    scales = stored_scales(value, None, steps=65535)
    if scales is None:
        scales = grid_scales(data, None, steps=255)
    if scales is None:
        return None
    scale = float(scales[0])
    low = min(0, int(np.rint(data.min() / scale)))
    high = max(0, int(np.rint(data.max() / scale)))
    for least, most in ((-128, 127), (-32768, 32767)):
        if high - low <= most - least:
            return FakeQuantizeAttrs(scale, min(max(0, least - low), most - high), least, most)
    return None
