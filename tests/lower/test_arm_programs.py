"""The same graphs as programs for ARM, run under emulation of the exact core: the interpreter's bits."""

from __future__ import annotations

import emulation
import numpy as np
import pytest
from graph_checks import compare, graph_of, graph_texts, random_inputs

from qcompile import targets
from qcompile.lower import lower_graph
from qcompile.ops.interpreter import Interpreter

INTEGER = graph_texts("integer_elementwise", "integer_moves", "integer_windows", "integer_layers")
REAL = graph_texts("binary", "moves", "windows", "rows", "layers")


@pytest.mark.arm
@pytest.mark.parametrize("target", ["rpi4", "rpi5"])
@pytest.mark.parametrize("name", [*INTEGER, *REAL])
def test_arm_form(name: str, target: str) -> None:
    if emulation.emulator() is None:
        pytest.skip("qemu-aarch64 is not installed (Debian: qemu-user)")
    graph = graph_of({**INTEGER, **REAL}[name])
    inputs = random_inputs(graph, 3)
    got = emulation.run_emulated(lower_graph(graph, targets.load(target), jobs=1), inputs)
    with np.errstate(all="ignore"):
        compare(got, Interpreter(graph).run(inputs), 0.0 if name in INTEGER else 2e-5)
