"""What kept tensors are before the first run."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.ir.graph import Graph, Value
from qcompile.ir.state import State
from qcompile.quant.affine import quantize


def state_input(graph: Graph, state: State) -> Value:
    """Return the graph input that reads a kept tensor."""
    return next(value for value in graph.inputs if value.name == state.input)


def initial_array(graph: Graph, state: State) -> npt.NDArray[Any]:
    """Return what a kept tensor is before the first run: real values, or codes where it is quantized."""
    value = state_input(graph, state)
    real = np.array(state.initial).reshape(value.shape if len(state.initial) > 1 else ())
    full = np.broadcast_to(real, value.shape)
    return full.astype(value.dtype) if value.qparams is None else quantize(full.astype(np.float32), value.qparams)


def initial_states(graph: Graph) -> dict[str, npt.NDArray[Any]]:
    """Return what all kept tensors of a graph are before the first run, by name of the input."""
    return {state.input: initial_array(graph, state) for state in graph.states}
