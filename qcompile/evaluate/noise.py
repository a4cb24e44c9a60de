"""Seeded inputs of the right types for timing and self-tests."""

from __future__ import annotations

from typing import Any

import numpy as np


def seeded_inputs(session: Any, seed: int = 0) -> dict[str, Any]:
    """Return normal noise for float inputs, uniform integers for 8-bit ones, zeros and ones for others.

    Args:
        session: a loaded bundle.
        seed: of the generator.
    """
    generator = np.random.default_rng(seed)
    inputs = {}
    for tensor in session.inputs:
        dtype = np.dtype(tensor.dtype)
        if dtype.kind == "f":
            values = generator.standard_normal(tensor.shape)
        elif dtype.kind in "iu" and dtype.itemsize == 1:
            values = generator.integers(np.iinfo(dtype).min, np.iinfo(dtype).max + 1, tensor.shape)
        else:
            values = generator.integers(0, 2, tensor.shape)  # these may be indices: small ones are always valid
        inputs[tensor.name] = values.astype(dtype)
    return inputs
