"""Arithmetic that several operations share: integer products, fused activations, accumulator epilogues."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.ir.graph import Node
from qcompile.ir.opdef import OpDef, Quantization
from qcompile.quant import int16
from qcompile.quant import requantize as rq
from qcompile.quant.affine import dequantize
from qcompile.quant.qparams import REMEMBERED, QParams
from qcompile.quant.scaled import DIVIDED, PER_CHANNEL, SCALED, ScaledActivation, channel_steps, scaled_activation

Array = npt.NDArray[Any]

ACTIVATIONS = (
    "none",
    "relu",
    "clip",
    "leaky_relu",
    "hard_swish",
    "hard_sigmoid",
    "sigmoid",
    "tanh",
    "silu",
    "gelu",
)
"""Activations that conv2d, conv_transpose2d, dense and add can carry; `alpha` and `beta` parametrize them.

clip: bounds alpha, beta. leaky_relu: slope alpha. hard_sigmoid: max(0, min(1, alpha·x + beta)). The others
take none; gelu is the exact one.
"""

CLAMPS = ("none", "relu", "clip")
"""Activations that on quantized tensors are a clamp of q."""

BOUNDED = (*CLAMPS[1:], "channel_clip")
"""Activations of which a bound is one of a quantized result's [qmin, qmax]."""

CONVERSIONS = ("quantize", "dequantize", "requantize")
"""Operations between real numbers and codes, or codes of two scales: there because of the precisions around them."""

ACCUMULATOR_LIMIT = 2**31 - 1

_MANY_ROWS = 32
"""Of a product from which on it is worth a look at the other matrix."""


def check_activation(activation: str) -> None:
    """Refuse an activation that nothing can fuse.

    Args:
        activation: what an attribute says.

    Raises:
        ValueError: it is neither one of ACTIVATIONS nor of SCALED, or needs divisors.
    """
    if activation in DIVIDED:
        raise ValueError(f"the activation '{activation}' belongs to conv2d and dense")
    if activation not in (*ACTIVATIONS, *SCALED):
        raise ValueError(f"activation '{activation}' is none of {', '.join(ACTIVATIONS)}")


def check_layer_activation(attrs: Any) -> None:
    """Refuse an activation of no layer, and divisors that do not go with the activation.

    Args:
        attrs: of conv2d or dense.

    Raises:
        ValueError: the attributes contradict one another.
    """
    if attrs.activation not in DIVIDED:
        check_activation(attrs.activation)
    name, divisors = attrs.activation, np.asarray(attrs.divisors, np.float32)
    if (name in DIVIDED) != bool(divisors.size):
        raise ValueError(f"the activation '{name}' with {divisors.size} divisors; they belong to {', '.join(DIVIDED)}")
    if not np.all((divisors > 0.0) & np.isfinite(divisors)):
        raise ValueError("a divisor is not a positive number")
    if divisors.size and (attrs.residual or attrs.pre_activation is not None):
        raise ValueError(f"the activation '{name}' goes with neither a residual nor a table")
    if name == "channel_clip" and not (attrs.alpha == 0.0 and attrs.beta > 0.0):
        raise ValueError(f"channel_clip is from 0 to a positive bound, not from {attrs.alpha:g} to {attrs.beta:g}")


def check_divisor_count(attrs: Any, channels: int) -> None:
    """Refuse divisors of another number than there are output channels.

    Args:
        attrs: of conv2d or dense.
        channels: of the result.

    Raises:
        ValueError: there are more or fewer.
    """
    if attrs.divisors and len(attrs.divisors) != channels:
        raise ValueError(f"{len(attrs.divisors)} divisors for {channels} channels")


