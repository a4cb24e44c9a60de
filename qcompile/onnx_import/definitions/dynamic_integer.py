"""Operators that ONNX Runtime's dynamic quantization makes, and what its optimizer fuses them into.

Products become MatMulInteger, in whose integers nothing is lost; the weights of a recurrent layer become the real
numbers that they stand for.
"""

from __future__ import annotations

from qcompile.onnx_import.definitions.attention import attend_projected
from qcompile.onnx_import.definitions.body import Body


def _product(body: Body, integers: tuple[str, str], zero_points: tuple[str, str], scales: tuple[str, str],
             bias: str | None, output: str | None = None) -> str:  # fmt: skip
    """Return (q_a − z_a) · (q_b − z_b) · s_a · s_b + bias; zero points may be "", for 0."""
    sums = body.cast(body.add("MatMulInteger", [*integers, *zero_points]), "float32")
    real = body.add("Mul", [sums, body.add("Mul", list(scales))], None if bias else output)
    return body.add("Add", [real, bias], output) if bias else real


def _matmul_integer_to_float(body: Body) -> None:
    """Define the product of two integer tensors; inputs: a, b, their scales, their zero points, bias."""
    zeros = [body.input(i) if body.has(i) else "" for i in (4, 5)]
    bias = body.input(6) if body.has(6) else None
    _product(body, (body.input(0), body.input(1)), (zeros[0], zeros[1]), (body.input(2), body.input(3)), bias,
             body.output(0))  # fmt: skip


def _dynamic_quantize_matmul(body: Body) -> None:
    """Define the product of a tensor, quantized at run time, with an integer one; inputs: a, b, s_b, z_b, bias."""
    q, scale, zero = body.add_several("DynamicQuantizeLinear", [body.input(0)], 3)
    bias = body.input(4) if body.has(4) else None
    b_zero = body.input(3) if body.has(3) else ""
    _product(body, (q, body.input(1)), (zero, b_zero), (scale, body.input(2)), bias, body.output(0))


def _quantized_attention(body: Body) -> None:
    """Define attention with an integer projection.

    Inputs: x, weights, bias, their two scales, mask, their two zero points, past.
    """
    if body.attr("do_rotary", 0):
        body.fail("do_rotary is not supported")
    zeros = [body.input(i) if body.has(i) else "" for i in (6, 7)]
    projected = _product(body, (body.input(0), body.input(1)), (zeros[0], zeros[1]), (body.input(3), body.input(4)),
                         body.input(2))  # fmt: skip
    attend_projected(body, projected, [body.shape(1)[1] // 3] * 3, mask=5, past=8)


def _dequantized(body: Body, weights: int, scale: int, zero_point: int) -> str:
    """Return recurrent weights [directions, columns, gates] as ONNX has them: real, [directions, gates, columns]."""
    real = body.cast(body.input(weights), "float32")
    for op, index in (("Sub", zero_point), ("Mul", scale)):
        operand = body.cast(body.input(index), "float32")
        real = body.add(op, [real, body.reshape(operand, (body.shape(weights)[0], 1, -1))])
    return body.add("Transpose", [real], perm=[0, 2, 1])


def _dynamic_quantize_lstm(body: Body) -> None:
    """Define an LSTM with integer weights; inputs: those of LSTM, then scale and zero point of both weights.

    Inputs and states stay real, where ONNX Runtime rounds them to 8 bits at every step.
    """
    weights = [_dequantized(body, 1, 8, 9), _dequantized(body, 2, 10, 11)]
    rest = [body.input(i) if body.has(i) else "" for i in range(3, 8)]
    names = ("activation_alpha", "activation_beta", "activations", "clip", "direction", "hidden_size", "input_forget")
    outputs = [body.output(i) or "" for i in range(3)]
    body.add_several("LSTM", [body.input(0), *weights, *rest], outputs, **{name: body.attr(name) for name in names})


DOMAIN = "com.microsoft"
DEFINITIONS = {
    "DynamicQuantizeLSTM": _dynamic_quantize_lstm,
    "DynamicQuantizeMatMul": _dynamic_quantize_matmul,
    "MatMulIntegerToFloat": _matmul_integer_to_float,
    "QAttention": _quantized_attention,
}
