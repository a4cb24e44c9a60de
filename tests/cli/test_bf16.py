"""Layers that multiply bfloat16 numbers, from the command line to the bundle."""

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


def cpu_flags() -> set[str]:
    info = Path("/proc/cpuinfo")
    return set(info.read_text().split()) if info.exists() else set()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    onnx.save(network(TensorProto.FLOAT), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def test_every_layer_in_half_the_memory(cli: Cli, model: Path, tmp_path: Path) -> None:
    for precision in ("bf16", "fp32"):
        result = cli(model, f"--{precision}", "--target", "graviton3", "-o", tmp_path / precision)
        assert result.code == 0, result.err
        if precision == "bf16":
            assert "100% in bfloat16" in result.out
            assert "SQNR" in result.out
    half, real = (read_manifest(tmp_path / name) for name in ("bf16", "fp32"))
    assert half["memory"]["weights"] < 0.62 * real["memory"]["weights"]
    assert "bf16" in half["target"]["requires"]
    assert {step["precision"] for step in half["steps"] if step["macs"]} == {"bfloat16"}


@pytest.mark.parametrize("target", ["zen4", "x86-64-v4-amx"])
def test_it_answers_as_the_model_does(cli: Cli, model: Path, tmp_path: Path, target: str) -> None:
    words = {"zen4": ["avx512bf16"], "x86-64-v4-amx": ["avx512bf16", "amx_bf16"]}[target]
    if not {word.replace("avx512bf16", "avx512_bf16") for word in words} <= cpu_flags():
        pytest.skip(f"this processor lacks {' or '.join(words)}")
    result = cli(model, "--bf16", "--target", target, "-o", tmp_path / "b")
    assert result.code == 0, result.err
    assert "within the float tolerance of the simulation" in result.out or "checked" in result.out
    assert set(words) <= set(read_manifest(tmp_path / "b")["target"]["requires"])
    x = np.random.default_rng(1).normal(size=(1, 8, 12, 12)).astype(np.float32)
    expected = onnxruntime.InferenceSession(str(model)).run(None, {"x": x})[0]
    error = np.abs(answers(tmp_path / "b", x) - expected)
    assert 0 < error.max() < 4e-2 * np.abs(expected).max()


def test_what_an_int8_network_keeps_in_float_is_narrowed_when_asked(cli: Cli, model: Path, tmp_path: Path) -> None:
    options = ("--int8", "--target", "graviton3", "--keep-float", "head", "--floats", "bfloat16")
    result = cli(model, *options, "-o", tmp_path / "b")
    assert result.code == 0, result.err
    steps = {step["node"]: step["precision"] for step in read_manifest(tmp_path / "b")["steps"] if step["macs"]}
    assert steps["head"] == "bfloat16"
    assert steps["stem"] == "int8"


@pytest.mark.parametrize(
    ("target", "reason"),
    [("rpi5", "no bf16"), ("x86-64-v4-vnni", "no avx512bf16"), ("x86-64-v3", "no avx512bf16")],
)
def test_a_target_without_it_is_refused_with_a_hint(
    cli: Cli, model: Path, tmp_path: Path, target: str, reason: str
) -> None:
    result = cli(model, "--bf16", "--target", target, "-o", tmp_path / "b")
    assert result.code != 0
    assert f"error: target '{target}' does not compute in bfloat16 ({reason})" in result.err
    assert "hint: --fp32 --store bfloat16" in result.err
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("more", [["--fp16"], ["--int8"], ["--weight-bits", "4"], ["--floats", "float16"]])
def test_options_that_exclude_it(cli: Cli, model: Path, tmp_path: Path, more: list[str]) -> None:
    result = cli(model, "--bf16", *more, "--target", "graviton3", "-o", tmp_path / "b")
    assert result.code != 0
    assert "error:" in result.err
    assert "hint:" in result.err
