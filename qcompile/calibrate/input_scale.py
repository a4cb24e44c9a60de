"""Tells from the first layers whether samples are scaled as in training.

A BatchNorm keeps the mean and the deviation that each channel had in training. Where samples of another scale are
fed, the first normalized layer gives other ones, and what they should have been can be found by trying the usual
ways to scale a pixel.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.calibrate.data_free import channels_along
from qcompile.calibrate.preprocess import Preprocess
from qcompile.ir.graph import Graph, Node, Value
from qcompile.ops.sized_run import NodeRun

Array = npt.NDArray[Any]

SAMPLES = 8
"""Samples to look at: the deviation of a channel is a property of the whole set, and few show it."""

# Photographs scaled as in training diverge by 0.003 to 0.2 nats, wrongly scaled ones by 0.5 to 10⁴.
_DOUBTFUL_NATS = 0.4  # wrong if a usual scale fits much better
_WRONG_NATS = 2.0  # wrong whether or not a usual scale fits
_BETTER = 4.0  # times less divergence that another scale must have to be proposed
_MEAN = (123.675, 116.28, 103.53)
_STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class Scale:
    """One way to turn a pixel p of 0 to 255 into an input.

    Formula:
        x = (p − mean) / std

    Args:
        mean: one value, or one per channel (RGB).
        std: one value, or one per channel (RGB).
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def text(self) -> str:
        """Return it as `--preprocess` takes it."""
        mean, std = (",".join(f"{v:g}" for v in values) for values in (self.mean, self.std))
        return f"mean={mean},std={std}"


USUAL = (
    Scale((0.0,), (1.0,)),
    Scale((0.0,), (255.0,)),
    Scale((127.5,), (127.5,)),
    Scale(_MEAN, _STD),
    Scale(_MEAN, (1.0,)),
)
"""How networks for images are commonly fed."""


def scale_notes(
    graph: Graph, samples: Iterable[Mapping[str, Array]], preprocess: Preprocess | None = None
) -> list[str]:
    """Return a sentence if the samples are scaled otherwise than in training; nothing where that is not known.

    Formula:
        divergence = median over channels of log(σ/s) + (s² + (m − μ)²) / 2σ² − 1/2, with mean μ and deviation σ of
        the channel in training, m and s on the samples

    Args:
        graph: simplified float graph, whose values keep the statistics of their BatchNorm.
        samples: calibration samples.
        preprocess: the steps that made them from images, None where they come as arrays.

    Source:
        Kullback and Leibler, "On information and sufficiency", 1951, for normal distributions.
    """
    if len(graph.inputs) != 1:
        return []
    source = graph.inputs[0]
    inputs = [sample[source.name] for sample in islice(samples, SAMPLES)]
    target = _first_normalized(graph)
    if not inputs or source.dtype != "float32":
        return []
    if target is None:
        return _folded_note(graph, inputs)
    layer = _Layer(graph, target)
    now = layer.divergence(inputs)
    if now <= _DOUBTFUL_NATS:
        return []
    where = target.producer.loc if target.producer is not None else target.name
    best, least = _best_scale(layer, inputs, preprocess)
    sentence = (
        f"preprocessing looks wrong: after '{where}' the samples differ from the statistics of its BatchNorm in"
        f" training (divergence {now:.2g})"
    )
    if best is None or least * _BETTER > now:
        return [f"{sentence}; compare the scale of the inputs with that of training"] if now > _WRONG_NATS else []
    return [f"{sentence}; pixels scaled as '{best.text()}' would fit ({least:.2g})"]


def _first_normalized(graph: Graph) -> Value | None:
    """Return the first tensor with statistics of its own that depends on no other such tensor."""
    return next((v for node in graph.nodes for v in node.outputs if v.stats is not None), None)


class _Layer:
    """The part of a graph that leads to one tensor."""

    def __init__(self, graph: Graph, target: Value) -> None:
        import networkx as nx

        view = graph.to_networkx()
        assert target.producer is not None
        needed = nx.ancestors(view, target.producer) | {target.producer}
        self._nodes = [node for node in graph.nodes if node in needed]
        self._source, self._target = graph.inputs[0], target
        self._run = NodeRun(graph)

    def run(self, array: Array) -> Array:
        """Return the target for one input."""
        known: dict[Value, Array] = {self._source: np.ascontiguousarray(array, np.float32)}
        sizes = self._run.sizes({self._source.name: array})
        with np.errstate(all="ignore"):
            for node in self._nodes:
                results = self._run.evaluate(node, [known.get(v) for v in node.inputs], sizes)
                known.update(zip(node.outputs, results, strict=True))
        return known[self._target]

    def divergence(self, inputs: Sequence[Array]) -> float:
        """Return how far the target is from its statistics in training, nats per channel."""
        assert self._target.stats is not None
        trained_mean, trained_std = (np.asarray(v, np.float64) for v in self._target.stats)
        axis = channels_along(self._target, trained_mean.size)
        results = [np.moveaxis(self.run(x), axis, 0).reshape(trained_mean.size, -1) for x in inputs]
        values = np.concatenate(results, axis=1).astype(np.float64)
        mean, std = values.mean(axis=1), np.maximum(values.std(axis=1), 1e-12)
        sigma = np.maximum(trained_std, 1e-12)
        nats = np.log(sigma / std) + (std**2 + (mean - trained_mean) ** 2) / (2 * sigma**2) - 0.5
        return float(np.median(nats))


