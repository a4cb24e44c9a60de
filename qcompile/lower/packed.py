"""Layers whose weights are stored in a few bits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from qcompile.errors import LoweringError
from qcompile.ir.graph import Node, Value
from qcompile.kernels.activation import ACTIVATIONS
from qcompile.kernels.packed import PackedWorkload, choose_tiling, pack_codes, pack_groups
from qcompile.kernels.packed_product import packed_kernel
from qcompile.lower.context import LoweringContext
from qcompile.lower.sources import constant_value
from qcompile.ops.packed_weights import packed_source, reads_packed
from qcompile.ops.unpack_groups import unpacked


def packed_kind(node: Node) -> str:
    """Return how the weights of a layer are stored: "groups", "float16", "bfloat16", or "" for as they are used."""
    source = packed_source(node.inputs[1]) if reads_packed(node, 1) else None
    if source is None:
        return ""
    return str(source.attrs.kind) if source.op.name == "unpack_float" else "groups"


def unpacked_constant(value: Value) -> Value:
    """Return the constant that a packed weight stands for; it belongs to no graph."""
    source = packed_source(value)
    if source is None:
        raise LoweringError(f"the weights {value.name} are computed at run time")
    data = source.op.evaluate(source.attrs, [operand.constant() for operand in source.inputs])[0]
    return constant_value(value.name, data)


def packed_product(context: LoweringContext, node: Node, target: Value, activation: str) -> None:
    """Emit the product of a dense layer or a 1×1 convolution with grouped integers.

    Args:
        context: takes the step.
        node: the layer; `qcompile.ops.packed_weights.reads_packed` holds of its weight.
        target: the tensor to write.
        activation: what the kernel applies last.
    """
    source = packed_source(node.inputs[1])
    bias = node.inputs[2]
    if source is None or bias.data is None or activation not in ACTIVATIONS:
        raise LoweringError(f"node {node}: no kernel reads its packed weights", hint="leave it out of quantize-weights")
    work = replace(_workload(node, source, activation), vectors=context.cuts.wanted(node) or 0)
    context.cuts.note(node, choose_tiling(work, context.isa).vectors)
    isa, add = context.isa, context.weights.add
    operands = [value.constant() for value in source.inputs]
    codes = unpacked(operands[0], work.bits, work.inner)
    zeros = add(pack_groups(work, operands[2], isa)) if len(operands) == 3 else None
    residual = context.read_buffer(node.inputs[3]) if work.residual else None
    x = context.read_buffer(node.inputs[0])
    result = context.new_buffer(target)
    args = [
        x,
        add(pack_codes(work, codes, isa)),
        add(pack_groups(work, operands[1], isa)),
        zeros,
        add(np.asarray(bias.constant(), np.float32)),
        residual,
        result,
    ]
    kernel = context.kernel(work, lambda: packed_kernel(work, isa))
    share = (residual,) if residual is not None and residual is not x else ()
    context.emit(node, kernel, args, 6, share, work.macs, precision=f"int{work.bits} weights")


def _workload(node: Node, source: Node, activation: str) -> PackedWorkload:
    attrs: Any = source.attrs
    x = node.inputs[0]
    return PackedWorkload(
        rows=x.type.size // max(1, x.shape[-1]),
        inner=attrs.inner,
        columns=attrs.rows,
        bits=attrs.bits,
        group=attrs.group,
        zero=attrs.zero_point if len(source.inputs) == 2 else None,
        scale=source.inputs[1].dtype,
        activation=activation,
        alpha=float(np.float32(node.attrs.alpha)),
        beta=float(np.float32(node.attrs.beta)),
        residual=node.attrs.residual,
    )
