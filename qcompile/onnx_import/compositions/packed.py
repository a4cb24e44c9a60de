"""ONNX Runtime's product with weights of a few bits, which stay packed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from qcompile.ir.graph import Value
from qcompile.ops.onnx_node import OnnxNode
from qcompile.ops.unpack_groups import BITS, LEAST_GROUP, packed, unpacked


def _matmul_n_bits(node: OnnxNode) -> Value:
    """Import A · dequantized(B)ᵀ: blocks of K share a scale and, where given, a zero point."""
    inner, outputs = int(node.attr("K")), int(node.attr("N"))
    bits, block = int(node.attr("bits", 4)), int(node.attr("block_size", 32))
    if bits not in BITS or block < LEAST_GROUP or block & (block - 1):
        node.fail(f"weights of {bits} bits in blocks of {block}")
    if node.has(4):
        node.fail("an order of its own for the columns (g_idx)")
    x, data, scale = node.value(0), node.value(1), node.value(2)
    if data.data is None or scale.data is None or (node.has(3) and node.value(3).data is None):
        node.fail("weights that are computed at run time")
    groups, half = -(-inner // block), 1 << (bits - 1)
    if data.type.size != outputs * groups * block * bits // 8 or scale.type.size != outputs * groups:
        node.fail(f"packed weights {data.type} and scales {scale.type}, which do not fit {outputs} x {inner}")
    # From unsigned with a zero point in the middle to two's complement: the top bit of every integer changes.
    codes = unpacked(data.data.reshape(outputs, -1).astype(np.uint8), bits, inner) ^ np.int8(-half)
    operands = [node.constant("q", packed(codes, bits), "uint8")]
    operands.append(node.constant("scale", scale.data.astype(np.float32).reshape(outputs, groups), "float32"))
    zeros = _zero_points(node, outputs, groups, bits)
    if zeros is not None:
        operands.append(node.constant("zero_point", zeros, "int8"))
    name = f"{node.outputs[0]}.weight"
    weight = node.add("unpack_groups", operands, name=name, shape=(outputs, inner), bits=bits, group=block)
    bias = node.value(5) if node.has(5) else node.constant("bias", np.zeros(outputs, np.float32))
    return node.add("dense", [x, weight, bias])


def _zero_points(node: OnnxNode, outputs: int, groups: int, bits: int) -> Any:
    """Return the zero points of all blocks in two's complement, None where they are in the middle."""
    given = node.value(3).data if node.has(3) else None
    if given is None:
        return None
    if given.dtype == np.uint8:
        zeros = unpacked(given.reshape(outputs, -1), bits, groups) ^ np.int8(-(1 << (bits - 1)))
    else:
        centred = given.reshape(outputs, groups) - (1 << (bits - 1))
        if not np.array_equal(centred, np.clip(np.rint(centred), -128, 127)):
            node.fail("zero points between two integers")
        zeros = centred.astype(np.int8)
    return zeros if zeros.any() else None


CONVERTERS: dict[str, Callable[[OnnxNode], Any]] = {"com.microsoft.MatMulNBits": _matmul_n_bits}
