"""Chooses the roundings of a block's weights together, by what they do at the end of the block."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.calibrate.block_network import BlockNetwork
from qcompile.calibrate.soft_rounding import Adam

Array = npt.NDArray[Any]

_HOTTEST = 12.0
"""Temperature at the end: nearly every share is then 0 or 1."""

_BIAS_RATE = 0.02
"""Step of a bias, in steps of the layer's weights."""

_JUDGED = 5
"""How often the integers chosen so far are judged."""

_HELD_OUT = 4
"""One in so many examples only judges."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to descend.

    Args:
        steps: of descent.
        batch: examples of a step.
        rate: of a step of the choices, dimensionless.
    """

    steps: int = 150
    batch: int = 12
    rate: float = 0.02


@dataclass(frozen=True)
class Gain:
    """Relative error of a block's result on examples that did not take part.

    Formula:
        Σ (y − t)² / Σ t²

    Args:
        before: with the integers as they were.
        after: with those chosen.
    """

    before: float
    after: float

    @property
    def db(self) -> float:
        """How much smaller the error has become, dB."""
        return float(10 * np.log10(max(self.before, 1e-30) / max(self.after, 1e-30)))


def reconstruct(network: BlockNetwork, entry: Array, target: Array, schedule: Schedule, seed: int) -> Gain:
    """Descend on the error of a block's result; the layers hold the best weights seen afterwards.

    Formula:
        minimize E‖block(x; z, b) − t‖² over each weight's two candidates z and all biases b

    Args:
        network: in its present state.
        entry: what the integer block reads, real units, float32 [examples, …].
        target: what the float block gives, the same examples.
        schedule: how long and how fast.
        seed: of the batches.

    Source:
        Li et al., "BRECQ: Pushing the limit of post-training quantization by block reconstruction", 2021, with the
        relaxation of Nagel et al., "Up or down?", 2020, hardened by a rising temperature.
    """
    judged = np.arange(len(entry)) % _HELD_OUT == _HELD_OUT - 1
    if judged.all() or not judged.any():
        judged = np.ones(len(entry), bool)
    learned = np.flatnonzero(~judged) if not judged.all() else np.arange(len(entry))
    before = after = _error(network, entry[judged], target[judged], schedule.batch)
    best = [(layer.weight, layer.bias) for layer in network.layers]
    for _ in _descend(network, entry, target, learned, schedule, np.random.default_rng(seed)):
        for layer in network.layers:
            layer.harden()
        error = _error(network, entry[judged], target[judged], schedule.batch)
        if error < after:
            after, best = error, [(layer.weight, layer.bias) for layer in network.layers]
    for layer, (weight, bias) in zip(network.layers, best, strict=True):
        layer.weight, layer.bias = weight, bias
    return Gain(before, after)


def _descend(
    network: BlockNetwork, entry: Array, target: Array, learned: Array, schedule: Schedule, random: np.random.Generator
) -> Iterator[int]:
    """Descend, and yield the number of steps done whenever the network is to be judged."""
    power = float((target[learned].astype(np.float64) ** 2).mean()) or 1.0
    descents = [(Adam(schedule.rate), Adam(_BIAS_RATE * float(layer.scale.mean()))) for layer in network.layers]
    for step in range(schedule.steps):
        progress = step / max(1, schedule.steps - 1)
        temperature, share = _HOTTEST**progress, 1.0 - 0.9 * progress
        for layer in network.layers:
            layer.soften(temperature)
        chosen = random.choice(learned, min(schedule.batch, len(learned)), replace=False)
        error = network.forward(entry[chosen]) - target[chosen]
        network.backward(np.asarray(2.0 * error / (error.size * power), np.float32))
        for layer, (of_choice, of_bias) in zip(network.layers, descents, strict=True):
            layer.choice.choice += of_choice.step(layer.choice_gradient(temperature), share)
            layer.bias = layer.bias + of_bias.step(layer.bias_gradient, share).astype(np.float32)
        if (step + 1) % max(1, schedule.steps // _JUDGED) == 0 or step + 1 == schedule.steps:
            yield step + 1


def _error(network: BlockNetwork, entry: Array, target: Array, batch: int) -> float:
    noise = signal = 0.0
    for start in range(0, len(entry), batch):
        wanted = target[start : start + batch].astype(np.float64)
        noise += float(((network.forward(entry[start : start + batch]) - wanted) ** 2).sum())
        signal += float((wanted**2).sum())
    return noise / (signal or 1.0)
