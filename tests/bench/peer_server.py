"""Quantizes a network with another runtime's own recipe, then answers samples; stands alone, for other environments.

    python peer_server.py openvino model.onnx samples.npz quantized-folder

`samples.npz` holds the calibration samples as "INDEX/INPUT". The first line that it writes is one of JSON: what was
done and what it took, or `fails` with the reason. Then each sample read from standard input is answered on standard
output; both are frames as `read_frame` and `write_frame` have them.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

Sample = dict[str, Any]
Run = Callable[[Sample], Sample]

PER_CHANNEL_OPSET = 13
"""The first ONNX operators whose weights have one scale per channel."""


def write_frame(stream: BinaryIO, arrays: Sample) -> None:
    """Write named arrays: the length of a JSON header, the header, the contents."""
    contents = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    fields = [[name, array.dtype.str, list(np.shape(arrays[name]))] for name, array in contents.items()]
    header = json.dumps(fields).encode()
    stream.write(struct.pack("<I", len(header)) + header)
    for array in contents.values():
        stream.write(array.tobytes())
    stream.flush()


def read_frame(stream: BinaryIO) -> Sample | None:
    """Return what `write_frame` wrote, None at the end."""
    size = stream.read(4)
    if len(size) < 4:
        return None
    arrays = {}
    for name, kind, shape in json.loads(stream.read(struct.unpack("<I", size)[0])):
        kind = np.dtype(kind)
        content = stream.read(kind.itemsize * int(np.prod(shape, dtype=np.int64)))
        arrays[name] = np.frombuffer(content, kind).reshape(shape)
    return arrays


def read_samples(path: str) -> list[Sample]:
    """Return the calibration samples."""
    samples: dict[int, Sample] = {}
    with np.load(path) as stored:
        for key in stored.files:
            index, _, name = key.partition("/")
            samples.setdefault(int(index), {})[name] = stored[key]
    return [samples[index] for index in sorted(samples)]


# -- ONNX Runtime ---------------------------------------------------------------------------------------------


class Reader:
    """Hands the samples out one by one, as ONNX Runtime asks for them."""

    def __init__(self, samples: list[Sample]) -> None:
        self._samples = samples
        self.rewind()

    def get_next(self) -> Sample | None:
        """Return the next sample, None at the end."""
        return next(self._rest, None)

    def rewind(self) -> None:
        """Start again."""
        self._rest: Iterator[Sample] = iter(self._samples)


def _preprocessed(model: str, folder: Path) -> tuple[str, list[str]]:
    """Return the model as ONNX Runtime's documentation wants it before quantization, and what could not be done."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    ready = str(folder / "ready.onnx")
    try:
        quant_pre_process(model, ready, skip_symbolic_shape=True)
    except Exception as error:
        return model, [f"without its preprocessing, which fails: {reason(error)}"]
    return ready, []


def static_onnxruntime(method: str) -> Callable[[str, list[Sample], Path], list[str]]:
    """Return static quantization to QDQ form: unsigned activations, signed weights per channel."""

    def quantize(model: str, samples: list[Sample], folder: Path) -> list[str]:
        from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

        ready, notes = _preprocessed(model, folder)
        quantize_static(
            ready,
            str(folder / "quantized.onnx"),
            Reader(samples),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod[method],
        )
        return notes

    return quantize


def dynamic_onnxruntime(model: str, samples: list[Sample], folder: Path) -> list[str]:
    """Quantize weights now, activations at run time."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    ready, notes = _preprocessed(model, folder)
    quantize_dynamic(ready, str(folder / "quantized.onnx"), per_channel=True, weight_type=QuantType.QInt8)
    return notes


def run_onnxruntime(folder: Path) -> Run:
    """Return the quantized network."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(str(folder / "quantized.onnx"), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda sample: dict(zip(names, session.run(None, sample), strict=True))


# -- OpenVINO -------------------------------------------------------------------------------------------------


def openvino_nncf(kind: str | None) -> Callable[[str, list[Sample], Path], list[str]]:
    """Return post-training quantization by NNCF, with its defaults for a kind of model that the user names."""

    def quantize(model: str, samples: list[Sample], folder: Path) -> list[str]:
        import nncf
        import onnx
        import openvino

        graph = openvino.Core().read_model(model)
        graph.reshape({name: list(array.shape) for name, array in samples[0].items()})
        named = nncf.ModelType[kind] if kind is not None else None
        quantized = nncf.quantize(graph, nncf.Dataset(samples), subset_size=len(samples), model_type=named)
        openvino.save_model(quantized, str(folder / "quantized.xml"), compress_to_fp16=False)
        names = [output.name for output in onnx.load(model, load_external_data=False).graph.output]
        (folder / "outputs.json").write_text(json.dumps(names))
        return [f"told that it is a {kind.lower()}"] if kind is not None else []

    return quantize


