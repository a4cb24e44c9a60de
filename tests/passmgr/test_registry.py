from __future__ import annotations

import errno
import os
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace

import pytest

import qcompile.passes as package
from qcompile.errors import PassError, UsageError
from qcompile.passmgr import PassRegistry, list_passes
from qcompile.passmgr import registry as module

HEAD = """
from dataclasses import dataclass
from typing import ClassVar
from qcompile.passmgr import Exact, Pass
"""
BODY = '''
@dataclass(frozen=True)
class Mine(Pass):
    """Do nothing."""

    name: ClassVar[str] = "mine"
    tolerance: ClassVar = Exact()

    def run(self, graph, context):
        pass
'''


def test_every_file_holds_one_pass_named_after_it() -> None:
    files = sorted(p.stem for p in Path(package.__path__[0]).glob("*.py") if not p.name.startswith("_"))
    registry = PassRegistry()
    built_in = [name for name in registry.names() if registry.origin(name) == "qcompile"]
    assert built_in == [stem.replace("_", "-") for stem in files]
    for name in built_in:
        assert registry.get(name).name == name


@pytest.mark.parametrize("info", list_passes(), ids=lambda info: info.name)
def test_documentation(info: module.PassInfo) -> None:
    assert info.summary.endswith(".")
    assert "Before:" in info.doc
    assert "After:" in info.doc
    for option in info.options:
        assert f"{option.name}:" in info.doc, f"option {option.name} of {info.name} is not explained"


def test_underscores_pass_for_hyphens() -> None:
    registry = PassRegistry()
    assert registry.get("prune_channels") is registry.get("prune-channels")
    assert registry.describe("prune_channels").name == "prune-channels"


def test_pass_path(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(HEAD + BODY)
    (tmp_path / "_shared.py").write_text("raise RuntimeError('not a pass')")
    (tmp_path / "notes.txt").write_text("")
    registry = PassRegistry([tmp_path])
    assert registry.origin("mine") == str(tmp_path / "mine.py")
    assert registry.get("mine") is registry.get("mine")
    assert registry.describe("mine").summary == "Do nothing."


def test_a_file_is_not_imported_before_it_is_needed(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import there_is_no_such_module")
    registry = PassRegistry([tmp_path])
    assert "broken" in registry.names()
    with pytest.raises(PassError, match="cannot be loaded: ModuleNotFoundError") as caught:
        registry.get("broken")
    assert caught.value.loc == str(tmp_path / "broken.py")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD, "must define exactly one pass, defines none"),
        (HEAD + BODY.replace('    name: ClassVar[str] = "mine"\n', ""), "defines none: Mine has no `name`"),
        (HEAD + BODY + BODY.replace("Mine", "Other"), "defines Mine, Other"),
        (HEAD + BODY.replace('"mine"', '"yours"'), "calls itself 'yours'"),
        (HEAD + BODY.replace("@dataclass(frozen=True)", ""), "is not a frozen dataclass"),
        (HEAD + BODY.replace("@dataclass(frozen=True)", "@dataclass"), "frozen"),
        (HEAD + BODY.replace("    tolerance: ClassVar = Exact()\n", ""), "declares no tolerance"),
        (HEAD + BODY.replace('    """Do nothing."""\n', ""), "has no docstring"),
        (HEAD + BODY.replace("Exact()\n", "Exact()\n    requires: ClassVar = ('magic',)\n"), "not a Fact"),
        (HEAD + BODY.replace("Exact()\n", "Exact()\n    size: int\n"), "cannot be made without options (size)"),
        (HEAD + BODY.replace("Exact()\n", "Exact()\n    table: ClassVar['Thing'] = {}\n"), "NameError: name 'Thing'"),
        (HEAD + BODY.replace("def run", "def walk"), "does not define run()"),
        (HEAD + BODY + "    def __post_init__(self):\n        assert 0\n", "without options (): AssertionError"),
        ("def (", "cannot be loaded: SyntaxError"),
        (HEAD + "import sys\nsys.exit(0)\n" + BODY, "cannot be loaded: SystemExit"),
        (HEAD + BODY.replace("    def run", "    sizes: list[int] | dict = ()\n\n    def run"), "no text gives"),
        (
            HEAD + BODY.replace("    def run", "    sizes: tuple[object, ...] = ()\n\n    def run"),
            "option 'sizes' is a",
        ),
    ],
)
def test_faulty_files(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(PassError) as caught:
        PassRegistry([tmp_path]).get("mine")
    assert message in caught.value.message
    assert "mine" in str(caught.value)


def test_what_a_file_raises_is_said_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "_other.py").write_text("def fail():\n    return [][0]\n")
    (tmp_path / "mine.py").write_text(
        f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\nfrom _other import fail\nfail()\n"
    )
    with pytest.raises(PassError) as caught:
        PassRegistry([tmp_path]).get("mine")
    sys.path.remove(str(tmp_path))
    told = f"cannot be loaded: IndexError: list index out of range ({tmp_path}/_other.py, line 2)"
    assert caught.value.message == told
    assert caught.value.hint == "repair the file, or take it out of the folder"
    (tmp_path / "mine.py").write_text("import there_is_no_such_module\n")
    with pytest.raises(PassError, match=rf"\({tmp_path}/mine.py, line 1\)") as caught:
        PassRegistry([tmp_path]).get("mine")
    assert "needs the module 'there_is_no_such_module': install it" in (caught.value.hint or "")


