"""The self-test: its input sequence, what is kept of the answer, and what it detects."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from qcompile import bundle as bundles
from qcompile import driver, targets
from qcompile.errors import InternalError
from qcompile.evaluate.self_test import check_bundle, foresee
from qcompile.ir.graph import Graph
from qcompile.ir.program import Program
from qcompile.lower import lower_graph
from qcompile.onnx_import import import_onnx
from qcompile.report.terminal import print_bundle
from qcompile.runtime import self_test
from qcompile.runtime.run import Tensor

MODEL = Path(__file__).parents[2] / "examples" / "models" / "fashion_resnet14.onnx"


def tensor(name: str, dtype: str, *shape: int) -> Tensor:
    return Tensor(name, dtype, shape, None, None)


def test_the_sequence_is_the_formula() -> None:
    given = [tensor("a", "float32", 3, 5), tensor("e", "float32", 0), tensor("b", "int8", 9), tensor("c", "int64", 4),
             tensor("d", "bool", 7)]  # fmt: skip
    made = self_test.inputs(given, 12)
    state = 12
    for name, count in (("a", 15), ("e", 0), ("b", 9), ("c", 4), ("d", 7)):
        flat = made[name].reshape(-1)
        assert flat.size == count
        for value in flat:
            state = (1664525 * state + 1013904223) % 2**32
            expected = {"a": np.float32(state / 2**31 - 1), "b": np.uint8(state >> 24).astype(np.int8),
                        "c": state >> 31, "d": bool(state >> 31)}[name]  # fmt: skip
            assert value == expected
    assert {n: a.dtype.name for n, a in made.items()} == {t.name: t.dtype for t in given}


@pytest.mark.parametrize("tolerance", [0.0, 1e-3])
def test_what_is_kept_tells_answers_apart(tolerance: float) -> None:
    answer = np.random.default_rng(0).normal(size=(3, 50)).astype(np.float32)
    kept = self_test.record(answer, tolerance)
    assert self_test.agrees(answer, kept, tolerance)
    peak = np.abs(answer).max()
    assert self_test.agrees(answer + np.float32(0.5e-3) * peak, kept, tolerance) == (tolerance > 0)
    assert not self_test.agrees(answer + np.float32(2e-3) * peak, kept, tolerance)
    assert not self_test.agrees(np.full_like(answer, np.nan), kept, tolerance)


def test_values_that_are_not_finite() -> None:
    answer = np.array([1, np.nan, np.inf, -2], np.float32)
    kept = self_test.record(answer, 1e-3)
    assert kept == {"values": [1.0, None, None, -2.0], "peak": 2.0}
    assert self_test.agrees(answer, kept, 1e-3)
    assert self_test.agrees(np.array([1, 0, 3, -2], np.float32), kept, 1e-3)
    assert not self_test.agrees(np.array([np.nan, 0, 3, -2], np.float32), kept, 1e-3)


def graphs(**settings: object) -> Graph:
    config = driver.resolve_config(MODEL, None, settings)
    context, _, graph = driver.prepare(MODEL, config, None, None)
    simplified, _ = driver.simplify(graph, config, context, ())
    final, _ = driver.to_precision(simplified, config, context, ())
    return final


@pytest.fixture(scope="module")
def integer() -> Graph:
    return graphs()


def written(program: Program, graph: Graph, folder: Path, seed: int = 3) -> Path:
    bundles.write_bundle(program, folder, bundles.Provenance(recipe={"self_test": foresee(graph, seed)}))
    return folder


def test_tolerance_follows_from_the_operations(integer: Graph) -> None:
    assert foresee(integer, 0)["tolerance"] == 0.0
    assert foresee(graphs(precision="fp32"), 0)["tolerance"] == 1e-3
    assert foresee(graphs(keep_float=["op:dense"]), 0)["tolerance"] == 0.2


@pytest.mark.parametrize(("reduction", "tolerance"), [("none", 0.0), ("add", 1e-3)])
def test_what_only_moves_is_compared_bit_for_bit(reduction: str, tolerance: float) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[4,3] x, int64[2,1] rows, bool[1,3] some) => (float[4,3] y)
    { u = Slice (x, zero, two) w = Where (some, u, half) y = ScatterND <reduction: string = "%s"> (x, rows, w) }"""
    model = onnx.parser.parse_model(text % reduction)
    for name, array in (("zero", [0]), ("two", [2]), ("half", np.float32(0.5))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    assert foresee(import_onnx(model), 0)["tolerance"] == tolerance


def rounded(steady: bool) -> onnx.ModelProto:
    """Return a network whose first output hangs on the last digits of its input; a second one does not."""
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[1,8] x) => (float[1,8] y, float[1,8] z) <float huge = {1e7}, float step = {0.5}, float one = {1.0}>
    { w = Mul (x, huge) s = Sin (w) q = QuantizeLinear (s, step) y = DequantizeLinear (q, step) z = Add (x, one) }"""
    model = onnx.parser.parse_model(text)
    if not steady:
        del model.graph.output[1:], model.graph.node[4:]
    return model


@pytest.mark.parametrize("steady", [True, False])
def test_what_the_last_digits_decide_is_left_out(
    steady: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx.save(rounded(steady), tmp_path / "m.onnx")
    bundle = driver.compile(tmp_path / "m.onnx", precision="fp32", output=tmp_path / "b")
    test = bundle.manifest["recipe"]["self_test"]
    assert list(test["outputs"]) == (["z"] if steady else [])
    assert bundle.check is not None
    assert (bundle.check.exact, bundle.check.compared) == (False, int(steady))
    print_bundle(bundle, 0.0)
    told = "agrees with the simulation" if steady else "rounding errors decide its answers to made-up inputs"
    assert told in capsys.readouterr().out
    assert run_py(tmp_path / "b", 0).startswith(f"self-test passed: {'outputs within' if steady else 'the model runs'}")


def test_another_seed_where_the_first_decides_nothing(tmp_path: Path) -> None:
    """A single number close to where a rounding changes its mind, for one seed."""
    edge = float(self_test.inputs([tensor("x", "float32", 1)], 5)["x"][0])
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[1] x) => (float[1] y) <float edge = {%r}, float step = {1.0}, float half = {0.5}>
    { d = Sub (x, edge) a = Abs (d) e = Add (a, half) q = QuantizeLinear (e, step) y = DequantizeLinear (q, step) }"""
    onnx.save(onnx.parser.parse_model(text % edge), tmp_path / "m.onnx")
    test = foresee(import_onnx(tmp_path / "m.onnx"), 5)
    assert (test["seed"], list(test["outputs"])) == (6, ["y"])


