"""Tensors that a bundle keeps from one run to the next: an output that becomes an input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from qcompile.quant.affine import quantize

if TYPE_CHECKING:
    from qcompile.ir.graph import Graph, Value


@dataclass(frozen=True)
class State:
    """One kept tensor.

    Args:
        input: name of the graph input that reads it.
        output: name of the graph output that makes it for the next run.
        initial: its elements before the first run, real units, in row-major order; one number stands for all of
            them.
        in_place: whether the output is the input's own memory, changed; such a tensor has no elements before the first
            run, and those past what a model has written are of no meaning.
    """

    input: str
    output: str
    initial: tuple[float, ...] = (0.0,)
    in_place: bool = False


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
