"""Whole example networks, compiled once per session."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from qcompile import driver, targets
from qcompile.bundle import build_executable
from qcompile.calibrate.calibration_set import open_calibration
from qcompile.calibrate.preprocess import Preprocess
from qcompile.calibrate.sample import graph_inputs
from qcompile.config import CompileConfig
from qcompile.ir.graph import Graph
from qcompile.ir.program import Program
from qcompile.lower import lower_graph
from qcompile.onnx_import import import_onnx
from qcompile.passmgr import PassContext

sys.path.insert(0, str(Path(__file__).parent))

EXAMPLES = Path(__file__).parents[2] / "examples"
FASHION = ("fashion_mobilenetv2", "fashion_resnet14", "fashion_hard")
NETWORKS = (*FASHION, "efficientnet_lite0")


def model_path(name: str) -> Path:
    return EXAMPLES / "models" / f"{name}.onnx"


@cache
def graphs(name: str, precision: str) -> tuple[Graph, Graph]:
    """Return (simplified float graph, final graph) of an example network, calibrated on a few samples."""
    config, context = CompileConfig(precision=precision), PassContext()
    graph = import_onnx(model_path(name))
    calibration = _noise() if name in FASHION else _photographs(graph)
    context.samples = lambda: iter(calibration)
    simplified, _ = driver.simplify(graph, config, context, ())
    final, _ = driver.to_precision(simplified, config, context, ())
    return simplified, final


def _photographs(graph: Graph) -> list[dict[str, np.ndarray]]:
    steps = Preprocess.parse("resize=256,crop=224,mean=127,std=128")
    return list(open_calibration(EXAMPLES / "images", graph_inputs(graph), steps, limit=4))


def _noise() -> list[dict[str, np.ndarray]]:
    generator = np.random.default_rng(1)
    return [{"input": generator.standard_normal((1, 1, 28, 28)).astype(np.float32)} for _ in range(4)]


@cache
def program(name: str, precision: str, target: str) -> Program:
    return lower_graph(graphs(name, precision)[1], targets.load(target))


def sample(graph: Graph, seed: int = 7) -> dict[str, np.ndarray]:
    """Return inputs with ordinary values, ties and extremes."""
    generator = np.random.default_rng(seed)
    inputs = {}
    for value in graph.inputs:
        array = generator.standard_normal(value.shape).astype(np.float32)
        flat = array.reshape(-1)
        flat[:: flat.size // 7] = [0.0, 100.0, -100.0, 1e-8, 0.5, -0.5, 1.0, 3.0][: len(flat[:: flat.size // 7])]
        inputs[value.name] = array
    return inputs


@pytest.fixture
def run_emulated(tmp_path: Path) -> Callable[[Program, str, dict[str, np.ndarray], int], dict[str, np.ndarray]]:
    """Return a function that runs a program under qemu-aarch64 on a given core."""
    emulator = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    if emulator is None:
        pytest.skip("qemu-aarch64 is not installed (apt install qemu-user)")

    def run(code: Program, cpu: str, inputs: dict[str, np.ndarray], threads: int) -> dict[str, np.ndarray]:
        executable, output = tmp_path / "model", tmp_path / "out.bin"
        if not executable.exists():
            executable.write_bytes(build_executable(code))
            executable.chmod(0o755)
        files = []
        for tensor in code.inputs:
            np.save(tmp_path / f"{tensor.name}.npy", inputs[tensor.name])
            files.append(str(tmp_path / f"{tensor.name}.npy"))
        command = [emulator, "-cpu", cpu, str(executable), *files, "--threads", str(threads), "--output", str(output)]
        subprocess.run(command, check=True, capture_output=True, timeout=300)
        data, results, start = output.read_bytes(), {}, 0
        for tensor in code.outputs:
            count = int(np.prod(tensor.shape)) * np.dtype(tensor.dtype).itemsize
            results[tensor.name] = np.frombuffer(data[start : start + count], tensor.dtype).reshape(tensor.shape)
            start += count
        return results

    return run
