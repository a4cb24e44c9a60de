"""A network that stays in float though integers were asked for says so, and why."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qcompile import ops
from qcompile.driver import compile as compile_model
from qcompile.float_share import float_note, idle_note
from qcompile.ir.graph import Graph
from qcompile.ir.parser import parse_graph
from qcompile.ops.interpreter import Interpreter
from qcompile.passmgr import PassContext, PassManager
from qcompile.report.terminal import print_bundle

TEXT = """
graph "g" {
  input %x : f32[1,64,256]
  const @w : f32[256,256] = normal(1, 0.1)
  const @b : f32[256] = normal(2, 0.1)
  %a = dense(%x, @w, @b) : f32[1,64,256] loc("First")
  %y = dense(%a, @w, @b) : f32[1,64,256] loc("Second")
  output "y" = %y
}
"""


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", None),
        ('keep_float=["First"]', "50% of the multiply-accumulates stay in float32: kept in float by request (1 node)"),
        ('keep_float=["*"]', "100% of the multiply-accumulates stay in float32: kept in float by request (2 nodes)"),
        (
            'for_accuracy=["a", "y"]',
            "100% of the multiply-accumulates stay in float32: kept in float for the accuracy of an output (2 nodes)",
        ),
    ],
)
def test_note(options: str, expected: str | None) -> None:
    given = [{"x": np.random.default_rng(n).normal(0, 1, (1, 64, 256)).astype(np.float32)} for n in range(4)]
    manager = PassManager(f"insert-observers,calibrate,assign-precision{{{options}}},quantize,fuse-requantize")
    made = manager.run(parse_graph(TEXT, ops.all_ops()), PassContext(samples=lambda: iter(given)))
    assert float_note(made, manager.records) == expected


GATED = """
graph "gated" {
  input %x : f32[1,6,6,8]
  const @w : f32[16,1,1,8] = normal(1, 4)
  const @b : f32[16] = normal(2, 3)
  const @v : f32[8,1,1,8] = normal(3, 0.3)
  const @c : f32[8] = normal(4, 0.1)
  %both = conv2d(%x, @w, @b) {layout="NHWC"} : f32[1,6,6,16] loc("Both")
  %value, %gate = split(%both) {axis=3, sizes=[8, 8]} : f32[1,6,6,8], f32[1,6,6,8] loc("Split")
  %open = sigmoid(%gate) : f32[1,6,6,8] loc("Gate")
  %shut = mul(%value, %open) : f32[1,6,6,8] loc("Mul")
  %again = sigmoid(%shut) : f32[1,6,6,8] loc("Again")
  %last = conv2d(%again, @v, @c) {layout="NHWC"} : f32[1,6,6,8] loc("Last")
  %end = sigmoid(%last) : f32[1,6,6,8] loc("End")
  output "y" = %end
}
"""


def gated(keep: str) -> tuple[Graph, PassManager, np.ndarray]:
    """Return the integer graph of a network, the passes that made it and what it computes."""
    given = [{"x": np.random.default_rng(n).normal(0, 1, (1, 6, 6, 8)).astype(np.float32)} for n in range(4)]
    manager = PassManager(f"insert-observers,calibrate,assign-precision{{keep_float={keep}}},quantize,fuse-requantize")
    made = manager.run(parse_graph(GATED, ops.all_ops()), PassContext(samples=lambda: iter(given)))
    return made, manager, Interpreter(made).run(given[0])["y"]


@pytest.mark.parametrize(
    ("keep", "note"),
    [
        (
            '["Gate"]',
            "--keep-float Gate changes nothing: its operand and result stay in int8; name 'Split' and 'Both' or "
            "'Mul', too",
        ),
        (
            '["Gate", "Again"]',
            "--keep-float changes nothing for 2 nodes (Gate, Again): their operands and results stay in int8; name "
            "what makes or reads these, too, as `qcompile analyze` does",
        ),
        ('["Gate", "Mul"]', None),
        ('["Gate", "Split", "Both"]', None),
        ('["Last"]', None),
        ('["End"]', None),
        ("[]", None),
    ],
)
def test_what_float_does_nothing_for_is_told(keep: str, note: str | None) -> None:
    made, manager, answer = gated(keep)
    assert idle_note(made, manager.records) == note
    if note is not None:
        np.testing.assert_array_equal(answer, gated("[]")[2])


def test_steps_in_integers_tell_which_nodes_within_them_are_float(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A kernel that reads the function of a tensor computes it on the way, under its own name."""
    generator = np.random.default_rng(0)
    weights = [generator.normal(0, 0.5, (o, i, 1, 1)).astype(np.float32) for o, i in ((32, 16), (16, 16))]
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["both"], name="Both"),
        helper.make_node("Split", ["both"], ["value", "gate"], name="Split", axis=1, num_outputs=2),
        helper.make_node("Sigmoid", ["gate"], ["open"], name="Gate"),
        helper.make_node("Mul", ["value", "open"], ["shut"], name="Mul"),
        helper.make_node("Conv", ["shut", "w1"], ["last"], name="Last"),
        helper.make_node("GlobalAveragePool", ["last"], ["mean"], name="Mean"),
        helper.make_node("Flatten", ["mean"], ["y"], name="Flat"),
    ]
    shapes = {"x": [1, 16, 16, 16], "y": [1, 16]}
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    constants = [numpy_helper.from_array(w, f"w{i}") for i, w in enumerate(weights)]
    graph = helper.make_graph(nodes, "glu", ends[:1], ends[1:], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), tmp_path / "glu.onnx")
    given = [{"x": generator.normal(size=(1, 16, 16, 16)).astype(np.float32)} for _ in range(4)]
    arguments = {"precision": "int8", "calibration": given, "target": "host"}
    whole = compile_model(tmp_path / "glu.onnx", output=tmp_path / "whole", **arguments)
    assert whole.float_within == []
    bundle = compile_model(tmp_path / "glu.onnx", output=tmp_path / "out", keep_float=["Gate"], **arguments)
    assert bundle.float_within == ["Gate"]
    assert any(note.startswith("--keep-float Gate changes nothing: ") for note in bundle.notes)
    print_bundle(bundle, 0.0)
    assert re.search(r"^steps +\d in int8; within them 1 node in float32 \(Gate\)$", capsys.readouterr().out, re.M)
    assert "within them 1 node in float32 (Gate)" in bundle.report.read_text()
