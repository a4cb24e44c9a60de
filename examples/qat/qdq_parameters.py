"""The numbers of a QDQ model that training may change: scales of tensors, weights, biases. NumPy and onnx alone."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import numpy_helper

MOVES = ("MaxPool", "Reshape", "Flatten", "Transpose", "Identity", "Slice", "Squeeze", "Unsqueeze")
"""Operations whose result has the scale of their operand."""

LAYERS = ("Conv", "ConvTranspose", "Gemm")


@dataclass
class Grid:
    """A rounding of an activation: QuantizeLinear and DequantizeLinear."""

    scale: float
    zero_point: int
    low: int = -128
    high: int = 127


@dataclass
class Layer:
    """A layer with int8 weights.

    Args:
        operand: name of the rounding (the result of its DequantizeLinear) whose scale the layer's operand has.
        weight: real values.
        scale: of the weight, one per index of `axis`, or a single one.
        axis: of the scales.
        bias: real values.
    """

    operand: str
    weight: np.ndarray
    scale: np.ndarray
    axis: int
    bias: np.ndarray

    def along(self, values: np.ndarray) -> np.ndarray:
        """Return one value per channel in a shape that broadcasts over the weight."""
        shape = [1] * self.weight.ndim
        if values.size > 1:
            shape[self.axis] = values.size
        return values.reshape(shape)


@dataclass
class Parameters:
    """All of them, by the name of the tensor: a rounding by its result, a layer by its node's result."""

    grids: dict[str, Grid] = field(default_factory=dict)
    layers: dict[str, Layer] = field(default_factory=dict)


def read_parameters(model: onnx.ModelProto) -> Parameters:
    """Return what may be trained of a model that `qcompile export-qdq` wrote."""
    tensors = _tensors(model)
    makers = _makers(model)
    found = Parameters()
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in makers:
            scale, zero_point = (tensors[name] for name in node.input[1:3])
            info = np.iinfo(zero_point.dtype)
            found.grids[node.output[0]] = Grid(float(scale), int(zero_point), info.min, info.max)
    for node in model.graph.node:
        if node.op_type in LAYERS and _is_constant(makers.get(node.input[1])):
            found.layers[node.output[0]] = _layer(node, tensors, makers, found.grids)
    return found


def write_parameters(model: onnx.ModelProto, trained: Parameters) -> onnx.ModelProto:
    """Return a copy of the model with trained numbers: weights int8, biases int32 of scale s_x · s_w."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    makers = _makers(result)
    new: dict[str, np.ndarray] = {}
    for name, grid in trained.grids.items():
        new[makers[name].input[1]] = np.asarray(grid.scale, np.float32)
    for name, layer in trained.layers.items():
        node = makers[name]
        weight, bias = makers[node.input[1]], makers[node.input[2]]
        scale = layer.scale.astype(np.float32)
        steps = np.clip(np.rint(layer.weight / layer.along(scale)), -127, 127)
        sums = (np.float64(np.float32(trained.grids[layer.operand].scale)) * scale).astype(np.float32)
        new[weight.input[0]], new[weight.input[1]] = steps.astype(np.int8), scale
        new[bias.input[0]] = np.clip(np.rint(layer.bias / sums), -(2**30), 2**30).astype(np.int32)
        new[bias.input[1]] = sums
    for tensor in result.graph.initializer:
        if tensor.name in new:
            shape = tuple(tensor.dims)
            tensor.CopyFrom(numpy_helper.from_array(new[tensor.name].reshape(shape), tensor.name))
    return result


def _layer(
    node: onnx.NodeProto, tensors: dict[str, np.ndarray], makers: dict[str, onnx.NodeProto], grids: dict[str, Grid]
) -> Layer:
    source = node.input[0]
    while source not in grids:
        if makers[source].op_type not in MOVES:
            raise ValueError(f"the operand of '{node.output[0]}' is not rounded")
        source = makers[source].input[0]
    weight, bias = makers[node.input[1]], makers[node.input[2]]
    axis = next((a.i for a in weight.attribute if a.name == "axis"), 0)
    layer = Layer(source, tensors[weight.input[0]].astype(np.float32), np.atleast_1d(tensors[weight.input[1]]), axis,
                  tensors[bias.input[0]] * tensors[bias.input[1]])  # fmt: skip
    layer.weight = layer.weight * layer.along(layer.scale)
    return layer


def _is_constant(node: onnx.NodeProto | None) -> bool:
    return node is not None and node.op_type == "DequantizeLinear"


def _tensors(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def _makers(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {name: node for node in model.graph.node for name in node.output}
