"""Layers that compute in float16 or multiply bfloat16 numbers, from the command line to the bundle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto
from small_classifier import Cli
from test_store import answers, network

from qcompile.bundle import read_manifest


@dataclass(frozen=True)
class Kind:
    """A float type of 16 bits.

    Args:
        option: that asks for it.
        name: of the type.
        target: which computes in it, and is another machine.
        requires: what that target asks of a processor for it.
    """

    option: str
    name: str
    target: str
    requires: frozenset[str]


KINDS = [
    Kind("--fp16", "float16", "rpi5", frozenset({"fphp", "asimdhp"})),
    Kind("--bf16", "bfloat16", "graviton3", frozenset({"bf16"})),
]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


@pytest.fixture
def model(tmp_path: Path) -> Path:
    onnx.save(network(TensorProto.FLOAT), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def precisions(bundle: Path) -> dict[str, str]:
    """Return the precision of each node that multiplies."""
    return {step["node"]: step["precision"] for step in read_manifest(bundle)["steps"] if step["macs"]}


def test_every_layer_in_half_the_memory(cli: Cli, model: Path, tmp_path: Path, kind: Kind) -> None:
    for option in ("--fp32", kind.option):
        result = cli(model, option, "--target", kind.target, "-o", tmp_path / option[2:])
        assert result.code == 0, result.err
    assert f"100% in {kind.name}" in result.out
    assert "SQNR" in result.out
    half, real = (read_manifest(tmp_path / name[2:]) for name in (kind.option, "--fp32"))
    # 20 filters fill vectors of 8 channels less well than those of 4.
    assert half["memory"]["weights"] < 0.62 * real["memory"]["weights"]
    assert kind.requires <= set(half["target"]["requires"])
    assert set(precisions(tmp_path / kind.option[2:]).values()) == {kind.name}


@pytest.mark.parametrize(
    ("option", "target", "requires", "tolerance"),
    [
        ("--fp16", "x86-64-v4-amx", {"avx512fp16"}, 5e-3),
        ("--bf16", "zen4", {"avx512bf16"}, 4e-2),
        ("--bf16", "x86-64-v4-amx", {"avx512bf16", "amx_bf16"}, 4e-2),
    ],
)
def test_it_answers_as_the_model_does(
    cli: Cli, model: Path, tmp_path: Path, option: str, target: str, requires: set[str], tolerance: float
) -> None:
    info = Path("/proc/cpuinfo")
    flags = set(info.read_text().split()) if info.exists() else set()
    if missing := {word.replace("avx512", "avx512_") for word in requires} - flags:
        pytest.skip(f"this processor lacks {', '.join(sorted(missing))}")
    result = cli(model, option, "--target", target, "-o", tmp_path / "b")
    assert result.code == 0, result.err
    assert "agrees with the simulation" in result.out
    assert requires <= set(read_manifest(tmp_path / "b")["target"]["requires"])
    x = np.random.default_rng(1).normal(size=(1, 8, 12, 12)).astype(np.float32)
    expected = onnxruntime.InferenceSession(str(model)).run(None, {"x": x})[0]
    error = np.abs(answers(tmp_path / "b", x) - expected)
    assert 0 < error.max() < tolerance * np.abs(expected).max()


def test_what_an_int8_network_keeps_in_float_is_narrowed_when_asked(
    cli: Cli, model: Path, tmp_path: Path, kind: Kind
) -> None:
    for more, name in (((), "float32"), (("--floats", kind.name), kind.name)):
        folder = tmp_path / name
        result = cli(model, "--int8", "--target", kind.target, "--keep-float", "head", *more, "-o", folder)
        assert result.code == 0, result.err
        assert precisions(folder)["head"] == name
        assert precisions(folder)["stem"] == "int8"


@pytest.mark.parametrize(
    ("option", "name", "target", "reason"),
    [
        ("--fp16", "float16", "rpi4", "no fphp, asimdhp"),
        ("--fp16", "float16", "x86-64-v4-vnni", "no avx512fp16"),
        ("--bf16", "bfloat16", "rpi5", "no bf16"),
        ("--bf16", "bfloat16", "x86-64-v4-vnni", "no avx512bf16"),
        ("--bf16", "bfloat16", "x86-64-v3", "no avx512bf16"),
    ],
)
def test_a_target_without_it_is_refused_with_a_hint(
    cli: Cli, model: Path, tmp_path: Path, option: str, name: str, target: str, reason: str
) -> None:
    result = cli(model, option, "--target", target, "-o", tmp_path / "b")
    assert result.code == 2
    assert f"error: target '{target}' does not compute in {name} ({reason})" in result.err
    assert f"hint: --fp32 --store {name}" in result.err
    assert not (tmp_path / "b").exists()


def test_a_node_can_stay_in_float32(cli: Cli, model: Path, tmp_path: Path, kind: Kind) -> None:
    command = (model, kind.option, "--target", kind.target, "--keep-float")
    result = cli(*command, "head", "-o", tmp_path / "b")
    assert result.code == 0, result.err
    assert precisions(tmp_path / "b")["head"] == "float32"
    assert precisions(tmp_path / "b")["stem"] == kind.name
    wrong = cli(*command, "haed", "-o", tmp_path / "c")
    assert "--keep-float 'haed' matches no node" in wrong.err


@pytest.mark.parametrize(
    ("option", "more"),
    [
        ("--fp16", ["--int8"]),
        ("--fp16", ["--weight-bits", "4"]),
        ("--bf16", ["--int8"]),
        ("--bf16", ["--fp16"]),
        ("--bf16", ["--weight-bits", "4"]),
        ("--bf16", ["--floats", "float16"]),
    ],
)
def test_options_that_exclude_it(cli: Cli, model: Path, tmp_path: Path, option: str, more: list[str]) -> None:
    result = cli(model, option, *more, "--target", "graviton3", "-o", tmp_path / "b")
    assert result.code == 2
    assert "error:" in result.err
    assert "hint:" in result.err
