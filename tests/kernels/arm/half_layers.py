"""Layers on numbers of 16 bits, and how far from the exact sums their kernels may be."""

from __future__ import annotations

from dataclasses import replace

import conv_reference
import numpy as np

from qcompile.kernels.conv_workload import ConvWorkload

_HALF = {"precision": "float16", "output": "float16"}
SHAPES = [
    *(replace(work, **_HALF) for work in conv_reference.SHAPES),
    ConvWorkload(1, 7, 9, 200, 48, (3, 3), pads=(1, 1, 1, 1), residual=True, activation="clip", **_HALF),
    ConvWorkload(1, 1, 1, 1000, 70, **_HALF),
    ConvWorkload(1, 9, 9, 40, 40, (3, 3), pads=(1, 1, 1, 1), groups=40, activation="clip", **_HALF),
    ConvWorkload(1, 9, 9, 20, 20, (5, 5), (2, 2), pads=(2, 2, 2, 2), groups=20, activation="relu", **_HALF),
    ConvWorkload(1, 14, 14, 37, 37, (9, 9), pads=(4, 4, 4, 4), groups=37, **_HALF),
    ConvWorkload(1, 6, 6, 24, 40, activation="silu", residual=True, **_HALF),
]
"""Runs of K shorter and longer than a block of products, more taps than one, every kind of epilogue."""

BFLOAT_SHAPES = [
    *(replace(work, precision="bfloat16", output="bfloat16") for work in SHAPES),
    *(
        ConvWorkload(1, 12, 20, c, 40, k, pads=(1, 1, 1, 1), precision="bfloat16", output="float32")
        for c in (24, 31, 48, 80, 144)
        for k in ((1, 1), (3, 3))
    ),
    ConvWorkload(1, 30, 26, 3, 40, (7, 7), (2, 2), pads=(3, 3, 3, 3), precision="bfloat16", output="bfloat16"),
    ConvWorkload(1, 12, 11, 5, 24, (3, 3), precision="bfloat16", output="bfloat16", activation="relu"),
]
"""Runs that fill matrix tiles and groups of a dot product, or do not."""


def half_layer(work: ConvWorkload, rng: np.random.Generator) -> conv_reference.Layer:
    """Return a layer with random operands of the type that it multiplies."""
    layer = conv_reference.make_layer(replace(work, precision="float32", output="float32"), rng)
    layer.work = work
    spread = np.float32(1 / np.sqrt(work.reduction))
    layer.x, layer.weights = layer.x.astype(work.precision), (layer.weights * spread).astype(work.precision)
    layer.residual = layer.residual.astype(work.output)
    return layer


def assert_close(layer: conv_reference.Layer, result: np.ndarray) -> None:
    """Compare with the exact sums: every element, and the noise of all of them together."""
    work = replace(layer.work, precision="float32", output="float32")
    wanted = conv_reference.expected(replace(layer, work=work))
    if work.activation == "relu":
        wanted = np.maximum(wanted, 0)
    elif work.activation == "silu":
        wanted = wanted / (1 + np.exp(-wanted))
    error = result.astype(np.float64) - wanted
    coarse = 8 if layer.work.output == "bfloat16" else 1
    assert np.abs(error).max() <= 0.01 * coarse * max(1.0, float(np.abs(wanted).max())), work
    assert np.square(error).sum() <= 1e-5 * coarse * np.square(wanted).sum() + 1e-9, work
