"""Networks of images of any batch, height and width, beside ONNX Runtime: one bundle serves all sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from qcompile import compile as compiled
from qcompile import pipelines, runtime
from qcompile.onnx_import.bounds import import_bounded
from qcompile.ops.interpreter import Interpreter
from qcompile.passmgr import PassContext, PassManager

from .open_networks import NETWORKS

SHAPE = ["N:1..3", 3, "H:16..32:4", "W:16..32:4"]
SIZES = [(1, 16, 16), (2, 20, 28), (3, 32, 24), (1, 28, 32)]


def sample(size: tuple[int, int, int], seed: int = 0) -> dict[str, np.ndarray]:
    n, h, w = size
    return {"x": np.random.default_rng(seed).normal(0, 1, (n, 3, h, w)).astype(np.float32)}


def reference(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("name", NETWORKS)
def test_every_size(name: str) -> None:
    built = NETWORKS[name]()
    model = built.model()
    graph = import_bounded(model, {"x": SHAPE})
    final = PassManager(f"{pipelines.SIMPLIFY},{pipelines.FINISH_FLOAT},bound-dynamic-axes").run(graph, PassContext())
    session = reference(model)
    for size in SIZES:
        given = sample(size)
        found = Interpreter(final).run(given)
        for output, wanted in zip(built.names, session.run(built.names, given), strict=True):
            np.testing.assert_allclose(found[output], wanted, 1e-3, 1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("name", ["vision transformer", "boxes"])
def test_a_bundle(name: str, precision: str, tmp_path: Path) -> None:
    built = NETWORKS[name]()
    model = built.model()
    onnx.save(model, tmp_path / "m.onnx")
    (tmp_path / "samples").mkdir()
    for number, size in enumerate(SIZES * 3):
        np.savez(tmp_path / "samples" / f"{number}.npz", **sample(size, number + 1))
    more = {"calibration": tmp_path / "samples"} if precision == "int8" else {}
    compiled(tmp_path / "m.onnx", target="host", precision=precision, input_shapes={"x": SHAPE},
             output=tmp_path / "b", **more)  # fmt: skip
    session = reference(model)
    with runtime.load(tmp_path / "b") as bundle:
        for size in (*SIZES, SIZES[0]):
            given = sample(size)
            (wanted,) = session.run(built.names, given)
            error = bundle.run(given)[built.names[0]] - wanted
            noise = np.square(error).sum() / np.square(wanted).sum()
            assert noise < (1e-9 if precision == "fp32" else 10**-2.2)
