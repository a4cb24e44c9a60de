"""How much of a network's use is lost with a given noise at its outputs, from few samples and without labels.

Counting wrong answers needs hundreds of samples to see half a percent. What a few dozen do tell well is the size
of the noise, and how clear the float network's decisions are. Noise turns the unclear ones, and those were wrong
nearly as often before as they are afterwards: far more decisions turn than right answers are lost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from qcompile.ir.graph import Graph, Value
from qcompile.shapes.analysis import analyse

Array = npt.NDArray[np.float64]

_DOUBT = 0.05
"""Chance that a bound does not hold."""

_ALL_NOISE = 20.0
"""Noise over margin from where on every decision is chance (and the formula leaves the range of floats)."""

_CLEAR = 0.25
"""Margin over the mean margin from where on a decision counts as clear: turning it loses a right answer."""

_HALVINGS = 50
"""Of the interval in which a bound is searched."""


def is_classifier(graph: Graph) -> bool:
    """Return whether a graph's one output is a vector of class scores: float, with one axis longer than 1."""
    if len(graph.outputs) != 1:
        return False
    shape = single_shape(graph, graph.outputs[0])
    return sum(d > 1 for d in shape) == 1 and shape[-1] > 1


def single_shape(graph: Graph, value: Value) -> tuple[int, ...]:
    """Return the shape of a tensor for one sample: an open batch counts as 1."""
    if not value.shape or not graph.symbols:
        return value.shape
    first = analyse(graph).of(value)[0]
    batch = {s.name for s in graph.symbols if s.places and all(axis == 0 for _, axis in s.places)}
    return (1, *value.shape[1:]) if first is not None and first.symbol in batch else value.shape


def noise_over_margin(scores: Array, noise: float) -> float:
    """Return the noise of the margin between two classes over the mean margin between the two best.

    Formula:
        r = √2·σ / M, limited to 20

    Args:
        scores: of the float network, [samples, classes].
        noise: standard deviation σ of the noise of one score, the same unit.
    """
    if noise <= 0.0:
        return 0.0
    margin = float(_margins(scores).mean())
    return min(math.sqrt(2.0) * noise / margin, _ALL_NOISE) if margin > 0.0 else _ALL_NOISE


def _margins(scores: Array) -> Array:
    best = np.sort(scores, axis=1)
    return np.asarray(best[:, -1] - best[:, -2])


def expected_disagreement(ratio: float) -> float:
    """Return the expected share of samples whose best class changes under noise.

    Formula:
        E Φ(−m / s) = ½ − ½·exp(r²/2)·erfc(r/√2), r = s/M, with m the margin between the two best classes, taken as
        exponentially distributed with its mean M over the samples, and s the noise of a margin

    A mean is known from few samples, and the margins that count are those near 0, of which few samples have none:
    from 16 samples of a classifier of ten classes this is off by a quarter, the mean over Φ by a half.

    Args:
        ratio: r, of `noise_over_margin`.

    Returns:
        0 to ½.
    """
    return 0.5 - 0.5 * math.exp(ratio * ratio / 2) * math.erfc(ratio / math.sqrt(2.0)) if ratio < _ALL_NOISE else 0.5


def expected_loss(ratio: float) -> float:
    """Return the share of right answers that noise is expected to cost.

    Formula:
        E Φ(−m / s)·min(1, 4·m/M) ≈ r², at most the expected disagreement. A turned decision costs an answer only as
        far as the best class was likelier right than the one that takes its place; that grows from 0 with the margin,
        and is taken as full from a quarter of the mean margin on.

    On three classifiers of Fashion-MNIST with 10,000 labels, noise of 15 to 30 dB under the scores costs 0.1 to 0.5
    times as much as this, and turns 6 to 30 times as many decisions as it costs answers.

    Args:
        ratio: r, of `noise_over_margin`.

    Returns:
        0 to ½.
    """
    return min(expected_disagreement(ratio), ratio * ratio)


def surely_lost(wrong: int, total: int) -> float:
    """Return the lower bound of a rate of which `wrong` in `total` cases were seen, confidence 95 %.

    Formula:
        the rate p at which P(X ≥ wrong) = 0.05 for X binomial with `total` cases

    Args:
        wrong: cases seen.
        total: cases looked at.

    Source:
        Clopper and Pearson, "The use of confidence or fiducial limits illustrated in the case of the binomial", 1934.
    """
    if wrong == 0:
        return 0.0
    low, high = 0.0, wrong / total
    for _ in range(_HALVINGS):
        p = (low + high) / 2
        seen_fewer = sum(math.comb(total, k) * p**k * (1 - p) ** (total - k) for k in range(wrong))
        low, high = (p, high) if 1 - seen_fewer < _DOUBT else (low, p)
    return low


def classifier_drop(reference: Sequence[Array], actual: Sequence[Array]) -> tuple[float, float]:
    """Return the drop of a classifier and the share of samples with the same best class.

    Formula:
        max(expected_loss(σ), surely_lost(clear decisions turned, samples)),
        σ the standard deviation of the noise, of which what all classes have in common does not count

    Args:
        reference: scores of the float network, one [classes] per sample.
        actual: scores of the candidate, the same.
    """
    r, a = np.stack(reference), np.stack(actual)
    difference = a - r
    difference -= difference.mean(axis=1, keepdims=True)
    turned = r.argmax(axis=1) != a.argmax(axis=1)
    margins = _margins(r)
    wrong = int((turned & (margins >= _CLEAR * margins.mean())).sum())
    ratio = noise_over_margin(r, float(np.sqrt((difference**2).mean())))
    return max(expected_loss(ratio), surely_lost(wrong, len(r))), 1.0 - int(turned.sum()) / len(r)


def signal_drop(sqnr_db: float) -> float:
    """Return the drop of a network whose outputs are no class scores: the noise as a share of the signal.

    Formula:
        min(1, 10^(−SQNR/10)), so that 0.5 % are 23 dB

    Args:
        sqnr_db: at the worst output, dB.
    """
    return min(1.0, 10 ** (-sqnr_db / 10))
