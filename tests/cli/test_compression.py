"""Compression passes from the command line: their account, and what the bundle takes."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from small_classifier import Cli

from qcompile import runtime
from qcompile.bundle import read_manifest


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three layers, the middle one of low rank: x [1, 64] to logits [1, 32]."""
    rng = np.random.default_rng(6)
    middle = rng.normal(0, 0.05, (256, 20)) @ rng.normal(0, 0.5, (20, 256))
    weights = {"w0": rng.normal(0, 0.2, (64, 256)), "w1": middle, "w2": rng.normal(0, 0.1, (256, 32))}
    constants = [numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items()]
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["m0"], name="first"),
        helper.make_node("Relu", ["m0"], ["r0"], name="relu0"),
        helper.make_node("MatMul", ["r0", "w1"], ["m1"], name="middle"),
        helper.make_node("Relu", ["m1"], ["r1"], name="relu1"),
        helper.make_node("MatMul", ["r1", "w2"], ["logits"], name="last"),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 64])
    y = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 32])
    folder = tmp_path_factory.mktemp("wide")
    graph = helper.make_graph(nodes, "wide", [x], [y], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "wide.onnx")
    np.save(folder / "x.npy", rng.normal(size=(32, 1, 64)).astype(np.float32))
    return folder


def test_zeros_leave_the_library(cli: Cli, wide: Path, tmp_path: Path) -> None:
    sizes = {}
    for precision in ("--int8", "--fp32"):
        for name, passes in (("whole", ""), ("sparse", "prune-magnitude{sparsity=0.7}")):
            words = ["--passes", passes] if passes else []
            result = cli(wide / "wide.onnx", precision, "--calib", wide / "x.npy", *words, "-o", tmp_path / name)
            assert result.code == 0, result.err
            sizes[name] = read_manifest(tmp_path / name)["files"]["libmodel.so"]["bytes"]
        assert re.search(r"weights in \d+ KiB without zeros", result.out)
        assert re.search(r"note: prune-magnitude: .*70% of the weights zero.*, SQNR \d+\.\d dB", result.out)
        weights = (64 + 256 + 32) * 256 * (1 if precision == "--int8" else 4)
        assert sizes["whole"] - sizes["sparse"] > 0.5 * weights


def test_all_of_them_and_int8(cli: Cli, wide: Path, tmp_path: Path) -> None:
    passes = 'factorize{energy=0.9999},prune-channels{macs=0.2, keep=["last"]},prune-magnitude{sparsity=0.3}'
    result = cli(wide / "wide.onnx", "--int8", "--calib", wide / "x.npy", "--passes", passes, "-o", tmp_path / "b")
    assert result.code == 0, result.err
    assert len(re.findall("note: (?:factorize|prune-channels|prune-magnitude): ", result.out)) == 3
    assert "100% in int8" in result.out
    with runtime.load(tmp_path / "b") as session:
        answer = session.run({"x": np.load(wide / "x.npy")[0]})["logits"]
    import onnxruntime

    expected = onnxruntime.InferenceSession(str(wide / "wide.onnx")).run(None, {"x": np.load(wide / "x.npy")[0]})[0]
    assert np.corrcoef(answer.ravel(), expected.ravel())[0, 1] > 0.9
    assert sum(step["macs"] for step in read_manifest(tmp_path / "b")["steps"]) < 0.8 * (64 + 256 + 32) * 256


def test_low_rank_and_weight_bits(cli: Cli, wide: Path, tmp_path: Path) -> None:
    words = ["--weight-bits", 8, "--passes", "factorize{energy=0.9999}", "--calib", wide / "x.npy"]
    result = cli(wide / "wide.onnx", *words, "-o", tmp_path / "b")
    assert result.code == 0, result.err
    assert read_manifest(tmp_path / "b")["memory"]["weights"] < 1.1 * (64 * 256 + 2 * 24 * 256 + 256 * 32) + 4096
    assert re.search(r"factorize: .* calibration samples that nothing was fitted to", result.out)


@pytest.mark.parametrize(
    "passes", ["prune-channels{macs=2.0}", "factorize{energy=0.0}", "prune-magnitude{sparsity=1.5}"]
)
def test_refuses_shares_that_are_none(cli: Cli, wide: Path, tmp_path: Path, passes: str) -> None:
    result = cli(wide / "wide.onnx", "--fp32", "--passes", passes, "-o", tmp_path / "b")
    assert result.code != 0
    assert "must be more than 0 and " in result.err
    assert "hint:" in result.err
    assert "Traceback" not in result.err
