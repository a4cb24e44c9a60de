"""Compute at compile time what does not depend on the inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from qcompile.ir.graph import Graph, Node
from qcompile.ir.rewrite import Rewriter
from qcompile.ops.evaluation import evaluate_node, keep_steps
from qcompile.ops.packed_weights import PACKED
from qcompile.passmgr import Bounds, Exact, Pass, PassContext, Tolerance

_FACTOR = 8


@dataclass(frozen=True)
class FoldConstants(Pass):
    """Replace nodes whose operands are all constant by what they compute.

    Options:
        limit: bytes up to which a result may be larger than eight times its operands together.

    Before:
        const @a : f32[2] = [1.0, 2.0]
        %b = exp(@a) : f32[2]
        %y = mul(%x, %b) : f32[1,2]
    After:
        const @b : f32[2] = [2.7182817, 7.389056]
        %y = mul(%x, @b) : f32[1,2]

    Preconditions: none. Refusals: weights that are packed, which their readers unpack in registers; a result that
    outgrows its operands so far (an expand of a scalar to a large tensor), since it would be stored in the bundle.
    Dequantized weights are four times their integers.
    """

    name: ClassVar[str] = "fold-constants"
    tolerance: ClassVar[Tolerance] = Exact()

    limit: Annotated[int, Bounds(0)] = 1 << 20

    def run(self, graph: Graph, context: PassContext) -> None:
        """Fold in topological order, so that chains fold at once."""
        rewriter = context.rewriter(graph)
        for node in list(graph.nodes):
            known = all(v.is_constant for v in node.inputs) and not (node.op.sized or node.op.region)
            if known and node.op.name not in PACKED:
                made, read = (sum(v.type.nbytes for v in values) for values in (node.outputs, node.inputs))
                if made - _FACTOR * read > self.limit:
                    context.skip(node, f"the result takes {made} bytes, its operands {read}")
                else:
                    _fold(rewriter, node)


def _fold(rewriter: Rewriter, node: Node) -> None:
    with np.errstate(all="ignore"):
        results = evaluate_node(node, [v.constant() for v in node.inputs])
    folded = []
    for value, data in zip(node.outputs, results, strict=True):
        constant = rewriter.constant(value.name, data)
        constant.qparams, constant.qspec, constant.stats = value.qparams, value.qspec, value.stats
        constant.name, value.name = value.name, constant.name
        folded.append(constant)
    keep_steps(node.op, node.attrs, node.inputs, folded)
    rewriter.replace_node(node, folded)
