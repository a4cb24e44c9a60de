"""Pooling and resizing over open heights and widths: counts, edges and coordinates are those of the actual size."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from qcompile import bundle as bundles
from qcompile import driver, pipelines, runtime, targets
from qcompile.cli import run_command
from qcompile.ir.graph import Graph
from qcompile.lower import lower_graph
from qcompile.ops.interpreter import Interpreter
from qcompile.ops.sized_run import NodeRun
from qcompile.passmgr import PassManager

CHANNELS = 4


def network(nodes: list[tuple[Any, ...]], height: Any = "H", width: Any = "W", **data: Any) -> Any:
    """Return a convolution of x [1, 3, height, width], `nodes` from c to z, and a convolution of z."""
    rng = np.random.default_rng(2)
    weights = {n: rng.normal(0, 0.4, (CHANNELS, c, 3, 3)).astype("f4") for n, c in (("w1", 3), ("w2", CHANNELS))}
    around = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    listed = [("Conv", "x w1", "c", around), *nodes, ("Conv", "z w2", "y", around)]
    made = [helper.make_node(op, i.split(" "), o.split(), **(more[0] if more else {})) for op, i, o, *more in listed]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, height, width])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * 4)
    tensors = [numpy_helper.from_array(np.asarray(a), n) for n, a in {**weights, **data}.items()]
    graph = helper.make_graph(made, "net", [x], [y], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def average(**attributes: Any) -> Any:
    return network([("AveragePool", "c", "z", {"kernel_shape": [3, 3], **attributes})])


def resized(mode: str, coordinates: str, nodes: list[tuple[Any, ...]], last: str, **data: Any) -> Any:
    attributes = {"mode": mode, "coordinate_transformation_mode": coordinates}
    return network([*nodes, ("Resize", f"c {last}", "z", attributes)], **data)


SHAPES = [("Shape", "x", "shape"), ("Shape", "c", "inner"), ("Slice", "inner i0 i2", "front"),
          ("Slice", "shape i2 i4", "back"), ("Mul", "back three", "more"), ("Div", "more two", "part"),
          ("Concat", "front part", "sizes", {"axis": 0})]  # fmt: skip
NUMBERS = {"i0": np.array([0]), "i2": np.array([2]), "i4": np.array([4]), "three": np.array([3]), "two": np.array([2])}
SCALES = {"scales": np.array([1, 1, 1.7, 0.6], "f4")}
SIZES = [(9, 12), (5, 5), (7, 8), (6, 11), (9, 12)]
CASES: dict[str, Any] = {
    "padded": average(pads=[1, 1, 1, 1]),
    "padding counts": average(pads=[1, 1, 1, 1], strides=[2, 2], count_include_pad=1),
    "partial windows": average(pads=[0, 1, 0, 1], strides=[2, 2], ceil_mode=1),
    "partial windows, padding counts": average(pads=[1, 0, 1, 1], strides=[2, 3], ceil_mode=1, count_include_pad=1),
    "spread taps": average(pads=[2, 2, 1, 2], strides=[2, 1], dilations=[2, 2]),
    "nearest": resized("nearest", "asymmetric", [], " scales", **SCALES),
    "linear": resized("linear", "half_pixel", [], " scales", **SCALES),
    "linear, aligned": resized("linear", "align_corners", [], " scales", **SCALES),
    "linear, sizes": resized("linear", "pytorch_half_pixel", SHAPES, "  sizes", **NUMBERS),
    "cubic, sizes": resized("cubic", "half_pixel", SHAPES, "  sizes", **NUMBERS),
    "to one size": resized("linear", "half_pixel", [], "  sizes", sizes=np.array([1, CHANNELS, 9, 12])),
    "flattened": network([("Reshape", "c flat", "f"), ("Transpose", "f", "t", {"perm": [0, 2, 1]}),
                          ("LayerNormalization", "t gamma", "n"), ("Transpose", "n", "u", {"perm": [0, 2, 1]}),
                          ("Shape", "c", "s"), ("Reshape", "u s", "z")], "S", "S",
                         flat=np.array([0, 0, -1]), gamma=np.ones(CHANNELS, "f4")),
    "rows to channels": network([("Reshape", "c flat", "z")], 5, "S", flat=np.array([0, CHANNELS, -1, 5])),
    "to the size of another": network([("GlobalAveragePool", "c", "g"), ("Shape", "c", "s"),
                                       ("Resize", "g   s", "r", {"mode": "linear"}), ("Add", "c r", "z")]),
    "largest": network([("MaxPool", "c", "z", {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1,
                                               "pads": [1, 1, 1, 1]})]),
}  # fmt: skip


SPECIAL = {"flattened": ([1, 3, "S:5..9", "S"], [(9, 9), (5, 5), (7, 7), (9, 9)]),
           "rows to channels": ([1, 3, 5, "S:5..12"], [(5, 12), (5, 5), (5, 7), (5, 12)])}  # fmt: skip
"""Shapes and sizes of cases with one open extent."""


def graphs(path: Path, name: str = "") -> tuple[Graph, Graph]:
    """Return the integer graph before and after its masks are made."""
    shape, sizes = SPECIAL.get(name, ([1, 3, "H:5..9", "W:5..12"], SIZES))
    config = driver.resolve_config(path, None, {"input_shapes": {"x": shape}})
    context, _, graph = driver.prepare(path, config, samples(sizes), None)
    simplified, _ = driver.simplify(graph, config, context, ())
    final, _ = driver.to_precision(simplified, config, context, ())
    bounded, _ = driver.bound_extents(final, config, context, ())
    return final, bounded


def samples(sizes: list[tuple[int, int]]) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [{"x": rng.normal(0, 1, (1, 3, *size)).astype(np.float32)} for size in sizes]


@pytest.mark.parametrize("name", list(CASES))
def test_host(name: str, tmp_path: Path) -> None:
    onnx.save(CASES[name], tmp_path / "m.onnx")
    final, bounded = graphs(tmp_path / "m.onnx", name)
    reference = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    bundles.write_bundle(lower_graph(bounded, targets.host()), tmp_path / "b")
    with runtime.load(tmp_path / "b", threads=2) as session:
        for given in samples(SPECIAL.get(name, ((), SIZES))[1]):
            expected, (wanted,) = Interpreter(final).run(given)["y"], reference.run(None, given)
            np.testing.assert_array_equal(Interpreter(bounded).run(given)["y"], expected)
            np.testing.assert_array_equal(session.run(given)["y"], expected)
            assert np.abs(expected - wanted).max() < 0.1 * np.abs(wanted).max()


@pytest.mark.arm
def test_arm(tmp_path: Path, qemu_aarch64: str) -> None:
    onnx.save(CASES["partial windows"], tmp_path / "m.onnx")
    final, bounded = graphs(tmp_path / "m.onnx")
    executable = tmp_path / "model"
    executable.write_bytes(bundles.build_executable(lower_graph(bounded, targets.load("rpi4"))))
    executable.chmod(0o755)
    for given in samples(SIZES):
        np.save(tmp_path / "x.npy", given["x"])
        height, width = given["x"].shape[2:]
        sizes = ["--size", f"H={height}", "--size", f"W={width}", "--output", tmp_path / "y"]
        command = [qemu_aarch64, "-cpu", "cortex-a72", executable, tmp_path / "x.npy", *sizes]
        subprocess.run([str(word) for word in command], check=True, capture_output=True, timeout=120)
        expected = Interpreter(final).run(given)["y"]
        np.testing.assert_array_equal(np.fromfile(tmp_path / "y", np.float32).reshape(expected.shape), expected)


def test_samples_of_several_sizes_calibrate_round_and_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(CASES["padded"], tmp_path / "m.onnx")
    (tmp_path / "samples").mkdir()
    for number, given in enumerate(samples(SIZES * 3)):
        np.savez(tmp_path / "samples" / f"{number}.npz", **given)
    words = ["compile", tmp_path / "m.onnx", "--int8", "--calib", tmp_path / "samples", "--input-shape",
             "x=1,3,H:5..9,W:5..12", "-o", tmp_path / "b"]  # fmt: skip
    assert run_command([str(word) for word in words]) == 0
    shown = capsys.readouterr().out
    assert "SQNR" in shown
    assert "calibration samples" in shown
    config = driver.resolve_config(tmp_path / "m.onnx", None, {"input_shapes": {"x": [1, 3, "H:5..9", "W:5..12"]}})
    context, _, graph = driver.prepare(tmp_path / "m.onnx", config, samples(SIZES), None)
    simplified, _ = driver.simplify(graph, config, context, ())
    found = []
    for whole in (False, True):
        pipeline = f"{pipelines.observation(config)},calibrate,{pipelines.integer(config, whole=whole)}"
        made = PassManager(pipeline).run(simplified, context)
        found.append([v.constant() for node in made.nodes for v in node.inputs[1:3] if v.is_constant])
    assert any(not np.array_equal(a, b) for a, b in zip(*found, strict=True))


def test_analysis_of_samples_of_several_sizes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(CASES["linear, sizes"], tmp_path / "m.onnx")
    (tmp_path / "samples").mkdir()
    for number, given in enumerate(samples(SIZES)):
        np.savez(tmp_path / "samples" / f"{number}.npz", **given)
    shape = "x=1,3,H:5..9,W:5..12"
    words = ["analyze", tmp_path / "m.onnx", "--calib", tmp_path / "samples", "--input-shape", shape]
    assert run_command([str(word) for word in words]) == 0
    assert "open_resize" in capsys.readouterr().out


def test_nodes_alone_give_what_the_network_gives(tmp_path: Path) -> None:
    onnx.save(CASES["linear, sizes"], tmp_path / "m.onnx")
    final, _ = graphs(tmp_path / "m.onnx")
    run = NodeRun(final)
    for given in samples(SIZES):
        known: dict[Any, np.ndarray] = {}
        Interpreter(final).run(given, on_value=known.__setitem__)
        sizes = run.sizes(given)
        for node in final.nodes:
            found = run.evaluate(node, [known.get(v) for v in node.inputs], sizes)
            for value, array in zip(node.outputs, found, strict=True):
                np.testing.assert_array_equal(array, known[value])