def _best_scale(layer: _Layer, inputs: Sequence[Array], preprocess: Preprocess | None) -> tuple[Scale | None, float]:
    """Return the usual scale that fits the statistics best, and its divergence."""
    axis = _image_axis(inputs[0])
    if axis is None:
        return None, np.inf
    pixels = _pixels(inputs, axis, preprocess)
    if pixels is None:
        return None, np.inf
    colour = inputs[0].shape[axis] == 3
    candidates = [s for s in USUAL if colour or len(s.mean) == 1]
    divergences = {scale: layer.divergence([_scaled(p, scale, axis) for p in pixels]) for scale in candidates}
    best = min(divergences, key=lambda scale: divergences[scale])
    return best, divergences[best]


def _image_axis(array: Array) -> int | None:
    """Return the axis of an image's channels, None where the array is no image."""
    if array.ndim != 4:
        return None
    return 1 if array.shape[1] in (1, 3) else 3 if array.shape[3] in (1, 3) else None


def _pixels(inputs: Sequence[Array], axis: int, preprocess: Preprocess | None) -> list[Array] | None:
    """Return the pixels from 0 to 255 that inputs were made of, None where that cannot be told."""
    if preprocess is not None and preprocess.mean is not None and preprocess.std is not None:
        unit = 255.0 if preprocess.range == "unit" else 1.0
        mean, std = (_along(values, axis) for values in (preprocess.mean, preprocess.std))
        return [(x * std + mean) * unit for x in inputs]
    low, high = min(float(x.min()) for x in inputs), max(float(x.max()) for x in inputs)
    if low >= 0 and high > 2:
        return list(inputs)
    if low >= 0:
        return [x * 255.0 for x in inputs]
    if low >= -1.01 and high <= 1.01:
        return [(x + 1) * 127.5 for x in inputs]
    if low >= -2.2 and high <= 2.7 and inputs[0].shape[axis] == 3:
        return [x * _along(_STD, axis) + _along(_MEAN, axis) for x in inputs]
    return None


def _scaled(pixels: Array, scale: Scale, axis: int) -> Array:
    return np.asarray((pixels - _along(scale.mean, axis)) / _along(scale.std, axis))


def _along(values: Sequence[float], axis: int) -> Array:
    shape = [1, 1, 1, 1]
    shape[axis] = len(values)
    return np.asarray(values, np.float32).reshape(shape)


# Between the deviation of a folded first layer and its bias; 0.2 to 15 in networks that are fed as in training.
_RATIO = 30.0
_PIXELS = 20.0  # normalized inputs stay far below


def _folded_note(graph: Graph, inputs: Sequence[Array]) -> list[str]:
    """Judge a network whose BatchNorms were folded before export by the bias of its first layer.

    The bias of a folded layer is about as large as what is added to it: it takes the mean away.
    """
    first = next((node for node in graph.nodes if _has_bias(node)), None)
    if first is None or _image_axis(inputs[0]) is None:
        return []
    bias = first.inputs[2].constant().astype(np.float64)
    layer = _Layer(graph, first.outputs[0])
    axis = channels_along(first.outputs[0], bias.size)
    results = [np.moveaxis(layer.run(x), axis, 0).reshape(bias.size, -1) for x in inputs]
    spread = float(np.median(np.concatenate(results, axis=1).std(axis=1)))
    size = float(np.median(np.abs(bias)))
    high = max(float(x.max()) for x in inputs)
    if size > 0 and spread > _RATIO * size and high > _PIXELS:
        return [_folded(first, "small", high, "divide by 255 or by the deviation?")]
    if spread > 0 and size > _RATIO * spread and high < _PIXELS:
        return [_folded(first, "large", high, "are pixels from 0 to 255 expected?")]
    return []


def _folded(node: Node, size: str, high: float, question: str) -> str:
    return (
        f"preprocessing looks wrong: the bias of '{node.loc}' is very {size} against inputs of up to {high:.3g};"
        f" {question}"
    )


def _has_bias(node: Node) -> bool:
    return node.op.name in ("conv2d", "dense") and all(v.is_constant for v in node.inputs[1:3])
