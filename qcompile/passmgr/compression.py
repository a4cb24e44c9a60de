"""What passes that make a network smaller share: samples, moments of what layers read, a plain account."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.calibrate.sample_choice import fitted_samples, other_samples
from qcompile.ir.graph import Graph, Node, Value
from qcompile.ir.regions import total_macs
from qcompile.ops.interpreter import Interpreter
from qcompile.passmgr.context import PassContext
from qcompile.passmgr.stimuli import stimuli
from qcompile.quant.noise_power import LIMIT_DB, NoisePower

Array = npt.NDArray[Any]
Sample = Mapping[str, Array]

_COMPARED = 8

_DAMPING = 0.002
_DAMPING_OF_FEW = 0.05
_LEAST = 1e-6
"""Added to a channel's variance: this share of it, more where channels are many for the positions seen, and this share
of the mean variance for channels that never move."""


def sqnr_on_others(before: Graph, graph: Graph, context: PassContext) -> float:
    """Return the SQNR of a graph against the original on calibration samples that nothing was fitted to, dB."""
    return sqnr_db(before, graph, other_samples(context, _COMPARED))


def weight_bytes(graph: Graph) -> int:
    """Return the bytes that all constants take."""
    return sum(value.type.nbytes for value in graph.constants())


def account(name: str, before: Graph, after: Graph, context: PassContext, extra: str = "") -> None:
    """Note what a pass did to size, work and accuracy.

    Args:
        name: of the pass.
        before: graph before it.
        after: graph after it, with the same inputs and outputs.
        context: gives samples, takes the note.
        extra: more to say, such as ", 50% of them zero".
    """
    samples, of = _judges(before, context)
    work = f"{total_macs(before) / 1e6:.1f} to {total_macs(after) / 1e6:.1f} million MACs"
    size = f"{weight_bytes(before) / 1e6:.2f} to {weight_bytes(after) / 1e6:.2f} MB of constants{extra}"
    context.note(f"{name}: {work}, {size}, SQNR {sqnr_db(before, after, samples):.1f} dB {of}")


def _judges(graph: Graph, context: PassContext) -> tuple[Sequence[Sample], str]:
    """Return inputs to judge a pass by, and what they are, in words."""
    if others := other_samples(context, _COMPARED):
        return others, f"on {len(others)} calibration sample{'s' * (len(others) > 1)} that nothing was fitted to"
    if only := fitted_samples(context, _COMPARED):
        return only, "on the only calibration sample"
    noise = [inputs for kind, inputs in stimuli(graph, context.seed) if kind == "normal"]
    return noise, "on noise, which says little"


def sqnr_db(before: Graph, after: Graph, samples: Iterable[Sample]) -> float:
    """Return 10·log10(Σ y² / Σ (ŷ − y)²) of the worst float output, at most 200 dB."""
    powers: dict[str, NoisePower] = defaultdict(NoisePower)
    runs = Interpreter(before), Interpreter(after)
    for sample in samples:
        wanted, found = (run.run(sample) for run in runs)
        for key, array in wanted.items():
            if array.dtype.kind == "f":
                powers[key].add(array, found[key])
    return min([LIMIT_DB, *(power.db for power in powers.values())])


class Moments:
    """Mean and covariance of the channels of a tensor, float64.

    Args:
        channels: extent of its last axis.
    """

    def __init__(self, channels: int) -> None:
        self.count = 0
        self._sum = np.zeros(channels)
        self._products = np.zeros((channels, channels))

    def update(self, array: Array) -> None:
        """Add every position of a tensor [..., channels]."""
        rows = array.reshape(-1, array.shape[-1]).astype(np.float64)
        self.count += len(rows)
        self._sum += rows.sum(axis=0)
        self._products += rows.T @ rows

    @property
    def mean(self) -> Array:
        """Mean of each channel."""
        return self._sum / max(1, self.count)

    @property
    def covariance(self) -> Array:
        """Covariance [channels, channels]."""
        return np.asarray(self._products / max(1, self.count) - np.outer(self.mean, self.mean))

    @property
    def damped(self) -> Array:
        """Covariance with more on the diagonal the less the samples say of it; it can be inverted."""
        covariance, channels = self.covariance, len(self._sum)
        own = np.diag(covariance)
        share = _DAMPING + _DAMPING_OF_FEW * channels / max(1, self.count)
        return np.asarray(covariance + np.diag(share * own + _LEAST * float(own.mean()) + 1e-20))


def input_moments(
    graph: Graph, nodes: Iterable[Node], samples: Iterable[Sample], context: PassContext
) -> Mapping[Value, Moments]:
    """Return the moments of operand 0 of some nodes over samples.

    Args:
        graph: of the nodes.
        nodes: read tensors with channels last.
        samples: to run it on.
        context: shows progress.
    """
    wanted = {node.inputs[0]: Moments(node.inputs[0].shape[-1]) for node in nodes}
    interpreter, chosen = Interpreter(graph), list(samples)

    def see(value: Value, array: Array) -> None:
        if value in wanted:
            wanted[value].update(array)

    for number, sample in enumerate(chosen):
        context.progress(number, len(chosen), "measuring channels")
        interpreter.run(sample, on_value=see)
    return wanted
