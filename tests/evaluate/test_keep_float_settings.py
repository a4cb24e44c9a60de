"""Every form of an exclusion, from the command line and from YAML, down to the precision of each node."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qcompile import driver, pipelines
from qcompile.errors import UsageError
from qcompile.ir.printer import print_literal
from qcompile.passmgr import PassManager

CHANNELS = 16
SHAPE = (1, CHANNELS, 16, 16)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three convolutions with activations between them, large enough that integers pay."""
    generator = np.random.default_rng(0)
    nodes, constants, last = [], [], "x"
    for number in range(3):
        weight = generator.normal(0, 0.1, (CHANNELS, CHANNELS, 3, 3)).astype(np.float32)
        constants.append(numpy_helper.from_array(weight, f"w{number}"))
        inputs = [last, f"w{number}"]
        nodes.append(helper.make_node("Conv", inputs, [f"c{number}"], name=f"block{number}/Conv", pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"c{number}"], [f"r{number}"], name=f"block{number}/Relu"))
        last = f"r{number}"
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, SHAPE)],
        constants,
    )
    path = tmp_path_factory.mktemp("chain") / "chain.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


def kept(model: Path, config: Path | None, settings: dict[str, object]) -> set[str]:
    """Return the convolutions that are to compute in float."""
    resolved = driver.resolve_config(model, config, {**settings, "observer": "minmax"})
    generator = np.random.default_rng(1)
    samples = [{"x": generator.normal(size=SHAPE).astype(np.float32)}]
    context, _, graph = driver.prepare(model, resolved, samples, None)
    simplified, _ = driver.simplify(graph, resolved, context, ())
    assignment = f"calibrate,assign-precision{{keep_float={print_literal(resolved.keep_float)}}}"
    final = PassManager(f"{pipelines.observation(resolved)},{assignment}").run(simplified, context)
    return {node.loc for node in final.nodes if node.op.name == "conv2d" and node.precision == "float32"}


def refuse(model: Path, pattern: str) -> None:
    """Go as far as the driver does before it calibrates."""
    resolved = driver.resolve_config(model, None, {"keep_float": [pattern]})
    context, _, graph = driver.prepare(model, resolved, None, None)
    simplified, _ = driver.simplify(graph, resolved, context, ())
    driver.to_precision(simplified, resolved, context, ())


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("block1/Conv", {"block1/Conv"}),
        ("block[02]/*", {"block0/Conv", "block2/Conv"}),
        ("/block[12]/", {"block1/Conv", "block2/Conv"}),
        ("op:conv", {"block0/Conv", "block1/Conv", "block2/Conv"}),
        ("r0..", {"block1/Conv", "block2/Conv"}),
        ("r0..r1", {"block1/Conv"}),
    ],
)
def test_forms(chain: Path, pattern: str, expected: set[str]) -> None:
    assert kept(chain, None, {"keep_float": [pattern]}) == expected


def test_yaml(chain: Path, tmp_path: Path) -> None:
    config = tmp_path / "settings.yaml"
    config.write_text("keep-float: ['/block[0]/', 'r1..']\n")
    assert kept(chain, config, {}) == {"block0/Conv", "block2/Conv"}


@pytest.mark.parametrize(
    ("pattern", "hint"),
    [
        ("block1/Con", "did you mean 'block1/Conv'?"),
        ("c1", "it is part of 'block1/Conv' by now: give that name"),
        ("block1/Relu", "it is part of 'block1/Conv' by now: give that name"),
        ("op:softmax", "operations here: conv2d"),
        ("r1..r0", "is the order right?"),
    ],
)
def test_what_matches_nothing_is_an_error_with_a_way_out(chain: Path, pattern: str, hint: str) -> None:
    with pytest.raises(UsageError, match="matches no node") as caught:
        refuse(chain, pattern)
    assert hint in (caught.value.hint or "")
