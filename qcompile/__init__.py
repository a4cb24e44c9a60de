"""qcompile: ONNX models to fast, runtime-free INT8 code for ARM and x86 CPUs.

    bundle = qcompile.compile("model.onnx", target="rpi4", calibration="photos/", output="build/")
    session = qcompile.runtime.load("build/", threads=4)
    outputs = session.run({"image": array})

`qcompile.import_onnx` reads a model as a `qcompile.Graph`, `qcompile.Interpreter` runs a graph in NumPy (that of a
bundle, `bundle.graph`, in its integers), `qcompile.run_pipeline` runs passes on it, and `qcompile.Pass` is what a pass
of one's own is made from.
"""

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
    from qcompile.ops.interpreter import Interpreter as Interpreter
    from qcompile.passmgr import Pass as Pass
    from qcompile.passmgr import run_pipeline as run_pipeline

# Each name is imported when it is first used: `import qcompile` must not load ONNX or TVM.
_LAZY = {
    "compile": "qcompile.driver",
    "Graph": "qcompile.ir.graph",
    "Interpreter": "qcompile.ops.interpreter",
    "import_onnx": "qcompile.onnx_import",
    "Pass": "qcompile.passmgr",
    "run_pipeline": "qcompile.passmgr",
}

__all__ = ["Graph", "Interpreter", "Pass", "compile", "import_onnx", "run_pipeline", "runtime"]


def __getattr__(name: str) -> Any:
    import importlib

    if name == "runtime":
        return importlib.import_module("qcompile.runtime")
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'qcompile' has no attribute '{name}'")


def __dir__() -> list[str]:
    """Return what `help`, `dir` and completion show."""
    return sorted({*globals(), *__all__})
