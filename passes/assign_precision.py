"""Decide, node by node, between integers and floating point."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np

from qcompile.calibrate.histogram import TensorStatistics
from qcompile.cost import NodeCosts
from qcompile.ir.graph import Graph, Node, Value
from qcompile.ir.missing_values import may_miss
from qcompile.ir.opdef import Quantization
from qcompile.ir.range_source import range_source
from qcompile.ir.regions import times_run
from qcompile.ops.arithmetic import hides_sum
from qcompile.ops.packed_weights import is_table
from qcompile.passmgr import Bounds, Exact, Pass, PassContext, Tolerance
from qcompile.passmgr.counts import counting_nodes
from qcompile.passmgr.divisors import divisor_nodes
from qcompile.passmgr.facts import CALIBRATED, PRECISION, Fact
from qcompile.passmgr.float_reasons import BY_COST, KEPT, SPOILS
from qcompile.passmgr.logarithms import nodes_before_logarithms
from qcompile.passmgr.norms import norm_nodes
from qcompile.passmgr.places import placing_nodes
from qcompile.passmgr.run_time_scales import scaling_nodes
from qcompile.passmgr.selection import selected
from qcompile.passmgr.unvaried import unvaried_tensors
from qcompile.shapes.analysis import analyse

if TYPE_CHECKING:
    import networkx as nx

INT8, INT16, FLOAT = "int8", "int16", "float32"

_SIZED = "it divides by, or computes with, an open extent"
_COUNTED = "a count decides its result: samples do not tell how far that goes"
_QUIET = "it is seen through a logarithm, which shows the steps of small values at full size"
_NORM = "it makes a norm or divides by one: inputs beyond the samples have larger ones"
_SCALING = "it makes or applies a scale that the data decide: what that loses, all values lose"
_DIVISOR = "it makes what another node divides by: rounded, a small divisor is another one, or zero"
_PLACING = "its result says where another node reads: steps of 8 bits would move that"
_MISSING = "another node asks which elements of its result are NaN, which no integer says"


@dataclass(frozen=True)
class AssignPrecision(Pass):
    """Choose int8 or float32 for each node so that the time, measured or modelled, conversions included, is least.

    Every node is on one of two sides. A node costs its time in the precision of its side, as measured on the target's
    instruction set (`--tune`) or else modelled from its MACs and bytes; a tensor that
    crosses costs one conversion, however many readers it has on the other side. The cheapest assignment is a
    minimum cut (Picard and Queyranne, 1982), so no conversion is paid twice.

    Before:
        %y = conv2d(%x, @w, @b) : f32[1,4,4,8] spec(range=[0.0, 6.0])
    After:
        %y = conv2d(%x, @w, @b) : f32[1,4,4,8] spec(range=[0.0, 6.0]) precision(int8)

    Options:
        keep_float: nodes that stay in float32: names, globs, "/regular expressions/", "op:softmax", or
            "from..to" for all nodes between two tensors.
        keep_int16: nodes that compute on 16-bit activations, chosen in the same way. What only moves elements
            between two of them has 16 bits too. A node that `keep_float` names as well stays in float32.
        for_accuracy: nodes that stay in float32 because in integers they would spoil an output, as a check found.
        spread: a concat that only conversions to real values read, such as boxes and scores in one output, stays in
            float32 where the widest of its parts reaches so many times as far as the narrowest: each part then keeps
            its own scale.

    Refusals: a node stays in float32, with the reason, where its operation has no integer form (or none on 16-bit
    activations, where these are asked for), a tensor has no range, a weight is not constant, or a tensor holds values
    that mark something (a mask of -1e4 or -3e38), so far from all others that no range serves both; where it reads
    what no sample varied (the mask of samples without padding), which may be anything in others; where it counts
    what a mask leaves, or divides a sum by such a count, since a longer input would leave the range of the samples;
    where it makes the scale of a quantization at run time, or multiplies with one; where it makes a norm, or divides by
    one; where it makes a divisor that samples vary; where all that follows from it is coordinates of a sampling or
    boxes of a selection; where it is a logarithm, or a spectrum or power that is seen through logarithms alone;
    where another node asks which elements of its result are NaN, or some were for a sample.
    """

    name: ClassVar[str] = "assign-precision"
    requires: ClassVar[tuple[Fact, ...]] = (CALIBRATED,)
    establishes: ClassVar[tuple[Fact, ...]] = (PRECISION,)
    tolerance: ClassVar[Tolerance] = Exact()

    keep_float: tuple[str, ...] = ()
    keep_int16: tuple[str, ...] = ()
    for_accuracy: tuple[str, ...] = ()
    spread: Annotated[float, Bounds(1.0)] = 16.0

    def run(self, graph: Graph, context: PassContext) -> None:
        """Set `precision` on every node."""
        if any(node.is_integer for node in graph.nodes):
            context.skip(None, "the graph is already in integer form")
            return
        kept = selected(graph, self.keep_float, option="keep_float")
        wide = selected(graph, self.keep_int16, option="keep_int16")
        counted = counting_nodes(graph, lambda value: _is_flag(value, context))
        unvaried = unvaried_tensors(graph, lambda value: _is_steady(value, context))
        sized = set(analyse(graph).means) | _scaled_by_extents(graph) if graph.symbols else set()
        obstacles = {
            n: _SIZED if n in sized else _obstacle(n, context, int16=n in wide) or _uneven_parts(n, self.spread)
            for n in graph.nodes
        }
        for node in graph.nodes:
            obstacles[node] = obstacles[node] or _steady_operand(node, unvaried)
        delicate = (
            (counted, _COUNTED),
            (scaling_nodes(graph), _SCALING),
            (norm_nodes(graph) - wide, _NORM),
            (divisor_nodes(graph) - wide, _DIVISOR),
            (nodes_before_logarithms(graph) - wide, _QUIET),
            (placing_nodes(graph) - wide, _PLACING),
            ({value.producer for value in may_miss(graph) if value.producer is not None}, _MISSING),
        )
        for nodes, why in delicate:
            for node in nodes:
                obstacles[node] = obstacles[node] or why
        # What a check found, and above all what the user wants, goes before any other reason.
        obstacles.update(dict.fromkeys(selected(graph, self.for_accuracy, option="for_accuracy"), SPOILS))
        obstacles.update(dict.fromkeys(kept, KEPT))
        for node, reason in obstacles.items():
            if reason is not None:
                context.skip(node, reason)
        wide = {node for node in wide if obstacles[node] is None}
        float_only = {n for n, reason in obstacles.items() if reason is not None}
        integer_side = _minimum_cut(graph, float_only, wide, NodeCosts.of(context))
        wide |= _moved(graph, wide, integer_side)
        for node in graph.nodes:
            node.precision = INT16 if node in wide else INT8 if node in integer_side else FLOAT
            if node.precision == FLOAT and obstacles[node] is None:
                context.skip(node, BY_COST)


def _scaled_by_extents(graph: Graph) -> set[Node]:
    """Return the nodes that read a number that follows from open extents alone: samples say little of its range."""
    numbers: set[Value] = set()
    found = set()
    for node in graph.nodes:
        known = any(v in numbers for v in node.inputs)
        if node.op.name == "open_extent" or (known and all(v in numbers or v.is_constant for v in node.inputs)):
            numbers.update(node.outputs)
        if any(node.inputs[index] in numbers for index in node.op.operand_activations(node)):
            found.add(node)
    return found


def _obstacle(node: Node, context: PassContext, *, int16: bool) -> str | None:
    if node.op.integer is Quantization.FLOAT_ONLY:
        return f"'{node.op.name}' has no integer form"
    if any(v.dtype != "float32" for v in node.outputs):
        return f"it computes {node.outputs[0].dtype}"
    if node.op.integer is Quantization.ACCUMULATE and not all(v.is_constant for v in node.inputs[1:3]):
        return "its weight or bias is computed at run time"
    if node.op.name == "gather" and is_table(node):
        return "the rows of its table take 8 bits with scales of their own, or none (quantize-weights)"
    if hides_sum(node):
        return f"its fused {node.attrs.activation} hides the tensor before it; fuse it after quantization"
    tensors = _tensors(node)
    unknown = [v for v in tensors if v.qspec is None or (v.qspec.kind != "shared" and v.qspec.range is None)]
    if unknown:
        return f"the range of {unknown[0].name} is not known"
    marked = [(v, marker) for v in tensors if (marker := _marker(v, context)) is not None]
    if marked and math.isnan(marked[0][1]):
        return f"{marked[0][0].name} is NaN for some samples, which no integer says"
    if marked:
        return f"{marked[0][0].name} holds {marked[0][1]:.3g} as a mark, too far from its other values for one range"
    return node.op.integer_obstacle(node) or (node.op.int16_obstacle(node) if int16 else None)


def _tensors(node: Node) -> list[Value]:
    """Return what a node reads and makes that would be quantized."""
    return [node.inputs[i] for i in node.op.operand_activations(node)] + list(node.outputs)


def _steady_operand(node: Node, unvaried: set[Value]) -> str | None:
    """Return why a node cannot have a range for one of its tensors, None where none is among the unvaried ones."""
    steady = [value for value in _tensors(node) if range_source(value) in unvaried]
    return f"{steady[0].name} had one value in all samples: they do not tell its range" if steady else None


def _moved(graph: Graph, wide: set[Node], integer_side: set[Node]) -> set[Node]:
    """Return the nodes that move 16-bit tensors: they read one or feed one, and need not narrow it on the way."""
    found: set[Node] = set()
    movers = [
        node
        for node in graph.nodes
        if node in integer_side and node.op.integer is Quantization.SHARED and not node.op.int16_obstacle(node)
    ]
    for node in reversed(movers):
        if any(user in wide or user in found for value in node.outputs for user in value.users()):
            found.add(node)
    for node in movers:
        made = node.inputs[0].producer
        readers = [user for value in node.outputs for user in value.users()]
        narrow = bool(readers) and all(user in integer_side for user in readers)
        if (made in wide or made in found) and not narrow:
            found.add(node)
    return found


def _uneven_parts(node: Node, spread: float) -> str | None:
    """Return why a concat should leave each part its own scale, None where it may have one for all."""
    if node.op.name != "concat" or not _read_as_real(node.output):
        return None
    ranges = [_own_range(value) for value in node.inputs]
    widths = [high - low for low, high in ranges if high > low]
    if not widths or max(widths) < spread * min(widths):
        return None
    return f"its parts reach {max(widths):.3g} and {min(widths):.3g} far: one scale would cost the latter its codes"


def _read_as_real(value: Value) -> bool:
    """Return whether a tensor is only moved about until it is an output or read in float."""
    moved = [reader for reader in value.users() if reader.op.integer is Quantization.SHARED]
    others = [reader for reader in value.users() if reader.op.integer is not Quantization.SHARED]
    if any(reader.op.integer is not Quantization.FLOAT_ONLY for reader in others):
        return False
    return all(_read_as_real(result) for reader in moved for result in reader.outputs)


def _own_range(value: Value) -> tuple[float, float]:
    spec = range_source(value).qspec
    return (spec.range if spec is not None else None) or (0.0, 0.0)


def _marker(value: Value, context: PassContext) -> float | None:
    """Return the value that marks something in a tensor, by what calibration saw; None where there is none."""
    source = range_source(value)
    if source.is_constant:
        known_by = f"mark{_own_range(source)}"
        return context.remembered(lambda: known_by + source.content_digest(), lambda: _constant_marker(source))
    statistics = context.statistics.get(source.name)
    return None if statistics is None else statistics.mark


def _constant_marker(value: Value) -> float | None:
    """Return the value that marks something in a constant, unless its range leaves that out."""
    statistics = TensorStatistics(value.name)
    statistics.update(value.constant())
    low, high = _own_range(value)
    return statistics.mark if statistics.mark is not None and low <= statistics.mark <= high else None


def _is_steady(value: Value, context: PassContext) -> bool | None:
    """Return whether calibration saw one value in a tensor; None where it saw nothing of it."""
    statistics = context.statistics.get(range_source(value).name)
    return None if statistics is None else not statistics.markers and statistics.minimum == statistics.maximum


def _is_flag(value: Value, context: PassContext) -> bool:
    """Return whether calibration saw nothing but zero and one other value in a tensor."""
    statistics = context.statistics.get(range_source(value).name)
    if statistics is None or not statistics.count or statistics.markers:
        return False
    found = statistics.distribution()
    return int(np.count_nonzero(found.upper > found.lower)) == 1


def _minimum_cut(graph: Graph, float_only: set[Node], integer_only: set[Node], costs: NodeCosts) -> set[Node]:
    """Return the nodes on the integer (source) side of the cheapest cut."""
    import networkx as nx

    flow: nx.DiGraph[Any] = nx.DiGraph()
    flow.add_nodes_from(["int8", "float32"])
    times = times_run(graph)
    for node in graph.nodes:
        # Cutting int8→node means the node runs in float, and node→float32 that it runs in integers.
        if node in integer_only:
            flow.add_edge("int8", node)
        else:
            flow.add_edge("int8", node, capacity=times[node] * costs.node(node, FLOAT).ns)
        if node in float_only:
            flow.add_edge(node, "float32")
        else:
            flow.add_edge(node, "float32", capacity=times[node] * costs.node(node, INT8).ns)
    for value in graph.values():
        if not value.is_constant and value.dtype == "float32":
            once = 1 if value.producer is None else times[value.producer]
            _add_conversions(flow, value, once * costs.conversion_ns(value), is_output=value in graph.outputs)
    # Other ways of networkx to find a flow go through sets: of cuts that cost the same, addresses would choose one.
    search = nx.algorithms.flow.boykov_kolmogorov
    _, (integer, _) = nx.minimum_cut(flow, "int8", "float32", flow_func=search)
    return {node for node in graph.nodes if node in integer}


def _add_conversions(flow: nx.DiGraph[Any], value: Value, cost: float, *, is_output: bool) -> None:
    """Charge one conversion per direction if a value has readers on the other side of its producer."""
    # A graph input is produced, and a graph output read, on the float side.
    producer = value.producer if value.producer is not None else "float32"
    readers: list[object] = [n for n in value.users() if _reads_as_activation(n, value)]
    if is_output:
        readers.append("float32")
    if not readers:
        return
    if producer != "float32":
        down = ("dequantize", value)
        flow.add_edge(producer, down, capacity=cost)
        flow.add_edges_from((down, reader) for reader in readers)
    up = ("quantize", value)
    flow.add_edge(up, producer, capacity=cost)
    flow.add_edges_from((reader, up) for reader in readers if reader != "float32")


def _reads_as_activation(node: Node, value: Value) -> bool:
    indices = node.op.operand_activations(node)
    return any(node.inputs[i] is value for i in indices) or node.op.integer is Quantization.FLOAT_ONLY
