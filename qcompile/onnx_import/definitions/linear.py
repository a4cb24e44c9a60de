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


def _unpacked(packed: Bytes, bits: int) -> Bytes:
    """Return the numbers of packed bytes, the lowest bits first: uint8 [..., bytes · 8 / bits]."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    parts = (packed[..., None] >> shifts) & np.uint8((1 << bits) - 1)
    return np.asarray(parts.reshape(*packed.shape[:-1], -1), np.uint8)


def _matmul_nbits(body: Body) -> None:
    """Define x · wᵀ (+ bias) with w = scale · (q − zero_point), a scale for each block along K.

    The weights become float32 constants; --weight-bits packs them again.
    """
    k, n, bits, block = (int(body.attr(name, 0)) for name in ("K", "N", "bits", "block_size"))
    if bits not in (2, 4, 8) or block < 16 or k < 1 or n < 1:
        body.fail(f"weights of {bits} bits in blocks of {block} are not supported")
    constants = [body.value(i).data if body.has(i) else None for i in (1, 2, 3)]
    packed, scales, zeros = constants
    if packed is None or scales is None or (body.has(3) and zeros is None) or (body.has(4) and body.operands[4]):
        body.fail("its weights must be constants, without a group index")
    blocks = -(-k // block)
    codes = _unpacked(np.asarray(packed, np.uint8).reshape(n, blocks, -1), bits)[:, :, :block].astype(np.float32)
    middle = np.full((n, blocks), float(1 << (bits - 1)), np.float32)
    if zeros is not None and zeros.dtype == np.uint8:
        middle = _unpacked(zeros.reshape(n, -1), bits)[:, :blocks].astype(np.float32)
    elif zeros is not None:
        middle = zeros.reshape(n, blocks).astype(np.float32)
    weights = (codes - middle[:, :, None]) * scales.reshape(n, blocks, 1).astype(np.float32)
    matrix = body.constant(np.ascontiguousarray(weights.reshape(n, -1)[:, :k].T))
    if body.has(5):
        body.add("Add", [body.add("MatMul", [body.input(0), matrix]), body.input(5)], body.output(0))
    else:
        body.add("MatMul", [body.input(0), matrix], body.output(0))


DOMAIN = "com.microsoft"
DEFINITIONS = {
    "FusedConv": _fused_conv,
    "FusedGemm": _fused_gemm,
    "FusedMatMul": _fused_matmul,
    "MatMulNBits": _matmul_nbits,
    "TransposeMatMul": _fused_matmul,
}
