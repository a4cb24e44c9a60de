"""Fully connected layer: a matrix product with constant weights, a fused residual add and activation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from qcompile.ir.graph import Node, Value
from qcompile.ir.opdef import Array, OpDef, Quantization
from qcompile.ir.types import TensorType
from qcompile.ops.arithmetic import (
    activate_layer,
    check_accumulator,
    check_divisor_count,
    check_epilogue,
    check_layer_activation,
    finish_accumulator,
    finish_planes,
    integer_matmul,
)
from qcompile.ops.onnx_node import OnnxNode
from qcompile.quant import int16
from qcompile.quant.qparams import QParams


@dataclass(frozen=True)
class DenseAttrs:
    """Attributes of dense.

    Args:
        activation: applied last, one of ACTIVATIONS or DIVIDED; in integer form prelu too.
        alpha: first parameter of the activation.
        beta: second parameter of the activation.
        residual: whether the last operand is added before the activation.
        pre_activation: integer form: QParams before an activation that is a table.
        slopes: of prelu, one for each output channel, at most 1.
        divisors: of channel_clip and channel_hard_swish, one positive number for each output channel: what the
            activation gives is divided by it.
    """

    activation: str = "none"
    alpha: float = 0.0
    beta: float = 0.0
    residual: bool = False
    pre_activation: QParams | None = None
    slopes: tuple[float, ...] = ()
    divisors: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        check_layer_activation(self)


def _from_gemm(node: OnnxNode) -> Value:
    """Import alpha · A' · B' + beta · C, with alpha and beta folded into constants."""
    a, b = node.value(0), node.value(1)
    alpha, beta = float(node.attr("alpha", 1.0)), float(node.attr("beta", 1.0))
    if node.attr("transA", 0):
        a = node.add("transpose", [a], name=f"{node.outputs[0]}.a", perm=(1, 0))
    if b.data is None:
        return _general_gemm(node, a, b, alpha, beta)
    weight = b if node.attr("transB", 0) else node.moved("weight", b, np.transpose)
    if alpha != 1.0:
        matrix = weight.constant()
        weight = node.constant("weight", matrix * matrix.dtype.type(alpha))
    outputs = weight.shape[0]
    bias = np.zeros(outputs, weight.dtype)
    addend = node.value(2) if node.has(2) and beta else None
    if addend is not None and addend.data is not None and _is_bias(addend.shape, outputs):
        bias = bias + (addend.data * addend.data.dtype.type(beta)).reshape(-1)
        addend = None
    name = node.outputs[0] if addend is None else f"{node.outputs[0]}.product"
    product = node.add("dense", [a, weight, node.constant("bias", bias)], name=name)
    return product if addend is None else node.add("add", [product, _scaled(node, addend, beta, "beta")])


def _is_bias(shape: tuple[int, ...], outputs: int) -> bool:
    """Return whether a Gemm's C is one value per output, the same for all rows."""
    return math.prod(shape) == 1 or (math.prod(shape) == outputs and shape[-1] == outputs)


def _general_gemm(node: OnnxNode, a: Value, b: Value, alpha: float, beta: float) -> Value:
    if node.attr("transB", 0):
        b = node.add("transpose", [b], name=f"{node.outputs[0]}.b", perm=(1, 0))
    addend = node.value(2) if node.has(2) and beta else None
    a = _scaled(node, a, alpha, "alpha")
    if addend is None:
        return node.add("matmul", [a, b])
    product = node.add("matmul", [a, b], name=f"{node.outputs[0]}.product")
    return node.add("add", [product, _scaled(node, addend, beta, "beta")])


def _scaled(node: OnnxNode, value: Value, factor: float, what: str) -> Value:
    if factor == 1.0:
        return value
    if value.data is not None:
        return node.constant(what, value.data * value.data.dtype.type(factor))
    constant = node.constant(f"{what}.factor", factor, value.dtype)
    return node.add("mul", [value, constant], name=f"{node.outputs[0]}.{what}")


def _from_matmul(node: OnnxNode) -> Value:
    """Import A · B: dense where B is a constant matrix, else matmul."""
    a, b = node.value(0), node.value(1)
    if b.data is None or b.data.ndim != 2 or b.data.dtype.kind != "f":
        return node.add("matmul", [a, b])
    weight = node.moved("weight", b, np.transpose)
    bias = node.constant("bias", np.zeros(b.data.shape[1], b.data.dtype))
    return node.add("dense", [a, weight, bias])


class Dense(OpDef):
    """y[..., n] = act(Σ x[..., k] · weight[n, k] + bias[n] + residual[..., n]) / divisors[n].

    Operands: x, weight [N, K], bias [N], and with `residual` a tensor of the result's shape.

    Source:
        ONNX Gemm and MatMul with constant B; the integer form is QLinearMatMul with a bias.
    """

    name = "dense"
    Attrs = DenseAttrs
    activations = (0,)
    integer = Quantization.ACCUMULATE
    takes_int16 = True
    adds_residual = True
    onnx: ClassVar[dict[str, Any]] = {"Gemm": _from_gemm, "MatMul": _from_matmul}

    def infer(self, attrs: DenseAttrs, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the type of the result."""
        if len(inputs) != (4 if attrs.residual else 3):
            raise ValueError(f"dense got {len(inputs)} operands")
        x, weight, bias = inputs[:3]
        if x.rank < 1 or weight.rank != 2 or x.shape[-1] != weight.shape[1]:
            raise ValueError(f"weight {weight} does not fit {x}")
        if bias.shape != weight.shape[:1]:
            raise ValueError(f"bias {bias} does not fit weight {weight}")
        check_divisor_count(attrs, weight.shape[0])
        result = x.with_shape((*x.shape[:-1], weight.shape[0]))
        if attrs.residual and inputs[3].shape != result.shape:
            raise ValueError(f"residual {inputs[3]} does not fit the result {result}")
        return (result,)

    def evaluate(self, attrs: DenseAttrs, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Compute the product in the precision of the operands."""
        y = np.matmul(inputs[0], inputs[1].T) + inputs[2]
        if attrs.residual:
            y = y + inputs[3]
        return (activate_layer(attrs, y),)

    def evaluate_integer(self, node: Node, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Compute the product on int8 operands; see `qcompile.ops.arithmetic.finish_accumulator`."""
        x_params = node.inputs[0].qparams
        if x_params is None:
            raise ValueError(f"{node}: operand 0 is not quantized")
        if x_params.dtype == int16.INT16:
            planes = zip(int16.centred_planes(inputs[0], x_params), int16.split(inputs[2]), strict=True)
            high, low = (integer_matmul(q, inputs[1].T) + b for q, b in planes)
            return (finish_planes(node, high, low),)
        centred = inputs[0].astype(np.int16) - np.int16(x_params.scalar_zero_point)
        acc = integer_matmul(centred, inputs[1].T) + inputs[2]
        residual = inputs[3] if node.attrs.residual else None
        return (finish_accumulator(node, acc.astype(np.int32), residual),)

    def operand_activations(self, node: Node) -> tuple[int, ...]:
        """Return x and the residual."""
        return (0, 3) if node.attrs.residual else (0,)

    def check(self, node: Node) -> None:
        """Check that the accumulator cannot overflow, and that the activation has an integer form."""
        if node.is_integer:
            check_epilogue(node)
            check_accumulator(node, node.inputs[1].shape[1])

    def macs(self, node: Node) -> int:
        """Return result elements times K."""
        return node.outputs[0].type.size * node.inputs[1].shape[1]

    def lower(self, node: Node, context: Any) -> None:
        """Emit a matrix product kernel."""
        context.dense(node)
