"""qcompile: ONNX models to fast, runtime-free INT8 code for ARM and x86 CPUs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from qcompile.driver import compile as compile  # noqa: A004
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
