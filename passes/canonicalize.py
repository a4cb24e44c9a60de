"""Bring the many ways to write an operation into one form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qcompile.ir.graph import Graph
from qcompile.passmgr import AllClose, Pass, PassContext, Tolerance
from qcompile.passmgr.patterns import Rule, apply_rules
from qcompile.passmgr.rules import activations, arithmetic, normalization, products, shapes, windows


@dataclass(frozen=True)
class Canonicalize(Pass):
    """Recognize decomposed operations and remove those that do nothing.

    Formula (one rule each, in `qcompile/passmgr/rules/`):
        activations: x·relu6(x + 3)/6 and x·hard_sigmoid(x) → hard_swish; clip(a·x + b, 0, 6)/6 and
        clip(a·x + b, 0, 1) → hard_sigmoid; x·sigmoid(x) → silu; x·tanh(softplus(x)) → mish; ½x·(1 + erf(x/√2))
        and its tanh form → gelu; 1/(1 + e^−x) → sigmoid; ln(1 + e^x) → softplus; max(x, a·x) → leaky_relu;
        min and max with a number → clip; clips and relus in a row → one; clip(0, ∞) → relu
        arithmetic: x − c → x + (−c); x/c → x·(1/c); 1/x → reciprocal; x^½, x², x^−½ → sqrt, mul, reciprocal;
        c + x → x + c; x + 0, x·1 and −(−x) → x; x + x·s → x·(s + 1) for a small tensor s
        normalization: (x − mean)/√(variance + ε)·γ + β → layer_norm
        products: x·W → dense; dense + c → its bias
        shapes: reshapes, transposes and concats in a row → one; those, slices, splits, expands and casts that
        change nothing → none; an expand that broadcasting does anyway → none
        windows: zero padding → pads of the conv2d or pooling behind it; mean and maximum over the image, and
        poolings as large as it → global_avg_pool, global_max_pool; poolings of one element and resizes by 1
        → none

    Before:
        %a = add(%x, @three) : f32[1,8,4,4]
        %r = clip(%a) {min=0.0, max=6.0} : f32[1,8,4,4]
        %m = mul(%x, %r) : f32[1,8,4,4]
        %y = div(%m, @six) : f32[1,8,4,4]
    After:
        %y = hard_swish(%x) : f32[1,8,4,4]

    Preconditions: none; nodes in integer form are left alone.

    Refusals: a chain whose intermediate results have other readers stays where merging would only add work.
    """

    name: ClassVar[str] = "canonicalize"
    tolerance: ClassVar[Tolerance] = AllClose(1e-5, 1e-6)

    def run(self, graph: Graph, context: PassContext) -> None:
        """Apply all rules until none matches."""
        apply_rules(context.rewriter(graph), _all_rules())


def _all_rules() -> dict[str, tuple[Rule, ...]]:
    merged: dict[str, tuple[Rule, ...]] = {}
    for family in (shapes, arithmetic, activations, normalization, products, windows):
        for op, rules in family.RULES.items():
            merged[op] = (*merged.get(op, ()), *rules)
    return merged
