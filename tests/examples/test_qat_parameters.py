"""The example of fine-tuning but for the training, which needs PyTorch: export, change numbers, import again."""

from __future__ import annotations

import gzip
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest

from qcompile import driver
from qcompile.export import export_qdq
from qcompile.ir.graph import Graph
from qcompile.ops.interpreter import Interpreter
from qcompile.quant.affine import dequantize

EXAMPLES = Path(__file__).parents[2] / "examples"
FOLDER = EXAMPLES / "qat"


@pytest.fixture(scope="module")
def parameters() -> ModuleType:
    spec = importlib.util.spec_from_file_location("qdq_parameters", EXAMPLES / "qat" / "qdq_parameters.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["qdq_parameters"] = module
    spec.loader.exec_module(module)
    return module


def inputs(count: int) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(0)
    return [{"input": random.normal(0, 1, (1, 1, 28, 28)).astype("f4")} for _ in range(count)]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("qat") / "q.onnx"
    model = EXAMPLES / "models" / "fashion_resnet14.onnx"
    return export_qdq(model, target, calibration=inputs(4)).path


def imported(path: Path) -> Graph:
    config = driver.resolve_config(path, None, {"precision": "int8"})
    context, _, graph = driver.prepare(path, config, None, None)
    simplified, _ = driver.simplify(graph, config, context, ())
    return driver.to_precision(simplified, config, context, ())[0]


def answers(graph: Graph) -> np.ndarray:
    return np.concatenate([next(iter(Interpreter(graph).run(s).values())) for s in inputs(2)])


def test_numbers_that_nobody_trained_come_back(exported: Path, parameters: ModuleType, tmp_path: Path) -> None:
    model = onnx.load(exported)
    onnx.save(parameters.write_parameters(model, parameters.read_parameters(model)), tmp_path / "same.onnx")
    np.testing.assert_array_equal(answers(imported(tmp_path / "same.onnx")), answers(imported(exported)))


def test_trained_scales_weights_and_biases_are_kept(exported: Path, parameters: ModuleType, tmp_path: Path) -> None:
    model = onnx.load(exported)
    found = parameters.read_parameters(model)
    assert len(found.layers) >= 14
    random = np.random.default_rng(1)
    for grid in found.grids.values():
        grid.scale = float(np.float32(grid.scale * random.uniform(0.9, 1.1)))
    for layer in found.layers.values():
        layer.scale = (layer.scale * random.uniform(0.9, 1.1, layer.scale.shape)).astype(np.float32)
        layer.bias = layer.bias + random.normal(0, 0.01, layer.bias.shape)
    onnx.save(parameters.write_parameters(model, found), tmp_path / "trained.onnx")
    onnx.checker.check_model(onnx.load(tmp_path / "trained.onnx"), full_check=True)
    graph = imported(tmp_path / "trained.onnx")
    scales = {v.qparams.scalar_scale for v in graph.values() if v.qparams is not None and v.dtype == "int8"
              and not v.is_constant}  # fmt: skip
    trained = np.array([g.scale for g in found.grids.values()])
    assert all(np.abs(trained / scale - 1).min() < 1e-6 for scale in scales)
    layers = [node for node in graph.nodes if node.op.name in ("conv2d", "dense")]
    assert len(layers) == len(found.layers)
    assert all(node.is_integer for node in layers)
    for node, layer in zip(layers, found.layers.values(), strict=True):
        weight = dequantize(node.inputs[1].constant(), node.inputs[1].qparams)
        steps = np.clip(np.rint(layer.weight / layer.along(layer.scale)), -127, 127) * layer.along(layer.scale)
        wanted = steps.transpose(0, 2, 3, 1) if steps.ndim == 4 else steps
        np.testing.assert_allclose(weight, wanted, rtol=1e-5, atol=1e-8)
        bias = dequantize(node.inputs[2].constant(), node.inputs[2].qparams)
        np.testing.assert_allclose(bias, layer.bias, atol=np.max(node.inputs[2].qparams.scale))


def run_example(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_commands_say_what_they_lack(tmp_path: Path) -> None:
    script = FOLDER / "fashion_inputs.py"
    images = tmp_path / "images.gz"
    images.write_bytes(gzip.compress(bytes(16 + 3 * 784)))
    assert run_example(script, images, 2, tmp_path / "inputs.npz").returncode == 0
    with np.load(tmp_path / "inputs.npz") as archive:
        assert archive["input"].shape == (2, 1, 28, 28)
    for words, told in (
        ((tmp_path / "none.gz", 2), "apt install dataset-fashion-mnist"),
        ((images, 4), "count is 4, and there are 3 images"),
    ):
        refused = run_example(script, *words, tmp_path / "other.npz")
        assert refused.returncode == 2
        assert told in refused.stderr
        assert "Traceback" not in refused.stderr
    code = (
        f"import sys; sys.path.insert(0, {str(FOLDER)!r}); sys.modules['torch'] = None\n"
        "import runpy; sys.argv = ['finetune.py']\n"
        f"runpy.run_path({str(FOLDER / 'finetune.py')!r}, run_name='__main__')"
    )
    refused = run_example("-c", code)
    assert (refused.returncode, refused.stderr) == (1, "finetune.py needs PyTorch: pip install 'qcompile[qat]'\n")
