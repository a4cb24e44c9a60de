"""Inputs on which two forms of a network are compared."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.ir.graph import Graph, Value
from qcompile.quant.affine import quantize

Array = npt.NDArray[Any]

SATURATING = 1e3
"""Magnitude, real units, beyond the range of every activation that saturates."""


def stimuli(graph: Graph, seed: int = 0) -> Iterator[tuple[str, dict[str, Array]]]:
    """Iterate over named inputs that together reach the corners of an arithmetic.

    normal: seeded noise. zero. saturating: ±1000. tie: half-way between two integers, in steps of the scale
    to which an input is quantized, or of 1. Integer inputs, whose valid range the graph does not say, are 0
    and 1.

    Args:
        graph: names and types of the inputs; quantized inputs get integers.
        seed: of the noise and of the signs.
    """
    for kind in ("normal", "zero", "saturating", "tie"):
        generator = np.random.default_rng(seed)
        yield kind, {value.name: _array(kind, value, generator) for value in graph.inputs}


def _array(kind: str, value: Value, generator: np.random.Generator) -> Array:
    if value.qparams is None and not value.dtype.startswith("float"):
        bits = generator.integers(0, 2, value.shape)
        return np.asarray(bits if kind != "zero" else np.zeros(value.shape), value.dtype)
    real: Array
    if kind == "zero":
        real = np.zeros(value.shape)
    elif kind == "normal":
        real = generator.normal(size=value.shape)
    elif kind == "saturating":
        real = SATURATING * generator.choice([-1.0, 1.0], value.shape)
    else:
        real = (generator.integers(-8, 8, value.shape) + 0.5) * _step(value)
    if value.qparams is not None:
        return quantize(real.astype(np.float32), value.qparams)
    return np.asarray(real, value.dtype)


def _step(value: Value) -> float:
    """Return the scale to which an input is quantized, or 1 where it is not."""
    for node in (user for user in value.users() if user.op.name == "quantize"):
        qparams = node.output.qparams
        if qparams is not None and not qparams.per_channel:
            return qparams.scalar_scale
    return 1.0