def activate_layer(attrs: Any, y: Array) -> Array:
    """Apply the activation of a layer to its real sums, in the precision of y.

    Formula:
        act(y), with divisors d act(y)[c] · float32(1 / d[c]); prelu: max(y, 0) + slope[c] · min(y, 0)

    Args:
        attrs: of conv2d, conv_transpose2d or dense.
        y: float32 or float64; the channel is axis 1 of four in the layout "NCHW", else the last one.
    """
    if attrs.activation not in PER_CHANNEL:
        return activate(y, attrs.activation, attrs.alpha, attrs.beta)
    known = np.asarray(attrs.slopes, np.float32) if attrs.activation == "prelu" else channel_factors(attrs)
    factors = known.astype(y.dtype)
    if getattr(attrs, "layout", "NHWC") == "NCHW":
        factors = factors.reshape(-1, 1, 1)
    if attrs.activation == "prelu":
        return np.asarray(np.where(y >= 0, y, y * factors))
    return np.asarray(activate(y, plain_activation(attrs.activation), attrs.alpha, attrs.beta) * factors)


def plain_activation(activation: str) -> str:
    """Return what an activation does before its results are divided for each channel."""
    return activation.removeprefix("channel_") if activation in DIVIDED else activation


def divided_activation(attrs: Any) -> str | None:
    """Return what a layer's activation is called once its results are divided; None where they cannot be.

    Args:
        attrs: of conv2d or dense, without divisors.
    """
    name = f"channel_{attrs.activation}"
    clips_elsewhere = attrs.activation == "clip" and not (attrs.alpha == 0.0 and 0.0 < attrs.beta < np.inf)
    return None if name not in DIVIDED or clips_elsewhere else name


def channel_factors(attrs: Any) -> npt.NDArray[np.float32]:
    """Return what the activation's results are multiplied with in real numbers: float32(1 / d[c])."""
    return np.asarray(1.0 / np.asarray(np.asarray(attrs.divisors, np.float32), np.float64), np.float32)


def activate(x: Array, activation: str, alpha: float, beta: float) -> Array:
    """Apply a fused activation to real values, in the precision of x.

    Args:
        x: float32 or float64, any shape.
        activation: one of ACTIVATIONS.
        alpha: its first parameter.
        beta: its second parameter.
    """
    if activation == "none":
        return x
    if activation == "relu":
        return np.asarray(np.maximum(x, x.dtype.type(0)))
    if activation == "clip":
        bounded = np.asarray(np.maximum(x, x.dtype.type(alpha)))
        return np.asarray(np.minimum(bounded, x.dtype.type(beta), out=bounded))
    op, attrs = activation_op(activation, alpha, beta)
    with np.errstate(all="ignore"):
        return np.asarray(op.function(attrs, x), x.dtype)


def activation_op(activation: str, alpha: float, beta: float) -> tuple[OpDef, Any]:
    """Return the operation that a fused activation stands for, and its attributes.

    Args:
        activation: one of ACTIVATIONS, not "none".
        alpha: its first parameter.
        beta: its second parameter.
    """
    from qcompile import ops

    parameters = {
        "clip": {"min": alpha, "max": beta},
        "leaky_relu": {"alpha": alpha},
        "hard_sigmoid": {"alpha": alpha, "beta": beta},
    }
    op = ops.get(activation)
    return op, op.Attrs(**parameters.get(activation, {}))


def clamp_bounds(activation: str, alpha: float, beta: float) -> tuple[float, float]:
    """Return the real bounds of a clamping activation that are the same for all channels."""
    unbounded, positive = (-np.inf, np.inf), (0.0, np.inf)
    return {"none": unbounded, "relu": positive, "clip": (alpha, beta), "channel_clip": positive}[activation]


def integer_matmul(a: Array, b: Array, reach: int = 255 * 128) -> Array:
    """Multiply integer matrices exactly, through BLAS.

    float32 products and sums of integers are exact below 2^24, float64 ones below 2^53; the smaller type that
    is safe for the worst case is used, or for what b holds: for 255 · max Σ|b| over its columns.

    Args:
        a: integers [..., M, K], within ±255.
        b: integers [..., K, N] or [K].
        reach: bound of |a·b| for one product.

    Returns:
        int32 [..., M, N].
    """
    exact_in_single = a.shape[-1] * reach < 2**24 or (a.size >= _MANY_ROWS * a.shape[-1] and _is_light(b))
    kind = np.float32 if exact_in_single else np.float64
    return np.asarray(np.matmul(a.astype(kind), b.astype(kind)).astype(np.int32))


