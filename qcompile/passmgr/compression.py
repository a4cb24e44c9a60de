"""What passes that make a network smaller share: samples, moments of what layers read, a plain account."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.ir.graph import Graph, Node, Value
from qcompile.ir.regions import total_macs
from qcompile.ops.interpreter import Interpreter
from qcompile.passmgr.context import PassContext, Sample
from qcompile.passmgr.stimuli import stimuli

Array = npt.NDArray[Any]

_COMPARED = 8
_HELD_OUT = 4
"""One sample of so many is kept for the account and not fitted to."""

_DAMPING = 0.002
_DAMPING_OF_FEW = 0.05
_LEAST = 1e-6
"""Added to a channel's variance: this share of it, more where channels are many for the positions seen, and this share
of the mean variance for channels that never move."""


def some_samples(graph: Graph, context: PassContext, count: int, *, fitted: bool = True) -> tuple[list[Sample], bool]:
    """Return up to `count` samples, and whether they are real.

    Args:
        graph: names the inputs.
        context: has the calibration samples; without them there is one sample of noise.
        count: at most.
        fitted: those to fit to; else the others, for a fair account.
    """
    if context.samples is not None:
        every = enumerate(context.samples())
        chosen = list(islice((s for n, s in every if (n % _HELD_OUT != _HELD_OUT - 1) == fitted), count))
        return (chosen, True) if chosen else (list(islice(context.samples(), count)), True)
    return [inputs for kind, inputs in stimuli(graph, context.seed) if kind == "normal"], False


def sqnr_on_others(before: Graph, graph: Graph, context: PassContext) -> float:
    """Return the SQNR of a graph against the original on calibration samples that nothing was fitted to, dB."""
    held, _ = some_samples(before, context, _COMPARED, fitted=False)
    return sqnr_db(before, graph, held)


def macs(graph: Graph) -> int:
    """Return the multiply-accumulates of one inference."""
    return total_macs(graph)


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
    samples, real = some_samples(before, context, _COMPARED, fitted=False)
    of = f"on {len(samples)} calibration samples that were not fitted to" if real else "on noise, which says little"
    work = f"{macs(before) / 1e6:.1f} to {macs(after) / 1e6:.1f} million MACs"
    size = f"{weight_bytes(before) / 1e6:.2f} to {weight_bytes(after) / 1e6:.2f} MB of constants{extra}"
    context.note(f"{name}: {work}, {size}, SQNR {sqnr_db(before, after, samples):.1f} dB {of}")


def sqnr_db(before: Graph, after: Graph, samples: Iterable[Sample]) -> float:
    """Return 10·log10(Σ y² / Σ (ŷ − y)²) of the worst float output, at most 200 dB."""
    powers: dict[str, list[float]] = {}
    runs = Interpreter(before), Interpreter(after)
    for sample in samples:
        wanted, found = (run.run(sample) for run in runs)
        for key, array in wanted.items():
            if array.dtype.kind == "f":
                y, error = array.astype(np.float64), found[key].astype(np.float64) - array
                power = powers.setdefault(key, [0.0, 0.0])
                power[0] += float(np.vdot(y, y))
                power[1] += float(np.vdot(error, error))
    ratios = [10 * np.log10(max(s, 1e-300) / n) if n else 200.0 for s, n in powers.values()]
    return float(min([200.0, *ratios]))


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
