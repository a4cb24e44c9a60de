"""Replace matrix products by two smaller ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt

from qcompile.calibrate.sample_choice import fitted_samples
from qcompile.compression.account import account
from qcompile.compression.moments import Moments, input_moments
from qcompile.ir.graph import Graph, Node, Value
from qcompile.ir.rewrite import Rewriter
from qcompile.ops.packed_weights import is_product
from qcompile.passmgr import Bounds, MinSqnrDb, Pass, PassContext, Tolerance
from qcompile.passmgr.facts import CHANNELS_LAST, FLOAT, Fact
from qcompile.passmgr.selection import selected

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Factorize(Pass):
    """Replace a dense layer or a 1×1 convolution by two with fewer multiply-accumulates, by its singular values.

    Formula:
        W·L = U·diag(s)·Vᵀ with L·Lᵀ = Σ, the covariance of what the layer reads; of rank r, W ≈ A·B with
        A = U[:, :r]·diag(s[:r]) and B = Vᵀ[:r]·L⁻¹, r the least with Σ_{i<r} s_i² ≥ energy · Σ s_i²; the bias keeps
        the mean. Without samples L = 1, so that s are those of W.

    Before:
        %y = dense(%x, @w, @b) : f32[1,256]
    After:
        %y.factor = dense(%x, @w.right, @w.zero) : f32[1,32]
        %y = dense(%y.factor, @w.left, @b.1) : f32[1,256]

    Options:
        energy: share of the power of the result, as the samples have it, that has to remain.
        gain: only where the two products have at most this share of the multiply-accumulates.
        samples: calibration samples to use at most.
        keep: layers that stay as they are: names, globs, "/regular expressions/", "op:dense", "from..to".

    Preconditions: a float graph with channels last.

    Refusals: a layer whose rank is too high for a gain; convolutions with a kernel, a stride, padding or groups.
    """

    name: ClassVar[str] = "factorize"
    requires: ClassVar[tuple[Fact, ...]] = (FLOAT, CHANNELS_LAST)
    tolerance: ClassVar[Tolerance] = MinSqnrDb(-3.0)

    energy: Annotated[float, Bounds(above=0.0, most=1.0)] = 0.999
    gain: Annotated[float, Bounds(above=0.0, most=1.0)] = 0.9
    samples: Annotated[int, Bounds(1)] = 48
    keep: tuple[str, ...] = ()

    def run(self, graph: Graph, context: PassContext) -> None:
        """Split every layer that gains by it."""
        before = graph.clone()
        kept = selected(graph, self.keep, option="keep") if self.keep else set()
        layers = []
        for node in graph.nodes:
            if node.op.name in ("dense", "conv2d"):
                reason = "kept by request" if node in kept else _obstacle(node)
                if reason is None:
                    layers.append(node)
                else:
                    context.skip(node, reason)
        moments: dict[Value, Moments] = {}
        samples = fitted_samples(context, self.samples)
        if samples:
            moments = dict(input_moments(graph, layers, samples, context))
        rewriter = context.rewriter(graph)
        shares = [self._split(rewriter, node, moments.get(node.inputs[0]), context) for node in layers]
        if any(self._pays(share) for share in shares):
            account(self.name, before, graph, context)
            return
        told = "no layer can be split"
        if shares:
            told = f"no layer is split, the two products of the best would take {min(shares):.0%} of its MACs"
        context.note(f"factorize: {told} (energy={self.energy:g}, gain={self.gain:g})")

    def _pays(self, share: float) -> bool:
        """Return whether two products with a share of a layer's work are worth it."""
        return share <= self.gain and share < 1.0

    def _split(self, rewriter: Rewriter, node: Node, moments: Moments | None, context: PassContext) -> float:
        """Split a layer if that pays; return which share of its work the two products do."""
        weight = node.inputs[1].constant()
        matrix = weight.reshape(weight.shape[0], -1).astype(np.float64)
        outputs, inputs = matrix.shape
        root = np.linalg.cholesky(moments.damped) if moments is not None else np.eye(inputs)
        left, values, right = np.linalg.svd(matrix @ root, full_matrices=False)
        energy = np.cumsum(np.square(values))
        rank = int(np.searchsorted(energy, self.energy * energy[-1] * (1 - 1e-12))) + 1
        share = rank * (outputs + inputs) / (outputs * inputs)
        if not self._pays(share):
            context.skip(node, f"rank {rank} of {min(outputs, inputs)} would take {share:.0%} of its MACs")
            return share
        second = (left[:, :rank] * values[:rank]).astype(np.float32)
        first = np.linalg.solve(root.T, right[:rank].T).T.astype(np.float32)
        bias = node.inputs[2].constant()
        if moments is not None:
            product = second.astype(np.float64) @ first
            bias = np.asarray(bias + (matrix - product) @ moments.mean, np.float32)
        self._insert(rewriter, node, first, second, bias)
        return share

    def _insert(self, rewriter: Rewriter, node: Node, first: Array, second: Array, bias: Array) -> None:
        """Put the first product before the layer, which becomes the second."""
        name, old = node.inputs[1].name, node.inputs[1].shape
        middle = (1,) * (len(old) - 2)
        operands = [
            node.inputs[0],
            rewriter.constant(f"{name}.right", first.reshape(len(first), *middle, old[-1])),
            rewriter.constant(f"{name}.zero", np.zeros(len(first), np.float32)),
        ]
        attrs = node.op.Attrs() if node.op.name == "dense" else node.op.Attrs(layout=node.attrs.layout)
        made = rewriter.insert(node, node.op, operands, attrs, name=f"{node.output.name}.factor", loc=node.loc)
        rewriter.set_operand(node, 0, made.output)
        rewriter.set_operand(node, 1, rewriter.constant(f"{name}.left", second.reshape(len(second), *middle, -1)))
        if bias is not node.inputs[2].data:
            rewriter.set_operand(node, 2, rewriter.constant(node.inputs[2].name, bias))


def _obstacle(node: Node) -> str | None:
    if not all(value.is_constant for value in node.inputs[1:3]):
        return "its weights are computed at run time"
    if not is_product(node):
        return "it is a convolution with a kernel, a stride, padding or groups"
    return None
