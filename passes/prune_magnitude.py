"""Set the smallest weights to zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from qcompile.calibrate.layer_refit import own_constants
from qcompile.compression.account import account
from qcompile.compression.refit import refit
from qcompile.ir.graph import Graph, Node
from qcompile.passmgr import Bounds, MinSqnrDb, Pass, PassContext, Tolerance
from qcompile.passmgr.facts import FLOAT, Fact
from qcompile.passmgr.selection import selected

Array = npt.NDArray[Any]

_LAYERS = ("dense", "conv2d", "conv_transpose2d")


@dataclass(frozen=True)
class PruneMagnitude(Pass):
    """Set the weights of least magnitude to zero; the bundle stores zeros in one bit.

    Formula:
        w = 0 where |w| is among the `sparsity` smallest; network: of all layers together, each relative to the root
        mean square of its output channel; layer: of every layer by itself

    Before:
        const @w : f32[4,4] = …
    After:
        const @w.1 : f32[4,4] = … half of them 0

    With calibration samples the weights that remain are then fitted, layer after layer, to what the original computes:
    minimize Σ_o (w_o − v_o)ᵀ H (w_o − v_o), v zero where w was pruned, H the covariance of what the layer reads.
    Where that is no better on samples that were not fitted to, they stay as they were.

    Kernels multiply by zeros as by other numbers: this is for size, not for time. Zeros stay zeros in INT8.

    Options:
        sparsity: share of zeros.
        scope: "network" or "layer".
        smallest: weights that a layer must have to be worth it.
        samples: calibration samples to fit to at most; 0 leaves the weights that remain as they are.
        keep: layers that stay as they are: names, globs, "/regular expressions/", "op:dense", "from..to".

    Preconditions: a float graph. Run it after passes that change weights.

    Refusals: weights computed at run time; small layers.
    """

    name: ClassVar[str] = "prune-magnitude"
    requires: ClassVar[tuple[Fact, ...]] = (FLOAT,)
    tolerance: ClassVar[Tolerance] = MinSqnrDb(-3.0)

    sparsity: Annotated[float, Bounds(above=0.0, below=1.0)] = 0.5
    scope: Literal["network", "layer"] = "network"
    smallest: Annotated[int, Bounds(1)] = 256
    samples: Annotated[int, Bounds(0)] = 32
    keep: tuple[str, ...] = ()

    def run(self, graph: Graph, context: PassContext) -> None:
        """Prune every layer that is large enough."""
        before = graph.clone()
        kept = selected(graph, self.keep, option="keep") if self.keep else set()
        layers: list[Node] = []
        for node in (node for node in graph.nodes if node.op.name in _LAYERS):
            weight = node.inputs[1]
            if node in kept:
                context.skip(node, "kept by request")
            elif not weight.is_constant:
                context.skip(node, "its weights are computed at run time")
            elif weight.type.size < self.smallest:
                context.skip(node, f"{weight.name} has {weight.type.size} elements only")
            else:
                layers.append(node)
        if not layers:
            context.note(f"prune-magnitude: nothing goes: no layer that may lose some has {self.smallest} weights")
            return
        sizes = [_relative(node) for node in layers]
        rewriter, zeros, total = context.rewriter(graph), 0, 0
        for node, small in zip(layers, self._smallest(sizes), strict=True):
            weight = node.inputs[1]
            data = np.where(small, np.float32(0), weight.constant())
            zeros, total = zeros + int(np.count_nonzero(data == 0)), total + data.size
            if not np.array_equal(data, weight.constant()):
                rewriter.set_operand(node, 1, rewriter.constant(weight.name, data))
        if graph.structural_hash() != before.structural_hash():
            fitted = self._refit(before, graph, layers, context)
            account(self.name, before, graph, context, f", {zeros / total:.0%} of the weights zero{fitted}")
        else:
            context.note(f"prune-magnitude: nothing changes: {zeros:,} of {total:,} weights are zero already")

    def _smallest(self, sizes: list[Array]) -> list[Array]:
        """Return which weights of each layer are among the smallest; of equal ones those that come first."""
        if self.scope == "layer":
            return [_first_of_all([size], self.sparsity)[0] for size in sizes]
        return _first_of_all(sizes, self.sparsity)

    def _refit(self, before: Graph, graph: Graph, layers: list[Node], context: PassContext) -> str:
        """Fit the weights that remain, where there are samples and it helps; return what to say of it."""
        if context.samples is None or self.samples < 1 or graph.symbols:
            return ""
        masks = {node: node.inputs[1].constant() != 0 for node in layers if own_constants(node)}
        return refit(before, graph, masks, context, limit=self.samples, what="the weights that remain")


def _first_of_all(sizes: list[Array], share: float) -> list[Array]:
    """Return which numbers are the smallest of all, rounded down to a whole number of them."""
    every = np.concatenate([size.reshape(-1) for size in sizes])
    chosen = np.zeros(len(every), bool)
    chosen[np.argsort(every, kind="stable")[: int(share * len(every))]] = True
    parts = np.split(chosen, np.cumsum([size.size for size in sizes])[:-1])
    return [part.reshape(size.shape) for part, size in zip(parts, sizes, strict=True)]


def _relative(node: Node) -> Array:
    """Return the magnitudes of a layer's weights, relative to the root mean square of their output channel."""
    data = np.abs(node.inputs[1].constant().astype(np.float64))
    rows = np.sqrt(np.square(data).mean(axis=tuple(range(1, data.ndim)), keepdims=True))
    return np.asarray(data / np.maximum(rows, 1e-30))