def test_a_softmax_that_the_last_digits_decide(tmp_path: Path) -> None:
    """Scores of millions: which one wins hangs on how their sums are rounded, on plain float32 arithmetic too."""
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[64, 32] x) => (float[64, 32] y, float[64, 32] z) <float large = {1e6}>
    { t = Transpose <perm = [1, 0]> (x) s = MatMul (x, t) b = Mul (s, large) c = Sin (b) d = Mul (c, large)
      p = Softmax (d) y = MatMul (p, x) z = Add (x, large) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "m.onnx")
    assert list(foresee(import_onnx(tmp_path / "m.onnx"), 5)["outputs"]) == ["z"]


def test_a_sum_whose_terms_cancel() -> None:
    """Large weights that have no mean and no trend: the answer is how each exponential was rounded."""
    random = np.random.default_rng(0)
    points, weights = np.linspace(-1, 1, 64), 1e7 * random.normal(size=64)
    powers = np.stack([points**k for k in range(4)], 1)
    weights -= powers @ np.linalg.lstsq(powers, weights)[0]
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[1, 1] x) => (float[1, 1] y, float[1, 1] low, float[1, 1] high, float[1, 64] k)
    { t = Mul (x, points) k = Exp (t) y = MatMul (k, weights) high = Relu (y) n = Neg (y) low = Relu (n) }"""
    model = onnx.parser.parse_model(text)
    for name, data in {"points": 1e-3 * points[None], "weights": weights[:, None]}.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(data.astype(np.float32), name))
    graph = import_onnx(model)
    assert [list(foresee(graph, seed)["outputs"]) for seed in range(4)] == [["k"]] * 4


def test_what_is_picked_does_not_hang_on_the_last_digits() -> None:
    """Maxima that are found again by their values, and parts of numbers."""
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[4, 32] x) => (bool[4, 32] found, float[4, 32] y) <float tenth = {0.1}, float steps = {12.0}>
    { e = Exp (x) m = ReduceMax <axes = [1]> (e) found = Equal (e, m) t = Mul (x, tenth) f = Ceil (t)
      y = Mul (f, steps) }"""
    assert list(foresee(import_onnx(onnx.parser.parse_model(text)), 5)["outputs"]) == ["found", "y"]


