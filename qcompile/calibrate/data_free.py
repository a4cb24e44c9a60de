"""Ranges without data, from what training left in the BatchNorms.

A BatchNorm made each channel of its output have mean β and standard deviation |γ| over the training set.
Passes that fold a BatchNorm keep these two in `Value.stats`, and here they do two things: they correct the
run on made-up inputs, layer by layer, so that every tensor behind has the scale it has in real life, and they
bound the range of the tensor itself.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.ir.graph import Node, Value
from qcompile.ops.arithmetic import activate
from qcompile.ops.interpreter import Interpreter, evaluate_node

Array = npt.NDArray[Any]

SIGMAS = 6.0
"""Deviations from the mean that the range of a normalized channel reaches."""

_FEWEST_VALUES = 16
_POINTS = 4097  # over which the extremes of an activation are looked for


class NormalizingInterpreter(Interpreter):
    """Runs a float graph and brings each normalized channel to its trained mean and deviation.

    Formula:
        y' = mean + std · (y − mean(y)) / std(y), per channel over the sample, before what is fused behind

    A channel with fewer than 16 values per sample, or without variation, is left as it is.

    Args:
        graph: float form. `Value.stats` of a result describes it before the residual and the activation that
            are fused into its node.
    """

    def evaluate(self, node: Node, inputs: list[Array]) -> tuple[Array, ...]:
        """Evaluate one node, and normalize its result where the trained statistics are known."""
        stats = node.outputs[0].stats
        if stats is None or len(node.outputs) != 1:
            return evaluate_node(node, inputs)
        fused = _fused(node)
        operands = inputs[:-1] if "residual" in fused else inputs
        (y,) = node.op.evaluate(replace(node.attrs, **fused) if fused else node.attrs, operands)
        y = _normalized(y, *stats)
        if "residual" in fused:
            y = y + inputs[-1]
        if "activation" in fused:
            y = activate(y, node.attrs.activation, node.attrs.alpha, node.attrs.beta)
        return (y,)


def data_free_range(value: Value, lo: float, hi: float) -> tuple[float, float]:
    """Widen a range found on made-up inputs to what the trained statistics say.

    Formula:
        [min(lo, min f(z)), max(hi, max f(z))] over min_c(mean − 6·std) ≤ z ≤ max_c(mean + 6·std), with f the
        fused activation

    Args:
        value: with `stats`, or without, which leaves the range as it is; so does a fused residual.
        lo: lower end chosen by the observer, real units.
        hi: upper end chosen by the observer, real units.

    Source:
        Nagel et al., "Data-free quantization through weight equalization and bias correction", 2019, §4.2.1.
    """
    node = value.producer
    if value.stats is None or node is None:
        return lo, hi
    fused = _fused(node)
    if "residual" in fused:
        return lo, hi
    mean, std = (np.asarray(v, np.float64) for v in value.stats)
    z = np.linspace(float(np.min(mean - SIGMAS * std)), float(np.max(mean + SIGMAS * std)), _POINTS)
    if "activation" in fused:
        z = activate(z, node.attrs.activation, node.attrs.alpha, node.attrs.beta)
    return min(lo, float(z.min())), max(hi, float(z.max()))


def _fused(node: Node) -> dict[str, Any]:
    """Return the attributes, with their neutral values, that stand for what is fused behind the node."""
    fused: dict[str, Any] = {}
    if getattr(node.attrs, "activation", "none") != "none":
        fused["activation"] = "none"
    if getattr(node.attrs, "residual", False):
        fused["residual"] = False
    return fused


def _normalized(y: Array, mean: Array, std: Array) -> Array:
    """Give each channel, on the axis that has as many indices as there are statistics, mean and deviation."""
    axis = 1 if y.ndim > 1 and y.shape[1] == mean.size else y.ndim - 1
    if y.shape[axis] != mean.size or y.size < _FEWEST_VALUES * mean.size:
        return y
    others = tuple(a for a in range(y.ndim) if a != axis)
    shape = tuple(mean.size if a == axis else 1 for a in range(y.ndim))
    seen_mean = y.mean(axis=others, keepdims=True, dtype=np.float64)
    seen_std = y.std(axis=others, keepdims=True, dtype=np.float64)
    varied = seen_std > 1e-6 * np.abs(y).max(initial=0.0)
    gain = np.where(varied, std.reshape(shape) / np.where(varied, seen_std, 1.0), 1.0)
    offset = np.where(varied, mean.reshape(shape), seen_mean) - gain * seen_mean
    return np.asarray(y * gain.astype(y.dtype) + offset.astype(y.dtype))