def run_openvino(folder: Path) -> Run:
    """Return the quantized network; what it keeps in floating point stays in float32."""
    import openvino

    options = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(str(folder / "quantized.xml"), "CPU", options)
    request = compiled.create_infer_request()
    names = json.loads((folder / "outputs.json").read_text())

    def run(sample: Sample) -> Sample:
        request.infer(sample)
        return {name: np.array(request.get_output_tensor(i).data) for i, name in enumerate(names)}

    return run


PEERS: dict[str, tuple[Callable[[str, list[Sample], Path], list[str]], Callable[[Path], Run]]] = {
    "onnxruntime-minmax": (static_onnxruntime("MinMax"), run_onnxruntime),
    "onnxruntime-percentile": (static_onnxruntime("Percentile"), run_onnxruntime),
    "onnxruntime-dynamic": (dynamic_onnxruntime, run_onnxruntime),
    "openvino": (openvino_nncf(None), run_openvino),
    "openvino-transformer": (openvino_nncf("TRANSFORMER"), run_openvino),
}


def reason(error: BaseException) -> str:
    """Return an error in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # OpenVINO's messages start with where they come from.
    while len(lines) > 1 and lines[0].startswith(("Exception from", "Check 'false' failed")):
        del lines[0]
    text = f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
    return text if len(text) <= 160 else text[:157] + "..."


def _upgraded(model: str, folder: Path) -> str | None:
    """Return the model with newer operators, as a user would bring it there by hand; None where it has them."""
    import onnx

    loaded = onnx.load(model)
    if all(entry.version >= PER_CHANNEL_OPSET for entry in loaded.opset_import if entry.domain in ("", "ai.onnx")):
        return None
    path = folder / "upgraded.onnx"
    onnx.save(onnx.version_converter.convert_version(loaded, PER_CHANNEL_OPSET), path)
    return str(path)


def _folded(model: str, folder: Path) -> str | None:
    """Return the model without what is constant, such as arithmetic on shapes, as ONNX Runtime writes it."""
    import onnxruntime

    path = folder / "folded.onnx"
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.optimized_model_filepath = 3, str(path)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return str(path)


BY_HAND: tuple[tuple[str, Callable[[str, Path], str | None]], ...] = (
    (f"upgraded by hand to opset {PER_CHANNEL_OPSET}", _upgraded),
    ("constants folded by hand", _folded),
)
"""What users do with models that a tool refuses, in turn."""


def _attempt(peer: str, model: str, samples: str, folder: Path) -> tuple[Run, dict[str, Any]]:
    """Return the quantized network, which must run, and what it took."""
    quantize, load = PEERS[peer]
    given = read_samples(samples)
    started = time.perf_counter()
    notes = quantize(model, given, folder)
    seconds = time.perf_counter() - started
    run = load(folder)
    run(given[0])
    return run, {"seconds": seconds, "megabytes": _peak_megabytes(), "notes": notes}


def _peak_megabytes() -> float:
    """Return the peak memory so far, MiB; unlike getrusage it knows nothing of the process that started this one."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def prepared(peer: str, model: str, samples: str, folder: Path) -> tuple[Run | None, dict[str, Any]]:
    """Return the quantized network and what it took; None and the reasons where it fails."""
    try:
        return _attempt(peer, model, samples, folder)
    except Exception as error:
        reasons = [reason(error)]
    for what, change in BY_HAND:
        try:
            changed = change(model, folder)
            if changed is None:
                continue
            run, report = _attempt(peer, changed, samples, folder)
        except Exception as error:
            reasons.append(f"{what}: {reason(error)}")
            continue
        report["notes"] += [f"the model as it is fails: {reasons[0]}", what]
        return run, report
    return None, {"fails": "; ".join(dict.fromkeys(reasons))}


def main() -> None:
    """Quantize, then answer until standard input ends."""
    peer, model, samples, place = sys.argv[1:5]
    # Libraries print to standard output, and some of them past Python: only this copy of it is ours.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    folder = Path(place)
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.redirect_stdout(sys.stderr):
        run, report = prepared(peer, model, samples, folder)
        answers.write((json.dumps(report) + "\n").encode())
        answers.flush()
        while run is not None and (sample := read_frame(sys.stdin.buffer)) is not None:
            try:
                answer = run(sample)
            except Exception as error:
                answer = {"fails": np.frombuffer(reason(error).encode(), np.uint8)}
            write_frame(answers, answer)


if __name__ == "__main__":
    main()