def test_masks_that_leave_nothing(tmp_path: Path) -> None:
    """A softmax of nothing but -inf is not a number, of which kernels make what they like."""
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[1,8] x) => (float[1,8] y) <float low = {-inf}, float most = {9.0}>
    { m = Greater (x, most) w = Where (m, x, low) y = Softmax (w) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "m.onnx")
    bundle = driver.compile(tmp_path / "m.onnx", precision="fp32", output=tmp_path / "b")
    assert bundle.manifest["recipe"]["self_test"]["outputs"]["y"]["values"] == [None] * 8


@pytest.fixture(scope="module")
def host(integer: Graph, tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = lower_graph(integer, targets.host())
    return written(program, integer, tmp_path_factory.mktemp("host") / "b")


def test_on_this_machine(host: Path) -> None:
    check = check_bundle(host)
    assert check is not None
    assert check.exact
    assert check.median_ms > 0


def run_py(folder: Path, code: int) -> str:
    command = [sys.executable, "-I", str(folder / "run.py"), "--self-test"]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/")
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def test_through_the_script_of_the_bundle(host: Path) -> None:
    assert run_py(host, 0) == "self-test passed: exactly the foreseen bits\n"


def run_c(folder: Path, code: int) -> str:
    done = subprocess.run([str(folder / "bin/qcrun"), "--self-test"], capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def test_through_the_program_of_the_bundle(host: Path, integer: Graph, tmp_path: Path) -> None:
    assert run_c(host, 0) == "self-test passed: exactly the foreseen bits\n"
    program = lower_graph(integer, targets.host())
    recipe = {"self_test": foresee(integer, 4) | {"seed": 3}}
    bundles.write_bundle(program, tmp_path / "wrong", bundles.Provenance(recipe=recipe))
    assert "error: the self-test failed" in run_c(tmp_path / "wrong", 1)
    recipe["self_test"] = {"seed": 3, "tolerance": 0.1, "outputs": {"logits": {"values": [1.0], "peak": 1.0}}}
    bundles.write_bundle(program, tmp_path / "inexact", bundles.Provenance(recipe=recipe))
    assert "hint: python3 run.py --self-test compares within a tolerance" in run_c(tmp_path / "inexact", 2)


def test_another_answer_is_detected(host: Path, integer: Graph, tmp_path: Path) -> None:
    import json

    copy = Path(shutil.copytree(host, tmp_path / "copy"))
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["recipe"]["self_test"] = foresee(integer, 4) | {"seed": 3}
    (copy / "manifest.json").write_text(json.dumps(manifest))
    assert "error: the self-test failed: wrong values in output logits" in run_py(copy, 2)
    with pytest.raises(InternalError, match="does not compute what the interpreter does: output 'logits'"):
        check_bundle(copy)


def test_a_bundle_without_a_self_test(host: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(host, tmp_path / "copy"))
    (copy / "self_test.py").unlink()
    assert "has no self-test" in run_py(copy, 2)


@pytest.mark.arm
def test_a_bundle_for_another_machine_is_left_alone(integer: Graph, tmp_path: Path) -> None:
    if platform.machine() != "x86_64":
        pytest.skip("rpi4 is this machine's architecture")
    program = lower_graph(integer, targets.load("rpi4"))
    assert check_bundle(written(program, integer, tmp_path / "b")) is None


@pytest.mark.arm
@pytest.mark.parametrize(("target", "cpu"), [("rpi4", "cortex-a72"), ("rpi5", "cortex-a76")])
def test_arm_answers_with_the_foreseen_bits(
    integer: Graph, tmp_path: Path, qemu_aarch64: str, target: str, cpu: str
) -> None:
    program = lower_graph(integer, targets.load(target))
    runner = tmp_path / "runner"
    runner.write_bytes(bundles.build_executable(program, foresee(integer, 3)))
    runner.chmod(0o755)
    command = [qemu_aarch64, "-cpu", cpu, runner, "--self-test", "--threads", "2"]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "self-test passed: exactly the foreseen bits\n"), done.stderr
