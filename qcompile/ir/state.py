"""Tensors that a bundle keeps from one run to the next: an output that becomes an input."""

from __future__ import annotations

from dataclasses import dataclass


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
