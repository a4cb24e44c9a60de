"""The networks for timing as INT8 .tflite files for LiteRT: same shapes, seeded weights, quantized per channel.

    python tests/bench/tflite_networks.py FOLDER [NETWORK ...]

It needs ai-edge-litert and flatbuffers, and runs wherever these are installed, under emulation too.  Weights are
noise and scales are made up: the files say how fast LiteRT is, and nothing else.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

VERSIONS = {"ADD": 2, "AVERAGE_POOL_2D": 2, "CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 4,
            "MAX_POOL_2D": 2, "RESHAPE": 1}  # fmt: skip
NONE, RELU, RELU6 = 0, 1, 3
SAME, VALID = 0, 1


class TfliteBuilder:
    """Appends INT8 layers to one graph of NHWC tensors; a tensor is its number."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.model, self.graph = schema.ModelT(), schema.SubGraphT()
        self.model.version, self.model.description = 3, "seeded weights"
        self.model.operatorCodes, self.model.buffers = [], [schema.BufferT()]
        self.model.subgraphs = [self.graph]
        self.graph.tensors, self.graph.operators = [], []
        self.graph.inputs = [self.tensor((1, 224, 224, 3), "INT8", [0.02], [0])]

    def tensor(
        self, shape: Sequence[int], kind: str, scale: Sequence[float] = (), zeros: Sequence[int] = (), axis: int = 0,
        data: np.ndarray | None = None,
    ) -> int:  # fmt: skip
        """Add a tensor, constant if it has data."""
        made = schema.TensorT()
        made.shape, made.type = list(shape), getattr(schema.TensorType, kind)
        made.name, made.buffer = f"t{len(self.graph.tensors)}", 0
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
            made.buffer = len(self.model.buffers)
            self.model.buffers.append(buffer)
        if len(scale):
            made.quantization = schema.QuantizationParametersT()
            made.quantization.scale, made.quantization.zeroPoint = list(scale), list(zeros)
            made.quantization.quantizedDimension = axis
        self.graph.tensors.append(made)
        return len(self.graph.tensors) - 1

    def op(self, name: str, inputs: list[int], output: int, kind: str, options: dict[str, int]) -> int:
        """Add an operator."""
        code = getattr(schema.BuiltinOperator, name)
        known = [c.builtinCode for c in self.model.operatorCodes]
        if code not in known:
            made = schema.OperatorCodeT()
            made.builtinCode = made.deprecatedBuiltinCode = code
            made.version = VERSIONS[name]
            self.model.operatorCodes.append(made)
            known.append(code)
        operator = schema.OperatorT()
        operator.opcodeIndex, operator.inputs, operator.outputs = known.index(code), inputs, [output]
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
        operator.builtinOptions = getattr(schema, f"{kind}T")()
        for key, value in options.items():
            setattr(operator.builtinOptions, key, value)
        self.graph.operators.append(operator)
        return output

    def shape(self, x: int) -> list[int]:
        return self.graph.tensors[x].shape

    def scale(self, x: int) -> float:
        return self.graph.tensors[x].quantization.scale[0]

    def weights(self, x: int, shape: Sequence[int], axis: int) -> tuple[int, int]:
        """Random weights, one scale for each output channel, and a bias."""
        count = shape[axis]
        scales = self.random.uniform(0.5, 1.0, count) / np.prod(shape) * count / 40
        codes = self.random.integers(-127, 128, shape).astype(np.int8)
        bias = self.random.integers(-1000, 1000, count).astype(np.int32)
        kernel = self.tensor(shape, "INT8", scales, [0] * count, axis, codes)
        return kernel, self.tensor([count], "INT32", scales * self.scale(x), [0] * count, 0, bias)

    def conv(
        self, x: int, filters: int, kernel: int, stride: int = 1, act: int = RELU6, depthwise: bool = False
    ) -> int:
        """Convolution with padding SAME."""
        n, h, w, c = self.shape(x)
        shape, axis = ((1, kernel, kernel, c), 3) if depthwise else ((filters, kernel, kernel, c), 0)
        zero, scale = (-128, 6 / 255) if act else (3, 0.05)
        out = self.tensor((n, -(-h // stride), -(-w // stride), filters), "INT8", [scale], [zero])
        name, kind = ("DEPTHWISE_CONV_2D", "DepthwiseConv2DOptions") if depthwise else ("CONV_2D", "Conv2DOptions")
        options = {"padding": SAME, "strideW": stride, "strideH": stride, "fusedActivationFunction": act,
                   "dilationWFactor": 1, "dilationHFactor": 1}  # fmt: skip
        if depthwise:
            options["depthMultiplier"] = 1
        return self.op(name, [x, *self.weights(x, shape, axis)], out, kind, options)

    def add(self, x: int, y: int, act: int = NONE) -> int:
        zero, scale = (-128, 0.06) if act else (-5, 0.06)
        out = self.tensor(self.shape(x), "INT8", [scale], [zero])
        return self.op("ADD", [x, y], out, "AddOptions", {"fusedActivationFunction": act})

    def pool(self, x: int, name: str, size: int, stride: int, padding: int) -> int:
        n, h, w, c = self.shape(x)
        h, w = (-(-h // stride), -(-w // stride)) if padding == SAME else (1, 1)
        parameters = self.graph.tensors[x].quantization
        out = self.tensor((n, h, w, c), "INT8", parameters.scale, parameters.zeroPoint)
        options = {"padding": padding, "strideW": stride, "strideH": stride, "filterWidth": size, "filterHeight": size}
        return self.op(name, [x], out, "Pool2DOptions", options)

    def finish(self, x: int, classes: int = 1000) -> bytes:
        """Global average, classifier; the file."""
        x = self.pool(x, "AVERAGE_POOL_2D", self.shape(x)[1], 1, VALID)
        n, c = self.shape(x)[0], self.shape(x)[3]
        out = self.tensor((n, classes), "INT8", [0.1], [0])
        flat = self.tensor((n, c), "INT8", [self.scale(x)], self.graph.tensors[x].quantization.zeroPoint)
        shape = self.tensor([2], "INT32", data=np.array([n, c], np.int32))
        self.op("RESHAPE", [x, shape], flat, "ReshapeOptions", {"newShape": [n, c]})
        operands = [flat, *self.weights(flat, (classes, c), 0)]
        self.op("FULLY_CONNECTED", operands, out, "FullyConnectedOptions", {"fusedActivationFunction": NONE})
        self.graph.outputs = [out]
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def _inverted(stages: Sequence[tuple[int, int, int, int, int]]) -> bytes:
    """Stages of (kernel, expansion, channels, repeats, stride)."""
    b = TfliteBuilder(2)
    x, c = b.conv(b.graph.inputs[0], 32, 3, 2), 32
    for kernel, expansion, channels, repeats, first in stages:
        for i in range(repeats):
            stride, hidden, before = (first if i == 0 else 1), c * expansion, x
            if expansion > 1:
                x = b.conv(x, hidden, 1)
            x = b.conv(x, hidden, kernel, stride, depthwise=True)
            x = b.conv(x, channels, 1, act=NONE)
            x = b.add(before, x) if stride == 1 and c == channels else x
            c = channels
    return b.finish(b.conv(x, 1280, 1))


def mobilenetv2() -> bytes:
    """Sandler et al., 2018."""
    return _inverted(((3, 1, 16, 1, 1), (3, 6, 24, 2, 2), (3, 6, 32, 3, 2), (3, 6, 64, 4, 2), (3, 6, 96, 3, 1),
                      (3, 6, 160, 3, 2), (3, 6, 320, 1, 1)))  # fmt: skip


def efficientnet_lite0() -> bytes:
    """Liu, "Higher accuracy on vision models with EfficientNet-Lite", 2020."""
    return _inverted(((3, 1, 16, 1, 1), (3, 6, 24, 2, 2), (5, 6, 40, 2, 2), (3, 6, 80, 3, 2), (5, 6, 112, 3, 1),
                      (5, 6, 192, 4, 2), (3, 6, 320, 1, 1)))  # fmt: skip


def resnet50() -> bytes:
    """He et al., 2015, with the stride in the 3x3 convolution."""
    b = TfliteBuilder(50)
    x = b.pool(b.conv(b.graph.inputs[0], 64, 7, 2, RELU), "MAX_POOL_2D", 3, 2, SAME)
    for stage, repeats in enumerate((3, 4, 6, 3)):
        for i in range(repeats):
            width, stride = 64 << stage, 2 if stage and i == 0 else 1
            y = b.conv(b.conv(x, width, 1, act=RELU), width, 3, stride, RELU)
            y = b.conv(y, 4 * width, 1, act=NONE)
            short = x if i else b.conv(x, 4 * width, 1, stride, NONE)
            x = b.add(y, short, RELU)
    return b.finish(x)


NETWORKS = {"mobilenetv2": mobilenetv2, "efficientnet_lite0": efficientnet_lite0, "resnet50": resnet50}


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("network", nargs="*", help="default: all")
    options = parser.parse_args()
    for name in options.network or NETWORKS:
        (options.folder / f"{name}.tflite").write_bytes(NETWORKS[name]())


if __name__ == "__main__":
    main()
