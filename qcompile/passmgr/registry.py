"""Where passes come from: this package, installed packages, and directories of .py files."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
import sys
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from qcompile.definition_files import remedy
from qcompile.errors import PassError, UsageError, did_you_mean, with_line
from qcompile.ir.fields import check_bounds, describe_type, is_written
from qcompile.passmgr.facts import Fact
from qcompile.passmgr.options import Option, options_of
from qcompile.passmgr.passbase import Pass
from qcompile.passmgr.tolerance import Tolerance

GROUP = "qcompile.passes"
"""Entry point group of installed packages; the entry's name is the pass's."""

BUILT_IN = "qcompile"


@dataclass(frozen=True)
class PassInfo:
    """What `qcompile passes` shows of a pass.

    Args:
        name: as in pipeline text.
        origin: "qcompile", the name of an installed package, or the path of a file.
        summary: first line of its docstring.
        doc: the whole docstring.
        options: types and defaults.
        requires: names of the facts it needs.
        establishes: names of the facts it brings about.
        tolerance: how far outputs may move, in words.
    """

    name: str
    origin: str
    summary: str
    doc: str
    options: tuple[Option, ...]
    requires: tuple[str, ...]
    establishes: tuple[str, ...]
    tolerance: str


@dataclass
class _Entry:
    origin: str
    load: Callable[[], type[Pass]]
    loaded: type[Pass] | None = field(default=None)


class PassRegistry:
    """All passes that a pipeline can name. Modules are imported when a pass is first asked for.

    Args:
        pass_paths: directories whose .py files each hold one pass, named after the file.

    Raises:
        PassError: two passes have the same name, or a directory cannot be read.
    """

    def __init__(self, pass_paths: Iterable[str | Path] = ()) -> None:
        self._entries: dict[str, _Entry] = {}
        self._add_built_in()
        self._add_installed()
        for path in pass_paths:
            self._add_directory(Path(path))

    def names(self) -> list[str]:
        """Return the names of all passes, sorted."""
        return sorted(self._entries)

    def origin(self, name: str) -> str:
        """Return where a pass comes from: "qcompile", a package, or a file."""
        return self._entries[name].origin if name in self._entries else "unregistered"

    def get(self, name: str) -> type[Pass]:
        """Return the class of a pass.

        Args:
            name: of it; underscores pass for hyphens.

        Raises:
            PassError: the name is unknown, or its module is not a valid pass.
        """
        name = _pass_name(name)
        if name not in self._entries:
            raise self._unknown(name)
        entry = self._entries[name]
        if entry.loaded is None:
            entry.loaded = _validated(entry.load(), name, entry.origin)
        return entry.loaded

    def describe(self, name: str) -> PassInfo:
        """Return the documentation of a pass."""
        name = _pass_name(name)
        cls = self.get(name)
        doc = inspect.cleandoc(cls.__doc__ or "")
        return PassInfo(
            name=name,
            origin=self.origin(name),
            summary=doc.splitlines()[0],
            doc=doc,
            options=options_of(cls),
            requires=tuple(f.name for f in cls.requires),
            establishes=tuple(f.name for f in cls.establishes),
            tolerance=str(cls.tolerance),
        )

    def _unknown(self, name: str) -> PassError:
        """Return what to say of a name that no file has, though a class in a user's file may."""
        for entry in self._entries.values():
            if not entry.origin.endswith(".py"):
                continue
            try:
                found = getattr(entry.load(), "name", None)
            except PassError:
                continue  # its own fault is said when it is asked for
            if isinstance(found, str) and name in (found, _pass_name(found)):
                hint = f"a file is named after its pass: rename it {_pass_name(found).replace('-', '_')}.py"
                return PassError(f"unknown pass '{name}': the file of the pass '{found}' is {entry.origin}", hint=hint)
        return PassError(f"unknown pass '{name}'", hint=did_you_mean(name, self.names()))

    def _add(self, name: str, origin: str, load: Callable[[], type[Pass]]) -> None:
        if name in self._entries:
            raise PassError(
                f"pass '{name}' is defined twice: by {self._entries[name].origin} and by {origin}",
                hint="rename one of them",
            )
        self._entries[name] = _Entry(origin, load)

    def _add_built_in(self) -> None:
        package = importlib.import_module("qcompile.passes")
        for info in pkgutil.iter_modules(package.__path__):
            name, module = _pass_name(info.name), f"{package.__name__}.{info.name}"
            self._add(name, BUILT_IN, lambda m=module: _only_pass(importlib.import_module(m), m))  # type: ignore[misc]

    def _add_installed(self) -> None:
        for entry in sorted(entry_points(group=GROUP), key=lambda e: (e.name, e.value)):
            package = entry.dist.name if entry.dist is not None else entry.value
            self._add(entry.name, package, lambda e=entry, p=package: _load_entry(e, p))  # type: ignore[misc]

    def _add_directory(self, directory: Path) -> None:
        if not directory.is_dir():
            problem = f"pass path '{directory}' is not a directory"
            raise UsageError(problem, hint="give a directory of .py files")
        # Not glob, which takes a folder that cannot be read for an empty one.
        files = [f for f in sorted(directory.iterdir()) if f.suffix == ".py" and not f.name.startswith(("_", "."))]
        if not files:
            problem = f"pass path '{directory}' holds no pass"
            raise UsageError(problem, hint="give the folder that the .py files lie in: folders in it are not searched")
        for file in files:
            self._add(_pass_name(file.stem), str(file), lambda f=file: _only_pass(_load_file(f), str(f)))  # type: ignore[misc]


