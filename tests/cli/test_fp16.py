"""Layers that compute in float16, from the command line to the bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto
from small_classifier import Cli
from test_store import answers, network

from qcompile.bundle import read_manifest


def has_float16() -> bool:
    info = Path("/proc/cpuinfo")
    return info.exists() and "avx512_fp16" in info.read_text()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    onnx.save(network(TensorProto.FLOAT), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def test_every_layer_in_half_the_memory(cli: Cli, model: Path, tmp_path: Path) -> None:
    for precision in ("fp16", "fp32"):
        result = cli(model, f"--{precision}", "--target", "rpi5", "-o", tmp_path / precision)
        assert result.code == 0, result.err
        if precision == "fp16":
            assert "100% in float16" in result.out
            assert "SQNR" in result.out
    half, real = (read_manifest(tmp_path / name) for name in ("fp16", "fp32"))
    # 20 filters fill vectors of 8 channels less well than those of 4.
    assert half["memory"]["weights"] < 0.62 * real["memory"]["weights"]
    assert {"fphp", "asimdhp"} <= set(half["target"]["requires"])
    assert {step["precision"] for step in half["steps"] if step["macs"]} == {"float16"}


def test_it_answers_as_the_model_does(cli: Cli, model: Path, tmp_path: Path) -> None:
    if not has_float16():
        pytest.skip("this processor lacks avx512_fp16")
    result = cli(model, "--fp16", "-o", tmp_path / "b")
    assert result.code == 0, result.err
    assert "avx512fp16" in read_manifest(tmp_path / "b")["target"]["requires"]
    x = np.random.default_rng(1).normal(size=(1, 8, 12, 12)).astype(np.float32)
    expected = onnxruntime.InferenceSession(str(model)).run(None, {"x": x})[0]
    error = np.abs(answers(tmp_path / "b", x) - expected)
    assert 0 < error.max() < 5e-3 * np.abs(expected).max()


def test_what_an_int8_network_keeps_in_float_is_narrowed_when_asked(cli: Cli, model: Path, tmp_path: Path) -> None:
    for more, kind in (((), "float32"), (("--floats", "float16"), "float16")):
        folder = tmp_path / kind
        result = cli(model, "--int8", "--target", "rpi5", "--keep-float", "head", *more, "-o", folder)
        assert result.code == 0, result.err
        steps = {step["node"]: step["precision"] for step in read_manifest(folder)["steps"] if step["macs"]}
        assert steps["head"] == kind
        assert steps["stem"] == "int8"


@pytest.mark.parametrize("target", ["rpi4", "x86-64-v4-vnni"])
def test_a_target_without_it_is_refused_with_a_hint(cli: Cli, model: Path, tmp_path: Path, target: str) -> None:
    result = cli(model, "--fp16", "--target", target, "-o", tmp_path / "b")
    assert result.code != 0
    assert f"error: target '{target}' does not compute in float16" in result.err
    assert "hint: --fp32 --store float16" in result.err
    assert not (tmp_path / "b").exists()


def test_a_node_can_stay_in_float32(cli: Cli, model: Path, tmp_path: Path) -> None:
    result = cli(model, "--fp16", "--target", "rpi5", "--keep-float", "head", "-o", tmp_path / "b")
    assert result.code == 0, result.err
    steps = {step["node"]: step["precision"] for step in read_manifest(tmp_path / "b")["steps"] if step["macs"]}
    assert steps["head"] == "float32"
    assert steps["stem"] == "float16"
    wrong = cli(model, "--fp16", "--target", "rpi5", "--keep-float", "haed", "-o", tmp_path / "c")
    assert "--keep-float 'haed' matches no node" in wrong.err


@pytest.mark.parametrize("more", [["--int8"], ["--weight-bits", "4"]])
def test_options_that_exclude_it(cli: Cli, model: Path, tmp_path: Path, more: list[str]) -> None:
    result = cli(model, "--fp16", *more, "--target", "rpi5", "-o", tmp_path / "b")
    assert result.code != 0
    assert "error:" in result.err
    assert "hint:" in result.err
