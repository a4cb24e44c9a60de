"""Keeps other runtimes from quantizing the layers that an exported model leaves in float.

ONNX Runtime takes a layer of float weights between DequantizeLinear and QuantizeLinear for one whose weights were
forgotten, and rounds them to 8 bits of one scale (its optimizer WeightBiasQuantization, on by default). It leaves alone
a layer whose bias is no initializer. So the bias of such a layer is written as exact integers with a scale for each.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.onnx_export.model_writer import ModelWriter

Array = npt.NDArray[Any]

_LAYERS = ("Conv", "ConvTranspose", "Gemm")
_TRANSPARENT = ("Relu", "Clip")
"""What may stand between a layer and the rounding of its result."""

_MANTISSA = 24
"""Bits of a float32 number, the hidden one included."""


def protect_float_layers(writer: ModelWriter) -> None:
    """Write the biases of float layers between conversions in the form that keeps their weights as they are."""
    from onnx import numpy_helper

    makers = {name: node for node in writer.nodes for name in node.output}
    readers: dict[str, list[Any]] = {}
    for node in writer.nodes:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    tensors = {tensor.name: tensor for tensor in writer.initializers}
    # What is written meanwhile stands in front, since layers read it.
    body, writer.nodes = writer.nodes, []
    for node in body:
        if node.op_type not in _LAYERS or node.input[1] not in tensors or node.input[2] not in tensors:
            continue
        made = makers.get(node.input[0])
        if made is None or made.op_type != "DequantizeLinear" or not _is_rounded(node, readers):
            continue
        bias = numpy_helper.to_array(tensors[node.input[2]])
        if np.isfinite(bias).all():
            node.input[2] = _as_integers(writer, bias, node.input[2])
    writer.nodes += body


def _is_rounded(node: Any, readers: dict[str, list[Any]]) -> bool:
    """Return whether nothing but a QuantizeLinear reads the result of a layer, or of the clamp behind it."""
    found = readers.get(node.output[0], [])
    while len(found) == 1 and found[0].op_type in _TRANSPARENT:
        found = readers.get(found[0].output[0], [])
    return len(found) == 1 and found[0].op_type == "QuantizeLinear"


def _as_integers(writer: ModelWriter, bias: Array, wish: str) -> str:
    """Write float32 numbers as integers and powers of two; return the name of the dequantized tensor.

    Formula:
        b = q · 2^e exactly, |q| < 2^24
    """
    _, exponents = np.frexp(bias.astype(np.float64))
    # A scale below the smallest float32 would vanish; what it belongs to has fewer bits anyway.
    exponents = np.maximum(exponents - _MANTISSA, np.log2(np.finfo(np.float32).smallest_subnormal).astype(np.int64))
    exponents = np.where(bias == 0, 0, exponents)
    integers = np.rint(np.ldexp(bias.astype(np.float64), -exponents)).astype(np.int32)
    operands = [
        writer.constant(integers, f"{wish}.exact"),
        writer.constant(np.ldexp(1.0, exponents).astype(np.float32), f"{wish}.powers"),
    ]
    return writer.emit("DequantizeLinear", operands, f"{wish}.kept", axis=0)