def _pass_name(stem: str) -> str:
    return stem.replace("_", "-")


def _load_entry(entry: Any, package: str) -> type[Pass]:
    try:
        return entry.load()  # type: ignore[no-any-return]
    except (Exception, SystemExit) as error:
        problem = f"cannot be loaded from '{entry.value}': {with_line(error)}"
        hint = remedy(error, f"repair the package, or go on without it: pip uninstall {package}")
        raise PassError(f"pass '{entry.name}' of package {package} {problem}", hint=hint) from error


def _load_file(file: Path) -> ModuleType:
    """Import a file that is not on sys.path under a name of its own."""
    name = f"qcompile_pass_path_{abs(hash(file.resolve())):x}_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise PassError(f"'{file}' is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses resolve annotations through sys.modules
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise PassError(f"cannot be loaded: {with_line(error)}", loc=str(file), hint=remedy(error)) from error
    return module


def _only_pass(module: ModuleType, where: str) -> type[Pass]:
    classes = [v for v in vars(module).values() if isinstance(v, type) and v.__module__ == module.__name__]
    passes = [c for c in classes if issubclass(c, Pass)]
    found = [c for c in passes if "name" in vars(c)]
    if len(found) != 1:
        names = ", ".join(sorted(c.__name__ for c in found)) or "none"
        hint = "give each a file of its own; a name that starts with _ keeps a file from being taken for a pass"
        if not found:
            nameless = next((c.__name__ for c in passes), None)
            names += f": {nameless} has no `name`" if nameless else ""
            hint = f'write `name: ClassVar[str] = "{_pass_name(Path(where).stem)}"` in a subclass of qcompile.Pass'
        raise PassError(f"must define exactly one pass, defines {names}", loc=where, hint=hint)
    return found[0]


def _validated(cls: Any, name: str, origin: str) -> type[Pass]:
    """Refuse a class that is not a complete pass, with the rule it breaks."""
    where = f"pass '{name}' of {origin}"
    if not (isinstance(cls, type) and issubclass(cls, Pass)):
        raise PassError(f"{where} is {cls!r}, not a subclass of qcompile.Pass")
    own_name = getattr(cls, "name", None)
    if own_name != name:
        raise PassError(f"{where} calls itself '{own_name}'", hint="file, entry point and `name` must agree")
    parameters = vars(cls).get("__dataclass_params__")
    if not is_dataclass(cls) or parameters is None or not parameters.frozen:
        raise PassError(f"{where} is not a frozen dataclass", hint="decorate it with @dataclass(frozen=True)")
    if not isinstance(getattr(cls, "tolerance", None), Tolerance):
        raise PassError(f"{where} declares no tolerance", hint="Exact(), AllClose(), MaxLsb() or MinSqnrDb()")
    if not (cls.__doc__ or "").strip() or (cls.__doc__ or "").startswith(f"{cls.__name__}("):
        raise PassError(f"{where} has no docstring", hint="say in one what it does: `qcompile passes` shows it")
    for fact in (*cls.requires, *cls.establishes):
        if not isinstance(fact, Fact):
            raise PassError(f"{where} names {fact!r}, not a Fact", hint="see qcompile.passmgr.facts")
    if missing := sorted(cls.__abstractmethods__):
        lacking = ", ".join(f"{method}()" for method in missing)
        raise PassError(f"{where} does not define {lacking}", hint="`run(self, graph, context)` changes the graph")
    _check_options(cls, where)
    try:
        check_bounds(cls())
    except ValueError as error:
        raise PassError(f"{where} has a default that it refuses: {error}") from error
    except Exception as error:
        required = ", ".join(f.name for f in fields(cls))
        problem = f"{where} cannot be made without options ({required}): {with_line(error)}"
        raise PassError(problem, hint="give every option a default that it takes") from error
    return cls


def _check_options(cls: type[Pass], where: str) -> None:
    """Refuse options whose types cannot be read, or which no text can give."""
    try:
        hints = typing.get_type_hints(cls)
    except Exception as error:
        problem = f"{where} has an annotation that cannot be read: {with_line(error)}"
        raise PassError(problem, hint="import what annotations name outside of `if TYPE_CHECKING`") from error
    for option in fields(cls):
        if not is_written(hints[option.name]):
            problem = f"{where}: option '{option.name}' is a {describe_type(hints[option.name])}, which no text gives"
            raise PassError(problem, hint="bool, int, float, str, tuple[float, ...] and the like, Literal, or None")


@cache
def default_registry() -> PassRegistry:
    """Return the registry without pass paths, made once."""
    return PassRegistry()


def list_passes(pass_paths: Iterable[str | Path] = ()) -> list[PassInfo]:
    """Return the documentation of every pass, sorted by name.

    Args:
        pass_paths: directories of further passes.
    """
    registry = PassRegistry(pass_paths)
    return [registry.describe(name) for name in registry.names()]
