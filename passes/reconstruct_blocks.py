"""Choose the integer weights of several layers together, by what they do at the end of their block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt

from qcompile.calibrate.block_data import BlockData, walk_blocks
from qcompile.calibrate.block_network import BlockNetwork, SoftLayer
from qcompile.calibrate.block_partition import CHAIN, find_blocks
from qcompile.calibrate.block_reconstruction import Gain, Schedule, reconstruct
from qcompile.calibrate.layer_correction import replace_constant
from qcompile.calibrate.sample_choice import calibration_samples
from qcompile.ir.graph import Graph
from qcompile.ir.regions import regions
from qcompile.ir.rewrite import Rewriter
from qcompile.passmgr import Bounds, MinSqnrDb, Pass, PassContext, Tolerance
from qcompile.passmgr.facts import INTEGER, Fact

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class ReconstructBlocks(Pass):
    """Choose, for the weights of a residual block or of a few layers in a row, between two neighbouring integers.

    Block by block, on the integers that the blocks before it give, against the result of the float block:

    Formula:
        minimize E‖block(q; z, b) − float block(p)‖² over z ∈ {z₀, z₀ ± 1 towards the real weight} and the biases b,
        by descent on z = lower + h(τ·v) with h a rectified sigmoid and τ rising until every z is whole

    Before:
        %a = conv2d(%x, @w1, @b1) : i8[1,4,4,8] q(scale=0.1, zp=-128)
        %y = conv2d(%a, @w2, @b2, %x) {residual=true} : i8[1,4,4,8] q(scale=0.1, zp=3)
    After:
        %a = conv2d(%x, @w1.1, @b1.1) : i8[1,4,4,8] q(scale=0.1, zp=-128)
        %y = conv2d(%a, @w2.1, @b2.1, %x) {residual=true} : i8[1,4,4,8] q(scale=0.1, zp=3)

    No labels are needed. A block keeps its weights where the new ones are no better on examples held out.

    Options:
        samples: calibration samples to use at most.
        steps: of descent per block.
        batch: examples of a step.
        rate: of a step, dimensionless.
        crop: extent of the windows that large images are cut into, elements.
        chain: layers in a row that are one block, at most.
        synthetic: samples to make up where no calibration set is given; 0 leaves the weights as they are.

    Preconditions: `quantize` ran in the same context, so that the float graph is known; it takes
    the place of round-weights, which moves weights further than to a neighbour.

    Refusals: no calibration samples; open extents; a layer between whose neighbours more than one tensor flows, or
    something else than conv2d, dense and add stands.

    Source:
        `qcompile.calibrate.block_reconstruction`.
    """

    name: ClassVar[str] = "reconstruct-blocks"
    requires: ClassVar[tuple[Fact, ...]] = (INTEGER,)
    tolerance: ClassVar[Tolerance] = MinSqnrDb(10.0)

    samples: Annotated[int, Bounds(1)] = 48
    steps: Annotated[int, Bounds(1)] = 150
    batch: Annotated[int, Bounds(1)] = 12
    rate: Annotated[float, Bounds(above=0.0)] = 0.02
    crop: Annotated[int, Bounds(1)] = 12
    chain: Annotated[int, Bounds(1)] = CHAIN
    synthetic: Annotated[int, Bounds(0)] = 0

    def run(self, graph: Graph, context: PassContext) -> None:
        """Reconstruct every block."""
        if graph.symbols:
            context.skip(None, "blocks need samples of one size, and extents are open")
            return
        if regions(graph.nodes):
            context.skip(None, "blocks are looked at once, and a loop runs its nodes many times")
            return
        samples = calibration_samples(graph, context, self.samples, self.synthetic)
        if context.reference is None or not samples:
            context.skip(None, "there are no calibration samples" if not samples else "the float graph is not known")
            return
        blocks, others = find_blocks(graph, chain=self.chain)
        for node, reason in others:
            context.skip(node, reason)
        rewriter = context.rewriter(graph)
        schedule = Schedule(self.steps, self.batch, self.rate)
        done = 0

        def visit(data: BlockData) -> None:
            nonlocal done
            self._reconstruct(rewriter, data, schedule, context)
            done += 1
            context.progress(done, len(blocks), "reconstructing blocks")

        for node, reason in walk_blocks(context.reference, graph, blocks, samples, visit, self.crop, context.seed):
            context.skip(node, reason)

    def _reconstruct(self, rewriter: Rewriter, data: BlockData, schedule: Schedule, context: PassContext) -> Gain:
        network = BlockNetwork(data.block, data.weights)
        gain = reconstruct(network, data.entry, data.target, schedule, context.seed)
        if gain.after < gain.before:
            for layer in network.layers:
                _write(rewriter, layer)
        else:
            context.skip(data.block.layers[-1], "no other rounding of its block is better")
        return gain


def _write(rewriter: Rewriter, layer: SoftLayer) -> None:
    """Give a node the integers of a hardened layer."""
    node = layer.node
    params, bias_params = node.inputs[1].qparams, node.inputs[2].qparams
    assert params is not None
    assert bias_params is not None
    integers = np.rint(layer.weight / layer.scale).astype(np.int8)
    steps = np.rint(layer.bias.astype(np.float64) / np.asarray(bias_params.scale, np.float64))
    replace_constant(rewriter, node, 1, integers, params)
    replace_constant(rewriter, node, 2, np.clip(steps, -(2**30), 2**30).astype(np.int32), bias_params)
