"""Matrix-vector products with weights of a few bits: gigabytes a second, and the time beside float and ONNX Runtime.

    python tests/bench/weight_only.py [--inner 4096] [--columns 4096] [--rows 1] [--target host]

Every turn runs each contender a few times, so that all see the same machine; medians of the turns are printed.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

import qcompile

TURNS, RUNS = 15, 5
GROUP = 32


def model(weight: np.ndarray, rows: int) -> onnx.ModelProto:
    """Return x [rows, K] times a constant [K, N]."""
    inner, columns = weight.shape
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, inner])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, columns])
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="product")
    graph = helper.make_graph([node], "product", [x], [y], [numpy_helper.from_array(weight, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def blocked_model(weight: np.ndarray, rows: int, bits: int, level: int) -> onnx.ModelProto:
    """Return the same product as ONNX Runtime's MatMulNBits, with random integers."""
    inner, columns = weight.shape
    rng = np.random.default_rng(1)
    packed = rng.integers(0, 256, (columns, inner // GROUP, GROUP * bits // 8)).astype(np.uint8)
    scales = rng.uniform(0.001, 0.01, columns * inner // GROUP).astype(np.float32)
    node = helper.make_node(
        "MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft",
        K=inner, N=columns, bits=bits, block_size=GROUP, accuracy_level=level,
    )  # fmt: skip
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, inner])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, columns])
    constants = [numpy_helper.from_array(packed, "w"), numpy_helper.from_array(scales, "s")]
    graph = helper.make_graph([node], "product", [x], [y], constants)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def reference(proto: onnx.ModelProto, x: np.ndarray) -> Callable[[], object]:
    """Return a run of ONNX Runtime on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"x": x})


def main() -> None:
    """Build the contenders, run them in turns, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("inner", 4096), ("columns", 4096), ("rows", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--target", default="host")
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    weight = rng.normal(0, 0.02, (given.inner, given.columns)).astype(np.float32)
    x = rng.normal(size=(given.rows, given.inner)).astype(np.float32)
    runs: dict[str, Callable[[], object]] = {}
    sizes: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "product.onnx"
        onnx.save(model(weight, given.rows), path)
        for bits in (None, 8, 4, 2, 1):
            name = f"qcompile {f'{bits} bits' if bits else 'float32'}"
            settings = {"weight_bits": bits} if bits else {"precision": "fp32"}
            made = qcompile.compile(path, target=given.target, output=Path(folder) / name, **settings)
            session = qcompile.runtime.load(Path(folder) / name, threads=1)
            runs[name], sizes[name] = (lambda s=session: s.run({"x": x})), made.manifest["memory"]["weights"]
        runs["ONNX Runtime float32"] = reference(model(weight, given.rows), x)
        sizes["ONNX Runtime float32"] = weight.nbytes
        for bits, level in ((8, 0), (8, 4), (4, 0), (4, 4)):
            name = f"ONNX Runtime {bits} bits{', int8 activations' if level else ''}"
            try:
                runs[name] = reference(blocked_model(weight, given.rows, bits, level), x)
            except Exception as error:
                print(f"{name}: {str(error).splitlines()[0]}")
                continue
            sizes[name] = weight.size * (bits / 8 + 4 / GROUP)
        times = measure(runs)
    base = times["qcompile float32"]
    for name, seconds in times.items():
        speed = sizes[name] / seconds / 1e9
        print(f"{name:40} {seconds * 1e3:8.3f} ms  {speed:6.1f} GB/s  {base / seconds:5.2f} x float32")


def measure(runs: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Return the median over all turns of the fastest run of a turn, seconds."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(TURNS):
        for name, run in runs.items():
            best = 1e9
            for _ in range(RUNS):
                start = time.perf_counter()
                run()
                best = min(best, time.perf_counter() - start)
            found[name].append(best)
    return {name: median(times) for name, times in found.items()}


if __name__ == "__main__":
    main()
