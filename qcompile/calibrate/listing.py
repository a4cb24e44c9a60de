"""Finds the definitions of this package by listing its files."""

from __future__ import annotations

import importlib
import pkgutil
from typing import TypeVar

T = TypeVar("T")


def definitions(base: type[T]) -> list[type[T]]:
    """Return the subclasses of base that the files of `qcompile.calibrate` define, by file name.

    Args:
        base: an abstract class, itself not returned.

    Raises:
        ImportError: a file defines several, or one that is not named after the file.
    """
    import qcompile.calibrate as package

    found: list[type[T]] = []
    for info in sorted(pkgutil.iter_modules(package.__path__), key=lambda entry: entry.name):
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        own = [
            item
            for item in vars(module).values()
            # Python 3.10 takes an alias such as list[int] for a type, but not for a class of this module.
            if isinstance(item, type) and getattr(item, "__module__", None) == module.__name__
            if issubclass(item, base) and item is not base
        ]
        if not own:
            continue
        expected = info.name.replace("_", "")
        if len(own) != 1 or own[0].__name__.lower() != expected:
            raise ImportError(f"{module.__name__} must define one {base.__name__}, named after the file")
        found.append(own[0])
    return found