def _is_light(b: Array) -> bool:
    """Return whether sums of products of integers within ±255 with any column are exact in float32."""
    sums = np.abs(b.astype(np.int32)).sum(axis=max(b.ndim - 2, 0))  # a vector is one column
    return 255 * int(sums.max(initial=0)) < 2**24


def finish_accumulator(node: Node, acc: Array, residual: Array | None) -> Array:
    """Turn accumulators into the node's result: raw, requantized, added to a residual, looked up, or real.

    The result's form follows from the output's QParams: int32 with the accumulator's own scale (raw), none
    (real), or int8; `attrs.pre_activation` holds the QParams before a table activation. Without them an activation
    (one of SCALED) applies to the scaled accumulators.

    Args:
        node: conv2d, conv_transpose2d or dense in integer form.
        acc: int32, channels last.
        residual: int8 operand of the fused add, or None.
    """
    x, w = node.inputs[0].qparams, node.inputs[1].qparams
    assert x is not None
    assert w is not None
    scales = accumulator_scales(x, w)
    result = node.output.qparams
    function = epilogue_activation(node)
    if result is None:
        factors = channel_multipliers(node, scales, 1.0)
        real = dequantize(acc, QParams(tuple(factors), (0,), "int32", *_INT32, axis=acc.ndim - 1))
        return real if function is None else function(real)
    if result.dtype == "int32" and result.per_channel:
        return acc
    attrs = node.attrs
    before = attrs.pre_activation or result
    if residual is None:
        q = rq.requantize(acc, channel_multipliers(node, scales, before.scalar_scale), before, function)
    else:
        wide = rq.wide_qparams(before)
        r = node.inputs[-1].qparams
        assert r is not None
        t = rq.requantize(acc, rq.multiplier(scales, wide.scalar_scale), wide)
        q = rq.add(t, residual, wide, r, before)
    if attrs.pre_activation is not None:
        q = activation_table(attrs, before, result)[q.astype(np.int16) + 128]
    return q


_INT32 = (-(2**31), 2**31 - 1)


def channel_multipliers(node: Node, scales: Array, step: float) -> npt.NDArray[np.float32]:
    """Return the float32 factors that take accumulators to steps of the result.

    Formula:
        m[c] = float32(s_acc[c] / (step · d[c])), d = 1 without divisors, the quotient in float64

    Args:
        node: conv2d, conv_transpose2d or dense in integer form.
        scales: s_acc, float32, real units per LSB.
        step: of the result, real units per LSB; 1 where the result is real.
    """
    return rq.multiplier(scales, channel_steps(node.attrs, step))


def epilogue_activation(node: Node) -> ScaledActivation | None:
    """Return what an integer layer applies to its scaled accumulators; None where that is nothing.

    Args:
        node: conv2d, conv_transpose2d or dense in integer form.
    """
    if node.attrs.pre_activation is not None or node.attrs.activation not in SCALED:
        return None
    result = node.output.qparams
    return scaled_activation(node.attrs, 1.0 if result is None else result.scalar_scale)


def hides_sum(node: Node) -> bool:
    """Return whether the integer form of a float node would need the range of what its fused activation reads.

    Args:
        node: with or without an activation.
    """
    activation = getattr(node.attrs, "activation", "none")
    if activation in CLAMPS:
        return False
    layer = node.op.integer is Quantization.ACCUMULATE and not node.attrs.residual
    steep = activation == "leaky_relu" and node.attrs.alpha > 1.0
    return activation not in SCALED or not layer or steep


