"""Which channels a network misses least, and the weights that make up for them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.compression.channel_classes import ChannelClasses, Layer
from qcompile.compression.moments import Moments
from qcompile.ir.graph import Node
from qcompile.ir.regions import times_run

Array = npt.NDArray[Any]

_GONE = -2
_COLLECTED = 32
"""Channels whose removal is carried out together."""


class Reader:
    """What the result of one layer loses as channels of its operand go.

    Formula:
        without channel c, the others making up for it, the result loses ‖w_c‖² / (Σ⁻¹)_cc;
        then w ← w − w_c · (Σ⁻¹)_c / (Σ⁻¹)_cc, and Σ⁻¹ is reduced likewise

    Args:
        layer: mixes its input channels.
        moments: of its operand.
        candidates: number of the candidate behind each input channel, −1 for one that stays; changed.

    Source:
        Hassibi and Stork, "Second order derivatives for network pruning: Optimal Brain Surgeon", 1993, for channels.
    """

    def __init__(self, layer: Layer, moments: Moments, candidates: Array) -> None:
        weight = layer.node.inputs[1].constant()
        self.candidates = candidates
        self._columns = np.moveaxis(weight, -1, 0).reshape(weight.shape[-1], -1).astype(np.float64)
        covariance = moments.damped
        self._inverse = np.linalg.inv(covariance)
        # The power of all taps as if they were independent: only ratios within a network matter.
        self._power = max(float(np.vdot(self._columns, covariance @ self._columns)), 1e-30)
        self._added: tuple[Array, Array] = (np.zeros(0, np.int64), np.zeros(0))
        self._start()

    def _start(self) -> None:
        """Begin to collect updates: column = columns − factors ⊗ pivots, inverse = inverse − rows ⊗ rows."""
        self._rows, self._factors = np.zeros((0, len(self._columns))), np.zeros((0, len(self._columns)))
        self._pivots = np.zeros((0, self._columns.shape[1]))
        self._norms = np.einsum("cn,cn->c", self._columns, self._columns)
        self._diagonal = np.diag(self._inverse).copy()

    def add_losses(self, total: Array) -> None:
        """Add the share of the result's power that each candidate takes with it, in place of what was added before."""
        np.subtract.at(total, *self._added)
        lost = np.maximum(self._norms, 0.0) / np.maximum(self._diagonal, 1e-30) / self._power
        there = self.candidates >= 0
        self._added = (self.candidates[there], lost[there])
        np.add.at(total, *self._added)

    def remove(self, candidate: int) -> None:
        """Let the other channels make up for a candidate."""
        places = np.flatnonzero(self.candidates == candidate)
        for place in places.tolist():
            row = self._inverse[place] - self._rows[:, place] @ self._rows
            column = self._columns[place] - self._factors[:, place] @ self._pivots
            pivot = max(float(row[place]), 1e-30)
            factor = row / pivot
            products = self._columns @ column - (self._pivots @ column) @ self._factors
            self._norms += factor * (factor * float(column @ column) - 2.0 * products)
            self._diagonal -= row * factor
            self._rows = np.vstack([self._rows, row / np.sqrt(pivot)])
            self._factors = np.vstack([self._factors, factor])
            self._pivots = np.vstack([self._pivots, column])
        self.candidates[places] = _GONE
        if len(self._rows) >= _COLLECTED:
            self._apply()

    def _apply(self) -> None:
        """Carry out the collected updates, and drop the channels that are gone."""
        here = np.flatnonzero(self.candidates != _GONE)
        rows, factors = self._rows[:, here], self._factors[:, here]
        self._inverse = self._inverse[np.ix_(here, here)] - rows.T @ rows
        self._columns = self._columns[here] - factors.T @ self._pivots
        self.candidates = self.candidates[here]
        self._start()


