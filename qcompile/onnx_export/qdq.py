"""A quantized graph as an ONNX model on real numbers with QuantizeLinear and DequantizeLinear around each tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.errors import UsageError
from qcompile.files import replaced
from qcompile.ir.graph import Graph, Node, Value
from qcompile.ir.opdef import Quantization
from qcompile.onnx_export.float_layers import protect_float_layers
from qcompile.onnx_export.model_writer import MICROSOFT, ModelWriter, base_name, onnx_type
from qcompile.onnx_export.operators import OPSET, clip, weight_array, write_activation, write_operation
from qcompile.onnx_graph import needed
from qcompile.ops.arithmetic import CONVERSIONS
from qcompile.quant.qparams import INT_RANGE, QParams

Array = npt.NDArray[Any]

_IR_VERSION = 10


def qdq_model(graph: Graph, *, producer: str = "qcompile") -> Any:
    """Return the ONNX model that computes what an integer graph does, but for the last bits of the arithmetic.

    Every int8 tensor is a QuantizeLinear and a DequantizeLinear with its scale and zero point; weights are int8 with
    one scale per output channel, biases int32 of scale s_x · s_w. What computes in float stays as it is.

    Args:
        graph: in integer form, float inputs and outputs.
        producer: name that the model carries.

    Raises:
        UsageError: ONNX has no form for an operation, or the graph's inputs are integers.
    """
    from onnx import helper

    integer = [v.name for v in (*graph.inputs, *graph.outputs) if v.qparams is not None]
    if integer:
        raise UsageError(f"'{integer[0]}' is quantized; a QDQ model has real inputs and outputs", hint="use --io float")
    writer = ModelWriter([v.name for v in graph.inputs] + list(graph.output_names))
    for value in graph.inputs:
        writer.set(value, value.name)
    for node in graph.nodes:
        _write(writer, node)
    protect_float_layers(writer)
    outputs = []
    for name, value in zip(graph.output_names, graph.outputs, strict=True):
        writer.nodes.append(helper.make_node("Identity", [writer.plain(value)], [name]))
        outputs.append(helper.make_tensor_value_info(name, onnx_type(value.dtype), list(value.shape)))
    inputs = [helper.make_tensor_value_info(v.name, onnx_type(v.dtype), list(v.shape)) for v in graph.inputs]
    body = helper.make_graph(needed(writer.nodes, set(graph.output_names)), graph.name, inputs, outputs)
    used = {name for node in body.node for name in node.input}
    body.initializer.extend(tensor for tensor in writer.initializers if tensor.name in used)
    opsets = [helper.make_opsetid("", OPSET)]
    if any(node.domain == MICROSOFT for node in body.node):
        opsets.append(helper.make_opsetid(MICROSOFT, 1))
    model = helper.make_model(body, opset_imports=opsets, ir_version=_IR_VERSION, producer_name=producer)
    model.graph.value_info.extend(_types_between(model))
    return model


def _types_between(model: Any) -> Any:
    """Return type and shape of every tensor between inputs and outputs, for tools that show or compare tensors."""
    import onnx

    told = onnx.ModelProto()
    told.CopyFrom(model)
    # ONNX knows nothing of ONNX Runtime's own conversions, but from operator set 21 on the same of its own.
    del told.opset_import[:]
    told.opset_import.append(onnx.helper.make_opsetid("", 21))
    for node in told.graph.node:
        node.domain = ""
    return onnx.shape_inference.infer_shapes(told, data_prop=True).graph.value_info


def write_qdq(graph: Graph, path: Path) -> Any:
    """Write `qdq_model` under a temporary name, then rename; return the model.

    Raises:
        UsageError: the graph has no such form, or the file cannot be written.
    """
    model = qdq_model(graph)
    with replaced(path) as temporary:
        temporary.write_bytes(model.SerializeToString())
    return model


def _write(writer: ModelWriter, node: Node) -> None:
    """Write one node, and round its result where ours is int8."""
    if node.op.name in CONVERSIONS:
        _convert(writer, node)
        return
    if not node.is_integer:
        write_operation(writer, node)
        return
    for value in node.inputs:
        _constant_operand(writer, node, value)
    if node.op.integer is Quantization.ACCUMULATE:
        write_operation(writer, node, _layer_constants(writer, node))
    else:
        write_operation(writer, node)
    moved = node.op.only_moves(node) and node.outputs[0].qparams == node.inputs[0].qparams
    for value in node.outputs if not moved else ():
        _round_result(writer, node, value)


def _round_result(writer: ModelWriter, node: Node, value: Value) -> None:
    """Put the grids of a node's result behind it: that before its activation, if it has one, and its own."""
    params = value.qparams
    if params is None or params.dtype == "int32":
        return
    first = writer.has_first(value)
    name = writer.first(value) if first else writer.plain(value)
    before = getattr(node.attrs, "pre_activation", None)
    if before is not None:
        name = write_activation(writer, _rounded(writer, name, before, f"{base_name(value)}.before"), node)
    writer.set(value, _rounded(writer, name, params, base_name(value)), first=first)