def test_a_file_that_is_not_named_after_its_pass(tmp_path: Path) -> None:
    (tmp_path / "first.py").write_text("1 / 0")
    (tmp_path / "other.py").write_text(HEAD + BODY)
    with pytest.raises(PassError, match=r"unknown pass 'mine': the file of the pass 'mine' is .*other\.py") as caught:
        PassRegistry([tmp_path]).get("mine")
    assert caught.value.hint == "a file is named after its pass: rename it mine.py"
    with pytest.raises(PassError, match=r"unknown pass 'yours'$"):
        PassRegistry([tmp_path]).get("yours")


def test_not_a_directory(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a directory"):
        PassRegistry([tmp_path / "nowhere"])


def test_a_directory_without_passes(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "mine.py").write_text(HEAD + BODY)
    (tmp_path / ".mine.py").write_text("what an editor left")
    with pytest.raises(UsageError, match="holds no pass"):
        PassRegistry([tmp_path])


def test_a_directory_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Permissions stop everybody but root, who may run this."""

    def closed(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path))

    (tmp_path / "mine.py").write_text(HEAD + BODY)
    for listing in ("listdir", "scandir"):
        monkeypatch.setattr(os, listing, closed)
    with pytest.raises(PermissionError):
        PassRegistry([tmp_path])


def test_clash_with_a_built_in_pass(tmp_path: Path) -> None:
    (tmp_path / "fold_batchnorm.py").write_text(HEAD + BODY)
    with pytest.raises(PassError, match="'fold-batchnorm' is defined twice: by qcompile and by"):
        PassRegistry([tmp_path])


def entries(monkeypatch: pytest.MonkeyPatch, *found: tuple[str, str, str]) -> None:
    """Pretend that packages are installed: (package, entry name, value)."""
    points = []
    for dist, name, value in found:
        point = EntryPoint(name, value, module.GROUP)
        vars(point)["dist"] = SimpleNamespace(name=dist)
        points.append(point)
    monkeypatch.setattr(module, "entry_points", lambda group: points if group == module.GROUP else [])


def test_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    entries(monkeypatch, ("their-package", "scale-product", "manager_graphs:ScaleProduct"))
    registry = PassRegistry()
    assert registry.origin("scale-product") == "their-package"
    assert registry.get("scale-product").name == "scale-product"


def test_clash_between_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    entries(monkeypatch, ("one", "same", "a:A"), ("two", "same", "b:B"))
    with pytest.raises(PassError, match="'same' is defined twice: by one and by two"):
        PassRegistry()


def test_faulty_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    entries(monkeypatch, ("one", "gone", "there_is_no_such_module:A"), ("one", "odd", "math:pi"))
    registry = PassRegistry()
    with pytest.raises(PassError, match="pass 'gone' of package one cannot be loaded from"):
        registry.get("gone")
    with pytest.raises(PassError, match=r"pass 'odd' of one is 3\.14\d*, not a subclass of qcompile.Pass"):
        registry.get("odd")
