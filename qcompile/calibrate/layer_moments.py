"""Second moments of what a layer reads: all that its best integer weights depend on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import as_strided

from qcompile.calibrate.paired_run import LayerInputs, LayerPair, PairInputs
from qcompile.errors import InternalError
from qcompile.ir.graph import Node
from qcompile.ops.spatial import spatial_axes, to_nhwc, window_extent
from qcompile.parallel import in_order, threads_within

Array = npt.NDArray[Any]

_FEW, _SHARE = 512, 4
"""Patches of more terms than this wait until there are this part as many as terms: to find the products of fewer takes
no longer than to add these up."""

_ROWS = 256  # of a matrix, worked on at a time

_PATCHES_PER_TERM = 16
_LEAST_PATCHES, _MOST_PATCHES = 4096, 32768

LAYERS = ("conv2d", "dense")
"""Operations whose patches are known here."""

MOST_TERMS = 9216
"""Terms of which covariances are kept at most: those of a 3x3 convolution of 1,024 channels, 680 MB a matrix."""


class _Patches(NamedTuple):
    """What a pair of layers multiplies at some places: [groups, rows, terms]; the error [groups, rows, outputs]."""

    real: Array
    quantized: Array
    error: Array | None


class _Sums(NamedTuple):
    """What patches add to the sums of `LayerMoments`; products and squares are left out where means are enough."""

    origin: Array
    sums: list[Array]
    products: list[Array]
    squares: Array | None


_Drawn = Callable[[], _Patches]
"""Gives patches at places that were drawn."""


class LayerMoments:
    """Means and covariances of the patches that a conv2d or dense multiplies with its weights.

    Formula:
        with p the patch of the float layer, q that of the integer layer (both real units), r the error of the
        residual: mean p, mean q, mean r; cov(q, q), cov(p − q, q), cov(r, q); var(W·p) of each output

    Patches are drawn at seeded positions, the same in both networks. One group of channels is one problem of
    `taps · channels per group` unknowns.

    Args:
        node: conv2d or dense.
        weight: W of the float layer, [groups, outputs per group, terms].
        rows: patches to draw from each sample.
        seed: of the positions.
        means_only: leave out what takes a matrix of terms by terms, as always above `MOST_TERMS`.

    Attributes:
        means_only: whether covariances and variances are not known; nor are the variances of a layer that adds a
            residual, for they are not those of its result.
    """

    def __init__(self, node: Node, weight: Array, rows: int, seed: int, *, means_only: bool = False) -> None:
        self._node = node
        self._weight = weight.astype(np.float32, copy=False)
        self._rows = rows
        self._random = np.random.default_rng(seed)
        self.groups = int(getattr(node.attrs, "groups", 1))
        self.outputs = node.inputs[2].shape[0]
        self.terms = layer_weights(node).shape[-1]
        g, k, o = self.groups, self.terms, self.outputs // self.groups
        self.count = self.samples = 0
        self._places = 0
        self.means_only = means_only or k > MOST_TERMS
        self._sums = [np.zeros((g, k)), np.zeros((g, k)), np.zeros((g, o))]
        kept = 0 if self.means_only else k
        self._products = [np.zeros((g, kept, kept)), np.zeros((g, kept, kept)), np.zeros((g, o, kept))]
        self._squares = None if self.means_only or node.attrs.residual else np.zeros((g, o))
        self._origin: Array | None = None
        self._waiting: list[_Drawn] = []
        self._rows_waiting = 0

    @classmethod
    def of(cls, pair: LayerPair, samples: int, seed: int, *, means_only: bool = False) -> LayerMoments:
        """Return moments of a layer, to be filled with as many patches as are enough for its unknowns.

        Args:
            pair: the integer layer and its float original.
            samples: that will be added.
            seed: of the positions.
            means_only: as for the class.
        """
        terms = layer_weights(pair.node).shape[-1]
        patches = min(max(_PATCHES_PER_TERM * terms, _LEAST_PATCHES), _MOST_PATCHES)
        return cls(
            pair.node, layer_weights(pair.reference), -(-patches // max(1, samples)), seed, means_only=means_only
        )

    def update(self, inputs: LayerInputs, node: Node | None = None) -> None:
        """Add the patches of one sample.

        Args:
            inputs: of the layer.
            node: another layer that reads them, with the same weights but its own `window`; None for the layer itself.
        """
        node = node or self._node
        shape, positions = self._draw(node, inputs.quantized.shape)
        patches = self._patches_at(node, inputs, positions, shape)
        if self._is_enough(lambda: patches, len(positions)):
            self._add()

    def fill(self, inputs: PairInputs, threads: int = 1) -> None:
        """Add the patches of several samples.

        Args:
            inputs: of the layer, one for each sample.
            threads: on which to find them.
        """
        full = self._batches(inputs)
        for drawn in full:
            self._take(self._sums_of(drawn))
            if self._origin is not None:  # from here on, batches no longer depend on one another
                break
        products = 0 if self.means_only else 2 * 4 * self.groups * self.terms**2
        for sums in in_order(self._sums_of, full, threads_within(threads, products)):
            self._take(sums)

    def _batches(self, inputs: PairInputs) -> Iterator[list[_Drawn]]:
        """Yield patches drawn, as many at a time as are added up at once; the last ones are left to wait."""
        for index, given in enumerate(inputs.shapes):
            shape, positions = self._draw(self._node, given)

            def drawn(index: int = index, positions: Array = positions, shape: tuple[int, ...] = shape) -> _Patches:
                return self._patches_at(self._node, inputs[index], positions, shape)

            if self._is_enough(drawn, len(positions)):
                yield self._taken_out()

    def _draw(self, node: Node, shape: tuple[int, ...]) -> tuple[tuple[int, ...], Array]:
        """Return the shape of a layer's result for an operand of some shape, and where to look at it."""
        if not self._products:
            raise InternalError(f"{self._node}: patches after its covariances were taken")
        result = result_shape(node, shape)
        positions = self._positions(result)
        self.samples += 1
        self._places += int(np.prod(result[:-1]))
        self.count += len(positions)
        return result, positions

    def _patches_at(self, node: Node, inputs: LayerInputs, positions: Array, shape: tuple[int, ...]) -> _Patches:
        real, quantized = (_patches(node, x, positions, shape) for x in (inputs.real, inputs.quantized))
        error = inputs.residual_error
        return _Patches(real, quantized, None if error is None else self._rows_of_result(error, positions))

    def _is_enough(self, drawn: _Drawn, rows: int) -> bool:
        """Let patches wait; return whether all that wait are enough to be added up."""
        self._waiting.append(drawn)
        self._rows_waiting += rows
        return bool(self.terms <= _FEW or self._rows_waiting * _SHARE >= self.terms)

    def _taken_out(self) -> list[_Drawn]:
        found, self._waiting, self._rows_waiting = self._waiting, [], 0
        return found

    def _add(self) -> None:
        """Add the patches that wait."""
        if self._waiting:
            self._take(self._sums_of(self._taken_out()))

    def _sums_of(self, drawn: list[_Drawn]) -> _Sums | None:
        """Return what patches add, taken from the origin; None where there are none. Changes nothing."""
        parts = [one() for one in drawn]
        real = np.concatenate([part.real for part in parts], axis=1)
        quantized = np.concatenate([part.quantized for part in parts], axis=1)
        if not quantized.shape[1]:
            return None
        origin = self._origin
        if origin is None:
            # What hardly varies would vanish in the rounding of its squares, far from its mean.
            origin = quantized.mean(axis=1, keepdims=True)
        real, quantized = real - origin, quantized - origin
        errors = [part.error for part in parts if part.error is not None]  # of all patches, or of none
        residual = [np.concatenate(errors, axis=1)] if errors else []
        sums = [part.sum(axis=1, dtype=np.float64) for part in (real, quantized, *residual)]
        if self.means_only:
            return _Sums(origin, sums, [], None)
        products = [np.matmul(part.transpose(0, 2, 1), quantized) for part in (quantized, real - quantized, *residual)]
        if self._squares is None:
            return _Sums(origin, sums, products, None)
        results = np.matmul(real, self._weight.transpose(0, 2, 1))
        return _Sums(origin, sums, products, np.square(results, dtype=np.float64).sum(axis=1))

    def _take(self, sums: _Sums | None) -> None:
        """Add up what patches add."""
        if sums is None:
            return
        self._origin = sums.origin
        for totals, parts in ((self._sums, sums.sums), (self._products, sums.products)):
            for total, part in zip(totals, parts, strict=False):  # layers without a residual have no error
                total += part
        if self._squares is not None and sums.squares is not None:
            self._squares += sums.squares

    @property
    def uncertainty(self) -> float:
        """How little the moments say of other inputs: unknowns per independent patch, dimensionless.

        Formula:
            terms / (samples · √positions); neighbouring patches of one sample are much alike
        """
        positions = self._places / max(1, self.samples)
        return float(self.terms / max(1.0, self.samples * np.sqrt(positions)))

    @property
    def means(self) -> tuple[Array, Array, Array]:
        """Means of p and q [groups, terms] and of r [groups, outputs per group], float64."""
        real, quantized, error = self._means()
        origin = 0.0 if self._origin is None else self._origin[:, 0].astype(np.float64)
        return real + origin, quantized + origin, error

    def centred_bias(self, bias: Array, weight: Array, now: Array) -> Array:
        """Return the bias for which the mean of every output is that of the float layer, [groups, outputs per group].

        Formula:
            b + W·E[p] + E[r] − Ŵ·E[q]

        Args:
            bias: b of the float layer, float64 [groups, outputs per group].
            weight: W of the float layer, float64 [groups, outputs per group, terms].
            now: Ŵ, what the layer multiplies with now, the same shape.
        """
        real, quantized, error = self.means
        of_real, of_quantized = (np.matmul(w, m[:, :, None])[:, :, 0] for w, m in ((weight, real), (now, quantized)))
        return np.asarray(bias + of_real + error - of_quantized)

    @cached_property
    def covariances(self) -> tuple[Array, Array, Array]:
        """cov(q, q) and cov(p − q, q) [groups, terms, terms], cov(r, q) [groups, outputs per group, terms].

        They are made of the sums in place, since memory may not hold them twice: no patch can follow.
        """
        if self.means_only:
            raise InternalError(f"{self._node}: covariances of which only the means were kept")
        real, quantized, error = self._means()
        (own, cross, residual), self._products = self._products, []
        for second, left in ((own, quantized), (cross, real - quantized), (residual, error)):
            second /= max(1, self.count)
            for matrix, a, b in zip(second, left, quantized, strict=True):
                for start in range(0, len(a), _ROWS):
                    matrix[start : start + _ROWS] -= a[start : start + _ROWS, None] * b
        return own, cross, residual

    @property
    def variances(self) -> Array:
        """var(W·p) of each output, [groups, outputs per group], float64."""
        if self._squares is None:
            raise InternalError(f"{self._node}: variances, which were not kept")
        mean = np.matmul(self._weight.astype(np.float64), self._means()[0][:, :, None])[:, :, 0]
        return np.asarray(np.maximum(self._squares / max(1, self.count) - np.square(mean), 0.0))

    def _means(self) -> tuple[Array, Array, Array]:
        """Return the means, those of p and q from the origin."""
        self._add()
        real, quantized, error = (s / max(1, self.count) for s in self._sums)
        return real, quantized, error

    def _positions(self, shape: tuple[int, ...]) -> Array:
        total = int(np.prod(shape[:-1]))
        if self._rows >= total:
            return np.arange(total)
        return np.sort(self._random.choice(total, self._rows, replace=False))

    def _rows_of_result(self, y: Array, positions: Array) -> Array:
        """Return [groups, rows, outputs per group] of a tensor shaped like the result."""
        if self._node.op.name == "conv2d":
            y = to_nhwc(y, self._node.attrs.layout)
        rows = y.reshape(-1, y.shape[-1])[positions]
        return np.asarray(rows.reshape(len(positions), self.groups, -1).transpose(1, 0, 2))


