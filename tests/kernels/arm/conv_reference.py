"""NumPy reference of a convolution layer, written from the definition, and random layers to try it on."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from qcompile.kernels.conv_workload import ConvWorkload
from qcompile.kernels.parameters import RESIDUAL_REACH, WIDE_LIMIT, WIDE_SHIFT, LayerScalars
from qcompile.quant.scaled import ScaledActivation


@dataclass
class Layer:
    """A workload with operands.

    Attributes:
        work: the shape.
        x: input [batch, height, width, channels].
        weights: [filters, rows, columns, channels / groups].
        bias: [filters].
        multipliers: float32 [filters].
        scalars: zero points and clamps.
        residual: like the output, or None.
        table: int8 [256], or None.
    """

    work: ConvWorkload
    x: np.ndarray
    weights: np.ndarray
    bias: np.ndarray
    multipliers: np.ndarray
    scalars: LayerScalars
    residual: np.ndarray | None = None
    table: np.ndarray | None = None


def make_layer(work: ConvWorkload, rng: np.random.Generator) -> Layer:
    """Random operands with extreme codes among them; multipliers spread the sums over the output's range."""
    per_group = work.channels // work.groups
    shape, kernel = (
        (work.batch, work.height, work.width, work.channels),
        (work.filters, *work.kernel, per_group),
    )
    out = (work.batch, work.out_height, work.out_width, work.filters)
    if work.precision == "float32":
        x, weights, bias, residual = (rng.standard_normal(s, np.float32) for s in (shape, kernel, (work.filters,), out))
        scalars = LayerScalars(alpha=-0.5, beta=0.75)
        return Layer(work, x, weights, bias, np.ones(work.filters, np.float32), scalars, residual)
    x = rng.integers(-128, 128, shape).astype(np.int8)
    weights = rng.integers(-127, 128, kernel).astype(np.int8)
    x[rng.random(shape) < 0.2] = -128
    weights[0], weights[-1] = -127, 127
    spread = 75 * 75 * np.sqrt(work.reduction)
    multipliers = (rng.uniform(0.2, 1.0, work.filters) * 127 / spread).astype(np.float32)
    low, high = sorted(int(code) for code in rng.integers(-128, 128, 2))
    scalars = LayerScalars(
        x_zero_point=int(rng.integers(-128, 128)),
        y_zero_point=int(rng.integers(-128, 128)),
        qmin=-128 if rng.random() < 0.5 else low,
        qmax=127 if rng.random() < 0.5 else high,
        residual_zero_point=int(rng.integers(-128, 128)),
        residual_factor=int(rng.integers(1 << 12, 1 << 15)),
    )
    if work.activation == "leaky_relu":
        scalars = replace(scalars, alpha=float(np.float32(rng.choice([0.1, 0.01, 0.3, -0.5, 0.0, 1.0]))))
    if work.activation == "prelu":
        slopes = np.minimum(rng.normal(0.3, 0.5, work.filters), 1.0).astype(np.float32)
        scalars = replace(scalars, per_channel=tuple(slopes.tolist()))
    if work.activation == "hard_swish":
        scalars = replace(scalars, alpha=float(np.float32(1.0 / rng.uniform(10.0, 180.0))))
    if work.activation == "channel_hard_swish":
        gates = (1.0 / rng.uniform(10.0, 180.0, work.filters)).astype(np.float32)
        scalars = replace(scalars, per_channel=tuple(gates.tolist()))
    if work.activation == "channel_clip":
        bounds = rng.uniform(3.0, 140.0, work.filters).astype(np.float32)
        scalars = replace(scalars, per_channel=tuple(bounds.tolist()))
    if work.full_range:
        scalars = replace(scalars, qmin=-128, qmax=127)
    if work.bounded_residual:
        scalars = replace(scalars, residual_factor=int(rng.choice([1, 1 << WIDE_SHIFT, RESIDUAL_REACH])))
    if work.residual:
        multipliers *= np.float32(1 << WIDE_SHIFT)
        multipliers[::5] *= np.float32(1 << 13)  # past the wide limit, and past int32
    bias = rng.integers(-(1 << 14), 1 << 14, work.filters).astype(np.int32)
    if work.bounded:  # some sums then reach all that they may
        reach = 255.0 * np.abs(weights.astype(np.float64)).reshape(work.filters, -1).sum(axis=1) + np.abs(bias)
        most = (2.0**30 if work.residual else 2.0**31) * (1 - 2.0**-20) / np.maximum(reach, 1)
        multipliers = np.minimum(multipliers, most).astype(np.float32)
    residual = rng.integers(-128, 128, out).astype(np.int8)
    table = rng.integers(-128, 128, 256).astype(np.int8)
    return Layer(work, x, weights, bias, multipliers, scalars, residual, table)


