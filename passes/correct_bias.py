"""Give every channel of an integer layer the mean that it has in float."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from qcompile.calibrate.layer_correction import LayerData, correct_layers, replace_bias
from qcompile.ir.graph import Graph
from qcompile.ir.rewrite import Rewriter
from qcompile.passmgr import Bounds, MinSqnrDb, Pass, PassContext, Tolerance
from qcompile.passmgr.facts import INTEGER, Fact


@dataclass(frozen=True)
class CorrectBias(Pass):
    """Correct the bias of each layer by the mean error of its output, in order, on calibration samples.

    Formula:
        b' = b + W·E[p] + E[r] − Ŵ·E[q]
        with p what the float layer reads, q what the integer layer reads once all layers before it are
        corrected, r the error of the residual, Ŵ the integer weights in real units

    Before:
        %y = conv2d(%x, @w, @b) : i8[1,4,4,8] q(scale=0.1, zp=-128)
    After:
        %y = conv2d(%x, @w, @b.1) : i8[1,4,4,8] q(scale=0.1, zp=-128)

    Options:
        samples: calibration samples to use at most; fewer where their activations would not fit in memory.
        synthetic: samples to make up where no calibration set is given; 0 leaves the biases as they are.

    Preconditions: `quantize` ran in the same context, so that the float graph is known. Needless behind
    round-weights, which does the same.

    Refusals: no calibration samples; a transposed convolution; a layer whose original cannot be told.

    Source:
        Nagel et al., "Data-free quantization through weight equalization and bias correction", 2019, §4.2
        (there with means from BatchNorm, here measured).
    """

    name: ClassVar[str] = "correct-bias"
    requires: ClassVar[tuple[Fact, ...]] = (INTEGER,)
    tolerance: ClassVar[Tolerance] = MinSqnrDb(10.0)

    samples: Annotated[int, Bounds(1)] = 32
    synthetic: Annotated[int, Bounds(0)] = 0

    def run(self, graph: Graph, context: PassContext) -> None:
        """Replace the bias of every layer."""
        rewriter = context.rewriter(graph)
        correct_layers(
            graph,
            context,
            limit=self.samples,
            synthetic=self.synthetic,
            what="correcting biases",
            correct=lambda data: _correct(rewriter, data),
            means_only=True,
        )


def _correct(rewriter: Rewriter, data: LayerData) -> None:
    replace_bias(rewriter, data, data.centred_bias())