def few_terms(node: Node) -> bool:
    """Return whether the covariances of what a conv2d or dense reads fit in memory."""
    return bool(layer_weights(node).shape[-1] <= MOST_TERMS)


def moment_bytes(node: Node) -> int:
    """Return what the moments of a conv2d or dense take, bytes."""
    groups, outputs, terms = layer_weights(node).shape
    return int(8 * groups * terms * (2 * terms + outputs)) if few_terms(node) else 8 * groups * terms


def result_shape(node: Node, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of a layer's result with the channels last, for an operand of some shape."""
    if node.op.name != "conv2d":
        return (*shape[:-1], node.output.shape[-1])
    attrs, channels = node.attrs, node.inputs[1].shape[0]
    axes, kernel = spatial_axes(attrs.layout), kernel_extent(node)
    pads = [(attrs.pads[k], attrs.pads[k + 2]) for k in (0, 1)]
    height, width = (
        window_extent(shape[axes[k]], kernel[k], attrs.strides[k], attrs.dilations[k], pads[k]) for k in (0, 1)
    )
    return (shape[0], height, width, channels)


def kernel_extent(node: Node) -> tuple[int, int]:
    """Return the window of a conv2d, taps."""
    shape = node.inputs[1].shape
    return (shape[2], shape[3]) if node.attrs.layout == "NCHW" else (shape[1], shape[2])


def layer_weights(node: Node) -> Array:
    """Return the constant weights of a conv2d or dense; see `grouped_weights`."""
    return grouped_weights(node, node.inputs[1].constant())


def grouped_weights(node: Node, weight: Array) -> Array:
    """Return the weights of a conv2d or dense as [groups, outputs per group, taps · channels per group]."""
    if node.op.name != "conv2d":
        return weight[None]
    if node.attrs.layout == "NCHW":
        weight = weight.transpose(0, 2, 3, 1)
    groups = node.attrs.groups
    return weight.reshape(groups, weight.shape[0] // groups, -1)


def ungrouped_weights(node: Node, grouped: Array) -> Array:
    """Return weights of `grouped_weights` in the shape that the node reads."""
    shape = node.inputs[1].shape
    if node.op.name != "conv2d":
        return grouped.reshape(shape)
    if node.attrs.layout == "NCHW":
        o, i, kh, kw = shape
        return np.ascontiguousarray(grouped.reshape(o, kh, kw, i).transpose(0, 3, 1, 2))
    return grouped.reshape(shape)


def window(node: Node) -> tuple[tuple[int, ...], ...]:
    """Return what decides, beside the weights, which elements a patch of a conv2d or dense holds."""
    attrs = node.attrs
    return (attrs.strides, attrs.pads, attrs.dilations) if node.op.name == "conv2d" else ()


def _patches(node: Node, x: Array, positions: Array, shape: tuple[int, ...]) -> Array:
    """Return [groups, rows, terms] of an operand, in the order of `grouped_weights`."""
    if node.op.name != "conv2d":
        return np.asarray(x.reshape(-1, x.shape[-1])[positions][None])
    attrs = node.attrs
    x = to_nhwc(x, attrs.layout)
    top, left, bottom, right = attrs.pads
    x = np.ascontiguousarray(np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0))))
    _, height, width, _ = shape
    kernel = kernel_extent(node)
    n, row, column = np.unravel_index(positions, (x.shape[0], height, width))
    view = as_strided(
        x,
        (x.shape[0], height, width, *kernel, x.shape[3]),
        (
            x.strides[0],
            x.strides[1] * attrs.strides[0],
            x.strides[2] * attrs.strides[1],
            x.strides[1] * attrs.dilations[0],
            x.strides[2] * attrs.dilations[1],
            x.strides[3],
        ),
        writeable=False,
    )
    taken = view[n, row, column].reshape(len(positions), kernel[0] * kernel[1], attrs.groups, -1)
    return np.ascontiguousarray(taken.transpose(2, 0, 1, 3)).reshape(attrs.groups, len(positions), -1)
