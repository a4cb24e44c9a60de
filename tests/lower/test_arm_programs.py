"""The same graphs as programs for ARM, run under emulation of the exact core: the interpreter's bits."""

from __future__ import annotations

import emulation
import numpy as np
import pytest
from graph_checks import compare, graph_names, graph_of, graph_texts, random_inputs

from qcompile import targets
from qcompile.lower import lower_graph
from qcompile.ops.interpreter import Interpreter

GRAPHS = graph_texts(*graph_names())


@pytest.mark.arm
@pytest.mark.parametrize("target", ["rpi4", "rpi5"])
@pytest.mark.parametrize("name", list(GRAPHS))
def test_arm_form(name: str, target: str) -> None:
    if emulation.emulator() is None:
        pytest.skip("qemu-aarch64 is not installed (Debian: qemu-user)")
    graph = graph_of(GRAPHS[name])
    inputs = random_inputs(graph, 3)
    got = emulation.run_emulated(lower_graph(graph, targets.load(target), jobs=1), inputs)
    with np.errstate(all="ignore"):
        compare(got, Interpreter(graph).run(inputs), 0.0 if name.startswith("integer") else 2e-5)
