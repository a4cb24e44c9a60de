"""Where quantization noise comes from: each rounded constant and each rounded tensor of a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy.typing as npt

from qcompile.ir.graph import Graph, Node, Value
from qcompile.ir.opdef import Quantization
from qcompile.ir.origin import original_name
from qcompile.ops.arithmetic import BOUNDED, CLAMPS
from qcompile.quant.affine import dequantize
from qcompile.quant.qparams import QParams
from qcompile.quant.scaled import SCALED

Array = npt.NDArray[Any]

INT8 = "int8"

WEIGHTS, TENSOR, REST = "weights", "tensor", "rest"
"""Kinds of sources: constants of a node, an activation in int8, what 16 bits leave of the noise of an activation."""


@dataclass(frozen=True)
class Source:
    """One place where rounding adds noise.

    Args:
        name: of the tensor that is rounded, or of the result of the node whose constants are.
        kind: WEIGHTS, TENSOR or REST.
        node: node of the float graph that the noise is counted to; None for a graph input.
        constants: operand index to its rounded contents in real units; empty for an activation.
        value: the tensor that is rounded; the node's result for constants.
        qparams: of the tensor, None for constants.
        removal: nodes that must all leave int8 for this noise to vanish, for float32 but where it is that of a tensor.
    """

    name: str
    kind: str
    node: Node | None
    constants: Mapping[int, Array]
    value: Value
    qparams: QParams | None
    removal: frozenset[Node]


def find_sources(real: Graph, integer: Graph) -> list[Source]:
    """Return the sources of noise of a network, in order of computation.

    Args:
        real: calibrated float graph whose nodes have a precision.
        integer: what `quantize` makes of it, before anything is fused.
    """
    values = {value.name: value for value in real.values()}
    sources: list[Source] = []
    seen: set[Value] = set()
    for node in integer.nodes:
        if not (node.is_integer or node.op.name == "quantize"):
            continue
        origin = values.get(original_name(node.outputs[0].name, values))
        if origin is None:
            continue
        constants = _rounded_constants(node)
        if constants and origin.producer is not None and node.is_integer:
            producer = origin.producer
            sources.append(Source(origin.name, WEIGHTS, producer, constants, origin, None, frozenset([producer])))
        for result in node.outputs if _rounds(node) else ():
            value = values.get(original_name(result.name, values))
            if value is None or value in seen or result.qparams is None or result.dtype != INT8:
                continue
            seen.add(value)
            sources.append(Source(value.name, TENSOR, value.producer, {}, value, result.qparams, _removal(value)))
    return sources


def wider(source: Source) -> Source | None:
    """Return the source that stays where the nodes around a tensor leave int8 for 16 bits; None of other sources."""
    params = source.qparams
    if source.kind != TENSOR or params is None:
        return None
    span = [(end - params.scalar_zero_point) * params.scalar_scale for end in (params.qmin, params.qmax)]
    return replace(source, kind=REST, qparams=QParams.int16(*span))


def _rounded_constants(node: Node) -> dict[int, Array]:
    """Return the real values of a node's quantized constant operands."""
    if node.op.name in ("quantize", "requantize", "dequantize"):
        return {}
    return {
        index: dequantize(value.data, value.qparams)
        for index, value in enumerate(node.inputs)
        if value.data is not None and value.qparams is not None
    }


def _rounds(node: Node) -> bool:
    """Return whether a node makes int8 out of something finer; moving int8 about adds no noise."""
    made = node.op.integer in (Quantization.ARITHMETIC, Quantization.TABLE, Quantization.ACCUMULATE)
    return made or node.op.name in ("quantize", "requantize")


def _removal(value: Value) -> frozenset[Node]:
    """Return the nodes that must leave int8 for a tensor not to be rounded."""
    nodes: set[Node] = set()
    pending = [value]
    while pending:
        current = pending.pop()
        for reader, operand in current.uses:
            if reader.precision != INT8 or operand not in reader.op.operand_activations(reader):
                continue
            if reader not in nodes:
                nodes.add(reader)
                if reader.op.integer is Quantization.SHARED:
                    pending.extend(reader.outputs)
    producer = value.producer
    if producer is not None and producer.precision == INT8 and not _finishes_in_float(producer):
        nodes.add(producer)
    return frozenset(nodes)


def _finishes_in_float(node: Node) -> bool:
    """Return whether an int8 node can hand its accumulators to float readers unrounded."""
    activation = getattr(node.attrs, "activation", "none")
    unclamped = activation in (CLAMPS[0], *SCALED) and activation not in BOUNDED
    return node.op.integer is Quantization.ACCUMULATE and unclamped
