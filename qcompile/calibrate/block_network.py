"""A block of the integer network in real numbers, with the gradient of its weights' rounding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.calibrate.block_gradients import Convolution, round_through
from qcompile.calibrate.block_partition import LAYERS, Block
from qcompile.calibrate.soft_rounding import SoftIntegers
from qcompile.ir.graph import Node, Value
from qcompile.ops.arithmetic import activate
from qcompile.quant.affine import dequantize
from qcompile.quant.qparams import QParams
from qcompile.quant.scaled import SCALED, channel_steps, scaled_activation

Array = npt.NDArray[Any]

Back = Callable[[Array], dict[Value, Array]]
"""From the gradient of a node's result to those of its operands."""


class SoftLayer:
    """The weights and the bias of one layer under choice.

    Args:
        node: conv2d or dense in integer form.
        real: weights of the float layer, real units, the node's shape.

    Attributes:
        bias: real units, float32 [outputs].
        weight_gradient: of the loss with respect to the real weights, after a backward pass.
        bias_gradient: of the loss with respect to the bias.
    """

    def __init__(self, node: Node, real: Array) -> None:
        params, bias_params = node.inputs[1].qparams, node.inputs[2].qparams
        assert params is not None
        assert bias_params is not None
        self.node = node
        shape = (-1,) + (1,) * (real.ndim - 1)
        scale = np.broadcast_to(np.asarray(params.scale, np.float32), real.shape[:1])
        self.scale = scale.reshape(shape)
        self.integers = node.inputs[1].constant().astype(np.float32)
        self.choice = SoftIntegers(self.integers, real / self.scale)
        self.bias = dequantize(node.inputs[2].constant(), bias_params).astype(np.float32)
        self.weight = self.integers * self.scale
        self.weight_gradient = np.zeros_like(self.weight)
        self.bias_gradient = np.zeros_like(self.bias)

    def soften(self, temperature: float) -> None:
        """Let the weights be those of a temperature."""
        self.weight = np.asarray(self.choice.soft(temperature) * self.scale, np.float32)

    def harden(self) -> None:
        """Let the weights be the integers chosen."""
        self.weight = np.asarray(self.choice.hard() * self.scale, np.float32)

    def choice_gradient(self, temperature: float) -> Array:
        """Return the gradient of the loss with respect to `choice.choice`."""
        return np.asarray(self.weight_gradient * self.scale * self.choice.slope(temperature))


class BlockNetwork:
    """Computes a block on real numbers that lie where the integers lie.

    Args:
        block: what to compute.
        real: weights of the float layer of each layer, real units.
    """

    def __init__(self, block: Block, real: dict[Node, Array]) -> None:
        self.block = block
        self.layers = [SoftLayer(node, real[node]) for node in block.layers]
        self._soft = {layer.node: layer for layer in self.layers}
        self._tape: list[tuple[Value, Back]] = []

    def forward(self, entry: Array) -> Array:
        """Return the block's result for a batch, float32."""
        values = {self.block.entry: entry}
        self._tape = []
        for node in self.block.nodes:
            operands = [values[v] if v in values else _constant(v) for v in node.inputs]
            result, back = self._layer(node, operands) if node.op.name in LAYERS else _other(node, operands)
            values[node.output] = result
            self._tape.append((node.output, back))
        return values[self.block.exit]

    def backward(self, gradient: Array) -> None:
        """Fill the gradients of all layers, from that of the latest result."""
        gradients = {self.block.exit: gradient}
        for value, back in reversed(self._tape):
            for operand, more in back(gradients.pop(value)).items():
                gradients[operand] = gradients[operand] + more if operand in gradients else more

    def _layer(self, node: Node, operands: list[Array]) -> tuple[Array, Back]:
        layer, x = self._soft[node], operands[0]
        window = Convolution(x, layer.weight, node.attrs) if node.op.name == "conv2d" else None
        total = window.result + layer.bias if window is not None else x @ layer.weight.T + layer.bias
        if node.attrs.residual:
            total = total + operands[3]
        result, through = finish(node, total)

        def back(g: Array) -> dict[Value, Array]:
            g = g * through
            layer.bias_gradient = g.reshape(-1, g.shape[-1]).sum(axis=0)
            if window is not None:
                before, layer.weight_gradient = window.gradients(g)
            else:
                layer.weight_gradient = g.reshape(-1, g.shape[-1]).T @ x.reshape(-1, x.shape[-1])
                before = g @ layer.weight
            found = {node.inputs[0]: before}
            if node.attrs.residual:
                other = node.inputs[3]
                found[other] = found[other] + g if other in found else g
            return found

        return result, back


def _other(node: Node, operands: list[Array]) -> tuple[Array, Back]:
    """Compute an addition or a requantization."""
    total = operands[0] + operands[1] if node.op.name == "add" else operands[0]
    result, through = finish(node, total)

    def back(g: Array) -> dict[Value, Array]:
        found: dict[Value, Array] = {}
        for value in node.inputs:
            if not value.is_constant:
                found[value] = found[value] + g * through if value in found else g * through
        return found

    return result, back


def finish(node: Node, total: Array) -> tuple[Array, Array]:
    """Return a node's result from the real sum before rounding, and how a change of the sum goes through.

    Args:
        node: in integer form.
        total: real values.
    """
    params = node.output.qparams
    before = getattr(node.attrs, "pre_activation", None) or params
    if getattr(node.attrs, "activation", "none") in SCALED and node.attrs.pre_activation is None:
        return _rounded_after(node.attrs, total, params)
    if before is None or before.dtype != "int8":
        return total, np.ones_like(total)
    real, through = round_through(total, before)
    if getattr(node.attrs, "pre_activation", None) is None:
        return real, through
    assert params is not None
    values, slopes = _activation(node, before, params)
    code = np.rint(real / np.float32(before.scalar_scale)).astype(np.int16) + before.scalar_zero_point + 128
    return values[code], through * slopes[code]


def _rounded_after(attrs: Any, total: Array, params: QParams | None) -> tuple[Array, Array]:
    """Return what an activation of unrounded sums gives, rounded to int8, and how a change goes through both."""
    step = np.float32(params.scalar_scale if params is not None else 1e-3)
    function, divisors = scaled_activation(attrs, 1.0), channel_steps(attrs, 1.0).astype(np.float32)
    divided: Array = total / divisors
    slopes = (function(divided + step / 2) - function(divided - step / 2)) / (step * divisors)
    if params is None or params.dtype != "int8":
        return function(divided), slopes
    real, through = round_through(function(divided), params)
    return real, through * slopes


def _activation(node: Node, before: QParams, result: QParams) -> tuple[Array, Array]:
    """Return an activation's result and its slope for each of the 256 codes, real units."""
    attrs, scale = node.attrs, before.scalar_scale
    x = (np.arange(-128, 128) - before.scalar_zero_point) * scale

    def function(at: Array) -> Array:
        return activate(at, attrs.activation, attrs.alpha, attrs.beta)

    values, _ = round_through(function(x), result)
    slopes = (function(x + scale / 2) - function(x - scale / 2)) / scale
    return values, slopes.astype(np.float32)


def _constant(value: Value) -> Array:
    data = value.constant()
    return dequantize(data, value.qparams) if value.qparams is not None else data
