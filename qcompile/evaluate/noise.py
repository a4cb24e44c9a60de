"""Seeded inputs of the right types for timing and self-tests."""

from __future__ import annotations

from typing import Any

import numpy as np


def seeded_inputs(session: Any, seed: int = 0) -> dict[str, Any]:
    """Return normal noise for float inputs and uniform integers for the others.

    Args:
        session: a loaded bundle.
        seed: of the generator.
    """
    generator = np.random.default_rng(seed)
    inputs = {}
    for tensor in session.inputs:
        if np.dtype(tensor.dtype).kind == "f":
            inputs[tensor.name] = generator.standard_normal(tensor.shape).astype(tensor.dtype)
        else:
            inputs[tensor.name] = generator.integers(0, 100, tensor.shape).astype(tensor.dtype)
    return inputs
