"""Matrix products and convolutions with what follows them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from qcompile.onnx_import.definitions.body import Body

Bytes = npt.NDArray[np.uint8]

_WINDOW = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")


def _activated(body: Body, x: str, activation: str, numbers: list[float]) -> None:
    """Append an activation by its name, numbers in the order of its attributes."""
    names = {"LeakyRelu": ("alpha",), "HardSigmoid": ("alpha", "beta"), "Elu": ("alpha",)}
    if activation == "Clip":
        low, high = (body.constant(n) for n in (numbers + [np.finfo(np.float32).max] * 2)[:2])
        body.add("Clip", [x, low, high], body.output(0))
    elif activation in ("Relu", "Sigmoid", "Tanh", *names):
        body.add(activation, [x], body.output(0), **dict(zip(names.get(activation, ()), numbers, strict=False)))
    else:
        body.fail(f"the activation '{activation}' is not supported")


def _fused_conv(body: Body) -> None:
    """Define activation(conv(x, w, b) + z)."""
    activation = str(body.attr("activation", ""))
    operands = [body.input(0), body.input(1), *([body.input(2)] if body.has(2) else [])]
    window = {name: body.attr(name) for name in _WINDOW}
    last = None if activation or body.has(3) else body.output(0)
    y = body.add("Conv", operands, last, **window)
    if body.has(3):
        y = body.add("Add", [y, body.input(3)], None if activation else body.output(0))
    if activation:
        _activated(body, y, activation, list(body.attr("activation_params", [])))


def _fused_gemm(body: Body) -> None:
    operands = [body.input(0), body.input(1), *([body.input(2)] if body.has(2) else [])]
    given = {name: body.attr(name) for name in ("alpha", "beta", "transA", "transB")}
    numbers = [body.attr(f"activation_{name}") for name in ("alpha", "beta")]
    product = body.add("Gemm", operands, **given)
    _activated(body, product, str(body.attr("activation", "")), [n for n in numbers if n is not None])


def _fused_matmul(body: Body) -> None:
    """Define alpha · op(a) · op(b)."""
    if body.attr("transBatchA", 0) or body.attr("transBatchB", 0):
        body.fail("transBatchA and transBatchB are not supported")
    sides = []
    for index, name in enumerate(("transA", "transB")):
        rank = len(body.shape(index))
        side = body.input(index)
        if body.attr(name, 0) and rank > 1:
            side = body.add("Transpose", [side], perm=[*range(rank - 2), rank - 1, rank - 2])
        sides.append(side)
    alpha = float(body.attr("alpha", 1.0))
    if alpha == 1.0:
        body.add("MatMul", sides, body.output(0))
    else:
        body.add("Mul", [body.add("MatMul", sides), body.constant(alpha)], body.output(0))


DOMAIN = "com.microsoft"
DEFINITIONS = {
    "FusedConv": _fused_conv,
    "FusedGemm": _fused_gemm,
    "FusedMatMul": _fused_matmul,
    "TransposeMatMul": _fused_matmul,
}
