"""What an operation's `lower` calls: elementwise code, reductions, and families with kernels of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.ir.graph import Node, Value
from qcompile.kernels import expression as ex
from qcompile.lower import caches, convolution, families, loops, products, ranking, transposed
from qcompile.lower.context import LoweringContext, Position
from qcompile.lower.expressions import ExpressionBuilder
from qcompile.lower.offsets import dense_strides
from qcompile.lower.sources import View
from qcompile.quant.qparams import QParams


class OperationContext(LoweringContext):
    """Collects the steps of one graph; arguments as those of `LoweringContext`."""

    def map_table(
        self,
        node: Node,
        fn: Callable[[ExpressionBuilder, Position], Any],
        before: QParams,
        table: npt.NDArray[np.int8],
    ) -> None:
        """Compute each element's code from its index, then map the codes through a table.

        Args:
            node: has one result.
            fn: as for `map`, but the codes it returns are under `before`.
            before: QParams of the table's operand.
            table: 256 codes of the result, by q + 128.
        """
        output = node.output
        if not self.wanted(output):
            return
        middle = Value(f"{output.name}.before", output.type)
        middle.qparams = before
        position = tuple(ex.index(n) for n in range(len(output.shape)))
        builder = ExpressionBuilder(node, middle, self.sources)
        element = self.fused(output.type.size, lambda: fn(builder, position))
        self.emit_map(node, element, self.new_buffer(middle), middle, output.shape)
        families.look_up(self, node, middle, table)

    def alias(self, node: Node) -> None:
        """Let the result be the bytes of operand 0."""
        value, output = node.inputs[0], node.output
        view = self.sources.views.get(value)
        if view is not None and view.strides == dense_strides(value.shape):
            self.sources.views[output] = View(view.root, view.base, dense_strides(output.shape))
            return
        buffer = self.read_buffer(value)
        if value.is_constant or self.sources.is_boundary(value):
            self.sources.at_boundary(output)
        self.sources.buffers[output] = buffer

    def concat(self, node: Node) -> None:
        """Copy or requantize each part to its place in the result."""
        families.concat(self, node)

    def table(self, node: Node) -> None:
        """Map codes through a table of 256 entries."""
        families.table(self, node)

    def softmax(self, node: Node) -> None:
        """Normalize exponentials along an axis."""
        families.softmax(self, node)

    def layer_norm(self, node: Node) -> None:
        """Normalize rows to zero mean and unit variance."""
        families.layer_norm(self, node)

    def rank(self, node: Node) -> bool:
        """Find the places of elements in sorted order by merging, if there is a kernel for it; return whether."""
        return ranking.rank(self, node)

    def place_of_rank(self, node: Node) -> bool:
        """Find where the first places stand in one go, if there is a kernel for it; return whether."""
        return ranking.place_of_rank(self, node)

    def suppression(self, node: Node) -> None:
        """Select boxes."""
        families.suppression(self, node)

    def positions(self, node: Node) -> None:
        """Find the flags that are set."""
        families.positions(self, node)

    def scatter(self, node: Node) -> None:
        """Write rows at computed places of a copy."""
        families.scatter(self, node)

    def matmul(self, node: Node) -> None:
        """Multiply two activations."""
        families.matmul(self, node)

    def loop_begin(self, node: Node) -> None:
        """Fill the states of a loop."""
        loops.begin(self, node)

    def loop_end(self, node: Node) -> None:
        """Fill the states anew, and go back."""
        loops.end(self, node)

    def cache_append(self, node: Node) -> None:
        """Write rows to a kept cache."""
        caches.append(self, node)

    def cache_scores(self, node: Node) -> None:
        """Multiply queries with kept keys."""
        caches.product(self, node, "scores")

    def cache_mix(self, node: Node) -> None:
        """Sum kept values."""
        caches.product(self, node, "mix")

    def conv2d(self, node: Node) -> None:
        """Emit a convolution."""
        convolution.conv2d(self, node)

    def dense(self, node: Node) -> None:
        """Emit a product with constant weights."""
        convolution.dense(self, node)

    def dense_integer(self, node: Node) -> None:
        """Emit a product of integers with constant weights."""
        products.dense_integer(self, node)

    def conv2d_integer(self, node: Node) -> None:
        """Emit a convolution of integers."""
        products.conv2d_integer(self, node)

    def conv_transpose2d(self, node: Node) -> None:
        """Emit a transposed convolution."""
        transposed.conv_transpose2d(self, node)
