"""What calibration samples show of each channel of the tensors of a network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from qcompile.ir.graph import Graph, Value
from qcompile.ops.interpreter import Interpreter
from qcompile.parallel import in_order

Array = npt.NDArray[Any]

TRAINED = 6.0
"""Deviations from its mean in training that a channel is taken to reach."""

SURE, USUAL, SLIGHT = 0.99, 0.75, 0.25
"""Shares of the channels: that vary no more between samples than all are taken to, that reach no further than each is
taken to, and whose differences between samples say nothing, being small."""

_HARD_SWISH_LOW = 0.375
"""How far below zero a hard_swish goes."""


class _Look(NamedTuple):
    """What one sample shows of the channels of a tensor."""

    high: Array
    low: Array
    power: Array


class ChannelStatistics:
    """Ranges and powers of the channels of some tensors.

    Args:
        numbers: tensor to an array of its rank, of extent 1 along the axes that are not told apart.

    Attributes:
        samples: seen.
        power: mean square of each channel, real units squared, in the shapes of `numbers`.
    """

    def __init__(self, numbers: Mapping[Value, Array]) -> None:
        self._shapes = {value: array.shape for value, array in numbers.items() if value.dtype == "float32"}
        self._ends: dict[Value, list[list[Array]]] = {value: [[], []] for value in self._shapes}
        self.samples = 0
        self.power: dict[Value, Array] = {}

    def gather(
        self, graph: Graph, samples: Iterable[Mapping[str, Array]], progress: Callable[[int], None], threads: int = 1
    ) -> None:
        """Run a float graph on samples and look at all of its tensors.

        Args:
            graph: the network.
            samples: inputs.
            progress: called with the number of samples done.
            threads: to run samples on.
        """
        run = Interpreter(graph)

        def look(sample: Mapping[str, Array]) -> list[tuple[Value, _Look]]:
            seen: list[tuple[Value, _Look]] = []

            def on_value(value: Value, array: Array) -> None:
                shape = self._shapes.get(value)
                if shape is not None and array.size:
                    seen.append((value, _look(shape, array)))

            with np.errstate(all="ignore"):
                run.run(sample, on_value=on_value)
            return seen

        for seen in in_order(look, samples, threads):
            for value, channels in seen:
                self._add(value, channels)
            self.samples += 1
            progress(self.samples)
        for value in self.power:
            self.power[value] = self.power[value] / self.samples

    def _add(self, value: Value, channels: _Look) -> None:
        highs, lows = self._ends[value]
        highs.append(channels.high)
        lows.append(channels.low)
        self.power[value] = self.power[value] + channels.power if value in self.power else channels.power

    def reach(self, value: Value) -> tuple[Array, Array]:
        """Return how far the channels of a tensor are taken to reach below zero and above.

        A few samples show little of a channel that rarely answers, and once all channels fill the range, what goes
        beyond is clipped. So each is taken to reach as far as is usual in its tensor; to exceed what was seen by as
        much as one half of the samples exceeds the other; and to do what a batch normalization learned of it.

        Formula:
            max(min(max(h_c · r, q), max_c h_c), μ_c + 6 · σ_c), h the largest value seen, q its quantile over channels,
            r a high quantile of max(a_c / b_c, b_c / a_c), a and b the largest values of both halves of the samples;
            likewise below, and 0 where no channel goes to that side

        Returns:
            Both float64, not negative, in the shape of the tensor's numbers.
        """
        highs, lows = (np.stack(found).astype(np.float64) for found in self._ends[value])
        ends = [_reach(highs), _reach(-lows)]
        for end, trained in zip(ends, _trained(value, ends[0].shape), strict=True):
            np.maximum(end, trained if end.any() else 0.0, out=end)
        high, low = ends
        return low, high


def _look(shape: tuple[int, ...], array: Array) -> _Look:
    """Return the extremes and the power of an array along the axes of extent 1."""
    axes = _not_told_apart(shape)
    real = array if np.isfinite(array).all() else np.nan_to_num(array, posinf=0.0, neginf=0.0)
    return _Look(real.max(axes, keepdims=True), real.min(axes, keepdims=True), mean_squares(shape, real))


def mean_squares(shape: tuple[int, ...], array: Array) -> Array:
    """Return the mean squares of an array along the axes that are not told apart, float64.

    Args:
        shape: of the numbers of a tensor, of extent 1 along these axes.
        array: of that tensor, finite.
    """
    return np.asarray(np.mean(np.square(array, dtype=np.float64), _not_told_apart(shape), keepdims=True))


def _not_told_apart(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(axis for axis, extent in enumerate(shape) if extent == 1)


def _reach(largest: Array) -> Array:
    """Return how far channels reach, from the largest values of samples, [samples, ...]."""
    seen: Array = np.maximum(largest.max(axis=0), 0.0)
    if not seen.any():
        return seen
    floor = np.quantile(seen[seen > 0.0], SLIGHT)
    first, second = (np.maximum(half.max(axis=0, initial=0.0), floor) for half in np.array_split(largest, 2))
    apart = np.quantile(np.maximum(first / second, second / first), SURE)
    usual = np.quantile(seen[seen > 0.0], USUAL)
    reach: Array = np.minimum(np.maximum(seen * apart, usual), seen.max())
    return reach


def _trained(value: Value, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Return the upper and the lower reach that training tells of; zero where it tells nothing."""
    none = np.zeros(shape)
    if value.stats is None or value.stats[0].size != none.size:
        return none, none
    mean, deviation = (part.astype(np.float64).reshape(shape) for part in value.stats)
    high, low = mean + TRAINED * deviation, TRAINED * deviation - mean
    attrs: Any = value.producer.attrs if value.producer is not None else None
    activation = getattr(attrs, "activation", "none")
    if activation == "clip":
        high, low = np.minimum(high, attrs.beta), np.minimum(low, -attrs.alpha)
    elif activation == "hard_swish":
        low = np.minimum(low, _HARD_SWISH_LOW)
    elif activation == "leaky_relu":
        low = low * attrs.alpha
    return high, low
