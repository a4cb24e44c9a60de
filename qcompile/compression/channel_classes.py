"""Channels that can only go together: what one layer writes, all layers that read it, and everything in between.

Every channel that a layer makes gets a number. An addition makes the numbers of its operands equal, a concatenation
lays them side by side, a depthwise convolution hands them on. Numbers that are equal in the end are one class.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.ir.graph import Graph, Node, Value
from qcompile.ir.rewrite import Rewriter
from qcompile.ops.elementwise import Unary
from qcompile.passmgr.disjoint_sets import DisjointSets

Array = npt.NDArray[Any]

_KEEPS_CHANNELS = ("identity", "clip", "max_pool", "avg_pool", "global_avg_pool", "global_max_pool", "resize")
_BINARY = ("add", "sub", "mul", "div", "maximum", "minimum")
_REDUCTIONS = ("reduce_mean", "reduce_max", "reduce_sum", "reduce_min")


@dataclass(frozen=True)
class Layer:
    """A layer whose weights have a column for each input channel and a row for each output channel.

    Args:
        node: dense, conv2d of one group, or depthwise.
        inputs: number of each input channel; of a depthwise convolution, those of its outputs.
        outputs: number of each output channel.
        depthwise: whether each channel is filtered by itself.
    """

    node: Node
    inputs: Array
    outputs: Array
    depthwise: bool = False


class ChannelClasses:
    """The classes of all channels of a float graph, channels last.

    Args:
        graph: not changed until `remove`.

    Attributes:
        layers: dense, plain and depthwise convolutions, in order.
        frozen: number of a channel to the reason why it has to stay.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.layers: list[Layer] = []
        self.frozen: dict[int, str] = {}
        self._sets = DisjointSets()
        self._channels: dict[Value, Array] = {}
        self._slices: list[tuple[Node, int, int, Array]] = []
        for value in graph.inputs:
            self._freeze(self._fresh(value), f"{value.name} is a graph input")
        for node in graph.nodes:
            self._visit(node)
        for value in graph.outputs:
            if value in self._channels:
                self._freeze(self._channels[value], f"{value.name} is a graph output")
        self.frozen = {self.root(number): reason for number, reason in reversed(list(self.frozen.items()))}

    def root(self, number: int) -> int:
        """Return the class of a channel."""
        return self._sets.root(number)

    def classes(self, numbers: Array) -> Array:
        """Return the class of each channel."""
        return np.array([self.root(int(n)) for n in numbers], np.int64)

    def tensors(self) -> set[tuple[int, ...]]:
        """Return the classes that each tensor consists of, ascending and each once; equal tensors count as one."""
        distinct = {id(numbers): numbers for numbers in self._channels.values()}
        return {tuple(np.unique(self.classes(numbers)).tolist()) for numbers in distinct.values()}

    # -- finding --------------------------------------------------------------------------------------------

    def _fresh(self, value: Value) -> Array:
        count = value.shape[-1] if value.shape else 1
        self._channels[value] = np.array(self._sets.add(count), np.int64)
        return self._channels[value]

    def _freeze(self, numbers: Array, reason: str) -> None:
        for number in numbers.tolist():
            self.frozen.setdefault(number, reason)

    def _unite(self, a: Array, b: Array) -> None:
        self._sets.unite(a.tolist(), b.tolist())

    def _visit(self, node: Node) -> None:
        name = node.op.name
        if node.is_integer:
            self._refuse(node)
        elif name in ("dense", "conv2d") and all(v.is_constant for v in node.inputs[1:3]):
            self._layer(node)
        elif name in _BINARY:
            self._binary(node)
        elif name in ("prelu", "batch_norm"):
            self._parameters(node)
        elif name == "concat":
            self._concat(node)
        elif name == "split":
            self._split(node)
        elif self._hands_on(node):
            self._channels[node.output] = self._channels[node.inputs[0]]
        elif name == "reshape" and not node.inputs[0].is_constant:
            self._reshape(node)
        else:
            self._refuse(node)

    def _refuse(self, node: Node) -> None:
        """Keep all channels that a node reads, and let it begin new ones that stay."""
        for value in node.inputs:
            if value in self._channels:
                self._freeze(self._channels[value], f"{node} mixes the channels of {value.name}")
        for value in node.outputs:
            self._freeze(self._fresh(value), f"{node} makes {value.name}")

    def _hands_on(self, node: Node) -> bool:
        """Return whether the channels of a node's result are those of its operand."""
        x, name, attrs = node.inputs[0], node.op.name, node.attrs
        if x.is_constant or not x.shape or len(node.outputs) != 1:
            return False
        last = len(x.shape) - 1
        if getattr(attrs, "layout", "NHWC") == "NCHW" and last == 3:
            return False
        if name == "pad":
            return bool(attrs.pads[last] == attrs.pads[-1] == 0)
        if name in _REDUCTIONS:
            return last not in attrs.axes
        if name == "transpose":
            return bool(attrs.perm[-1] == last)
        alone = all(v.is_constant for v in node.inputs[1:])
        return alone and (name in _KEEPS_CHANNELS or (isinstance(node.op, Unary) and len(node.inputs) == 1))

    def _layer(self, node: Node) -> None:
        attrs, x, weight = node.attrs, node.inputs[0], node.inputs[1]
        groups = getattr(attrs, "groups", 1)
        depthwise = groups > 1 and groups == x.shape[-1] == weight.shape[0]
        if getattr(attrs, "layout", "NHWC") == "NCHW" or (groups > 1 and not depthwise):
            self._refuse(node)
            return
        inputs = self._channels[x]
        outputs = inputs if depthwise else self._fresh(node.output)
        if attrs.divisors:
            self._freeze(outputs, f"{node} divides its channels by numbers of their own")
        self._channels[node.output] = outputs
        self._slices += [(node, 1, 0, outputs), (node, 2, 0, outputs)]
        if not depthwise:
            self._slices.append((node, 1, len(weight.shape) - 1, inputs))
        if attrs.residual:
            self._unite(outputs, self._channels[node.inputs[3]])
        self.layers.append(Layer(node, inputs, outputs, depthwise))

    def _binary(self, node: Node) -> None:
        count = node.output.shape[-1] if node.output.shape else 1
        known: Array | None = None
        for value in node.inputs:
            if value.is_constant or not value.shape or value.shape[-1] != count:
                continue
            if known is not None:
                self._unite(known, self._channels[value])
            known = self._channels[value]
        if known is None:
            self._refuse(node)
            return
        for operand, value in enumerate(node.inputs):
            wide = bool(value.shape) and value.shape[-1] == count
            if value.is_constant and wide and count > 1:
                self._slices.append((node, operand, len(value.shape) - 1, known))
            elif not value.is_constant and not wide:
                self._freeze(self._channels[value], f"{node} repeats {value.name} over channels")
        self._channels[node.output] = known

    def _parameters(self, node: Node) -> None:
        """Follow an operation with constants of one number for each channel."""
        x = node.inputs[0]
        if not all(v.is_constant for v in node.inputs[1:]) or (node.attrs.layout == "NCHW" and len(x.shape) == 4):
            self._refuse(node)
            return
        known = self._channels[x]
        for operand, value in enumerate(node.inputs[1:], 1):
            if value.shape and value.shape[-1] == len(known) > 1:
                self._slices.append((node, operand, len(value.shape) - 1, known))
            elif value.type.size != 1:
                self._freeze(known, f"{node} has parameters of another shape")
        self._channels[node.output] = known

    def _concat(self, node: Node) -> None:
        last = len(node.output.shape) - 1
        if any(value.is_constant for value in node.inputs):
            self._refuse(node)
        elif node.attrs.axis == last:
            self._channels[node.output] = np.concatenate([self._channels[v] for v in node.inputs])
        else:
            known = self._channels[node.inputs[0]]
            for value in node.inputs[1:]:
                self._unite(known, self._channels[value])
            self._channels[node.output] = known

    def _split(self, node: Node) -> None:
        x, known = node.inputs[0], self._channels.get(node.inputs[0])
        if known is None:
            self._refuse(node)
            return
        parts = [known] * len(node.outputs)
        if node.attrs.axis == len(x.shape) - 1:
            parts = np.split(known, np.cumsum(node.attrs.sizes)[:-1])
        for value, part in zip(node.outputs, parts, strict=True):
            self._channels[value] = part

    def _reshape(self, node: Node) -> None:
        before, after = node.inputs[0].shape, node.output.shape
        known = self._channels[node.inputs[0]]
        if before and after and before[-1] == after[-1]:
            self._channels[node.output] = known
        elif len(after) == 2 and len(before) > 2 and before[0] == after[0] and node.inputs[0].type.size:
            self._channels[node.output] = np.tile(known, after[1] // len(known))
        else:
            self._refuse(node)

    # -- removing -------------------------------------------------------------------------------------------

    def remove(self, rewriter: Rewriter, gone: set[int]) -> None:
        """Take classes of channels out of the whole graph; every tensor that had them becomes narrower.

        Args:
            rewriter: of the graph.
            gone: classes, none of them frozen.
        """
        kept = {value: ~np.isin(self.classes(numbers), list(gone)) for value, numbers in self._channels.items()}
        for node, operand, axis, numbers in self._slices:
            mask = ~np.isin(self.classes(numbers), list(gone))
            if not mask.all():
                old = node.inputs[operand]
                data = np.ascontiguousarray(np.compress(mask, old.constant(), axis=axis))
                rewriter.set_operand(node, operand, rewriter.constant(old.name, data))
        for node in self.graph.nodes:
            self._narrow(rewriter, node, kept)

    def _narrow(self, rewriter: Rewriter, node: Node, kept: dict[Value, Array]) -> None:
        """Bring attributes and types in line with the operands."""
        masks = [kept.get(value) for value in node.outputs]
        if all(mask is None or mask.all() for mask in masks):
            return
        counts = [int(mask.sum()) for mask in masks if mask is not None]
        attrs = node.attrs
        if node.op.name == "conv2d" and attrs.groups > 1:
            attrs = replace(attrs, groups=counts[0])
        elif node.op.name == "reshape":
            attrs = replace(attrs, shape=(*attrs.shape[:-1], counts[0]))
        elif node.op.name == "split" and node.attrs.axis == len(node.inputs[0].shape) - 1:
            attrs = replace(attrs, sizes=tuple(counts))
        node.attrs = attrs
        types = node.op.infer(attrs, [v.type for v in node.inputs])
        for value, new, mask in zip(node.outputs, types, masks, strict=True):
            rewriter.set_type(value, new, None)
            if value.stats is not None and mask is not None and value.stats[0].shape == mask.shape:
                value.stats = (value.stats[0][mask], value.stats[1][mask])