def check_epilogue(node: Node) -> None:
    """Refuse an integer layer with an activation that neither a clamp, a table nor its epilogue is.

    Args:
        node: conv2d, conv_transpose2d or dense in integer form.

    Raises:
        ValueError: its activation has no integer form, or does not go with a residual or raw accumulators.
    """
    attrs, result = node.attrs, node.output.qparams
    if attrs.pre_activation is not None and node.inputs[0].dtype == int16.INT16:
        raise ValueError(f"the table of '{attrs.activation}' goes with 8-bit activations only")
    if attrs.activation in CLAMPS or attrs.pre_activation is not None:
        return
    slopes = getattr(attrs, "slopes", ())
    if attrs.activation == "prelu" and (len(slopes) != node.inputs[2].shape[0] or max(slopes) > 1.0):
        raise ValueError(f"{len(slopes)} slopes for {node.inputs[2].shape[0]} channels, or one steeper than 1")
    if attrs.activation not in SCALED:
        raise ValueError(f"the activation '{attrs.activation}' of an integer layer needs QParams before it")
    if attrs.residual or (result is not None and result.dtype == "int32"):
        raise ValueError(f"the activation '{attrs.activation}' applies to what is scaled, before a residual")
    if attrs.activation == "channel_clip" and (result is None or result.qmin < result.scalar_zero_point):
        raise ValueError("channel_clip needs a quantized result whose least code is zero")


def finish_planes(node: Node, high: Array, low: Array) -> Array:
    """Turn the sums over both planes of a 16-bit activation into the node's result: requantized, or real.

    Formula:
        t · m with m as `channel_multipliers` returns it, rounded and clamped; real with a step of 1

    Args:
        node: conv2d or dense whose operand 0 has 16 bits.
        high: int32 sums over the upper plane with that of the bias, channels last.
        low: likewise over the lower plane.
    """
    x, w, result = node.inputs[0].qparams, node.inputs[1].qparams, node.output.qparams
    assert x is not None
    assert w is not None
    scales = accumulator_scales(x, w)
    total = int16.combine(high, low)
    function = epilogue_activation(node)
    if result is None:
        real = np.asarray(total * channel_multipliers(node, scales, 1.0), np.float32)
        return real if function is None else function(real)
    return int16.requantize_real(total, channel_multipliers(node, scales, result.scalar_scale), result, function)


def activation_table(attrs: Any, before: QParams, result: QParams) -> npt.NDArray[np.int8]:
    """Return the 256-entry table of a fused activation.

    Args:
        attrs: has activation, alpha and beta.
        before: QParams of the activation's input.
        result: QParams of its output.
    """
    return _activation_table(attrs.activation, attrs.alpha, attrs.beta, before, result)


@lru_cache(REMEMBERED)
def _activation_table(
    activation: str, alpha: float, beta: float, before: QParams, result: QParams
) -> npt.NDArray[np.int8]:
    table = rq.table(lambda x: activate(x, activation, alpha, beta), before, result)
    table.setflags(write=False)
    return table


@lru_cache(REMEMBERED)
def accumulator_scales(x: QParams, w: QParams) -> npt.NDArray[np.float32]:
    """Return the real value of one accumulator LSB per output channel.

    Formula:
        s_acc[c] = float32(s_x · s_w[c]), the product in float64

    Args:
        x: QParams of the activation, per tensor.
        w: QParams of the weight, per tensor or per output channel.
    """
    scales = np.asarray(np.float64(x.scalar_scale) * np.asarray(w.scale, np.float64), np.float32)
    scales.setflags(write=False)
    return scales


def check_accumulator(node: Node, terms: int) -> None:
    """Refuse a product sum that could overflow int32.

    Formula:
        terms · 255 · 127 + |bias| ≤ 2^31 − 1

    Args:
        node: in integer form.
        terms: products per accumulator.

    Raises:
        ValueError: it could overflow.
    """
    bias = node.inputs[2].data
    largest = int(np.abs(bias.astype(np.int64)).max()) if bias is not None and bias.size else 0
    if node.inputs[0].dtype == int16.INT16:
        # Each plane has sums of its own, and takes its part of the bias.
        largest = (largest >> int16.LOW_BITS) + 2**int16.LOW_BITS
    worst = terms * 255 * 127 + largest
    if worst > ACCUMULATOR_LIMIT:
        raise ValueError(f"an accumulator of {terms} products and its bias could reach {worst}, beyond int32")
