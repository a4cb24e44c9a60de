"""ONNX operators that are several operations of ours; a file has a family of them in its `CONVERTERS`.

An operator that is one operation of ours is converted in that operation's file instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qcompile.ops.onnx_node import OnnxNode


def compositions() -> list[tuple[str, dict[str, Callable[[OnnxNode], Any]]]]:
    """Return the module name and the converters of each file of this package, sorted by name."""
    import importlib
    import pkgutil

    import qcompile.onnx_import.compositions as package

    names = sorted(m.name for m in pkgutil.iter_modules(package.__path__))
    modules = [importlib.import_module(f"{package.__name__}.{name}") for name in names]
    return [(module.__name__, module.CONVERTERS) for module in modules]
