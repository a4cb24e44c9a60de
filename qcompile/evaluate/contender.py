"""A process that runs one model with one runtime whenever it is told to; stands alone, for other environments.

    python contender.py '{"runtime": "onnxruntime", "model": "m.onnx", "threads": 1}'

Answers one line of JSON when it is ready, and one for each line of input: a number of runs in, the
nanoseconds of each run out.  Between these it is blocked, so contenders do not disturb one another.
"""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Run = Callable[[], Any]


def noise(shape: Sequence[int], dtype: Any = np.float32, seed: int = 0) -> Any:
    """Return seeded noise: what models are timed and calibrated with.

    Args:
        shape: extents.
        dtype: normal numbers for floats; zeros and ones, tokens and a mask of them, for others.
        seed: of the generator.
    """
    generator = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return generator.standard_normal(shape).astype(dtype)
    return generator.integers(0, 2, shape).astype(dtype)


def start_qcompile(model: str, threads: int, precision: str) -> tuple[Run, str]:
    """Load a bundle with its own run.py; returns what runs it, and the version."""
    spec = importlib.util.spec_from_file_location("bundle_run", os.path.join(model, "run.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["bundle_run"] = module
    spec.loader.exec_module(module)
    session = module.load(model, threads)
    inputs = {t.name: noise(t.shape, t.dtype) for t in session.inputs}
    return lambda: session.run(inputs), ""


def start_onnxruntime(model: str, threads: int, precision: str) -> tuple[Run, str]:
    """Load an ONNX file with ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    kinds = {"tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(bool)": np.bool_}
    inputs = {t.name: noise(t.shape, kinds.get(t.type, np.float32)) for t in session.get_inputs()}
    return lambda: session.run(None, inputs), str(onnxruntime.__version__)


def start_openvino(model: str, threads: int, precision: str) -> tuple[Run, str]:
    """Load an ONNX file or an OpenVINO model; float layers compute in 16 bits only where the bundle's do."""
    import openvino

    options = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": {"float16": "f16", "bfloat16": "bf16"}.get(precision, "f32"),
    }
    compiled = openvino.Core().compile_model(model, "CPU", options)
    request = compiled.create_infer_request()
    for number, port in enumerate(compiled.inputs):
        request.set_input_tensor(number, openvino.Tensor(noise(list(port.shape), port.get_element_type().to_dtype())))
    return request.infer, str(openvino.__version__).partition("-")[0]


def start_litert(model: str, threads: int, precision: str) -> tuple[Run, str]:
    """Load a .tflite file with LiteRT."""
    import ai_edge_litert
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=model, num_threads=threads)
    interpreter.allocate_tensors()
    for entry in interpreter.get_input_details():
        interpreter.set_tensor(entry["index"], noise(entry["shape"], entry["dtype"]))
    return interpreter.invoke, str(getattr(ai_edge_litert, "__version__", ""))


RUNTIMES = {
    "qcompile": start_qcompile,
    "onnxruntime": start_onnxruntime,
    "openvino": start_openvino,
    "litert": start_litert,
}


def main() -> None:
    """Load, then time on demand until the input ends."""
    wanted = json.loads(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what runtimes print must not mix with the answers
    began = time.perf_counter_ns()
    run, version = RUNTIMES[wanted["runtime"]](wanted["model"], wanted["threads"], wanted["precision"])
    loaded = time.perf_counter_ns()
    run()
    first = time.perf_counter_ns()
    answers.write(json.dumps({"version": version, "load_ns": loaded - began, "first_ns": first - loaded}) + "\n")
    # One thread's work is told from what else runs on the machine by the processor time it takes.
    clock = time.process_time_ns if wanted["threads"] == 1 else time.perf_counter_ns
    for line in sys.stdin:
        times = []
        for _ in range(int(line)):
            start = clock()
            run()
            times.append(clock() - start)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        answers.write(json.dumps({"ns": times, "peak_kb": peak}) + "\n")


if __name__ == "__main__":
    main()
