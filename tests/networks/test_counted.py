"""Extents that the data decide: a detector with its post-processing, whose outputs have as many rows as boxes stay."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import qcompile
from qcompile import driver, targets
from qcompile.config import CompileConfig
from qcompile.evaluate.self_test import foresee
from qcompile.ir.counted import trimmed
from qcompile.ir.graph import Graph
from qcompile.lower import lower_graph
from qcompile.onnx_import import import_onnx
from qcompile.ops.interpreter import Interpreter
from qcompile.passmgr import PassContext
from qcompile.runtime import self_test

from .detection_heads import KEPT, images, ssd
from .test_bit_exact import CORES, assert_same_bits

COUNT = "boxes.count"


@cache
def expected() -> list[dict[str, Any]]:
    """Return what ONNX Runtime makes of each image."""
    session = onnxruntime.InferenceSession(ssd().SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return [dict(zip(names, session.run(None, image), strict=True)) for image in images(8)]


@cache
def lowered(precision: str) -> Graph:
    """Return the graph that is lowered for this machine, whose costs decide what stays in float."""
    config, context = CompileConfig(precision=precision), PassContext(target=targets.load("host"))
    context.samples = lambda: iter(images(8)[1:])
    graph, _ = driver.simplify(import_onnx(ssd()), config, context, ())
    return driver.to_precision(graph, config, context, ())[0]


def assert_close(actual: dict[str, Any], wanted: dict[str, Any]) -> None:
    for name, array in wanted.items():
        assert actual[name].shape == array.shape, name
        assert actual[name].dtype == array.dtype, name
        np.testing.assert_allclose(actual[name], array, 1e-4, 1e-4, err_msg=name)


def test_the_images_find_nothing_some_and_too_much() -> None:
    counts = [len(answer["scores"]) for answer in expected()]
    assert counts[0] == 0
    assert max(counts) == KEPT
    assert len(set(counts)) > 3


def test_the_interpreter_tells_extents_beside_padded_outputs() -> None:
    graph = import_onnx(ssd())
    for image, wanted in zip(images(8), expected(), strict=True):
        whole = Interpreter(graph).run(image)
        assert whole["boxes"].shape == (KEPT, 4)
        assert not whole["boxes"][int(whole[COUNT][0]) :].any()
        assert_close(trimmed(graph.counted, whole), wanted)


def test_a_bundle_returns_as_many_rows_as_there_are(tmp_path: Path) -> None:
    onnx.save(ssd(), tmp_path / "ssd.onnx")
    qcompile.compile(tmp_path / "ssd.onnx", target="host", precision="fp32", output=tmp_path / "bundle")
    with qcompile.runtime.load(tmp_path / "bundle") as session:
        for image, wanted in zip(images(8), expected(), strict=True):
            answer = session.run(image)
            assert_close(answer, wanted)
            assert answer[COUNT].tolist() == [len(wanted["scores"])]


def test_c_programs_learn_the_extents(tmp_path: Path) -> None:
    onnx.save(ssd(), tmp_path / "ssd.onnx")
    qcompile.compile(tmp_path / "ssd.onnx", target="host", precision="fp32", output=tmp_path / "bundle")
    header = (tmp_path / "bundle/model.h").read_text()
    assert "output 0: boxes float32[6, 4], as many on axis 0 as 'boxes.count' says" in header
    for number in (0, 3):
        np.save(tmp_path / "x.npy", images(8)[number]["image"])
        command = [tmp_path / "bundle/bin/qcrun", tmp_path / "x.npy", "--top", "100"]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        printed = text.partition("scores:\n")[2].partition("labels:")[0].splitlines()
        assert len(printed) == len(expected()[number]["scores"])


def test_quantized_bundles_answer_as_the_interpreter(tmp_path: Path) -> None:
    onnx.save(ssd(), tmp_path / "ssd.onnx")
    samples = images(8)[1:]
    bundle = tmp_path / "bundle"
    qcompile.compile(tmp_path / "ssd.onnx", target="host", precision="int8", calibration=samples, output=bundle)
    graph = lowered("int8")
    # Costs decide: of this machine, one more may be faster in float.
    assert sum(node.op.name == "conv2d" and node.is_integer for node in graph.nodes) >= 2
    counts = set()
    with qcompile.runtime.load(bundle) as session:
        for image, wanted in zip(images(8), expected(), strict=True):
            answer = session.run(image)
            assert_close(answer, trimmed(graph.counted, Interpreter(graph).run(image)))
            counts.add(len(answer["scores"]))
            # A box whose score is near the least one may come or go.
            assert abs(len(answer["scores"]) - len(wanted["scores"])) <= 2
    assert 0 in counts
    assert KEPT in counts


def test_another_seed_where_the_last_digits_decide() -> None:
    """Where the inputs of the first seed are the limits, the next one is taken."""
    infos = [helper.make_tensor_value_info(n, k, None) for n, k in (("at", TensorProto.INT64), ("y", 1))]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [16])
    given = import_onnx(comparing(x, infos, np.zeros(16, "f4"))).inputs
    limits = self_test.inputs([given[0]], 0)["x"]
    for offset, seed in ((0, 1), (1, 0), (-1, 0)):
        test = foresee(import_onnx(comparing(x, infos, (limits + offset).astype("f4"))), 0)
        assert (test["seed"], set(test["outputs"])) == (seed, {"at", "at.count1", "y"})


def comparing(x: Any, outputs: list[Any], limit: Any) -> Any:
    """Return a model that finds what exceeds a limit, and doubles it."""
    nodes = [
        helper.make_node("Greater", ["x", "limit"], ["above"]),
        helper.make_node("NonZero", ["above"], ["at"]),
        helper.make_node("Add", ["x", "x"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "g", [x], outputs, [numpy_helper.from_array(limit, "limit")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.arm
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_emulated_arm(precision: str, run_emulated: Any) -> None:
    graph = lowered(precision)
    program = lower_graph(graph, targets.load("rpi4"))
    for number in (0, 3, 7):
        image = images(8)[number]
        whole = run_emulated(program, CORES["rpi4"], image, 1)
        wanted = Interpreter(graph).run(image)
        assert_same_bits({COUNT: whole[COUNT]}, {COUNT: wanted[COUNT]})
        assert_close(whole, wanted)
