"""An ONNX network as a PyTorch module: the float model as the teacher, the QDQ model with trainable numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from qdq_parameters import Grid, Layer, Parameters, read_parameters
from torch import nn
from torch.nn import functional as F


def straight_through(x: torch.Tensor) -> torch.Tensor:
    """Round, and let gradients through as if nothing had happened."""
    return x + (torch.round(x) - x).detach()


class Rounding(nn.Module):
    """A rounding of a tensor whose scale is trained; the zero point stays.

    Source: Esser et al., "Learned step size quantization", 2020.
    """

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(float(np.log(grid.scale))))
        self.grid = grid

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = self.log_scale.exp()
        low, high = self.grid.low - self.grid.zero_point, self.grid.high - self.grid.zero_point
        return straight_through(torch.clamp(x / scale, low, high)) * scale


class Rounded(nn.Module):
    """Weight and bias of a layer; the weight is rounded with trained scales."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.from_numpy(layer.weight.astype(np.float32)))
        self.bias = nn.Parameter(torch.from_numpy(layer.bias.astype(np.float32)))
        self.log_scale = nn.Parameter(torch.from_numpy(np.log(layer.along(layer.scale)).astype(np.float32)))
        self.layer = layer

    def forward(self) -> torch.Tensor:
        scale = self.log_scale.exp()
        return straight_through(torch.clamp(self.weight / scale, -127, 127)) * scale


class Network(nn.Module):
    """Runs the nodes of an ONNX model; what `qdq_parameters` finds in it can be trained."""

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__()
        self.model = model
        found = read_parameters(model)
        self.names = {name: f"p{index}" for index, name in enumerate([*found.grids, *found.layers])}
        self.roundings = nn.ModuleDict({self.names[n]: Rounding(grid) for n, grid in found.grids.items()})
        self.layers = nn.ModuleDict({self.names[n]: Rounded(layer) for n, layer in found.layers.items()})
        self.constants = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in model.graph.initializer}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the first output for a batch."""
        values = {**self.constants, self.model.graph.input[0].name: x}
        for node in self.model.graph.node:
            values[node.output[0]] = self._node(node, values)
        return values[self.model.graph.output[0].name]

    def _node(self, node: onnx.NodeProto, values: dict[str, Any]) -> Any:
        name = self.names.get(node.output[0])
        if node.op_type == "QuantizeLinear" or (node.op_type == "DequantizeLinear" and name is None):
            return values.get(node.input[0])  # the DequantizeLinear rounds; constants belong to their layers
        if node.op_type == "DequantizeLinear":
            return self.roundings[name](values[node.input[0]])
        operands = [values[i] if i else None for i in node.input]
        if name is not None:
            layer = self.layers[name]
            operands[1:3] = [layer(), layer.bias]
        options = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        return OPERATIONS[node.op_type](operands, options)

    def parameters_found(self) -> Parameters:
        """Return the numbers as they are now."""
        found = read_parameters(self.model)
        with torch.no_grad():
            for name, grid in found.grids.items():
                grid.scale = float(self.roundings[self.names[name]].log_scale.exp())
            for name, layer in found.layers.items():
                trained = self.layers[self.names[name]]
                layer.weight, layer.bias = trained.weight.numpy(), trained.bias.numpy()
                layer.scale = trained.log_scale.exp().numpy().reshape(-1)
        return found


def convolve(x: list[Any], o: dict[str, Any]) -> torch.Tensor:
    top, left, bottom, right = o.get("pads", (0, 0, 0, 0))
    padded = F.pad(x[0], (left, right, top, bottom)) if any((top, left, bottom, right)) else x[0]
    bias = x[2] if len(x) > 2 else None
    return F.conv2d(padded, x[1], bias, o.get("strides", 1), 0, o.get("dilations", 1), o.get("group", 1))


def pool(function: Any, fill: float) -> Any:
    def run(x: list[Any], o: dict[str, Any]) -> torch.Tensor:
        top, left, bottom, right = o.get("pads", (0, 0, 0, 0))
        padded = F.pad(x[0], (left, right, top, bottom), value=fill) if any((top, left, bottom, right)) else x[0]
        return function(padded, o["kernel_shape"], o.get("strides", 1))

    return run


def gemm(x: list[Any], o: dict[str, Any]) -> torch.Tensor:
    return F.linear(x[0], x[1] if o.get("transB") else x[1].T, x[2])


def reshape(x: list[Any], o: dict[str, Any]) -> torch.Tensor:
    return x[0].reshape(x[0].shape[0], *x[1].tolist()[1:])  # the model was exported for one sample


def clip(x: list[Any], o: dict[str, Any]) -> torch.Tensor:
    low, high = ((v.item() if v is not None else None) for v in (*x[1:], None, None)[:2])
    return torch.clamp(x[0], low, high)


def normalize(x: list[Any], o: dict[str, Any]) -> torch.Tensor:
    return F.batch_norm(x[0], x[3], x[4], x[1], x[2], eps=o.get("epsilon", 1e-5))


OPERATIONS: dict[str, Any] = {
    "Conv": convolve, "Gemm": gemm, "Clip": clip, "BatchNormalization": normalize, "Reshape": reshape,
    "MaxPool": pool(F.max_pool2d, -torch.inf), "AveragePool": pool(F.avg_pool2d, 0.0),
    "GlobalAveragePool": lambda x, o: x[0].mean((2, 3), keepdim=True),
    "Flatten": lambda x, o: x[0].flatten(o.get("axis", 1)),
    "Add": lambda x, o: x[0] + x[1], "Mul": lambda x, o: x[0] * x[1], "Relu": lambda x, o: F.relu(x[0]),
    "Sigmoid": lambda x, o: torch.sigmoid(x[0]), "Tanh": lambda x, o: torch.tanh(x[0]),
    "HardSwish": lambda x, o: F.hardswish(x[0]), "Identity": lambda x, o: x[0],
    "Transpose": lambda x, o: x[0].permute(*o["perm"]),
}  # fmt: skip
"""What each ONNX operation does; add those of your network."""
