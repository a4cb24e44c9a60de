"""Quantizes a float ONNX model the way a user of another runtime would; stands alone, for other environments.

    python prepare_peer.py onnxruntime int8 '{"x": [1, 3, 224, 224]}' model.onnx quantized.onnx
    python prepare_peer.py openvino float32 '{"x": [1, 3, 224, 224]}' model.onnx fixed.xml

Open extents become those of the bundle it is compared with.  Calibrated on a few samples of noise: good enough to time.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import contender
import numpy as np

SAMPLES = 4


Shapes = dict[str, list[int]]


def samples(shapes: Shapes, dtypes: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield calibration samples for inputs of these shapes and element types."""
    for seed in range(SAMPLES):
        yield {name: contender.noise(shape, dtypes[name], seed) for name, shape in shapes.items()}


def for_onnxruntime(precision: str, shapes: Shapes, model: str, output: str) -> None:
    """Static quantization to QDQ form: unsigned activations, signed weights per channel."""
    import onnx

    graph = onnx.load(model)
    for entry in graph.graph.input:
        dims = entry.type.tensor_type.shape.dim
        for dim, extent in zip(dims, shapes.get(entry.name, []), strict=False):
            dim.dim_value = extent
    if precision != "int8":
        onnx.save(graph, output)
        return
    dtypes = {
        entry.name: onnx.helper.tensor_dtype_to_np_dtype(entry.type.tensor_type.elem_type)
        for entry in graph.graph.input
    }
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Hands the samples out one by one, as ONNX Runtime asks for them."""

        def __init__(self) -> None:
            self.rest = samples(shapes, dtypes)

        def get_next(self) -> dict[str, Any] | None:
            """Return the next sample, None at the end."""
            return next(self.rest, None)

    with tempfile.TemporaryDirectory() as folder:
        fixed, ready = str(Path(folder) / "fixed.onnx"), str(Path(folder) / "ready.onnx")
        onnx.save(graph, fixed)
        quant_pre_process(fixed, ready, skip_symbolic_shape=True)
        quantize_static(
            ready,
            output,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )


def for_openvino(precision: str, shapes: Shapes, model: str, output: str) -> None:
    """Post-training quantization by NNCF, with its defaults for CPUs."""
    import openvino

    graph = openvino.Core().read_model(model)
    graph.reshape(shapes)
    if precision == "int8":
        import nncf

        dtypes = {port.any_name: port.get_element_type().to_dtype() for port in graph.inputs}
        # A stack of encoders has activations of its own kind, which NNCF asks about.
        tokens = any(dtype.kind != "f" for dtype in map(np.dtype, dtypes.values()))
        kind = nncf.ModelType.TRANSFORMER if tokens else None
        data = nncf.Dataset(list(samples(shapes, dtypes)))
        graph = nncf.quantize(graph, data, subset_size=SAMPLES, model_type=kind)
    openvino.save_model(graph, output, compress_to_fp16=False)


PREPARE = {"onnxruntime": for_onnxruntime, "openvino": for_openvino}

if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):
        runtime, wanted, extents, source, result = sys.argv[1:6]
        PREPARE[runtime](wanted, json.loads(extents), source, result)
