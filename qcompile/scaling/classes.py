"""Channels that can only be divided by the same factor: the freedom there is in a network's scales.

Every channel that a layer makes gets a number. What f(s·x) = s·f(x) holds for hands the numbers on; what joins
tensors element by element makes them equal. Numbers that are equal in the end are one class, and everything else
keeps the classes that it reads or makes from changing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.ir.graph import Graph, Node, Value
from qcompile.ops.arithmetic import divided_activation
from qcompile.passmgr.channel_links import LAYERS
from qcompile.passmgr.disjoint_sets import DisjointSets
from qcompile.shapes.analysis import analyse

Array = npt.NDArray[Any]

PLAIN = ("none", "relu", "leaky_relu")
"""Activations of layers through which factors go into the weights."""

_SAME = ("relu", "leaky_relu", "prelu", "identity", "abs", "neg")
_WINDOWS = ("max_pool", "avg_pool", "global_avg_pool", "global_max_pool", "resize", "pad")
_REDUCTIONS = ("reduce_mean", "reduce_max", "reduce_sum", "reduce_min")
_JOINS = ("add", "sub", "maximum", "minimum")
_PRODUCTS = ("mul", "div")
_VIEWS = ("concat", "split", "slice", "transpose", "reshape")


@dataclass(frozen=True)
class ScaledLayer:
    """A layer whose weights take factors in.

    Args:
        node: conv2d, conv_transpose2d or dense, channels last.
        inputs: number of each input channel.
        outputs: number of each output channel.
    """

    node: Node
    inputs: Array
    outputs: Array


@dataclass(frozen=True)
class ScaledConstant:
    """A constant that joins a tensor element by element, and is to be divided with it.

    Args:
        node: reads both.
        operand: index of the constant.
        numbers: of the tensor.
    """

    node: Node
    operand: int
    numbers: Array


class ScaleClasses:
    """The classes of all channels of a float graph.

    Args:
        graph: activations fused.

    Attributes:
        numbers: of the channels of each float tensor, int64, of its rank; extent 1 along axes that all have the same.
        layers: in order of computation.
        constants: to be divided with the tensors that they join.
        frozen: classes that have to stay as they are.
    """

    def __init__(self, graph: Graph) -> None:
        self.numbers: dict[Value, Array] = {}
        self.layers: list[ScaledLayer] = []
        self.constants: list[ScaledConstant] = []
        self._sets = DisjointSets()
        self._kept: set[int] = set()
        self._open = analyse(graph).axes if graph.symbols else {}
        for value in graph.inputs:
            self._keep(self._fresh(value))
        for node in graph.nodes:
            self._visit(node)
        for value in graph.outputs:
            self._keep(self.numbers.get(value, np.zeros(0, np.int64)))
        self.frozen = {self.root(number) for number in self._kept}

    @property
    def count(self) -> int:
        """Numbers given."""
        return len(self._sets)

    def root(self, number: int) -> int:
        """Return the class of a number."""
        return self._sets.root(number)

    # -- numbering ------------------------------------------------------------------------------------------

    def _fresh(self, value: Value) -> Array:
        """Number the last axis of a tensor anew; an open one gets one number."""
        shape = [1] * len(value.shape)
        if value.shape and not self._is_open(value, -1):
            shape[-1] = value.shape[-1]
        self.numbers[value] = np.array(self._sets.add(math.prod(shape)), np.int64).reshape(shape)
        return self.numbers[value]

    def _is_open(self, value: Value, axis: int) -> bool:
        return value in self._open and self._open[value][axis] is not None

    def _tells_apart_what_is_open(self, value: Value) -> bool:
        """Return whether a tensor has different numbers along an axis that is shorter at other sizes."""
        shape = self.numbers[value].shape
        return any(extent > 1 and self._is_open(value, axis) for axis, extent in enumerate(shape))

    def _keep(self, numbers: Array) -> None:
        self._kept.update(np.unique(numbers).tolist())

    def _unite(self, a: Array, b: Array) -> None:
        self._sets.unite(a.ravel().tolist(), b.ravel().tolist())

    def _even(self, numbers: Array, axes: Sequence[int]) -> Array:
        """Make numbers equal along axes, and return one place of them."""
        for axis in axes:
            first = np.take(numbers, [0], axis)
            self._unite(np.broadcast_to(first, numbers.shape), numbers)
            numbers = first
        return numbers

    def _last_only(self, value: Value) -> Array:
        """Return numbers that differ along the last axis only."""
        numbers = self.numbers[value]
        return self._even(numbers, range(numbers.ndim - 1))

    # -- operations -----------------------------------------------------------------------------------------

    def _visit(self, node: Node) -> None:
        known = bool(node.inputs) and not node.is_integer and self._rule(node)
        if not known or any(map(self._tells_apart_what_is_open, node.outputs)):
            for value in node.inputs:
                self._keep(self.numbers.get(value, np.zeros(0, np.int64)))
            for value in node.outputs:
                self._keep(self._fresh(value))

    def _rule(self, node: Node) -> bool:
        """Number what a node makes; return False where its operands have to stay as they are."""
        name, attrs = node.op.name, node.attrs
        if name in (*LAYERS, "conv_transpose2d"):
            return self._layer(node)
        if name in (*_JOINS, *_PRODUCTS) and getattr(attrs, "activation", "none") in PLAIN:
            return self._join(node) if name in _JOINS else self._product(node)
        x = node.inputs[0]
        if name in _VIEWS and all(value in self.numbers for value in node.inputs):
            return self._view(node)
        if x not in self.numbers or not all(value.is_constant for value in node.inputs[1:]) or len(x.shape) < 1:
            return False
        if name in _SAME:
            self.numbers[node.output] = self.numbers[x]
        elif name in _WINDOWS and getattr(attrs, "layout", "NHWC") == "NHWC" and _pads_zeros(node):
            self.numbers[node.output] = self._last_only(x)
        elif name in _REDUCTIONS and attrs.keepdims and len(x.shape) - 1 not in attrs.axes:
            self.numbers[node.output] = self._even(self.numbers[x], attrs.axes)
        else:
            return False
        return True

    def _layer(self, node: Node) -> bool:
        attrs, x = node.attrs, node.inputs[0]
        constant = all(value.is_constant and len(value.uses) == 1 for value in node.inputs[1:2])
        channels_last = getattr(attrs, "layout", "NHWC") == "NHWC"
        if x not in self.numbers or not (constant and node.inputs[2].is_constant and channels_last) or attrs.residual:
            return False
        inputs, outputs = self._last_only(x), self._fresh(node.output)
        divides = node.op.name in LAYERS and divided_activation(attrs) is not None
        if attrs.activation not in PLAIN and not divides:
            self._keep(outputs)
        # Channels that a tensor does not tell apart, such as those of a transposed image, have one number.
        every = np.broadcast_to(inputs.ravel(), x.shape[-1:])
        self.layers.append(ScaledLayer(node, every, outputs.ravel()))
        return True

    def _join(self, node: Node) -> bool:
        """Follow what is homogeneous in both of its operands together."""
        known = [value for value in node.inputs if value in self.numbers]
        if not known or any(value not in self.numbers and not value.is_constant for value in node.inputs):
            return False
        rank = len(node.output.shape)
        numbers = [self.numbers[v].reshape([1] * (rank - len(v.shape)) + [*self.numbers[v].shape]) for v in known]
        shape = np.broadcast_shapes(*(n.shape for n in numbers))
        if any(v.shape != node.output.shape for v in known) and shape != numbers[0].shape:
            return False
        for other in numbers[1:]:
            self._unite(np.broadcast_to(numbers[0], shape), np.broadcast_to(other, shape))
        self.numbers[node.output] = np.broadcast_to(numbers[0], shape)
        for operand, value in enumerate(node.inputs):
            if value not in self.numbers:
                self.constants.append(ScaledConstant(node, operand, self.numbers[node.output]))
        return True

    def _product(self, node: Node) -> bool:
        """Follow the tensor that another one, which stays as it is, multiplies or divides."""
        order = [*node.inputs] if node.op.name == "div" else sorted(node.inputs, key=lambda v: -v.type.size)
        x, gate = order
        if x not in self.numbers or x.shape != node.output.shape or x is gate:
            return False
        if gate in self.numbers:
            self._keep(self.numbers[gate])
        elif not gate.is_constant:
            return False
        self.numbers[node.output] = self.numbers[x]
        return True

    def _view(self, node: Node) -> bool:
        views: dict[str, Callable[[Node], list[Array] | None]] = {
            "concat": self._concat,
            "split": self._split,
            "slice": self._slice,
            "transpose": lambda n: [self.numbers[n.inputs[0]].transpose(n.attrs.perm)],
            "reshape": self._reshape,
        }
        found = views[node.op.name](node)
        if found is None:
            return False
        self.numbers.update(zip(node.outputs, found, strict=True))
        return True

    def _concat(self, node: Node) -> list[Array]:
        axis, parts = node.attrs.axis, [self.numbers[value] for value in node.inputs]
        shape = [max(part.shape[a] for part in parts) for a in range(parts[0].ndim)]
        wide = [[*shape[:axis], value.shape[axis], *shape[axis + 1 :]] for value in node.inputs]
        return [np.concatenate([np.broadcast_to(p, w) for p, w in zip(parts, wide, strict=True)], axis)]

    def _split(self, node: Node) -> list[Array]:
        numbers, axis = self.numbers[node.inputs[0]], node.attrs.axis
        if numbers.shape[axis] == 1:
            return [numbers] * len(node.outputs)
        return np.split(numbers, np.cumsum(node.attrs.sizes)[:-1], axis)

    def _slice(self, node: Node) -> list[Array]:
        numbers, attrs = self.numbers[node.inputs[0]], node.attrs
        for axis, (start, step, size) in enumerate(zip(attrs.starts, attrs.steps, attrs.sizes, strict=True)):
            if numbers.shape[axis] > 1:
                numbers = np.take(numbers, start + step * np.arange(size), axis)
        return [numbers]

    def _reshape(self, node: Node) -> list[Array] | None:
        x, shape = node.inputs[0], node.output.shape
        if not x.type.size:
            return None
        numbers = np.broadcast_to(self.numbers[x], x.shape).reshape(shape)
        for axis in range(len(shape)):
            first = np.take(numbers, [0], axis)
            numbers = first if (numbers == first).all() else numbers
        return [numbers]


def _pads_zeros(node: Node) -> bool:
    """Return whether a node that is a pad adds nothing but zeros, and none to the last axis."""
    attrs, last = node.attrs, len(node.output.shape) - 1
    return node.op.name != "pad" or (attrs.value == 0.0 and attrs.pads[last] == attrs.pads[-1] == 0)
