"""Arithmetic with constants: fewer operations, the constant as the second operand."""

from __future__ import annotations

import numpy as np

from qcompile.ir.graph import Node
from qcompile.ir.rewrite import Rewriter
from qcompile.passmgr.patterns import (
    RuleTable,
    bypass,
    emit,
    made_by,
    only_reader,
    replace,
    scalar,
    with_scalar,
)


def constant_second(node: Node, rewriter: Rewriter) -> bool:
    """Write x + c for c + x, and x·c for c·x."""
    a, b = node.inputs
    if not a.is_constant or b.is_constant:
        return False
    rewriter.set_operand(node, 0, b)
    rewriter.set_operand(node, 1, a)
    return True


def neutral(node: Node, rewriter: Rewriter) -> bool:
    """Write x for x + 0 and x·1."""
    pair = with_scalar(node)
    plain = getattr(node.attrs, "activation", "none") == "none"
    wanted = 0.0 if node.op.name == "add" else 1.0
    return plain and pair is not None and pair[1] == wanted and bypass(rewriter, node, pair[0])


def subtraction_to_addition(node: Node, rewriter: Rewriter) -> bool:
    """Write x + (−c) for x − c, for real numbers."""
    x, c = node.inputs
    if x.is_constant or c.data is None or c.dtype != "float32":
        return False
    return replace(rewriter, node, "add", [x, rewriter.constant(f"{c.name}.negated", -c.data)])


def division_to_multiplication(node: Node, rewriter: Rewriter) -> bool:
    """Write x·(1/c) for x/c, where 1/c is a finite real number, and reciprocal(x) for 1/x."""
    x, c = node.inputs
    if node.output.dtype != "float32":
        return False
    if scalar(x) == 1.0 and not c.is_constant and c.shape == node.output.shape:
        return replace(rewriter, node, "reciprocal", [c])
    if x.is_constant or c.data is None:
        return False
    with np.errstate(all="ignore"):
        inverse = np.asarray(1.0 / c.data.astype(np.float64), np.float32)
    if not np.isfinite(inverse).all() or (np.abs(inverse) < np.finfo(np.float32).tiny).any():
        return False
    return replace(rewriter, node, "mul", [x, rewriter.constant(f"{c.name}.inverse", inverse)])


def simple_power(node: Node, rewriter: Rewriter) -> bool:
    """Write x for x^1, x·x for x², √x for x^½, 1/x for x^−1 and 1/√x for x^−½, for real numbers."""
    x, exponent = node.inputs[0], scalar(node.inputs[1])
    if exponent is None or node.output.type != x.type or x.dtype != "float32":
        return False
    if exponent == 1.0:
        return bypass(rewriter, node, x)
    if exponent == 2.0:
        return replace(rewriter, node, "mul", [x, x])
    if exponent == 0.5:
        return replace(rewriter, node, "sqrt", [x])
    if exponent == -1.0:
        return replace(rewriter, node, "reciprocal", [x])
    if exponent == -0.5:
        root = emit(rewriter, node, "sqrt", [x], f"{node.output.name}.root")
        return replace(rewriter, node, "reciprocal", [root])
    return False


def factor_out(node: Node, rewriter: Rewriter) -> bool:
    """Write x·(s + 1) for x + x·s, where s is much smaller than x."""
    if getattr(node.attrs, "activation", "none") != "none" or node.output.dtype != "float32":
        return False
    for x, other in (node.inputs, node.inputs[::-1]):
        product = made_by(other, "mul")
        if product is None or x not in product.inputs or only_reader(other, rewriter.graph) is not node:
            continue
        s = product.inputs[1] if product.inputs[0] is x else product.inputs[0]
        if s.type.size * 4 > x.type.size or s.is_constant or node.output.type != x.type:
            continue
        one = rewriter.constant(f"{s.name}.one", np.ones((), np.float32))
        gain = emit(rewriter, node, "add", [s, one], f"{s.name}.plus_one")
        return replace(rewriter, node, "mul", [x, gain])
    return False


def double_negation(node: Node, rewriter: Rewriter) -> bool:
    """−(−x) = x."""
    inner = made_by(node.inputs[0], "neg")
    return inner is not None and bypass(rewriter, node, inner.inputs[0])


RULES: RuleTable = {
    "add": (constant_second, neutral, factor_out),
    "mul": (constant_second, neutral),
    "sub": (subtraction_to_addition,),
    "div": (division_to_multiplication,),
    "pow": (simple_power,),
    "neg": (double_negation,),
}
"""Rules for arithmetic."""
