"""Make great weights even where an instruction set multiplies pairs of bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt

from qcompile.calibrate.layer_correction import replace_constant
from qcompile.calibrate.paired_run import pair_layers
from qcompile.cost import paired_run
from qcompile.ir.graph import Graph, Node
from qcompile.ir.rewrite import Rewriter
from qcompile.passmgr import Bounds, MinSqnrDb, Pass, PassContext, Tolerance
from qcompile.passmgr.facts import INTEGER, Fact
from qcompile.quant.byte_pairs import MOST_LOSS_DB, nearest_even, needing_halves

Array = npt.NDArray[Any]

_ROUNDING = 1 / 12
"""Mean square of the error of rounding to whole numbers."""


@dataclass(frozen=True)
class EvenPairs(Pass):
    """Round weights to even numbers where two neighbours are too great to be multiplied together.

    AVX2 sums two products of bytes in 16 bits. Where two neighbouring weights of one sign reach beyond 128, kernels
    take halves of them and double the sum, if they are even. Otherwise they multiply twice, and where that is so often,
    with half as many products an instruction.

    Formula:
        z' = 2 · rne(w / (2·s)) where w are neighbours with |z₁ + z₂| > 128 of one sign, else z

    Before:
        const @w.q : i8[1,4] = [[101, 55, 3, 4]]
        %y = dense(%x, @w.q, @b) : i8[64,1] q(scale=0.1, zp=-128)
    After:
        const @w.q.1 : i8[1,4] = [[102, 54, 3, 4]]                                 of w = s · [[101.2, 54.8, 3, 4]]
        %y = dense(%x, @w.q.1, @b) : i8[64,1] q(scale=0.1, zp=-128)

    Options:
        most_loss: largest growth of the mean square error of a layer's weights, dB.
        isa: instruction set; "" for that of the target.

    Preconditions: weights are final: run round-weights before, which does the same with an eye on the layer's output
    where there are samples.

    Refusals: an instruction set without such kernels; a layer of few pixels, with groups, or whose outputs share
    products; a greater loss.

    Source:
        `qcompile.quant.byte_pairs`.
    """

    name: ClassVar[str] = "even-pairs"
    requires: ClassVar[tuple[Fact, ...]] = (INTEGER,)
    tolerance: ClassVar[Tolerance] = MinSqnrDb(20.0)

    most_loss: Annotated[float, Bounds(0.0)] = MOST_LOSS_DB
    isa: str = ""

    def run(self, graph: Graph, context: PassContext) -> None:
        """Replace the weights of every layer that gains."""
        rewriter = context.rewriter(graph)
        isa = self.isa or (context.target.isa if context.target is not None else "")
        originals: dict[Node, Node] = {}
        if context.reference is not None:
            originals = {pair.node: pair.reference for pair in pair_layers(context.reference, graph)[0]}
        for node in graph.nodes:
            run = paired_run(node, isa) if node.is_integer else None
            if run is not None and node.inputs[1].is_constant:
                self._make_even(rewriter, context, node, originals.get(node), run)

    def _make_even(self, rewriter: Rewriter, context: PassContext, node: Node, original: Node | None, run: int) -> None:
        """Replace the weights of one layer, unless too much is lost."""
        shape, params = node.inputs[1].shape, node.inputs[1].qparams
        assert params is not None, "an integer layer has quantized weights"
        integers = node.inputs[1].constant().reshape(shape[0], -1)
        if not needing_halves(integers, run).any():
            return
        wanted = _wanted(node, original).reshape(integers.shape)
        even = nearest_even(wanted, integers, run)
        loss = _loss(wanted, integers, even)
        if loss > self.most_loss or not self.most_loss:
            context.skip(node, f"even weights would be {loss:.1f} dB further from the real ones")
            return
        replace_constant(rewriter, node, 1, even.astype(np.int8).reshape(shape), params)


def _wanted(node: Node, original: Node | None) -> Array:
    """Return the real weights in LSB, where the integers are those weights rounded, else the integers."""
    integers, params = node.inputs[1].constant().astype(np.float64), node.inputs[1].qparams
    if original is None or params is None:
        return integers
    scale = np.asarray(params.scale, np.float64)
    shape = (-1,) + (1,) * (integers.ndim - 1)
    real = original.inputs[1].constant() / scale.reshape(shape)
    return np.where(np.abs(real - integers) <= 0.5, real, integers)


def _loss(wanted: Array, integers: Array, even: Array) -> float:
    """Return by how many dB the error of the weights grows; of those whose real value is not known, rounding's."""
    unknown = float((wanted == integers).sum()) * _ROUNDING
    before, after = (float(np.square(wanted - one).sum()) + unknown for one in (integers, even))
    return 10 * float(np.log10(after / before)) if before > 0.0 else 0.0
