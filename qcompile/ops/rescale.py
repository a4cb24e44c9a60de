"""Integer sums to real numbers, with a scale that is known at run time only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from qcompile.ir.graph import Node
from qcompile.ir.opdef import Array, NoAttrs, OpDef
from qcompile.ir.types import TensorType
from qcompile.ops.elementwise import broadcast_shape


class Rescale(OpDef):
    """y[..., n] = float32(acc[..., n]) · (scale[...] · weight_scale[n]) + bias[n], each operation rounded.

    Operands: acc (int32), scale (float32; one, or one per row), weight_scale [N] and bias [N] (float32).
    """

    name = "rescale"

    def infer(self, attrs: NoAttrs, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the shape of the sums in float32."""
        acc, scale, weight_scale, bias = inputs
        if acc.dtype != "int32" or any(t.dtype != "float32" for t in inputs[1:]):
            raise ValueError(f"a rescaling of {acc} by {scale} and {weight_scale} with bias {bias}")
        channels = acc.shape[-1:]
        rows = (*acc.shape[:-1], 1)
        if weight_scale.shape != channels or bias.shape != channels or not acc.shape:
            raise ValueError(f"scales {weight_scale} or bias {bias} do not fit {acc}")
        if scale.shape and broadcast_shape([scale.shape, rows]) != rows:
            raise ValueError(f"scale {scale} does not fit {acc}")
        return (acc.with_dtype("float32"),)

    def evaluate(self, attrs: NoAttrs, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Multiply twice and add."""
        acc, scale, weight_scale, bias = inputs
        return (np.asarray(acc.astype(np.float32) * (scale * weight_scale) + bias, np.float32),)

    def lower(self, node: Node, context: Any) -> None:
        """Emit an elementwise loop."""
        # A maximum with a number that only memory knows keeps product and sum from becoming one rounding.
        least = context.constant(np.full(2, -np.inf, np.float32))

        def element(e: Any, i: Any) -> Any:
            factor = e.load(1, *e.broadcast(1, i)) * e.load(2, i[-1])
            product = e.cast(e.load(0, *i), "float32") * factor
            return e.max(product, e.at(least, 0)) + e.load(3, i[-1])

        context.map(node, element)
