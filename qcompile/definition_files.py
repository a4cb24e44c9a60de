"""Files that define one thing each, found by listing their package: operations, observers, measures; users' own too."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Iterator
from types import ModuleType

from qcompile.errors import QCompileError, UsageError, with_line


def modules_of(package: ModuleType, without: frozenset[str] = frozenset()) -> Iterator[tuple[str, ModuleType]]:
    """Yield the name and the module of every file of a package, by name.

    Args:
        package: whose files to import.
        without: names of files to leave out.

    Raises:
        UsageError: a file cannot be imported.
    """
    for info in sorted(pkgutil.iter_modules(package.__path__), key=lambda entry: entry.name):
        if info.name in without:
            continue
        name = f"{package.__name__}.{info.name}"
        try:
            module = importlib.import_module(name)
        except QCompileError:
            raise
        except (Exception, SystemExit) as error:
            where = f"{getattr(info.module_finder, 'path', package.__name__)}/{info.name}.py"
            raise UsageError(f"cannot be loaded: {with_line(error)}", loc=where, hint=remedy(error)) from error
        yield info.name, module


def refuse_file(module: ModuleType, problem: str) -> UsageError:
    """Return the error for a file that does not define what it should.

    Args:
        module: of the file.
        problem: what is wrong, such as "must define exactly one operation, named 'relu'".
    """
    return UsageError(problem, loc=module.__file__, hint=_REPAIR)


_REPAIR = "repair the file, or take it out of the folder"


def remedy(error: BaseException, repair: str = _REPAIR) -> str:
    """Return what to do about a file that cannot be imported, which need not be a user's nor at fault.

    Args:
        error: what importing it raised.
        repair: what to do where nothing is missing.
    """
    missing = error.name if isinstance(error, ImportError) else None
    if missing is None or missing.partition(".")[0] in ("qcompile", *sys.stdlib_module_names):
        return repair  # what is not there is no package to install
    return f"the file needs the module '{missing}': install it, or another version of it, for this Python"
