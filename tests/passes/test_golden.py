"""Golden tests: golden/<pass>/*.qir holds a pipeline, a graph, and the graph the pipeline must make of it.

    // pipeline: fold-batchnorm
    graph "input" { … }
    // expect
    graph "input" { … }
    // skip: node: reason

Every file gives four tests. `pytest tests/passes --update-golden` rewrites what follows `// expect`; read the
difference before you commit it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from qcompile import ops
from qcompile.ir.graph import Graph
from qcompile.ir.parser import parse_graph
from qcompile.ir.printer import constant_pool, print_graph
from qcompile.passmgr import PassManager
from qcompile.passmgr.registry import default_registry
from qcompile.passmgr.verify_numerics import VerifyNumerics

GOLDEN = Path(__file__).parent / "golden"
FILES = sorted(GOLDEN.glob("*/*.qir"))
MARK = "// expect\n"
RTOL = 1e-5
"""Of real numbers: the last digits of a matrix product are the processor's."""

REAL = re.compile(r"-?\d+\.\d+(?:e[-+]?\d+)?|-?\d+e[-+]?\d+")


@dataclass(frozen=True)
class Case:
    pipeline: str
    given: str
    expected: str
    source: Graph
    manager: PassManager
    result: Graph

    def text(self) -> str:
        skips = [f"// skip: {skip}\n" for record in self.manager.records for skip in record.skips]
        return print_graph(self.result, elide=True) + "".join(skips)


@cache
def run_case(path: Path) -> Case:
    given, mark, expected = path.read_text(encoding="utf-8").partition(MARK)
    assert mark, f"{path} has no line '{MARK.strip()}'"
    pipeline = re.search(r"^// pipeline: (.+)$", given, re.MULTILINE)
    assert pipeline is not None, f"{path} names no pipeline"
    source = parse_graph(given, ops.all_ops(), source=path.name)
    manager = PassManager(pipeline[1])
    return Case(pipeline[1], given, expected, source, manager, manager.run(source))


def name_of(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


def outline(text: str) -> str:
    """Return a graph's text without its real numbers."""
    return REAL.sub("…", text)


def numbers(text: str) -> list[float]:
    """Return the real numbers of a graph's text."""
    return [float(number) for number in REAL.findall(text)]


def alike(case: Case) -> bool:
    """Return whether a result is the expected one but for the last digits of real numbers."""
    made, expected = case.text(), case.expected
    return outline(made) == outline(expected) and np.allclose(numbers(made), numbers(expected), rtol=RTOL, atol=0)


golden = pytest.mark.parametrize("path", FILES, ids=name_of)


@golden
def test_text(path: Path, request: pytest.FixtureRequest) -> None:
    case = run_case(path)
    if not request.config.getoption("--update-golden"):
        assert outline(case.text()) == outline(case.expected)
        np.testing.assert_allclose(numbers(case.text()), numbers(case.expected), rtol=RTOL)
    elif not alike(case):
        path.write_text(case.given + MARK + case.text(), encoding="utf-8")
        run_case.cache_clear()


@golden
def test_round_trip(path: Path) -> None:
    result = run_case(path).result
    text = print_graph(result)
    again = parse_graph(text, ops.all_ops(), constant_pool(result))
    assert print_graph(again) == text
    assert again.structural_hash() == result.structural_hash()


@golden
def test_second_run_changes_nothing(path: Path) -> None:
    case = run_case(path)
    manager = PassManager(case.pipeline)
    again = manager.run(case.result)
    assert [record.text for record in manager.records if record.changed] == []
    assert print_graph(again) == print_graph(case.result)


@golden
def test_numbers(path: Path) -> None:
    # Raises where an output moves further than the tolerance that the pass itself declares.
    case = run_case(path)
    checked = PassManager(case.pipeline, [VerifyNumerics()]).run(case.source)
    assert checked.structural_hash() == case.result.structural_hash()


def test_every_pass_has_golden_files() -> None:
    folders = {path.parent.name for path in FILES}
    registry = default_registry()
    assert folders == {name for name in registry.names() if registry.origin(name) == "qcompile"}
