"""Choose integer weights and biases by what they do at the output of their layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from qcompile.calibrate.calibration_set import usual_count
from qcompile.calibrate.layer_correction import LayerData, correct_layers, replace_bias, replace_weights
from qcompile.calibrate.sample_choice import FITTED
from qcompile.calibrate.weight_rounding import best_scales, compensated_weights, damped, round_pairs, round_weights
from qcompile.cost import paired_run
from qcompile.ir.graph import Graph
from qcompile.ir.rewrite import Rewriter
from qcompile.passmgr import Bounds, MinSqnrDb, Pass, PassContext, Tolerance
from qcompile.passmgr.facts import INTEGER, Fact
from qcompile.quant.byte_pairs import MOST_LOSS_DB


@dataclass(frozen=True)
class RoundWeights(Pass):
    """Round the weights of each layer so that errors cancel at its output, and make up for those before it.

    Layer by layer, on the integers that the corrected layers before it give:

    Formula:
        V = argmin E‖W·p + r − V·q‖² + λ‖V − W‖², centred;  z = argmin Σ_o (v_o − s_o·z_o)ᵀ H (v_o − s_o·z_o);
        s' = s·√(var(y)/cov(y, s·z·q)) with y = W·p, from 1 to √1.1 times s;  b' = b + W·E[p] + E[r] − s'·z·E[q]
        with p what the float layer reads, q what the integer layer reads, r the error of the residual,
        H = cov(q, q) + λI, λ = damping · u · mean diag cov(q, q), u = terms / (samples · √positions)

    Layers in loops and behind them, and those that share their weights, such as the steps of a recurrent one, are
    rounded for what they read in the float network: q = p, V = W, s' = s.

    Before:
        %y = conv2d(%x, @w, @b) : i8[1,4,4,8] q(scale=0.1, zp=-128)
    After:
        %y = conv2d(%x, @w.1, @b.1) : i8[1,4,4,8] q(scale=0.1, zp=-128)

    Options:
        samples: calibration samples to use at most; fewer where their activations would not fit in memory, up to
            eight times as many in networks of less than a few million multiply-accumulates.
        damping: pull towards plain rounding, dimensionless; more of it needs fewer samples.
        feedback: make up for the errors of the layers before (V), and for what their noise takes from the variance
            of a result without a residual (s'); otherwise V = W and s' = s.
        sweeps: of coordinate descent after the greedy rounding.
        synthetic: samples to make up where no calibration set is given; 0 leaves the weights as they are,
            because made-up inputs say too little of real ones.
        pair_loss: where kernels multiply pairs of bytes, largest growth of a layer's error, dB, for which weights that
            are too great for that become even; 0 leaves all to themselves.

    Preconditions: `quantize` ran in the same context, so that the float graph is known.

    Refusals: no calibration samples; growing caches; a transposed convolution; a layer whose original cannot be told;
    more than 9,216 weights of an output, of which only the bias changes;
    weights that stay odd since even ones would lose more than `pair_loss`.

    Source:
        `qcompile.calibrate.weight_rounding`.
    """

    name: ClassVar[str] = "round-weights"
    requires: ClassVar[tuple[Fact, ...]] = (INTEGER,)
    tolerance: ClassVar[Tolerance] = MinSqnrDb(10.0)

    samples: Annotated[int, Bounds(1)] = FITTED
    damping: Annotated[float, Bounds(0.0)] = 10.0
    feedback: bool = True
    sweeps: Annotated[int, Bounds(0)] = 2
    synthetic: Annotated[int, Bounds(0)] = 0
    pair_loss: Annotated[float, Bounds(0.0)] = MOST_LOSS_DB

    def run(self, graph: Graph, context: PassContext) -> None:
        """Replace the constants of every layer."""
        rewriter = context.rewriter(graph)
        if any(state.in_place for state in graph.states):
            context.skip(None, "caches grow: one sample says little of a sequence")
            return

        correct_layers(
            graph,
            context,
            limit=usual_count(graph, self.samples),
            synthetic=self.synthetic,
            what="rounding weights",
            correct=lambda data: self._correct(rewriter, context, data),
        )

    def _correct(self, rewriter: Rewriter, context: PassContext, data: LayerData) -> None:
        if data.moments.means_only:
            context.skip(data.pair.node, f"{data.moments.terms} weights of an output are too many to round together")
            replace_bias(rewriter, data, data.centred_bias())
            return
        own, cross, residual = data.moments.covariances
        damping = self.damping * data.moments.uncertainty
        wanted = data.weight
        feedback = self.feedback and not data.alone
        if feedback:
            wanted = compensated_weights(data.weight, own, cross, residual, damping)
        hessian = damped(own, damping)
        if data.shared_scale:
            integers, scale = round_weights(wanted, data.scale, hessian, sweeps=self.sweeps), data.scale
        else:
            integers, scale = best_scales(wanted, data.scale, hessian, data.least_scale, sweeps=self.sweeps)
            if feedback and not data.pair.node.attrs.residual:
                scale = data.steepened(integers, scale)
        run = paired_run(data.pair.node, context.target.isa if context.target else "")
        if self.pair_loss > 0.0 and run is not None:
            paired, loss = round_pairs(wanted, scale, integers, hessian, run)
            if loss <= self.pair_loss:
                integers = paired
            else:
                context.skip(data.pair.node, f"even weights would add {loss:.1f} dB to the error of its result")
        replace_weights(rewriter, data, integers, scale)
