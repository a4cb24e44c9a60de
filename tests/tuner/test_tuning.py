"""`--tune`: what is measured and kept, how it goes on, what it refuses; times are real, so only their form is fixed."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qcompile import driver, runtime, targets
from qcompile.cli import run_command
from qcompile.cost import NodeCosts
from qcompile.device import open_device
from qcompile.errors import DeviceError, InternalError
from qcompile.kernels import isa as instruction_sets
from qcompile.kernels.conv_workload import ConvWorkload, dense, workload_fields
from qcompile.tuner import bench, layer_search
from qcompile.tuner.bench import Bench, Effort
from qcompile.tuner.layer_search import LayerSearch, is_faster, relative
from qcompile.tuner.operands import Operands
from qcompile.tuning.database import append_record, read_records
from qcompile.tuning.record import Record

sys.path.insert(0, str(Path(__file__).parents[1]))
import fake_ssh


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two convolutions and one more of the first one's kind."""
    random = np.random.default_rng(0)
    shapes = {"a": (16, 16, 1, 1), "b": (16, 1, 3, 3), "c": (16, 16, 1, 1)}
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["p"], name="first"),
        helper.make_node("Conv", ["p", "b"], ["q"], name="deep", group=16, pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["q", "c"], ["y"], name="last"),
    ]
    graph = helper.make_graph(
        nodes,
        "three",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 16, 12, 12))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 16, 12, 12))],
        [numpy_helper.from_array(random.normal(0, 0.3, s).astype(np.float32), n) for n, s in shapes.items()],
    )
    path = tmp_path_factory.mktemp("tuned") / "three.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return str(path)


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Measure less, and keep away from the user's own records."""
    monkeypatch.setattr(layer_search, "_LOOK", Effort(3, 20))
    monkeypatch.setattr(layer_search, "_PROVE", Effort(5, 20))
    monkeypatch.setattr(layer_search, "MOST_TILES", 3)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


def compiled(model: str, output: Path, *options: str) -> int:
    return run_command([model, "--seed", "1", "-o", str(output), "-q", *options])


def answers(bundle: Path) -> np.ndarray:
    with runtime.load(bundle) as session:
        x = np.random.default_rng(5).standard_normal(session.inputs[0].shape).astype(np.float32)
        return next(iter(session.run({session.inputs[0].name: x}).values()))


@pytest.mark.parametrize("device", ["local", "ssh://pi@board"])
def test_layers_are_measured_kept_and_used(
    model: str, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    calls = fake_ssh.install(folder)
    file = tmp_path / "records.jsonl"
    assert compiled(model, tmp_path / "tuned", "--tune", "--tuning", str(file), "--device", device) == 0
    records = [r for r in read_records(file) if "op" not in r.workload]
    others = [r for r in read_records(file) if "op" in r.workload]
    assert {"int8", "float32"} == {r.workload["precision"] for r in others}
    assert all(r.plan is None and r.tried == 1 for r in others)
    kinds = [(r.workload.get("precision", "int8"), r.tried > 1, r.plan) for r in records]
    assert sorted(kind for kind, _, _ in kinds) == ["float32", "float32", "int8", "int8"]
    assert all(tried == (kind == "int8") for kind, tried, _ in kinds)
    assert bool(calls.read_text()) == (device != "local")
    assert compiled(model, tmp_path / "plain", "--tuning", "off") == 0
    np.testing.assert_array_equal(answers(tmp_path / "tuned"), answers(tmp_path / "plain"))


def test_a_second_run_measures_nothing_again(model: str, tmp_path: Path) -> None:
    file = tmp_path / "records.jsonl"
    options = ("--tune", "--tuning", str(file), "--fp32")  # whose layers no cost can turn into others
    assert compiled(model, tmp_path / "one", *options) == 0
    before = file.read_text()
    assert compiled(model, tmp_path / "two", *options) == 0
    assert file.read_text() == before
    notes = json.loads((tmp_path / "two" / "manifest.json").read_text())["notes"]
    assert "tuning: all 2 layers were measured on this processor before" in notes


def test_a_budget_ends_the_search_and_an_interruption_loses_nothing(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "records.jsonl"
    options = ("--tune", "--tuning", str(file), "--fp32")
    assert compiled(model, tmp_path / "one", "--budget", "0.001s", *options) == 0
    assert sum(r.tried > 1 for r in read_records(file)) == 1

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(LayerSearch, "search", interrupted)
    assert compiled(model, tmp_path / "two", *options) == 130
    assert not (tmp_path / "two").exists()
    monkeypatch.undo()
    assert compiled(model, tmp_path / "two", "--budget", "10m", *options) == 0
    assert sum(r.tried > 1 for r in read_records(file)) == 2


def test_other_steps_get_a_cost_in_both_precisions(model: str, tmp_path: Path) -> None:
    file = tmp_path / "records.jsonl"
    assert compiled(model, tmp_path / "one", "--tune", "--tuning", str(file)) == 0
    config = driver.resolve_config(Path(model), None, {"tuning": str(file)})
    context, _, graph = driver.prepare(Path(model), config, None, None)
    simplified, _ = driver.simplify(graph, config, context, ())
    costs = NodeCosts.of(context)
    moves = [node for node in simplified.nodes if node.op.name == "transpose"]
    assert any(costs.node(node, "float32").measured for node in moves)
    assert any(costs.node(node, "int8").measured for node in moves)
    assert all(costs.node(node, "int8").measured for node in simplified.nodes if node.op.name == "conv2d")


def test_the_records_that_a_bundle_used_are_in_its_manifest(model: str, tmp_path: Path) -> None:
    isa = instruction_sets.load(targets.host().isa)
    plan = (1, 12, 1, 1, 48, 1) if isa.matrix_int8 is None else (1, 16, 1, 1, 48, 1)
    fields = workload_fields(dense(144, 16, 16))
    won = Record(isa.name, fields, plan, 1.0, 2.0, 5, "some processor", "0")
    file = tmp_path / "records.jsonl"
    append_record(file, won)
    assert compiled(model, tmp_path / "two", "--tuning", str(file)) == 0
    manifest = json.loads((tmp_path / "two" / "manifest.json").read_text())
    assert manifest["recipe"]["tuning"] == [json.loads(won.line())]
    assert manifest["recipe"]["configuration"]["tuning"] == "records.jsonl"
    assert compiled(model, tmp_path / "off", "--tuning", "off") == 0
    assert "tuning" not in json.loads((tmp_path / "off" / "manifest.json").read_text())["recipe"]
    np.testing.assert_array_equal(answers(tmp_path / "two"), answers(tmp_path / "off"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tune", "--target", "rpi4"], "cannot run code for target 'rpi4'"),
        (["--tune", "--target", "rpi4", "--device", "qemu:cortex-a72"], "its times say nothing"),
        (["--tune", "--device", "rpc://board"], "no rpc server"),
        (["--device", "ssh://board"], "add --tune"),
        (["--budget", "2m"], "add --tune"),
        (["--tune", "--tuning", "off"], "exclude each other"),
        (["--tune", "--budget", "soon"], "--budget 'soon' is no time"),
        (["--tuning", "none.jsonl"], "no file of tuning records"),
    ],
)
def test_what_cannot_be_tuned_is_refused(
    model: str, options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if "qemu:cortex-a72" in options and shutil.which("qemu-aarch64") is None:
        pytest.skip("needs qemu-user")
    assert compiled(model, tmp_path / "out", *options) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "hint: " in error
    assert not (tmp_path / "out").exists()


def test_a_run_in_which_nothing_could_be_measured_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "relu",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 8))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 8))],
    )
    path = tmp_path / "relu.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    assert compiled(str(path), tmp_path / "out", "--tune") == 2
    assert "nothing could be measured" in capsys.readouterr().err


