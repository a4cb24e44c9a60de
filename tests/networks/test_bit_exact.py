"""One integer semantics: NumPy interpreter = x86 = ARM, bit for bit, on whole networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qcompile import runtime, targets
from qcompile.bundle import write_bundle
from qcompile.ops.interpreter import Interpreter

from .conftest import FASHION, NETWORKS, graphs, program, sample

HOST_TARGETS = ("host", "x86-64-v3", "x86-64")
CORES = {"rpi3": "cortex-a53", "rpi4": "cortex-a72", "rpi5": "cortex-a76", "graviton2": "neoverse-n1",
         "graviton3": "max"}  # fmt: skip


def assert_same_bits(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        assert np.array_equal(actual[name], array), f"{name}: {np.mean(actual[name] != array):.2%} of the bits differ"


@pytest.mark.parametrize("target", HOST_TARGETS)
@pytest.mark.parametrize("name", NETWORKS)
def test_host(name: str, target: str, tmp_path: Path) -> None:
    if not set(targets.load(target).requires) <= set(targets.host().requires):
        pytest.skip(f"this machine cannot run {target}")
    graph = graphs(name, "int8")[1]
    assert all(node.is_integer for node in graph.nodes if node.op.name != "transpose")
    write_bundle(program(name, "int8", target), tmp_path / "bundle")
    inputs = sample(graph)
    expected = Interpreter(graph).run(inputs)
    for threads in (1, 2):
        with runtime.load(tmp_path / "bundle", threads=threads) as session:
            assert_same_bits(session.run(inputs), expected)


@pytest.mark.arm
@pytest.mark.parametrize(
    ("name", "target"),
    [*((n, t) for n in FASHION for t in CORES), ("efficientnet_lite0", "rpi4"), ("efficientnet_lite0", "rpi5")],
)
def test_emulated_arm(name: str, target: str, run_emulated) -> None:
    graph = graphs(name, "int8")[1]
    inputs = sample(graph)
    expected = Interpreter(graph).run(inputs)
    code = program(name, "int8", target)
    assert_same_bits(run_emulated(code, CORES[target], inputs, 1), expected)
    if name in FASHION:
        assert_same_bits(run_emulated(code, CORES[target], inputs, 2), expected)
