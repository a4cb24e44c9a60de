"""Fourier transforms as matrix products with constant matrices.

The sizes that neural networks transform (some hundred samples) are as fast as matrix products, which also quantize.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from qcompile.ir.graph import Value
from qcompile.ir.symbol import Extent
from qcompile.ops.layout import axis_index
from qcompile.ops.onnx_node import OnnxNode
from qcompile.ops.reshape import reshaped

LARGEST = 8192
"""Points of a transform; a longer one would need hundreds of megabytes of constants."""


def fourier_matrix(given: int, parts: int, length: int, bins: int, *, inverse: bool) -> np.ndarray[Any, Any]:
    """Return the real matrix that takes samples to spectral values, both with real and imaginary parts in turn.

    Formula:
        X[k] = Σ x[t] · e^{∓2πi·k·t/n}, divided by n for the inverse

    Args:
        given: samples; those from `length` on are left out.
        parts: 1 for real samples, 2 for complex ones.
        length: n.
        bins: values wanted.
        inverse: whether it is the inverse transform.

    Returns:
        float32 [2·bins, parts·given].
    """
    k, t = np.arange(bins)[:, None], np.arange(given)[None, :]
    angle = 2.0 * np.pi * ((k * t) % length) / length * (1.0 if inverse else -1.0)
    real, imaginary = np.cos(angle), np.sin(angle)
    matrix = np.zeros((bins, 2, given, parts))
    matrix[:, 0, :, 0], matrix[:, 1, :, 0] = real, imaginary
    if parts == 2:
        matrix[:, 0, :, 1], matrix[:, 1, :, 1] = -imaginary, real
    matrix[:, :, length:] = 0.0
    scale = 1.0 / length if inverse else 1.0
    return np.asarray(matrix.reshape(2 * bins, parts * given) * scale, np.float32)


def _inverse_real_matrix(given: int, length: int) -> np.ndarray[Any, Any]:
    """Return the matrix that takes the first half of a spectrum to real samples: float32 [length, 2·given]."""
    whole = fourier_matrix(length, 2, length, length, inverse=True).reshape(length, 2, length, 2)[:, 0]
    used = min(given, length // 2 + 1)
    matrix = np.zeros((length, given, 2), np.float32)
    matrix[:, :used] = whole[:, :used]
    for k in range(1, used):
        if k != length - k:
            # The other half is the conjugate of the first.
            matrix[:, k, 0] += whole[:, length - k, 0]
            matrix[:, k, 1] -= whole[:, length - k, 1]
    return matrix.reshape(length, 2 * given)


def _transform(node: OnnxNode, x: Value, matrix: np.ndarray[Any, Any], name: str) -> Value:
    weight = node.constant("matrix", matrix)
    return node.add("dense", [x, weight, node.constant("bias", np.zeros(len(matrix), np.float32))], name=name)


def _dft(node: OnnxNode) -> Value:
    x, base = node.value(0), node.outputs[0]
    rank = len(x.shape)
    if node.opset >= 20:
        axis = int(node.array(2, "axis").reshape(-1)[0]) if node.has(2) else -2
    else:
        axis = int(node.attr("axis", 1))
    axis, inverse, onesided = axis_index(axis, rank), bool(node.attr("inverse", 0)), bool(node.attr("onesided", 0))
    given, parts = x.shape[axis], x.shape[-1]
    if axis == rank - 1 or parts not in (1, 2):
        node.fail(f"axis {axis} of {x.type}, whose last axis holds real and imaginary parts")
    length = int(node.array(1, "dft_length").reshape(-1)[0]) if node.has(1) else 0
    if not length:
        length = 2 * (given - 1) if inverse and onesided else given
    if not 0 < length <= LARGEST:
        node.fail(f"a transform of {length} points; {LARGEST} are the most")
    real = inverse and onesided
    if real and parts != 2:
        node.fail("a one-sided inverse transform needs complex values")
    if real:
        matrix, values = _inverse_real_matrix(given, length), 1
    else:
        bins = length // 2 + 1 if onesided else length
        matrix, values = fourier_matrix(given, parts, length, bins, inverse=inverse), 2
    order = [a for a in range(rank - 1) if a != axis] + [axis, rank - 1]
    turned = x if order == list(range(rank)) else node.add("transpose", [x], f"{base}.turned", perm=tuple(order))
    rows = reshaped(node, turned, (*turned.shape[:-2], given * parts), f"{base}.rows")
    y = _transform(node, rows, matrix, f"{base}.product")
    y = reshaped(node, y, (*turned.shape[:-2], len(matrix) // values, values), f"{base}.pairs")
    back = tuple(order.index(a) for a in range(rank))
    return y if turned is x else node.add("transpose", [y], name=base, perm=back)


def _stft(node: OnnxNode) -> Value:
    x, base = node.value(0), node.outputs[0]
    step = int(node.array(1, "frame_step").reshape(-1)[0])
    window = node.array(2, "window").reshape(-1) if node.has(2) else None
    length = int(node.array(3, "frame_length").reshape(-1)[0]) if node.has(3) else 0
    if window is not None:
        length = length or window.size
    if len(x.shape) == 2:
        x = reshaped(node, x, (*x.shape, 1), f"{base}.signal")
    batch, samples, parts = x.shape
    if not 0 < length <= min(samples, LARGEST) or step < 1:
        node.fail(f"frames of {length} samples every {step} of {samples}")
    frames = 1 + (samples - length) // step
    places = np.arange(frames)[:, None] * step + np.arange(length)[None, :]
    cut = node.add("gather", [x, node.constant("places", places, "int64")], name=f"{base}.frames", axis=1)
    extent = None if node.open is None else node.open.extent(x, 1)
    if extent is not None:
        counts = tuple(1 + (size - length) // step for size in extent.table)
        cut = node.open.cut(cut, 1, Extent(extent.symbol, counts))
    rows = reshaped(node, cut, (batch, frames, length * parts), f"{base}.rows")
    bins = length // 2 + 1 if node.attr("onesided", 1) else length
    matrix = fourier_matrix(length, parts, length, bins, inverse=False)
    if window is not None:
        matrix = matrix * np.repeat(window.astype(np.float32), parts)[None, :]
    y = _transform(node, rows, matrix, f"{base}.product")
    return reshaped(node, y, (batch, frames, bins, 2), base)


CONVERTERS = {"DFT": _dft, "STFT": _stft}
