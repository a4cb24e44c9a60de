"""Open extents in float16: one bundle says at every size what float32 says, but for the rounding."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from decoder_models import gpt2, save
from onnx import TensorProto, helper, numpy_helper

import qcompile
from qcompile import bundle as bundles
from qcompile import driver, runtime, targets
from qcompile.lower import lower_graph

SHAPE = ["N:1..2", 3, "H:8..24", "W:8..40"]
SIZES = ((2, 24, 40), (1, 8, 8), (2, 9, 13), (1, 17, 40), (2, 23, 39))


def pyramid() -> Any:
    """Return a network of windows that reach past the actual end, with a mean over open axes."""
    rng = np.random.default_rng(0)
    shapes = {"w1": (16, 3, 3, 3), "b1": (16,), "w2": (16, 1, 3, 3), "b2": (16,), "w3": (8, 16, 3, 3), "w4": (10, 8)}
    tensors = [numpy_helper.from_array(rng.normal(0, 0.2, s).astype(np.float32), n) for n, s in shapes.items()]
    tensors.append(numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales"))
    around: dict[str, Any] = {"pads": [1, 1, 1, 1]}
    window = {"kernel_shape": [3, 3], **around}
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["a"], **around),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("AveragePool", ["b"], ["c"], strides=[2, 2], **window),
        helper.make_node("Conv", ["c", "w2", "b2"], ["d"], group=16, **around),
        helper.make_node("HardSwish", ["d"], ["e"]),
        helper.make_node("MaxPool", ["e"], ["f"], **window),
        helper.make_node("Resize", ["f", "", "scales"], ["g"], mode="linear"),
        helper.make_node("Conv", ["g", "w3"], ["map"], **around),
        helper.make_node("GlobalAveragePool", ["map"], ["h"]),
        helper.make_node("Flatten", ["h"], ["i"]),
        helper.make_node("Gemm", ["i", "w4"], ["y"], transB=1),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, "H", "W"])
    outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("y", "map")]
    graph = helper.make_graph(nodes, "pyramid", [x], outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def images() -> list[dict[str, Any]]:
    rng = np.random.default_rng(3)
    return [{"x": rng.normal(0, 1, (n, 3, h, w)).astype(np.float32)} for n, h, w in SIZES]


def assert_close(found: Any, wanted: Any, tolerance: float = 6e-3) -> None:
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= tolerance * np.abs(wanted).max()


def require_arithmetic(precision: str) -> None:
    """Skip the test where the processor does not compute in this precision."""
    flag = {"fp16": "avx512_fp16", "bf16": "avx512_bf16"}[precision]
    info = Path("/proc/cpuinfo")
    if not info.exists() or flag not in info.read_text():
        pytest.skip(f"this processor lacks {flag}")


@pytest.mark.parametrize(("precision", "kind", "tolerance"), [("fp16", "float16", 6e-3), ("bf16", "bfloat16", 4e-2)])
def test_a_network_of_windows(tmp_path: Path, precision: str, kind: str, tolerance: float) -> None:
    require_arithmetic(precision)
    onnx.save(pyramid(), tmp_path / "m.onnx")
    reference = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    qcompile.compile(tmp_path / "m.onnx", precision=precision, input_shapes={"x": SHAPE}, output=tmp_path / "b")
    with runtime.load(tmp_path / "b", threads=2) as session:
        precisions = {step["precision"] for step in session.profile(runs=1) if step["op"] in ("conv2d", "dense")}
        assert precisions == {kind}
        for given in images():
            for found, wanted in zip(session.run(given).values(), reference.run(None, given), strict=True):
                assert_close(found, wanted, tolerance)


@pytest.mark.arm
def test_the_same_on_arm(tmp_path: Path, qemu_aarch64: str) -> None:
    onnx.save(pyramid(), tmp_path / "m.onnx")
    reference = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    settings: dict[str, Any] = {"precision": "fp16", "target": "rpi5", "input_shapes": {"x": SHAPE}}
    config = driver.resolve_config(tmp_path / "m.onnx", None, settings)
    context, _, graph = driver.prepare(tmp_path / "m.onnx", config, None, None)
    final, _ = driver.to_precision(driver.simplify(graph, config, context, ())[0], config, context, ())
    assert {v.dtype for v in final.values()} >= {"float16"}
    program = lower_graph(driver.bound_extents(final, config, context, ())[0], targets.load("rpi5"))
    (tmp_path / "model").write_bytes(bundles.build_executable(program))
    (tmp_path / "model").chmod(0o755)
    for given in images()[:3]:
        given["x"].tofile(tmp_path / "x")
        axes = {"N": 0, "H": 2, "W": 3}
        sizes = [word for name, axis in axes.items() for word in ("--size", f"{name}={given['x'].shape[axis]}")]
        command = [qemu_aarch64, "-cpu", "cortex-a76", tmp_path / "model", *sizes, tmp_path / "x"]
        command += ["--output", tmp_path / "out"]
        subprocess.run([str(word) for word in command], check=True, capture_output=True, timeout=120)
        found, wanted = np.fromfile(tmp_path / "out", np.float32), reference.run(None, given)
        assert_close(found, np.concatenate([array.reshape(-1) for array in wanted]))


@pytest.mark.parametrize(("precision", "stored", "tolerance"), [("fp16", "float16", 2e-2), ("bf16", "float32", 6e-2)])
def test_a_decoder_with_growing_caches(tmp_path: Path, precision: str, stored: str, tolerance: float) -> None:
    """Layers compute in 16 bits, attention and the caches as they are told."""
    require_arithmetic(precision)
    path = save(gpt2(), tmp_path / "decoder.onnx")
    ids = [np.random.default_rng(n).integers(0, 31, (1, count)) for n, count in enumerate((6, 1, 3, 1))]
    results = {}
    for kind, cache in (("fp32", "float32"), (precision, stored)):
        output = tmp_path / kind
        settings: dict[str, Any] = {"precision": kind, "state": ["auto"], "cache": cache, "max_length": 16}
        qcompile.compile(path, output=output, **settings)
        with runtime.load(output) as session:
            results[kind] = [session.run({"input_ids": part})["logits"] for part in ids]
    for found, wanted in zip(results[precision], results["fp32"], strict=True):
        assert_close(found, wanted, tolerance)
