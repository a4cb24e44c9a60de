"""Set the smallest weights of every convolution and dense layer to zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompile.ir.graph import Graph
from qcompile.passmgr import MinSqnrDb, Pass, PassContext, Tolerance


@dataclass(frozen=True)
class PruneWeights(Pass):
    """Set weights to zero that are small beside the largest of their output channel.

    Formula:
        w'[o, …] = 0 where |w[o, …]| < threshold · max|w[o]|, else w[o, …]

    Options:
        threshold: fraction of a channel's largest weight, 0 to 1.

    Before:
        %y = dense(%x, @w, @b) : f32[1,8]
    After:
        %y = dense(%x, @w.pruned, @b) : f32[1,8]

    Preconditions: float form. Refusals: weights computed at run time, and quantized ones.
    """

    # The name that pipelines use. The file has the same name, with underscores.
    name: ClassVar[str] = "prune-weights"

    # How far outputs may move. `qcompile … --verify-numerics` holds the pass to it.
    tolerance: ClassVar[Tolerance] = MinSqnrDb(20.0)

    # Every field is an option: prune-weights{threshold=0.05}
    threshold: float = 0.01

    def __post_init__(self) -> None:
        if not 0.0 <= self.threshold <= 1.0:
            raise ValueError(f"threshold {self.threshold} is not between 0 and 1")

    def run(self, graph: Graph, context: PassContext) -> None:
        """Replace the weight constants; the pass manager finds out by itself whether anything changed."""
        rewriter = context.rewriter(graph)
        for node in list(graph.nodes):
            if node.op.name not in ("conv2d", "conv_transpose2d", "dense"):
                continue
            weight = node.inputs[1]
            if weight.data is None or weight.qparams is not None:
                context.skip(node, f"{weight.name} is not a real-valued constant")
                continue
            magnitude = np.abs(weight.data)
            largest = magnitude.max(axis=tuple(range(1, magnitude.ndim)), keepdims=True)
            small = (magnitude < self.threshold * largest) & (weight.data != 0)
            if small.any():
                pruned = np.where(small, np.float32(0), weight.data)
                rewriter.set_operand(node, 1, rewriter.constant(f"{weight.name}.pruned", pruned))
