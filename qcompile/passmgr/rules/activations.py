"""Activation functions that exporters write as several operations.

Every rule looks from the last operation backwards. Products are compared as a number times a list of factors,
so that x·relu6(x + 3)/6, x·(relu6(x + 3)/6) and (x/6)·relu6(x + 3) are the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from qcompile.ir.graph import Graph, Node, Value
from qcompile.ir.rewrite import Rewriter
from qcompile.passmgr.patterns import (
    RuleTable,
    bypass,
    is_close,
    made_by,
    only_reader,
    replace,
    scalar,
    with_scalar,
)


def _bounds(node: Node) -> tuple[float, float] | None:
    """Return the bounds of a relu or clip."""
    if node.op.name == "relu":
        return 0.0, math.inf
    return (node.attrs.min, node.attrs.max) if node.op.name == "clip" else None


def clamp_of_clamp(node: Node, rewriter: Rewriter) -> bool:
    """clip(clip(x, a, b), c, d) = clip(x, clip(a, c, d), clip(b, c, d)), relu being clip(0, ∞)."""
    outer = _bounds(node)
    inner_node = made_by(node.inputs[0], "relu", "clip")
    inner = None if inner_node is None else _bounds(inner_node)
    if outer is None or inner_node is None or inner is None or inner[0] > inner[1]:
        return False
    if only_reader(inner_node.output, rewriter.graph) is not node:
        return False
    low, high = (min(max(bound, outer[0]), outer[1]) for bound in inner)
    return replace(rewriter, node, "clip", inner_node.inputs, min=low, max=high)


def clip_to_relu(node: Node, rewriter: Rewriter) -> bool:
    """clip(x, 0, ∞) = relu(x); clip(x, −∞, ∞) = x."""
    bounds = (node.attrs.min, node.attrs.max)
    if bounds == (0.0, math.inf):
        return replace(rewriter, node, "relu", node.inputs)
    return bounds == (-math.inf, math.inf) and bypass(rewriter, node, node.inputs[0])


def extremum_to_clip(node: Node, rewriter: Rewriter) -> bool:
    """minimum(x, c) = clip(x, −∞, c); maximum(x, c) = clip(x, c, ∞)."""
    pair = with_scalar(node)
    if pair is None or node.output.dtype != "float32" or math.isnan(pair[1]):
        return False
    bound = {"min": pair[1]} if node.op.name == "maximum" else {"max": pair[1]}
    return replace(rewriter, node, "clip", [pair[0]], **bound)


def maximum_to_leaky_relu(node: Node, rewriter: Rewriter) -> bool:
    """maximum(x, a·x) = leaky_relu(x, a) for 0 < a < 1."""
    for x, other in (node.inputs, node.inputs[::-1]):
        scaled = made_by(other, "mul")
        pair = None if scaled is None else with_scalar(scaled)
        if pair is not None and pair[0] is x and 0.0 < pair[1] < 1.0:
            return replace(rewriter, node, "leaky_relu", [x], alpha=pair[1])
    return False


def prelu_to_leaky_relu(node: Node, rewriter: Rewriter) -> bool:
    """A prelu with one slope for all channels = leaky_relu."""
    slope = scalar(node.inputs[1])
    return slope is not None and replace(rewriter, node, "leaky_relu", node.inputs[:1], alpha=slope)


def quotient_to_sigmoid(node: Node, rewriter: Rewriter) -> bool:
    """1 / (1 + e^−x) = sigmoid(x)."""
    total = made_by(node.inputs[0], "add")
    pair = None if total is None else with_scalar(total)
    exponential = None if pair is None or not is_close(pair[1], 1.0) else made_by(pair[0], "exp")
    x = None if exponential is None else _negated(exponential.inputs[0])
    return x is not None and replace(rewriter, node, "sigmoid", [x])


def _negated(value: Value) -> Value | None:
    """Return x where value is −x."""
    node = made_by(value, "neg", "mul")
    if node is None or node.op.name == "neg":
        return None if node is None else node.inputs[0]
    pair = with_scalar(node)
    return pair[0] if pair is not None and pair[1] == -1.0 else None


def logarithm_to_softplus(node: Node, rewriter: Rewriter) -> bool:
    """ln(1 + e^x) = softplus(x)."""
    total = made_by(node.inputs[0], "add")
    pair = None if total is None else with_scalar(total)
    exponential = None if pair is None or not is_close(pair[1], 1.0) else made_by(pair[0], "exp")
    return exponential is not None and replace(rewriter, node, "softplus", exponential.inputs)


def ramp_to_hard_sigmoid(node: Node, rewriter: Rewriter) -> bool:
    """s·clip(a·x + b, lo, hi) = hard_sigmoid(x, a·s, b·s) where lo·s = 0, hi·s = 1 and b·s = ½."""
    clamp, factor = node, 1.0
    if node.op.name == "mul":
        pair = with_scalar(node)
        inner = None if pair is None else made_by(pair[0], "clip")
        if pair is None or inner is None:
            return False
        clamp, factor = inner, pair[1]
    if clamp.attrs.min != 0.0 or not is_close(clamp.attrs.max * factor, 1.0):
        return False
    found: tuple[Value, float] | None = None
    for x, slope, offset in _lines(clamp.inputs[0]):
        if is_close(offset * factor, 0.5):
            found = x, slope * factor
        if only_reader(x, rewriter.graph) is None:
            break  # Others read x, perhaps the product of a hard_swish.
    if found is None:
        return False
    return replace(rewriter, node, "hard_sigmoid", [found[0]], alpha=found[1], beta=0.5)


def _lines(value: Value) -> Iterator[tuple[Value, float, float]]:
    """Iterate over all x, a and b where value is a·x + b, from the nearest x to the farthest."""
    slope, offset = 1.0, 0.0
    while True:
        node = made_by(value, "add", "mul")
        pair = None if node is None else with_scalar(node)
        if node is None or pair is None:
            return
        if node.op.name == "add":
            offset += slope * pair[1]
        else:
            slope *= pair[1]
        value = pair[0]
        yield value, slope, offset


def _factors(value: Value, graph: Graph, *, root: bool = False) -> tuple[float, list[Value]]:
    """Return a product as a number and factors; intermediate products that others read stay whole."""
    node = made_by(value, "mul")
    if node is None or not (root or only_reader(value, graph) is not None):
        return 1.0, [value]
    pair = with_scalar(node)
    operands = list(node.inputs) if pair is None else [pair[0]]
    number = 1.0 if pair is None else pair[1]
    factors: list[Value] = []
    for operand in operands:
        inner, more = _factors(operand, graph)
        number, factors = number * inner, [*factors, *more]
    return number, factors


def product_to_gated(node: Node, rewriter: Rewriter) -> bool:
    """x·gate(x) = hard_swish, silu, mish or gelu, by the gate."""
    number, factors = _factors(node.output, rewriter.graph, root=True)
    if len(factors) != 2 or node.output.dtype != "float32":
        return False
    for x, gate in (factors, factors[::-1]):
        producer = gate.producer
        if producer is None or x.shape != node.output.shape:
            continue
        found = _activation(producer, x, number, rewriter.graph)
        if found is not None:
            return replace(rewriter, node, found[0], [x], **found[1])
    return False


def _activation(gate: Node, x: Value, number: float, graph: Graph) -> tuple[str, dict[str, str]] | None:
    """Return the operation, and its attributes, that number · x · gate is."""
    name = gate.op.name
    if name == "sigmoid" and gate.inputs[0] is x and is_close(number, 1.0):
        return "silu", {}
    if name == "hard_sigmoid" and gate.inputs[0] is x and is_close(number, 1.0):
        fits = is_close(gate.attrs.alpha, 1 / 6) and is_close(gate.attrs.beta, 0.5)
        return ("hard_swish", {}) if fits else None
    if name == "clip" and (gate.attrs.min, gate.attrs.max) == (0.0, 6.0) and is_close(number, 1 / 6):
        for source, slope, offset in _lines(gate.inputs[0]):
            if source is x:
                return ("hard_swish", {}) if is_close(slope, 1.0) and is_close(offset, 3.0) else None
        return None
    if name == "tanh" and is_close(number, 1.0):
        inner = made_by(gate.inputs[0], "softplus")
        return ("mish", {}) if inner is not None and inner.inputs[0] is x else None
    if name == "add" and is_close(number, 0.5):
        pair = with_scalar(gate)
        inner = None if pair is None or not is_close(pair[1], 1.0) else made_by(pair[0], "erf", "tanh")
        kind = None if inner is None else _gelu_kind(inner, x, graph)
        return None if kind is None else ("gelu", {"approximate": kind})
    return None


def _gelu_kind(inner: Node, x: Value, graph: Graph) -> str | None:
    """Return which gelu has erf(…) or tanh(…) of this argument, or None."""
    number, factors = _factors(inner.inputs[0], graph)
    if inner.op.name == "erf":
        return "none" if factors == [x] and is_close(number, math.sqrt(0.5)) else None
    if not is_close(number, math.sqrt(2 / math.pi)):
        return None
    if len(factors) == 1:
        total = made_by(factors[0], "add")
        terms = [] if total is None else [v for v in total.inputs if v is not x]
        return "tanh" if len(terms) == 1 and _is_power(terms[0], x, 3, graph) else None
    rest = [f for f in factors if f is not x]
    total = made_by(rest[0], "add") if len(rest) == 1 and len(factors) == 2 else None
    pair = None if total is None else with_scalar(total)
    fits = pair is not None and is_close(pair[1], 1.0) and _is_power(pair[0], x, 2, graph)
    return "tanh" if fits else None


def _is_power(value: Value, x: Value, exponent: int, graph: Graph) -> bool:
    """Return whether value is 0.044715 · x^exponent."""
    number, factors = _factors(value, graph)
    count = 0
    for factor in factors:
        power = made_by(factor, "pow")
        square = made_by(factor, "mul")
        if factor is x:
            count += 1
        elif power is not None and power.inputs[0] is x and scalar(power.inputs[1]) == float(exponent):
            count += exponent
        elif square is not None and square.inputs == (x, x):
            count += 2
        else:
            return False
    return count == exponent and is_close(number, 0.044715)


RULES: RuleTable = {
    "clip": (clamp_of_clamp, clip_to_relu, ramp_to_hard_sigmoid),
    "relu": (clamp_of_clamp,),
    "minimum": (extremum_to_clip,),
    "maximum": (extremum_to_clip, maximum_to_leaky_relu),
    "prelu": (prelu_to_leaky_relu,),
    "reciprocal": (quotient_to_sigmoid,),
    "log": (logarithm_to_softplus,),
    "mul": (ramp_to_hard_sigmoid, product_to_gated),
}
"""Rules for activations."""
