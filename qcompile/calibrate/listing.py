"""Finds the definitions of this package by listing its files."""

from __future__ import annotations

from typing import TypeVar

from qcompile.definition_files import modules_of, refuse_file

T = TypeVar("T")


def definitions(base: type[T]) -> list[type[T]]:
    """Return the subclasses of base that the files of `qcompile.calibrate` define, by file name.

    Args:
        base: an abstract class, itself not returned.

    Raises:
        UsageError: a file cannot be imported, defines several, or one that is not named after the file.
    """
    import qcompile.calibrate as package

    found: list[type[T]] = []
    for file, module in modules_of(package):
        own = [
            item
            for item in vars(module).values()
            # Python 3.10 takes an alias such as list[int] for a type, but not for a class of this module.
            if isinstance(item, type) and getattr(item, "__module__", None) == module.__name__
            if issubclass(item, base) and item is not base
        ]
        if not own:
            continue
        if len(own) != 1 or own[0].__name__.lower() != file.replace("_", ""):
            names = ", ".join(cls.__name__ for cls in own)
            problem = f"must define one {base.__name__}, whose class has the name of the file; it defines {names}"
            raise refuse_file(module, problem)
        found.append(own[0])
    return found