def sums(layer: Layer) -> np.ndarray:
    """Accumulators: int32 exactly, or float64 for a float32 layer."""
    work, (top, left, bottom, right) = layer.work, layer.work.pads
    wide = np.float64  # exact for integers below 2^53, and fast
    x = layer.x.astype(wide) - (layer.scalars.x_zero_point if work.precision == "int8" else 0)
    x = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    acc = np.zeros((work.batch, work.out_height, work.out_width, work.filters), wide) + layer.bias
    per_in, per_out = work.channels // work.groups, work.filters // work.groups
    for i in range(work.kernel[0]):
        for j in range(work.kernel[1]):
            rows = slice(i * work.dilations[0], None, work.strides[0])
            columns = slice(j * work.dilations[1], None, work.strides[1])
            seen = x[:, rows, columns][:, : work.out_height, : work.out_width]
            for g in range(work.groups):
                part = layer.weights[g * per_out : (g + 1) * per_out, i, j].astype(wide)
                acc[..., g * per_out : (g + 1) * per_out] += seen[..., g * per_in : (g + 1) * per_in] @ part.T
    return acc.astype(np.int32) if work.precision == "int8" else acc


def expected(layer: Layer) -> np.ndarray:
    """The layer's output: exact for integers, float64 for a float32 output."""
    work, scalars, acc = layer.work, layer.scalars, sums(layer)
    if work.precision == "float32":
        value = acc + layer.residual if work.residual else acc
        return np.clip(value, scalars.alpha, scalars.beta) if work.activation == "clip" else value
    if work.output == "int32":
        return acc
    scaled = acc.astype(np.float32) * layer.multipliers
    if work.activation != "none":
        scaled = ScaledActivation(work.activation, scalars.per_channel or (scalars.alpha,))(scaled)
    if work.output == "float32":
        return scaled
    low, high = scalars.qmin - scalars.y_zero_point, scalars.qmax - scalars.y_zero_point
    if work.residual:
        wide = np.rint(np.clip(scaled, -WIDE_LIMIT, WIDE_LIMIT)).astype(np.int64)
        other = layer.residual.astype(np.int64) - scalars.residual_zero_point
        q = (wide + other * scalars.residual_factor + (1 << WIDE_SHIFT - 1)) >> WIDE_SHIFT
        q = np.clip(q, low, high)
    else:
        q = np.rint(np.clip(scaled, np.float32(low), np.float32(high))).astype(np.int64)
    q = (q + scalars.y_zero_point).astype(np.int8)
    return layer.table[q.astype(np.int64) + 128] if work.table else q


SHAPES = [
    ConvWorkload(1, 7, 7, 24, 40),
    ConvWorkload(2, 5, 9, 3, 17),
    ConvWorkload(1, 1, 5, 96, 10),
    ConvWorkload(1, 1, 1, 130, 33),
    ConvWorkload(1, 1, 1, 77, 5),
    ConvWorkload(1, 1, 1, 190, 150),
    ConvWorkload(1, 3, 3, 6, 20, (3, 3)),
    ConvWorkload(1, 14, 14, 16, 96),
    ConvWorkload(1, 8, 8, 40, 16, strides=(2, 2)),
    ConvWorkload(1, 15, 13, 3, 16, (3, 3), (2, 2), pads=(1, 1, 1, 1)),
    ConvWorkload(1, 16, 16, 3, 32, (3, 3), (2, 2), pads=(0, 0, 1, 1)),
    ConvWorkload(1, 9, 11, 20, 12, (3, 3), pads=(1, 1, 1, 1)),
    ConvWorkload(1, 9, 9, 8, 24, (3, 3)),
    ConvWorkload(1, 10, 12, 16, 8, (5, 5), (2, 1), pads=(2, 2, 2, 2)),
    ConvWorkload(1, 12, 12, 6, 9, (3, 3), dilations=(2, 3), pads=(2, 3, 2, 3)),
    ConvWorkload(1, 6, 7, 24, 32, (3, 3), pads=(1, 1, 1, 1), groups=4),
    ConvWorkload(2, 6, 6, 12, 6, (1, 1), groups=2),
    ConvWorkload(1, 20, 30, 4, 6, (1, 7), pads=(0, 3, 0, 3)),
]

