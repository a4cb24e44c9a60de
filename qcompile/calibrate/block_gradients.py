"""Convolutions, products and roundings with their gradients, channels last, in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import as_strided

from qcompile.quant.qparams import QParams

Array = npt.NDArray[Any]


class Convolution:
    """One convolution of a batch, remembered for its gradients.

    Formula:
        y[n,h,w,o] = Σ x[n, h·s+i·d−p, w·s+j·d−p, c] · weight[o,i,j,c]

    Args:
        x: float32 [N, H, W, C].
        weight: float32 [O, kh, kw, C per group].
        attrs: strides, pads, dilations, groups.
    """

    def __init__(self, x: Array, weight: Array, attrs: Any) -> None:
        self._weight, self._attrs, self._shape = weight, attrs, x.shape
        top, left, bottom, right = attrs.pads
        self._padded = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0))) if any(attrs.pads) else x
        _, kh, kw, per_group = weight.shape
        extents = [
            (self._padded.shape[a + 1] - attrs.dilations[a] * (k - 1) - 1) // attrs.strides[a] + 1
            for a, k in enumerate((kh, kw))
        ]
        self._rows, self._columns = extents
        self._depthwise = per_group == 1 and weight.shape[0] == attrs.groups
        if self._depthwise:
            self.result = self._depthwise_forward()
        else:
            self._patches = self._gather()
            self.result = self._matmul_forward()

    def _window(self, array: Array, i: int, j: int) -> Array:
        """Return the elements of a padded array that tap (i, j) reads, as a view."""
        (sh, sw), (dh, dw) = self._attrs.strides, self._attrs.dilations
        top, left = i * dh, j * dw
        return array[:, top : top + (self._rows - 1) * sh + 1 : sh, left : left + (self._columns - 1) * sw + 1 : sw]

    def _taps(self) -> list[tuple[int, int]]:
        return [(i, j) for i in range(self._weight.shape[1]) for j in range(self._weight.shape[2])]

    def _depthwise_forward(self) -> Array:
        total: Any = 0.0
        for i, j in self._taps():
            total = total + self._window(self._padded, i, j) * self._weight[:, i, j, 0]
        return np.asarray(total)

    def _gather(self) -> Array:
        """Return patches, float32 [groups, positions, taps · channels per group]."""
        x, groups = np.ascontiguousarray(self._padded), self._attrs.groups
        _, kh, kw, per_group = self._weight.shape
        (sh, sw), (dh, dw) = self._attrs.strides, self._attrs.dilations
        sn, sy, sx, sc = x.strides
        view = as_strided(
            x,
            (groups, x.shape[0], self._rows, self._columns, kh, kw, per_group),
            (sc * per_group, sn, sy * sh, sx * sw, sy * dh, sx * dw, sc),
            writeable=False,
        )
        return view.reshape(groups, -1, kh * kw * per_group)

    def _matrices(self) -> Array:
        """Return the weights, [groups, outputs per group, taps · channels per group]."""
        return self._weight.reshape(self._attrs.groups, self._weight.shape[0] // self._attrs.groups, -1)

    def _matmul_forward(self) -> Array:
        y = np.matmul(self._patches, self._matrices().transpose(0, 2, 1))
        return np.asarray(y.transpose(1, 0, 2).reshape(self._shape[0], self._rows, self._columns, -1))

    def gradients(self, g: Array) -> tuple[Array, Array]:
        """Return the gradients with respect to x and to the weight, from that with respect to the result."""
        if self._depthwise:
            weight = np.empty_like(self._weight)
            for i, j in self._taps():
                weight[:, i, j, 0] = np.einsum("nhwc,nhwc->c", self._window(self._padded, i, j), g)
        else:
            groups = self._attrs.groups
            rows = g.reshape(-1, groups, g.shape[-1] // groups).transpose(1, 0, 2)
            weight = np.matmul(rows.transpose(0, 2, 1), self._patches).reshape(self._weight.shape)
        return input_gradient(g, self._weight, self._attrs, self._shape), weight


def input_gradient(g: Array, weight: Array, attrs: Any, shape: tuple[int, ...]) -> Array:
    """Return the gradient of what a convolution reads, tap by tap.

    Formula:
        g_x[n, h·s+i·d−p, w·s+j·d−p, c] = Σ weight[o,i,j,c] · g[n,h,w,o]

    Args:
        g: gradient of the result, float32 [N, H', W', O].
        weight: float32 [O, kh, kw, C per group].
        attrs: strides, pads, dilations, groups.
        shape: of what it reads, [N, H, W, C].
    """
    (sh, sw), (dh, dw), groups = attrs.strides, attrs.dilations, attrs.groups
    top, left, bottom, right = attrs.pads
    padded = np.zeros((shape[0], shape[1] + top + bottom, shape[2] + left + right, shape[3]), np.float32)
    outputs, kh, kw, per_group = weight.shape
    depthwise = per_group == 1 and outputs == groups
    rows = g.reshape(-1, groups, outputs // groups).transpose(1, 0, 2)
    matrices = weight.reshape(groups, outputs // groups, kh, kw, per_group)
    for i, j in ((i, j) for i in range(kh) for j in range(kw)):
        if depthwise:
            back = g * weight[:, i, j, 0]
        else:
            back = np.matmul(rows, matrices[:, :, i, j]).transpose(1, 0, 2).reshape(*g.shape[:3], -1)
        bottom_row, right_column = i * dh + (g.shape[1] - 1) * sh + 1, j * dw + (g.shape[2] - 1) * sw + 1
        padded[:, i * dh : bottom_row : sh, j * dw : right_column : sw] += back
    return padded[:, top : top + shape[1], left : left + shape[2]]


def round_through(x: Array, qparams: QParams) -> tuple[Array, Array]:
    """Return real values on a grid, and where a change of them goes through.

    Formula:
        y = scale · clamp(rne(x/scale), qmin − zp, qmax − zp); ∂y/∂x = 1 where the clamp does not act, else 0

    Args:
        x: real values.
        qparams: per tensor.

    Source:
        Straight-through estimator; Bengio et al., "Estimating or propagating gradients through stochastic neurons
        for conditional computation", 2013.
    """
    scale, zp = np.float32(qparams.scalar_scale), qparams.scalar_zero_point
    steps = np.rint(x / scale)
    low, high = np.float32(qparams.qmin - zp), np.float32(qparams.qmax - zp)
    inside = (steps >= low) & (steps <= high)
    return np.asarray(np.clip(steps, low, high) * scale, np.float32), inside.astype(np.float32)
