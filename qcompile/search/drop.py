"""How much of a network's use is lost with a given noise at its outputs, from few samples and without labels.

Counting wrong answers needs hundreds of samples to see half a percent. What a few dozen do tell well is the size
of the noise, and how clear the float network's decisions are: the chance that the noise turns a decision follows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from qcompile.ir.graph import Graph

Array = npt.NDArray[np.float64]

_CONFIDENCE = 1.645
"""Standard deviations of a one-sided confidence of 95 %."""


def is_classifier(graph: Graph) -> bool:
    """Return whether a graph's one output is a vector of class scores: float, with one axis longer than 1."""
    if len(graph.outputs) != 1:
        return False
    shape = graph.outputs[0].shape
    return sum(d > 1 for d in shape) == 1 and shape[-1] > 1


def expected_disagreement(scores: Array, noise: float) -> float:
    """Return the expected share of samples whose best class changes under noise.

    Formula:
        mean over samples of min(1, Σ over the other classes j of Φ(−(s_best − s_j) / (√2·σ)))

    Args:
        scores: of the float network, [samples, classes].
        noise: standard deviation σ of the noise of one score, the same unit.

    Returns:
        0 to 1; an upper bound for independent normal noise (the sum is a union bound).
    """
    if noise <= 0.0:
        return 0.0
    best = scores.max(axis=1, keepdims=True)
    margins = (best - scores) / (math.sqrt(2.0) * noise)
    chances = _normal_tail(margins)
    # The best class itself has margin 0 and must not count.
    chances[np.arange(len(scores)), scores.argmax(axis=1)] = 0.0
    return float(np.minimum(chances.sum(axis=1), 1.0).mean())


def _normal_tail(x: Array) -> Array:
    """Return the probability that a standard normal variable exceeds x ≥ 0."""
    return np.array([0.5 * math.erfc(v / math.sqrt(2.0)) for v in x.reshape(-1)]).reshape(x.shape)


def surely_lost(wrong: int, total: int) -> float:
    """Return the lower bound of a rate of which `wrong` in `total` cases were seen, confidence 95 %.

    Formula:
        (p + z²/2n − z·√(p(1−p)/n + z²/4n²)) / (1 + z²/n) with p = wrong/total, z = 1.645

    Args:
        wrong: cases seen.
        total: cases looked at.

    Source:
        Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
    """
    if total == 0 or wrong == 0:
        return 0.0
    p, z2 = wrong / total, _CONFIDENCE**2
    spread = _CONFIDENCE * math.sqrt(p * (1 - p) / total + z2 / (4 * total * total))
    return max(0.0, (p + z2 / (2 * total) - spread) / (1 + z2 / total))


def classifier_drop(reference: Sequence[Array], actual: Sequence[Array]) -> tuple[float, float]:
    """Return the drop of a classifier and the share of samples with the same best class.

    Formula:
        max(expected_disagreement(reference, σ), surely_lost(disagreements, samples)),
        σ the standard deviation of the noise, of which what all classes have in common does not count

    Args:
        reference: scores of the float network, one [classes] per sample.
        actual: scores of the candidate, the same.
    """
    r, a = np.stack(reference), np.stack(actual)
    difference = a - r
    difference -= difference.mean(axis=1, keepdims=True)
    wrong = int((r.argmax(axis=1) != a.argmax(axis=1)).sum())
    noise = float(np.sqrt((difference**2).mean()))
    return max(expected_disagreement(r, noise), surely_lost(wrong, len(r))), 1.0 - wrong / len(r)


def signal_drop(sqnr_db: float) -> float:
    """Return the drop of a network whose outputs are no class scores: the noise as a share of the signal.

    Formula:
        min(1, 10^(−SQNR/10)), so that 0.5 % are 23 dB

    Args:
        sqnr_db: at the worst output, dB.
    """
    return min(1.0, 10 ** (-sqnr_db / 10))
