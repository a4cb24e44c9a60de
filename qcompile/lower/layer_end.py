"""What follows the sums of a layer, in the terms of the kernels: multipliers, zero points, clamps, activations."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.errors import LoweringError
from qcompile.ir.graph import Node
from qcompile.kernels.parameters import RESIDUAL_REACH, LayerScalars
from qcompile.ops.arithmetic import accumulator_scales, activation_table, channel_multipliers, epilogue_activation
from qcompile.quant import requantize as rq
from qcompile.quant.qparams import QParams
from qcompile.quant.scaled import PER_CHANNEL

Array = npt.NDArray[Any]

_MOST_SCALED = 2.0**31 * (1 - 2.0**-20)
_ROOM = 0.5
"""Magnitude of scaled sums, less what float32 may round up, and the share of it that leaves a residual room."""


@dataclass(frozen=True)
class LayerEnd:
    """What follows the sums of a layer, in the terms of the kernels.

    Args:
        fields: of the workload: precision, output, residual, table, activation.
        multipliers: float32, per output channel or one.
        scalars: zero points and clamps.
        table: of a fused activation, 256 codes by q + 128, or None.
        gain: bound of what an activation of scaled sums makes of them, as a factor.
    """

    fields: dict[str, Any]
    multipliers: Array
    scalars: LayerScalars
    table: npt.NDArray[np.int8] | None = None
    gain: float = 1.0


def layer_end(node: Node, *, fuse_activation: bool = True) -> LayerEnd:
    """Translate what follows a node's sums; the integer forms are `ops.arithmetic.finish_accumulator`."""
    attrs = node.attrs
    if not node.is_integer:
        kind = node.output.dtype
        fields = {"precision": kind, "output": kind if fuse_activation else "float32", "residual": attrs.residual}
        fields["activation"] = attrs.activation if fuse_activation else "none"
        return LayerEnd(fields, np.zeros(1, np.float32), LayerScalars(alpha=attrs.alpha, beta=attrs.beta))
    x, w, result = node.inputs[0].qparams, node.inputs[1].qparams, node.output.qparams
    if x is None or w is None:
        raise LoweringError(f"node {node}: operand 0 and the weights must both be quantized, or neither")
    scales = accumulator_scales(x, w)
    scalars, function = with_activation(node, LayerScalars(x_zero_point=x.scalar_zero_point))
    if result is None or (result.dtype == "int32" and result.per_channel):
        output = "float32" if result is None else "int32"
        if attrs.residual or attrs.pre_activation is not None:
            raise LoweringError(f"node {node}: a residual or a table needs an int8 result")
        fields = {"precision": "int8", "output": output, "activation": function}
        return LayerEnd(fields, channel_multipliers(node, scales, 1.0), scalars)
    if result.dtype != "int8":
        raise LoweringError(f"node {node}: no kernel stores {result.dtype} results")
    return _integer_end(node, scales, scalars, result, function)


def with_activation(node: Node, scalars: LayerScalars) -> tuple[LayerScalars, str]:
    """Return scalars with the parameters of what a layer applies to its scaled sums, and its name or "none"."""
    function = epilogue_activation(node)
    if function is None:
        return scalars, "none"
    if function.name in PER_CHANNEL:
        return replace(scalars, per_channel=function.parameters), function.name
    return replace(scalars, alpha=function.parameters[0]), function.name


def _integer_end(node: Node, scales: Array, scalars: LayerScalars, result: QParams, activation: str) -> LayerEnd:
    attrs = node.attrs
    before = attrs.pre_activation or result
    scalars = replace(scalars, y_zero_point=before.scalar_zero_point, qmin=before.qmin, qmax=before.qmax)
    fields: dict[str, Any] = {"precision": "int8", "output": "int8", "residual": attrs.residual}
    fields["activation"] = activation
    fields["full_range"] = (before.qmin, before.qmax) == (-128, 127)
    multipliers = channel_multipliers(node, scales, before.scalar_scale)
    if attrs.residual:
        wide, other = rq.wide_qparams(before), node.inputs[3].qparams
        if other is None or other.per_channel:
            raise LoweringError(f"node {node}: the residual operand must be quantized per tensor")
        multipliers = rq.multiplier(scales, wide.scalar_scale)
        factor = rq.add_constants(wide, other, before).multipliers[1]
        fields["bounded_residual"] = abs(factor) <= RESIDUAL_REACH
        scalars = replace(scalars, residual_zero_point=other.scalar_zero_point, residual_factor=factor)
    table = None
    if attrs.pre_activation is not None:
        table = activation_table(attrs, before, result)
        fields["table"] = True
    function = epilogue_activation(node)
    return LayerEnd(fields, multipliers, scalars, table, 1.0 if function is None else function.gain)


def is_bounded(end: LayerEnd, weight: Array, bias: Array) -> bool:
    """Return whether sums stay within int32 when they are scaled, with room for a residual where there is one."""
    rows = np.abs(weight.reshape(len(weight), -1).astype(np.int64)).sum(axis=1)
    reach = np.minimum(255 * rows + np.abs(bias.astype(np.int64)), 2**31)
    scaled = float(np.max(reach * np.abs(np.asarray(end.multipliers, np.float64)), initial=0.0)) * end.gain
    return scaled < (_ROOM if end.fields.get("residual") else 1.0) * _MOST_SCALED
