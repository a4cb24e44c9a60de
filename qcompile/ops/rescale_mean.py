"""A mean over the largest extents of open axes, turned into one over the actual extents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qcompile.ir.graph import Node
from qcompile.ir.opdef import Array, OpDef
from qcompile.ir.types import TensorType


@dataclass(frozen=True)
class RescaleMeanAttrs:
    """Attributes of rescale_mean.

    Args:
        entries: which numbers of operand 1 are actual extents.
        most: the largest value of each.
    """

    entries: tuple[int, ...] = (0,)
    most: tuple[int, ...] = (1,)


class RescaleMean(OpDef):
    """y = x · Π most / Π extents[entries].

    Operands: x (float32), and the actual extents (int32).
    """

    name = "rescale_mean"
    Attrs = RescaleMeanAttrs
    activations = (0,)

    def infer(self, attrs: RescaleMeanAttrs, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the operand's type."""
        if inputs[0].dtype != "float32" or inputs[1].dtype != "int32" or len(attrs.entries) != len(attrs.most):
            raise ValueError(f"{inputs[0]} by entries {attrs.entries} of {inputs[1]}")
        return (inputs[0],)

    def evaluate(self, attrs: RescaleMeanAttrs, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Multiply by the largest extents over the actual ones."""
        factor = np.float32(1.0)
        for entry, most in zip(attrs.entries, attrs.most, strict=True):
            factor = factor * (np.float32(most) / np.float32(inputs[1].reshape(-1)[entry]))
        return (np.asarray(inputs[0] * factor, np.float32),)

    def lower(self, node: Node, context: Any) -> None:
        """Emit a product."""
        attrs = node.attrs

        def element(e: Any, i: Any) -> Any:
            factor = e.f32(1.0)
            for entry, most in zip(attrs.entries, attrs.most, strict=True):
                factor = factor * (e.f32(float(most)) / e.cast(e.load(1, entry), "float32"))
            return e.load(0, *i) * factor

        context.map(node, element)
