"""How near each channel of a clipped layer comes to the bounds of its clip."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.ir.graph import Graph, Value
from qcompile.ops.interpreter import Interpreter
from qcompile.passmgr.channel_links import ChannelLink
from qcompile.passmgr.context import PassContext

Array = npt.NDArray[Any]

SAMPLES = 64
"""Calibration samples to look at, at most."""

MARGIN = 4.0
"""What other inputs may exceed the largest value seen by."""

DEVIATIONS = 6.0
"""How far from its mean a channel is taken to reach where only its trained mean and deviation are known."""


def least_factors(links: Sequence[ChannelLink], graph: Graph, context: PassContext) -> list[Array | None]:
    """Return the least factor that each channel may be divided by so that no value meets the clip that did not.

    Formula:
        s_i ≥ max(MARGIN · max y_i / hi, MARGIN · min y_i / lo), y_i the results seen in channel i, the bounds of the
        clip lo ≤ 0 < hi; a channel where that exceeds 1 meets its clip and keeps its factor of 1

    Without samples y_i reaches DEVIATIONS deviations from its trained mean, without a margin.

    Args:
        links: of the graph, with bounds.
        graph: float, activations fused.
        context: may hold calibration samples.

    Returns:
        Per link float64 [channels], infinite for a channel whose factor must be 1; None where nothing is known.
    """
    if not links:
        return []
    seen = _extremes([link.first.output for link in links], graph, context)
    return [_limits(link, seen.get(link.first.output)) for link in links]


def _limits(link: ChannelLink, seen: tuple[Array, Array] | None) -> Array | None:
    if seen is None:
        if link.first.output.stats is None:
            return None
        mean, deviation = (s.astype(np.float64) for s in link.first.output.stats)
        lows, highs = mean - DEVIATIONS * deviation, mean + DEVIATIONS * deviation
    else:
        lows, highs = seen[0] * MARGIN, seen[1] * MARGIN
    assert link.bounds is not None
    low, high = link.bounds
    least = np.maximum(highs / high, 0.0)
    if low < 0.0:
        least = np.maximum(least, lows / low)
    return np.where(least > 1.0, np.inf, least)


def _extremes(values: Sequence[Value], graph: Graph, context: PassContext) -> dict[Value, tuple[Array, Array]]:
    """Return the least and the largest value of each channel over some calibration samples; empty without any."""
    found: dict[Value, tuple[Array, Array]] = {}
    if context.samples is None:
        return found
    wanted = set(values)

    def look(value: Value, array: Array) -> None:
        if value not in wanted:
            return
        flat = _channels_last(value, array)
        low, high = found.get(value, (np.inf, -np.inf))
        found[value] = np.minimum(low, flat.min(axis=0)), np.maximum(high, flat.max(axis=0))

    run = Interpreter(graph)
    samples = context.samples()
    total = min(SAMPLES, getattr(samples, "size", None) or SAMPLES)
    for index, sample in enumerate(islice(samples, SAMPLES)):
        with np.errstate(all="ignore"):
            run.run(sample, on_value=look)
        context.progress(index + 1, total, "looking at clips")
    return found


def _channels_last(value: Value, array: Array) -> Array:
    """Return an array as float64 [elements, channels]."""
    producer = value.producer
    if producer is not None and getattr(producer.attrs, "layout", "NHWC") == "NCHW" and array.ndim == 4:
        array = array.transpose(0, 2, 3, 1)
    return np.asarray(array.reshape(-1, array.shape[-1]), np.float64)
