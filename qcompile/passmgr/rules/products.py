"""Matrix products with constants become dense layers with a bias."""

from __future__ import annotations

import numpy as np

from qcompile.ir.graph import Node
from qcompile.ir.rewrite import Rewriter
from qcompile.passmgr.patterns import RuleTable, made_by, only_reader, per_channel, replace, with_constant


def matmul_to_dense(node: Node, rewriter: Rewriter) -> bool:
    """x·W = dense(x, Wᵀ, 0) for a constant matrix W."""
    x, weight = node.inputs
    if weight.data is None or weight.data.ndim != 2 or len(x.shape) < 2 or node.output.dtype != "float32":
        return False
    rows = rewriter.moved(f"{weight.name}.rows", weight, np.transpose)
    bias = rewriter.constant(f"{node.output.name}.bias", np.zeros(rows.shape[0], np.float32))
    return replace(rewriter, node, "dense", [x, rows, bias])


def addition_to_bias(node: Node, rewriter: Rewriter) -> bool:
    """dense(x, W, b) + c = dense(x, W, b + c) for a constant c per output."""
    pair = with_constant(node)
    layer = None if pair is None else made_by(pair[0], "dense")
    if pair is None or layer is None or node.attrs.activation != "none" or layer.attrs.activation != "none":
        return False
    shape, bias = node.output.shape, layer.inputs[2].data
    if shape != pair[0].shape or bias is None or only_reader(pair[0], rewriter.graph) is not node:
        return False
    addend = per_channel(pair[1].constant(), len(shape), len(shape) - 1, shape[-1])
    if addend is None or layer.attrs.residual:
        return False
    total = (bias.astype(np.float64) + addend).astype(np.float32)
    rewriter.set_operand(layer, 2, rewriter.constant(f"{node.output.name}.bias", total))
    rewriter.absorb(layer, node)
    return True


RULES: RuleTable = {"matmul": (matmul_to_dense,), "add": (addition_to_bias,)}
"""Rules for matrix products."""