def test_a_device_that_cannot_run_the_code_is_named(tmp_path: Path) -> None:
    class Weak:
        tells_time, name = True, "weak"

        def put(self, source: Path, name: str) -> None: ...

        def run(self, command: Sequence[str]) -> object:
            from qcompile.device import Answer

            return Answer("", "Illegal instruction", 132)

    target = targets.load("x86-64")
    candidate = Operands(dense(4, 8, 8), instruction_sets.load(target.isa)).candidate(None, target)
    weak = Bench(target, Weak())  # type: ignore[arg-type]
    with pytest.raises(DeviceError, match="weak cannot run code for target 'x86-64'"):
        weak.time(weak.load([candidate]), [0], Effort(1, 1))


def test_answers_that_make_no_sense_are_refused() -> None:
    with pytest.raises(DeviceError, match="cannot be read"):
        bench._read("bits 0 1\nround 1.0", [0, 1], 1)
    with pytest.raises(DeviceError, match="no time at all"):
        bench._read("bits 0 1\nround 0.0", [0], 1)
    with pytest.raises(InternalError, match="differ in their bits"):
        bench._read("bits 0 aa\nbits 1 bb\nround 1.0 1.0", [0, 1], 1)


def test_only_a_gain_beyond_the_noise_counts() -> None:
    random = np.random.default_rng(0)
    noise = 1 + 0.1 * random.standard_normal((15, 2))
    assert not is_faster(100 * noise)
    assert is_faster(100 * noise * [1.0, 0.7])
    assert not is_faster(np.full((15, 2), 100.0) * [1.0, 0.99])
    assert relative(np.array([[2.0, 1.0], [4.0, 2.0], [2.0, 4.0]])) == [1.0, 0.5]


@pytest.mark.arm
@pytest.mark.skipif(shutil.which("qemu-aarch64") is None, reason="needs qemu-user")
@pytest.mark.parametrize(("name", "cpu"), [("rpi4", "cortex-a72"), ("rpi5", "cortex-a76")])
def test_cuts_agree_bit_for_bit_on_arm(name: str, cpu: str) -> None:
    target = targets.load(name)
    isa = instruction_sets.load(target.isa)
    works = [
        ConvWorkload(1, 9, 14, 24, 40, residual=True),
        ConvWorkload(1, 9, 9, 24, 24, (3, 3), pads=(1, 1, 1, 1), groups=24),
        ConvWorkload(1, 12, 12, 3, 24, (3, 3), (2, 2), pads=(1, 1, 1, 1)),
    ]
    with open_device(f"qemu:{cpu}") as device:
        search = LayerSearch(Bench(target, device), target, isa, "emulated", "0")
        for work in works:
            found = search.search(work)  # raises where two cuts differ
            assert found.record.tried > 1
            assert found.twin is not None