def _convert(writer: ModelWriter, node: Node) -> None:
    source, result = node.inputs[0], node.output
    first = writer.has_first(source)
    name = writer.first(source) if first else writer.plain(source)
    if result.qparams is not None and result.qparams.dtype != "int32":
        name = _rounded(writer, name, result.qparams, base_name(result))
    writer.set(result, name, first=first)


def _rounded(writer: ModelWriter, name: str, params: QParams, wish: str) -> str:
    """Write the rounding of a real tensor to a grid, with the clamp of its integers if that is narrower than theirs."""
    low, high = INT_RANGE[params.dtype]
    zp = params.scalar_zero_point
    if params.qmin > low or params.qmax < high:
        least = (params.qmin - zp) * params.scalar_scale if params.qmin > low else -np.inf
        most = (params.qmax - zp) * params.scalar_scale if params.qmax < high else np.inf
        name = clip(writer, name, least, most, f"{wish}.clamped")
    operands = [
        writer.constant(np.float32(params.scalar_scale).reshape(()), f"{wish}.scale"),
        writer.constant(np.asarray(zp, params.dtype), f"{wish}.zero_point"),
    ]
    quantized = writer.emit("QuantizeLinear", [name, *operands], f"{wish}.quantized", **_domain(params))
    return writer.emit("DequantizeLinear", [quantized, *operands], wish, **_domain(params))


def _domain(params: QParams) -> dict[str, str]:
    """Return where the conversions of a grid are defined: ONNX's of this operator set know 8 bits alone.

    Those of operator set 21 know 16, but there ONNX Runtime 1.31 rounds moved tensors of 8 bits with a wrong type.
    """
    return {"domain": MICROSOFT} if params.dtype == "int16" else {}


def _constant_operand(writer: ModelWriter, node: Node, value: Value) -> None:
    """Write an activation that is a constant in integers."""
    if not value.is_constant or value.qparams is None or node.op.integer is Quantization.ACCUMULATE:
        return
    operands = _grid(writer, value.qparams, base_name(value))
    integers = writer.constant(value.constant(), f"{base_name(value)}.quantized")
    real = writer.emit("DequantizeLinear", [integers, *operands], base_name(value), **_domain(value.qparams))
    writer.set(value, real)


def _layer_constants(writer: ModelWriter, node: Node) -> list[str]:
    """Write weight and bias of a layer in integers, with their conversions."""
    weight, bias = node.inputs[1], node.inputs[2]
    if node.op.name != "conv_transpose2d":
        real = _dequantized(writer, weight, weight_array(node), 0)
    elif node.attrs.groups == 1:
        real = _dequantized(writer, weight, weight_array(node), 1)
    else:
        real = _grouped_weight(writer, node)
    return [real, _dequantized(writer, bias, bias.constant(), 0)]


def _dequantized(writer: ModelWriter, value: Value, data: Any, axis: int) -> str:
    """Write a constant in integers with its conversion, whose scales count an axis where there are several."""
    params, wish = value.qparams, base_name(value)
    assert params is not None
    integers = writer.constant(data, f"{wish}.quantized")
    options = {"axis": axis} if len(params.scale) > 1 else {}
    return writer.emit("DequantizeLinear", [integers, *_grid(writer, params, wish)], wish, **options)


def _grouped_weight(writer: ModelWriter, node: Node) -> str:
    """Write the weight of a grouped transposed convolution, [inputs, outputs of a group, kh, kw] in ONNX.

    No axis of it counts the outputs, which the scales do, so it is dequantized as [outputs, inputs of a group, kh, kw]
    and put into ONNX's order in float.
    """
    weight, groups, wish = node.inputs[1], node.attrs.groups, base_name(node.inputs[1])
    data = weight.constant()
    data = data.transpose(0, 3, 1, 2) if node.attrs.layout == "NHWC" else data
    outputs, inputs, *kernel = data.shape
    shapes = [groups, outputs // groups, inputs, *kernel], [groups * inputs, outputs // groups, *kernel]
    split, joined = (writer.constant(np.asarray(shape, np.int64), f"{wish}.shape") for shape in shapes)
    name = writer.emit("Reshape", [_dequantized(writer, weight, data, 0), split], f"{wish}.groups")
    name = writer.emit("Transpose", [name], f"{wish}.swapped", perm=[0, 2, 1, 3, 4])
    return writer.emit("Reshape", [name, joined], f"{wish}.order")


def _grid(writer: ModelWriter, params: QParams, wish: str) -> list[str]:
    """Write scale and zero point: numbers, or one per channel."""
    scale = np.asarray(params.scale, np.float32)
    points = np.broadcast_to(np.asarray(params.zero_point, params.dtype), scale.shape)
    if scale.size == 1:
        scale, points = scale.reshape(()), points.reshape(())
    return [writer.constant(scale, f"{wish}.scale"), writer.constant(points, f"{wish}.zero_point")]
