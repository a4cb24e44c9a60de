"""`qcompile eval --device` and `qcompile bench --device`: the bundle runs elsewhere, its answers are the same bits."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qcompile import driver, targets
from qcompile.bundle import link, source
from qcompile.cli import run_command
from qcompile.errors import BundleError, DeviceError
from qcompile.evaluate.engine import BundleEngine
from qcompile.evaluate.remote import RemoteEngine
from qcompile.evaluate.roofs import per_cycle
from qcompile.kernels import isa as instruction_sets
from qcompile.lower import lower_graph

sys.path.insert(0, str(Path(__file__).parents[1]))
import fake_ssh


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A convolution with a classifier behind it; every label is its own best class."""
    folder = tmp_path_factory.mktemp("remote")
    random = np.random.default_rng(0)
    w, v = random.normal(0, 0.4, (8, 3, 3, 3)), random.normal(0, 0.2, (5, 8 * 36))
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"], name="conv"),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Flatten", ["r"], ["f"]),
        helper.make_node("Gemm", ["f", "v"], ["y"], name="classes", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, 8, 8))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 5))],
        [numpy_helper.from_array(a.astype(np.float32), n) for n, a in (("w", w), ("v", v))],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "m.onnx")
    x = random.standard_normal((24, 3, 8, 8)).astype(np.float32)
    np.savez(folder / "data.npz", x=x, labels=np.zeros(24, np.int64))
    np.save(folder / "calibration.npy", x)
    return folder / "m.onnx"


@pytest.fixture(scope="module")
def bundle(model: Path) -> Path:
    calibration = str(model.with_name("calibration.npy"))
    return driver.compile(model, calibration=calibration, output=model.with_name("bundle")).path


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return fake_ssh.install(folder)


def samples() -> list[np.ndarray]:
    return list(np.random.default_rng(9).standard_normal((5, 1, 3, 8, 8)).astype(np.float32))


def test_a_bundle_is_sent_once_and_answers_the_same_bits(bundle: Path, calls: Path) -> None:
    with BundleEngine(bundle) as here, RemoteEngine(bundle, "ssh://pi@board", 2) as there:
        assert there.inputs == here.inputs
        for x in samples():
            np.testing.assert_array_equal(there({"x": x})["y"], here({"x": x})["y"])
    log = calls.read_text().splitlines()
    assert sum(line.startswith("scp") for line in log) == 1
    assert sum("--stream --threads 2" in line for line in log) == 1


def test_quantized_inputs_and_outputs_cross_as_integers(model: Path, tmp_path: Path) -> None:
    calibration = str(model.with_name("calibration.npy"))
    made = driver.compile(model, calibration=calibration, io="int8", output=tmp_path / "b").path
    with BundleEngine(made) as here, RemoteEngine(made, "local") as there:
        for x in samples():
            np.testing.assert_array_equal(there({"x": x})["y"], here({"x": x})["y"])


def test_eval_on_a_device_is_eval_here(
    bundle: Path, model: Path, calls: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = []
    for extra in ([], ["--device", "ssh://pi@board"]):
        data = str(model.with_name("data.npz"))
        command = ["eval", str(bundle), "--data", data, "--reference", str(model), "--metric", "agreement", "--json"]
        assert run_command([*command, *extra]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[0] == found[1]


def test_a_program_that_stops_is_an_error_with_its_reason(bundle: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(bundle, broken)
    (broken / "bin" / "qcrun").write_text("#!/bin/sh\necho 'error: this processor lacks avx9' >&2\nexit 1\n")
    with RemoteEngine(broken, "local") as engine, pytest.raises(DeviceError, match="lacks avx9"):
        engine({"x": samples()[0]})
    (broken / "bin" / "qcrun").unlink()
    with pytest.raises(BundleError, match="no program"):
        RemoteEngine(broken, "local")


def test_only_bundles_are_sent(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = str(model.with_name("data.npz"))
    assert run_command(["eval", str(model), "--data", data, "--device", "local"]) == 2
    assert "--device runs bundles" in capsys.readouterr().err


@pytest.mark.parametrize("device", ["local", "ssh://pi@board"])
def test_bench_with_a_profile(
    bundle: Path, device: str, calls: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "bench.html"
    command = ["bench", str(bundle), "--runs", "3", "--device", device, "--html", str(page), "--json"]
    assert run_command(command) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["device"] == device
    assert 0 < result["load_ms"] < 1000
    assert 0.1 < result["roofs"]["ghz"] < 10
    assert result["roofs"]["memory_gbs"] > 0.1
    layers = {layer["node"]: layer for layer in result["layers"]}
    assert 0 < layers["conv"]["peak"] < 1.5
    assert layers["conv"]["bytes"] > 8 * 36
    text = page.read_text()
    assert "<svg" in text
    assert "bytes moved for one multiply-accumulate" in text
    assert text.count("<circle") == sum(layer["macs"] > 0 for layer in result["layers"])
    assert "http" not in text


def test_every_instruction_set_but_portable_has_a_peak() -> None:
    for name in instruction_sets.names():
        integer, real = per_cycle(name, "")
        assert (name == "portable") == (integer is None) == (real is None), name
        if integer is not None and real is not None:
            assert integer > real


def test_an_emulator_is_not_timed(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if shutil.which("qemu-aarch64") is None:
        pytest.skip("needs qemu-user")
    assert run_command(["bench", str(bundle), "--device", "qemu:cortex-a72"]) == 2
    assert "times say nothing" in capsys.readouterr().err


def test_a_race_takes_no_device(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["bench", str(bundle), "--against", "onnxruntime", "--device", "local"]) == 2
    assert "races on this machine" in capsys.readouterr().err


@pytest.mark.arm
@pytest.mark.skipif(shutil.which("qemu-aarch64") is None, reason="needs qemu-user")
def test_an_emulated_pi_answers_the_bits_of_this_machine(model: Path, bundle: Path, tmp_path: Path) -> None:
    calibration = str(model.with_name("calibration.npy"))
    settings = {"target": "rpi4", "calib": calibration}
    pi = driver.compile(model, **settings, output=tmp_path / "pi").path
    config = driver.resolve_config(model, None, settings)
    context, _, graph = driver.prepare(model, config, None, None)
    simplified, _ = driver.simplify(graph, config, context, ())
    final, _ = driver.to_precision(simplified, config, context, ())
    program = lower_graph(final, targets.load("rpi4"))
    # The emulator has no C library of the device: the same program, with all that it needs inside.
    (pi / "bin" / "qcrun").write_bytes(link.build_static(source.sources(program), program.target))
    with BundleEngine(bundle) as here, RemoteEngine(pi, "qemu:cortex-a72") as there:
        for x in samples():
            np.testing.assert_array_equal(there({"x": x})["y"], here({"x": x})["y"])