class Work:
    """Multiply-accumulates of a network whose channels go one after the other; a layer in a loop counts each trip.

    Args:
        classes: of the network.
        total: its multiply-accumulates.
    """

    def __init__(self, classes: ChannelClasses, total: int) -> None:
        self.total = float(total)
        self._layers: list[list[float]] = []
        self._by_class: dict[int, list[tuple[int, int]]] = {}
        times = times_run(classes.graph)
        for number, layer in enumerate(classes.layers):
            sides = (layer.outputs,) if layer.depthwise else (layer.inputs, layer.outputs)
            macs = times[layer.node] * layer.node.op.macs(layer.node)
            self._layers.append([float(macs), *(float(len(side)) for side in sides)])
            for side, numbers in enumerate(sides, 1):
                for root in classes.classes(numbers).tolist():
                    self._by_class.setdefault(root, []).append((number, side))

    def saved(self, root: int) -> float:
        """Return what the network does less without a class."""
        return sum(self._layers[n][0] / max(self._layers[n][side], 1.0) for n, side in self._by_class.get(root, ()))

    def remove(self, root: int) -> None:
        """Count a class out."""
        for number, side in self._by_class.get(root, ()):
            layer = self._layers[number]
            less = layer[0] / max(layer[side], 1.0)
            layer[0], layer[side] = layer[0] - less, layer[side] - 1
            self.total -= less

    def without(self, roots: Iterable[int]) -> float:
        """Count classes out; return the work that remains."""
        for root in roots:
            self.remove(root)
        return self.total


class Widths:
    """How many classes of channels each tensor of a network still has: one has to stay, or nothing can be computed.

    A layer that loses channels may be split into pieces behind; it is the pieces that must not become empty.

    Args:
        classes: of the network.
    """

    def __init__(self, classes: ChannelClasses) -> None:
        self._left: list[int] = []
        self._by_class: dict[int, list[int]] = {}
        for number, roots in enumerate(sorted(classes.tensors())):
            self._left.append(len(roots))
            for root in roots:
                self._by_class.setdefault(root, []).append(number)

    def may_lose(self, root: int) -> bool:
        """Return whether every tensor that has a class has others, too."""
        return all(self._left[number] > 1 for number in self._by_class.get(root, ()))

    def remove(self, root: int) -> None:
        """Count a class out."""
        for number in self._by_class.get(root, ()):
            self._left[number] -= 1


def compensated(node: Node, moments: Moments, kept: Array) -> tuple[Array, Array]:
    """Return weight and bias of a layer for which only some channels of its operand remain.

    Formula:
        W' = W · Σ[:, S] · Σ[S, S]⁻¹ for every tap, b' = b + Σ_taps (W · μ − W' · μ[S]), S the channels that remain

    Args:
        node: dense or conv2d, channels last.
        moments: of its operand.
        kept: whether each channel remains.

    Returns:
        The weight with its last axis narrowed, and the bias, float32.
    """
    weight, bias = node.inputs[1].constant(), node.inputs[2].constant()
    covariance, mean = moments.damped, moments.mean
    mixing = np.linalg.solve(covariance[np.ix_(kept, kept)], covariance[kept]).T
    changed = weight.astype(np.float64) @ mixing
    axes = tuple(range(1, weight.ndim - 1))
    difference = (weight @ mean - changed @ mean[kept]).sum(axis=axes) if axes else weight @ mean - changed @ mean[kept]
    return np.asarray(changed, np.float32), np.asarray(bias + difference, np.float32)


def plain_losses(classes: ChannelClasses, power: int) -> dict[int, float]:
    """Return the norm of the weights that write each class, relative to the mean of their layer.

    Args:
        classes: of the network.
        power: 1 for Σ |w|, 2 for √Σ w².
    """
    lost: dict[int, float] = {}
    for layer in classes.layers:
        rows = np.abs(layer.node.inputs[1].constant().reshape(len(layer.outputs), -1)).astype(np.float64)
        norms = np.power(np.power(rows, power).sum(axis=1), 1 / power)
        norms /= max(float(norms.mean()), 1e-30)
        for root, norm in zip(classes.classes(layer.outputs).tolist(), norms.tolist(), strict=True):
            lost[root] = lost.get(root, 0.0) + norm
    return lost
