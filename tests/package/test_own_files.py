"""Files of the users' own: what is wrong with them is said of them, not of the program."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from qcompile import calibrate, ops
from qcompile.calibrate.histogram import TensorStatistics
from qcompile.calibrate.observer import make_observer, observers
from qcompile.errors import UsageError

OBSERVER = """
from dataclasses import dataclass
from typing import ClassVar
from qcompile.calibrate.observer import Observer

@dataclass(frozen=True)
class Own(Observer):
    name: ClassVar[str] = "own"
    {option}
    def choose(self, distribution, levels):
        return {result}
"""

Add = Callable[[ModuleType, str, str], None]


@pytest.fixture
def add(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Add]:
    """Return what adds a file to a package, for one test."""
    added = []

    def write(package: ModuleType, name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
        importlib.invalidate_caches()
        added.append(f"{package.__name__}.{name}")
        for known in (ops.all_ops, observers):
            known.cache_clear()

    yield write
    for name in added:
        sys.modules.pop(name, None)
    for known in (ops.all_ops, observers):
        known.cache_clear()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("own", "def (", r"own\.py: cannot be loaded: SyntaxError"),
        ("own", "import sys; sys.exit(0)", r"own\.py: cannot be loaded: SystemExit"),
        ("own", "x = 1", r"own\.py: must define exactly one OpDef, with the name 'own' of the file; it defines none"),
        ("other", "from qcompile.ir.opdef import OpDef\nclass Own(OpDef):\n    name = 'own'", "it defines 'own'"),
    ],
)
def test_faulty_operations(add: Add, name: str, text: str, message: str) -> None:
    add(ops, name, text)
    with pytest.raises(UsageError, match=message) as refused:
        ops.all_ops()
    assert refused.value.hint


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("own", "def (", r"own\.py: cannot be loaded: SyntaxError"),
        ("other", OBSERVER.format(option="", result="0, 1"), "whose class has the name of the file; it defines Own"),
        ("own", OBSERVER.format(option="", result="0, 1").replace('name: ClassVar[str] = "own"', ""), "has no `name`"),
        ("own", OBSERVER.format(option="x: float", result="0, 1"), "observer 'own' cannot be made"),
    ],
)
def test_faulty_observers(add: Add, name: str, text: str, message: str) -> None:
    add(calibrate, name, text)
    with pytest.raises(UsageError, match=message) as refused:
        make_observer("own")
    assert refused.value.hint


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("import no_such_module.part", "the file needs the module 'no_such_module': install it"),
        ("from numpy import no_such_name", "the file needs the module 'numpy': install it, or another version of it"),
        ("from json import no_such_name", "repair the file, or take it out of the folder"),
        ("import qcompile.no_such_module", "repair the file, or take it out of the folder"),
        ("1 / 0", "repair the file, or take it out of the folder"),
    ],
)
def test_files_that_lack_a_module_name_it(add: Add, text: str, hint: str) -> None:
    """A file of the program itself may, where a package that it needs is not installed."""
    add(ops, "own", text)
    with pytest.raises(UsageError, match=r"own\.py: cannot be loaded") as refused:
        ops.all_ops()
    assert (refused.value.hint or "").startswith(hint)


@pytest.mark.parametrize("result", ["5", "(0.0, float('nan'))", "(1.0, -1.0)", "(1, 2, 3)", "1 / 0", "'ab'"])
def test_observers_that_choose_no_range(add: Add, result: str) -> None:
    add(calibrate, "own", OBSERVER.format(option="", result=result))
    statistics = TensorStatistics("tensor")
    statistics.update(np.linspace(-1, 1, 100, dtype=np.float32))
    for symmetric in (False, True):
        with pytest.raises(UsageError, match=r"own\.py: observer 'own' .*'tensor'") as refused:
            make_observer("own").range(statistics, symmetric=symmetric)
        assert refused.value.hint == "`choose` returns two finite numbers, the smaller one first"