LARGE = [
    ConvWorkload(1, 7, 7, 960, 1280),
    ConvWorkload(1, 1, 1, 2048, 1000),
    ConvWorkload(1, 14, 14, 256, 384, (3, 3), pads=(1, 1, 1, 1)),
    ConvWorkload(1, 56, 56, 64, 24, residual=True),
    ConvWorkload(1, 28, 28, 96, 96, (3, 3), pads=(1, 1, 1, 1), groups=96),
    ConvWorkload(2, 33, 65, 3, 32, (3, 3), (2, 2), pads=(1, 1, 1, 1)),
]
"""Layers that are cut into many parallel items, some by channels, since their weights exceed the cache."""

DEPTHWISE = [
    ConvWorkload(1, 9, 9, 32, 32, (3, 3), pads=(1, 1, 1, 1), groups=32),
    ConvWorkload(2, 8, 7, 24, 24, (3, 3), (2, 2), pads=(0, 0, 1, 1), groups=24),
    ConvWorkload(1, 14, 14, 40, 40, (5, 5), pads=(2, 2, 2, 2), groups=40),
    ConvWorkload(1, 13, 11, 17, 17, (5, 5), (2, 2), pads=(2, 2, 2, 2), groups=17),
    ConvWorkload(1, 6, 9, 5, 5, (3, 3), groups=5),
    ConvWorkload(1, 10, 10, 48, 48, (3, 3), dilations=(2, 2), pads=(2, 2, 2, 2), groups=48),
    ConvWorkload(1, 12, 10, 16, 16, (7, 7), pads=(3, 3, 3, 3), groups=16),
    ConvWorkload(1, 1, 20, 8, 8, (1, 4), (1, 3), groups=8),
    ConvWorkload(3, 5, 5, 20, 20, (1, 1), groups=20),
    ConvWorkload(1, 70, 40, 16, 16, (3, 3), pads=(1, 1, 1, 1), groups=16),
]


def random_workload(rng: np.random.Generator) -> ConvWorkload:
    """A small convolution of any geometry."""
    groups = int(rng.choice([1, 1, 1, 2, 3]))
    rows, columns = (int(k) for k in rng.choice([1, 1, 2, 3, 5], 2))
    down, right = (int(d) for d in rng.choice([1, 1, 2], 2))
    return ConvWorkload(
        batch=int(rng.integers(1, 3)),
        height=int(rng.integers(down * (rows - 1) + 1, 14)),
        width=int(rng.integers(right * (columns - 1) + 1, 14)),
        channels=groups * int(rng.integers(1, 40)),
        filters=groups * int(rng.integers(1, 40)),
        kernel=(rows, columns),
        strides=(int(rng.integers(1, 3)), int(rng.integers(1, 3))),
        dilations=(down, right),
        pads=tuple(int(p) for p in rng.integers(0, 3, 4)),
        groups=groups,
    )


def epilogues(work: ConvWorkload, rng: np.random.Generator) -> ConvWorkload:
    """The same geometry with a random end."""
    ends = [
        {},
        {"residual": True},
        {"table": True},
        {"residual": True, "table": True},
        {"residual": True, "bounded_residual": True},
        {"residual": True, "bounded_residual": True, "full_range": True},
        {"residual": True, "bounded_residual": True, "table": True},
        {"residual": True, "bounded_residual": True, "bounded": True},
        {"residual": True, "bounded_residual": True, "bounded": True, "full_range": True},
        {"bounded": True},
        {"full_range": True},
        {"output": "int32"},
        {"output": "float32"},
        {"activation": "leaky_relu"},
        {"activation": "leaky_relu", "full_range": True},
        {"activation": "hard_swish"},
        {"activation": "hard_swish", "full_range": True},
        {"activation": "prelu"},
        {"activation": "channel_hard_swish"},
        {"activation": "channel_hard_swish", "full_range": True},
        {"activation": "channel_hard_swish", "output": "float32"},
        {"activation": "channel_clip"},
        {"activation": "channel_clip", "bounded": True},
        {"activation": "hard_swish", "output": "float32"},
        {"activation": "leaky_relu", "output": "float32"},
        {"precision": "float32", "output": "float32"},
        {"precision": "float32", "output": "float32", "residual": True, "activation": "clip"},
    ]
    return replace(work, **ends[int(rng.integers(len(ends)))])


