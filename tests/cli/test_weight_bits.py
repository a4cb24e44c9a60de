"""Weights of a few bits, from the command line to the bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from small_classifier import Cli

import qcompile
from qcompile import runtime
from qcompile.bundle import read_manifest
from qcompile.errors import UsageError


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An embedding of 500 words and two layers: ids [1, 6] to logits [1, 6, 48]."""
    rng = np.random.default_rng(2)
    shapes = {"table": (500, 96), "w0": (96, 128), "b0": (128,), "w1": (128, 48), "b1": (48,)}
    constants = [numpy_helper.from_array(rng.normal(0, 0.2, s).astype(np.float32), n) for n, s in shapes.items()]
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["e"], name="embedding"),
        helper.make_node("MatMul", ["e", "w0"], ["m0"], name="hidden"),
        helper.make_node("Add", ["m0", "b0"], ["a0"], name="hidden_bias"),
        helper.make_node("Relu", ["a0"], ["r0"], name="relu"),
        helper.make_node("MatMul", ["r0", "w1"], ["m1"], name="head"),
        helper.make_node("Add", ["m1", "b1"], ["logits"], name="head_bias"),
    ]
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, [1, 6])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 6, 48])
    graph = helper.make_graph(nodes, "words", [ids], [logits], constants)
    path = tmp_path_factory.mktemp("words") / "words.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.parametrize(
    ("bits", "bytes_each", "least"), [(8, 1.1, 35.0), (4, 0.6, 15.0), (2, 0.35, 4.0), (1, 0.25, 2.0)]
)
def test_bundle_is_small_and_answers(
    cli: Cli, words: Path, tmp_path: Path, bits: int, bytes_each: float, least: float
) -> None:
    result = cli(words, "--weight-bits", bits, "-o", tmp_path / "b")
    assert result.code == 0, result.err
    assert f"in int{bits} weights" in result.out
    assert "unverified: SQNR" in result.out
    weights = 500 * 96 + 96 * 128 + 128 * 48
    assert read_manifest(tmp_path / "b")["memory"]["weights"] < bytes_each * weights + 1024
    ids = np.arange(6)[None] * 77
    with runtime.load(tmp_path / "b") as session:
        actual = session.run({"ids": ids})["logits"].astype(np.float64)
    import onnxruntime

    expected = onnxruntime.InferenceSession(str(words)).run(None, {"ids": ids})[0]
    assert 10 * np.log10(np.square(expected).sum() / np.square(actual - expected).sum()) > least


def test_calibration_samples_verify_it(cli: Cli, words: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "ids.npz", ids=np.arange(24).reshape(4, 1, 6))
    result = cli(words, "--weight-bits", 4, "--group-size", 64, "--calib", tmp_path / "ids.npz", "-o", tmp_path / "b")
    assert result.code == 0, result.err
    assert "4 calibration samples" in result.out
    assert "unverified" not in result.out


def test_keep_float_keeps_weights(words: Path, tmp_path: Path) -> None:
    made = qcompile.compile(words, config={"weight_bits": 4, "keep_float": ["op:gather"]}, output=tmp_path / "b")
    precisions = {step["node"]: step["precision"] for step in made.manifest["steps"]}
    assert precisions["embedding"] == "float32"
    assert precisions["hidden"] == "int4 weights"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--weight-bits", "3"], "--weight-bits is 3, expected 8 or 4 or 2 or 1"),
        (["--weight-bits", "4", "--int8"], "--weight-bits keeps activations in float32, --int8 does not"),
        (["--weight-bits", "4", "--group-size", "24"], "no groups of 24 weights"),
        (["--weight-bits", "1", "--group-size", "16"], "no groups of 16 weights"),
        (["--weight-bits", "8", "--keep-float", "nothing"], "--keep-float 'nothing' matches no node"),
    ],
)
def test_refuses_what_it_cannot_do(cli: Cli, words: Path, tmp_path: Path, options: list[str], message: str) -> None:
    result = cli(words, *options, "-o", tmp_path / "b")
    assert result.code != 0
    assert message in result.err
    assert "hint:" in result.err
    assert not (tmp_path / "b").exists()


def test_python_refuses_both_precisions(words: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--weight-bits"):
        qcompile.compile(words, precision="int8", weight_bits=4, output=tmp_path / "b")
