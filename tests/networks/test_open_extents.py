"""One bundle for many sizes: it computes what a bundle of each size would, in Python, in C and on ARM."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import qcompile
from qcompile import bundle as bundles
from qcompile import driver, pipelines, runtime, targets
from qcompile.cli import run_command
from qcompile.errors import UnsupportedOpError, UsageError
from qcompile.ir.graph import Graph
from qcompile.lower import lower_graph
from qcompile.onnx_import.bounds import import_bounded
from qcompile.ops.interpreter import Interpreter
from qcompile.passmgr import PassManager

WIDTH, HEADS = 16, 2


def built(
    nodes: list[tuple[Any, ...]], inputs: dict[str, list[Any]], outputs: dict[str, list[Any]], **data: Any
) -> Any:
    made = [helper.make_node(op, i.split(), o.split(), **(more[0] if more else {})) for op, i, o, *more in nodes]
    infos = [[helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in d.items()] for d in (inputs, outputs)]
    tensors = [numpy_helper.from_array(np.asarray(a), n) for n, a in data.items()]
    graph = helper.make_graph(made, "net", infos[0], infos[1], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def transformer() -> Any:
    """Return one attention block over [N, S, WIDTH] with shape arithmetic, and the mean of its tokens."""
    rng = np.random.default_rng(0)
    weights = {n: rng.normal(0, 0.3, (WIDTH, WIDTH)).astype("f4") for n in ("wq", "wk", "wv", "wo")}
    heads = [("Concat", "n s h d", "split_", {"axis": 0})]
    nodes: list[tuple[Any, ...]] = [
        ("Shape", "x", "shape"), ("Gather", "shape i0", "n", {"axis": 0}), ("Gather", "shape i1", "s", {"axis": 0}),
        *heads]  # fmt: skip
    for name in "qkv":
        perm = [0, 2, 3, 1] if name == "k" else [0, 2, 1, 3]
        nodes += [("MatMul", f"x w{name}", f"{name}1"), ("Reshape", f"{name}1 split_", f"{name}2"),
                  ("Transpose", f"{name}2", name, {"perm": perm})]  # fmt: skip
    nodes += [("MatMul", "q k", "scores"), ("Mul", "scores scale", "scaled"), ("Softmax", "scaled", "p", {"axis": -1}),
              ("MatMul", "p v", "a"), ("Transpose", "a", "t", {"perm": [0, 2, 1, 3]}), ("Reshape", "t joined", "j"),
              ("MatMul", "j wo", "o"), ("Add", "o x", "r"),
              ("LayerNormalization", "r gamma beta", "y", {"axis": -1}),
              ("ReduceMean", "y", "pooled", {"axes": [1], "keepdims": 0})]  # fmt: skip
    numbers = {"i0": np.array([0]), "i1": np.array([1]), "h": np.array([HEADS]), "d": np.array([WIDTH // HEADS]),
               "joined": np.array([0, 0, WIDTH]), "scale": np.float32(0.35)}  # fmt: skip
    affine = {"gamma": rng.normal(1, 0.1, WIDTH).astype("f4"), "beta": np.zeros(WIDTH, "f4")}
    shapes = {"y": ["N", "S", WIDTH], "pooled": ["N", WIDTH]}
    return built(nodes, {"x": ["N", "S", WIDTH]}, shapes, **weights, **numbers, **affine)


def convolutional() -> Any:
    """Return convolutions, pooling, a gate by the mean and a transposed convolution over [N, 3, 8, W]."""
    rng = np.random.default_rng(1)

    def w(*shape: int) -> Any:
        return rng.normal(0, 0.25, shape).astype("f4")

    pads = {"pads": [1, 1, 1, 1], "kernel_shape": [3, 3]}
    nodes = [("Conv", "x w1 b1", "c1", pads), ("Relu", "c1", "r1"), ("MaxPool", "r1", "m", {**pads, "strides": [2, 2]}),
             ("Conv", "m w2 b1", "c2", {**pads, "group": 8}), ("HardSwish", "c2", "r2"),
             ("GlobalAveragePool", "r2", "g"), ("Conv", "g w3 b1", "g2"), ("Sigmoid", "g2", "gate"),
             ("Mul", "r2 gate", "gated"), ("Conv", "gated w4 b1", "c4", {**pads, "strides": [1, 2]}),
             ("ConvTranspose", "c4 w5 b5", "up", {"strides": [1, 2], "kernel_shape": [1, 2]}),
             ("Pad", "up amount", "y", {"mode": "constant"})]  # fmt: skip
    data = {"w1": w(8, 3, 3, 3), "b1": w(8), "w2": w(8, 1, 3, 3), "w3": w(8, 8, 1, 1), "w4": w(8, 8, 3, 3),
            "w5": w(8, 4, 1, 2), "b5": w(4), "amount": np.array([0, 0, 0, 1, 0, 0, 0, 2])}  # fmt: skip
    return built(nodes, {"x": ["N", 3, 8, "W"]}, {"y": ["N", 4, "H", "V"]}, **data)


CASES = {
    "transformer": (transformer, ["N:1..3", "S:1..20", WIDTH], [(1, 1), (1, 7), (2, 20), (3, 13), (3, 20)]),
    "convolutional": (convolutional, ["N:1..3", 3, 8, "W:4..24:4"], [(1, 4), (2, 8), (3, 16), (1, 24), (3, 24)]),
}


@pytest.fixture(scope="module", params=list(CASES))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any], Any]:
    make, shape, sizes = CASES[request.param]
    path = tmp_path_factory.mktemp(request.param) / f"{request.param}.onnx"
    onnx.save(make(), path)
    return path, shape, sizes


def inputs(shape: list[Any], sizes: Any) -> Iterator[dict[str, np.ndarray]]:
    rng = np.random.default_rng(5)
    for first, second in sizes:
        full = (first, 3, 8, second) if len(shape) == 4 else (first, second, WIDTH)
        yield {"x": rng.normal(0, 1, full).astype(np.float32)}


def test_float(case: Any, tmp_path: Path) -> None:
    path, shape, sizes = case
    reference = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    qcompile.compile(path, precision="fp32", input_shapes={"x": shape}, output=tmp_path / "b")
    for threads in (1, 3):
        with runtime.load(tmp_path / "b", threads=threads) as session:
            for given in inputs(shape, [*sizes, *sizes[::-1]]):
                found = session.run(given)
                for (name, array), wanted in zip(found.items(), reference.run(None, given), strict=True):
                    assert array.shape == wanted.shape
                    np.testing.assert_allclose(array, wanted, rtol=1e-4, atol=2e-5, err_msg=name)


def graphs(path: Path, shape: list[Any], sizes: Any) -> tuple[Graph, Graph]:
    """Return the integer graph before and after its masks are made."""
    config = driver.resolve_config(path, None, {"input_shapes": {"x": shape}})
    context, _, graph = driver.prepare(path, config, list(inputs(shape, sizes)), None)
    simplified, _ = driver.simplify(graph, config, context, ())
    final, _ = driver.to_precision(simplified, config, context, ())
    bounded, _ = driver.bound_extents(final, config, context, ())
    return final, bounded


def test_integers_are_those_of_each_size(case: Any, tmp_path: Path) -> None:
    path, shape, sizes = case
    final, bounded = graphs(path, shape, sizes)
    assert any(node.is_integer for node in final.nodes)
    assert any(node.op.name == "mask_tail" for node in bounded.nodes)
    bundles.write_bundle(lower_graph(bounded, targets.host()), tmp_path / "b")
    with runtime.load(tmp_path / "b") as session:
        for given in inputs(shape, sizes):
            expected = Interpreter(final).run(given)
            masked, found = Interpreter(bounded).run(given), session.run(given)
            for name, array in expected.items():
                np.testing.assert_allclose(masked[name], array, rtol=1e-5, atol=1e-5)
                if "convolutional" in path.name:
                    np.testing.assert_array_equal(found[name], array)
                else:
                    np.testing.assert_allclose(found[name], array, rtol=0.05, atol=0.1)


@pytest.mark.arm
def test_arm(case: Any, tmp_path: Path, qemu_aarch64: str) -> None:
    path, shape, sizes = case
    final, bounded = graphs(path, shape, sizes)
    executable = tmp_path / "model"
    executable.write_bytes(bundles.build_executable(lower_graph(bounded, targets.load("rpi4"))))
    executable.chmod(0o755)
    open_axes = [str(d).partition(":")[0] for d in shape if isinstance(d, str)]
    for given, size in zip(inputs(shape, sizes), sizes, strict=True):
        np.save(tmp_path / "x.npy", given["x"])
        chosen = [w for name, n in zip(open_axes, size, strict=True) for w in ("--size", f"{name}={n}")]
        command = [
            qemu_aarch64,
            "-cpu",
            "cortex-a72",
            executable,
            tmp_path / "x.npy",
            *chosen,
            "--output",
            tmp_path / "y",
        ]
        subprocess.run([str(word) for word in command], check=True, capture_output=True, timeout=120)
        data = np.fromfile(tmp_path / "y", np.float32)
        for name, array in Interpreter(final).run(given).items():
            found, data = data[: array.size].reshape(array.shape), data[array.size :]
            if "convolutional" in path.name:
                np.testing.assert_array_equal(found, array, err_msg=name)
            else:
                np.testing.assert_allclose(found, array, rtol=0.05, atol=0.1, err_msg=name)


@pytest.mark.parametrize("swapped", [False, True])
def test_a_bias_of_relative_places(tmp_path: Path, swapped: bool) -> None:
    """It has a row and a column for each place; where a mask is added, only its columns are seen to be open."""
    nodes = [
        ("Shape", "x", "shape"), ("Gather", "shape one", "s", {"axis": 0}), ("Range", "zero s one", "places"),
        ("Cast", "places", "real", {"to": 1}), ("Unsqueeze", "real axis0", "columns"),
        ("Unsqueeze", "real axis1", "rows"), ("Sub", "columns rows", "apart"), ("Mul", "apart slope", "bias"),
        ("Add", "mask bias" if swapped else "bias mask", "hidden"),
        ("Transpose", "x", "turned", {"perm": [0, 2, 1]}), ("MatMul", "x turned", "scores"),
        ("Add", "scores hidden", "biased"), ("Softmax", "biased", "p", {"axis": -1}), ("MatMul", "p x", "y"),
    ]  # fmt: skip
    numbers = {"zero": np.int64(0), "one": np.int64(1), "axis0": np.array([0]), "axis1": np.array([1]),
               "slope": np.float32(0.3)}  # fmt: skip
    made = built(nodes, {"x": [1, "S", 6], "mask": [1, 1, "S"]}, {"y": [1, "S", 6]}, **numbers)
    path = tmp_path / "relative.onnx"
    onnx.save(made, path)
    shapes: dict[str, list[Any]] = {"x": [1, "S:1..20", 6], "mask": [1, 1, "S"]}
    qcompile.compile(path, precision="fp32", input_shapes=shapes, output=tmp_path / "b")
    reference, rng = (
        onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]),
        np.random.default_rng(0),
    )
    with runtime.load(tmp_path / "b") as session:
        for size in (20, 1, 7, 13):
            given = {"x": rng.normal(0, 1, (1, size, 6)).astype("f4"), "mask": np.zeros((1, 1, size), "f4")}
            given["mask"][..., size // 2 + 1 :] = -1e9
            assert np.allclose(session.run(given)["y"], reference.run(None, given)[0], 1e-5, 1e-5)


def test_smaller_sizes_run_fewer_tiles() -> None:
    graph = import_bounded(transformer(), {"x": [1, "S:1..64", WIDTH]})
    program = lower_graph(PassManager(f"{pipelines.SIMPLIFY},bound-dynamic-axes").run(graph), targets.host())

    def tiles(size: int) -> int:
        total = 0
        for step in program.steps:
            live = step.live
            if live is not None:
                rows = program.extents[live.extent].table[size - 1] * live.rows
                assert step.tiles % live.segment == 0
                total += step.tiles // live.segment * min(live.segment, -(-rows // live.span) * live.unit)
        return total

    assert tiles(64) == sum(step.tiles for step in program.steps if step.live is not None)
    assert tiles(8) * 4 < tiles(64)
    products = [step for step in program.steps if step.op in ("dense", "matmul", "softmax")]
    assert all(step.live is not None for step in products if step.tiles > 1)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ([1, "S", WIDTH], "has no bounds"),
        ([1, "S:5..2", WIDTH], "the smaller one first"),
        ([1, "S:4..4", WIDTH], "two numbers from 0"),
        ([1, "S:1..8:3", WIDTH], "no whole number of steps"),
        ([1, "S:1-8", WIDTH], "neither a number nor"),
        (["S:1..4", "S:1..8", WIDTH], "two bounds"),
    ],
)
def test_bounds_that_are_wrong(shape: list[Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        import_bounded(transformer(), {"x": shape})


def test_what_has_no_form_for_all_sizes() -> None:
    weights = {"w": np.ones((12, 2), "f4"), "s": np.array([1, 12])}
    flat = built([("Reshape", "x s", "f"), ("MatMul", "f w", "y")], {"x": [1, "S", 3]}, {"y": [1, 2]}, **weights)
    with pytest.raises(UnsupportedOpError) as caught:
        import_bounded(flat, {"x": [1, "S:1..4", 3]})
    assert "'S'" in str(caught.value) or "S=" in str(caught.value)
    assert caught.value.hint is not None
    number = built([("Shape", "x", "s"), ("Cast", "s", "c", {"to": 1}), ("ReduceSum", "c", "n", {"keepdims": 0}),
                    ("Mul", "x big", "b"), ("Clip", "b zero n", "y")], {"x": [1, "S"]}, {"y": [1, "S"]},
                   big=np.float32(100), zero=np.float32(0))  # fmt: skip
    with pytest.raises(UnsupportedOpError, match="arithmetic with open extents cannot be kept"):
        import_bounded(number, {"x": [1, "S:2..9"]})


def test_sizes_that_do_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "t.onnx"
    onnx.save(transformer(), path)
    qcompile.compile(path, precision="fp32", input_shapes={"x": [1, "S:2..8:2", WIDTH]}, output=tmp_path / "b")
    with runtime.load(tmp_path / "b") as session:
        for size, message in ((3, "in steps of 2"), (10, "S is 10"), (0, "S is 0")):
            with pytest.raises(UsageError, match=message):
                session.run({"x": np.zeros((1, size, WIDTH), np.float32)})
        with pytest.raises(UsageError, match="expected"):
            session.run({"x": np.zeros((1, 4, 3), np.float32)})
    done = subprocess.run([tmp_path / "b/bin/qcrun", "--bench", "1", "--size", "S=5"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "S is from 2 to 8 in steps of 2" in done.stderr


def test_the_command_line_takes_files_of_any_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(transformer(), tmp_path / "t.onnx")
    shape = f"x=N:1..2,S:1..8,{WIDTH}"
    words = ["compile", tmp_path / "t.onnx", "--fp32", "--input-shape", shape, "-o", tmp_path / "b", "-q"]
    assert run_command([str(word) for word in words]) == 0
    np.save(tmp_path / "x.npy", np.ones((1, 3, WIDTH), np.float32))
    words = ["run", tmp_path / "b", "--input", tmp_path / "x.npy", "-o", tmp_path / "y.npz"]
    assert run_command([str(word) for word in words]) == 0
    with np.load(tmp_path / "y.npz") as found:
        assert found["y"].shape == (1, 3, WIDTH)
    np.save(tmp_path / "x.npy", np.ones((1, 9, WIDTH), np.float32))
    capsys.readouterr()
    assert run_command([str(word) for word in words]) == 2
    assert "shape [1, 9, 16] does not fit" in capsys.readouterr().err
    assert run_command(["compile", str(tmp_path / "t.onnx"), "--input-shape", "x=1,S", "-o", str(tmp_path / "c")]) == 2
    assert "has no bounds" in capsys.readouterr().err