PITCHED = [
    ConvWorkload(1, 7, 7, 24, 40, in_pitch=40, out_pitch=100),
    ConvWorkload(2, 5, 9, 3, 17, in_pitch=5, out_pitch=33),
    ConvWorkload(1, 1, 1, 130, 33, out_pitch=50),
    ConvWorkload(1, 14, 14, 32, 64, out_pitch=65),
    ConvWorkload(1, 9, 9, 48, 24, (3, 3), in_pitch=64),
    ConvWorkload(1, 9, 11, 20, 12, (3, 3), pads=(1, 1, 1, 1), in_pitch=29, out_pitch=70),
    ConvWorkload(1, 15, 13, 3, 16, (3, 3), (2, 2), pads=(0, 0, 1, 1), in_pitch=4, out_pitch=17),
    ConvWorkload(1, 8, 8, 40, 16, strides=(2, 2), in_pitch=41, out_pitch=48),
    ConvWorkload(1, 12, 12, 6, 9, (3, 3), dilations=(2, 3), pads=(2, 3, 2, 3), in_pitch=7, out_pitch=12),
    ConvWorkload(1, 6, 7, 24, 32, (3, 3), pads=(1, 1, 1, 1), groups=4, in_pitch=25, out_pitch=40),
    ConvWorkload(1, 20, 20, 96, 96, (3, 3), pads=(1, 1, 1, 1), groups=96, in_pitch=100, out_pitch=130),
    ConvWorkload(1, 20, 20, 58, 58, (3, 3), (2, 2), (1, 1), (1, 1, 1, 1), groups=58, in_pitch=116, out_pitch=60),
    ConvWorkload(1, 11, 9, 20, 20, (5, 5), pads=(2, 2, 2, 2), groups=20, in_pitch=33, out_pitch=21),
    ConvWorkload(1, 7, 7, 24, 40, residual=True, in_pitch=40),
    ConvWorkload(1, 7, 7, 24, 40, residual=True, in_pitch=40, out_pitch=80),
    ConvWorkload(1, 9, 11, 20, 12, (3, 3), pads=(1, 1, 1, 1), residual=True, residual_pitch=29),
    ConvWorkload(2, 6, 7, 24, 33, residual=True, bounded_residual=True, out_pitch=50, residual_pitch=50),
    ConvWorkload(1, 13, 9, 16, 48, residual=True, bounded_residual=True, out_pitch=101, residual_pitch=64),
    ConvWorkload(1, 8, 8, 40, 40, (3, 3), pads=(1, 1, 1, 1), groups=40, residual=True, out_pitch=80, residual_pitch=41),
    ConvWorkload(
        1, 5, 9, 16, 24, precision="float32", output="float32", residual=True, out_pitch=40, residual_pitch=33
    ),
    ConvWorkload(1, 7, 7, 24, 40, table=True, in_pitch=40, out_pitch=56),
]


def compare(layer: Layer, result: np.ndarray, wanted: np.ndarray) -> None:
    """Check a result that may lie among the channels of others: integers to the bit, floats within their rounding."""
    if layer.work.precision != "float32":
        np.testing.assert_array_equal(result, wanted, err_msg=str(layer.work))
        return
    scale = np.abs(layer.weights).sum(axis=(1, 2, 3)) * np.abs(layer.x).max() + 1
    differ = np.abs(result - wanted)
    assert np.all(differ[..., : layer.work.filters] <= 1e-6 * scale), layer.work
    assert not differ[..., layer.work.filters :].any(), layer.work


def among_others(tensor: np.ndarray, pitch: int, fill: int) -> np.ndarray:
    """The tensor as the first channels of pixels that have ``pitch`` elements."""
    if not pitch:
        return tensor
    wide = np.full((*tensor.shape[:-1], pitch), fill, tensor.dtype)
    wide[..., : tensor.shape[-1]] = tensor
    return wide
