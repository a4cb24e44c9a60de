"""qcompile: ONNX models to fast, runtime-free INT8 code for ARM and x86 CPUs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Installed, the passes and targets lie inside this package. In a checkout they lie beside it, and Python started
# there finds this very file first, installed or not.
_beside = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if not os.path.isdir(os.path.join(os.path.dirname(os.path.abspath(__file__)), "passes")) and os.path.isfile(
    os.path.join(_beside, "passes", "assign_precision.py")
):
    __path__.append(_beside)

if TYPE_CHECKING:
    from qcompile.driver import compile as compile
    from qcompile.ir.graph import Graph as Graph
    from qcompile.onnx_import import import_onnx as import_onnx
    from qcompile.passmgr import Pass as Pass
    from qcompile.passmgr import run_pipeline as run_pipeline

# Each name is imported when it is first used: `import qcompile` must not load ONNX or TVM.
_LAZY = {
    "compile": "qcompile.driver",
    "Graph": "qcompile.ir.graph",
    "import_onnx": "qcompile.onnx_import",
    "Pass": "qcompile.passmgr",
    "run_pipeline": "qcompile.passmgr",
}

__all__ = ["Graph", "Pass", "compile", "import_onnx", "run_pipeline", "runtime"]


def __getattr__(name: str) -> Any:
    import importlib

    if name == "runtime":
        return importlib.import_module("qcompile.runtime")
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'qcompile' has no attribute '{name}'")
