"""Passes and what runs them.

Example:
    graph = run_pipeline(graph, "fold-batchnorm,my-pass{alpha=2}")

    manager = PassManager("fold-batchnorm,to-nhwc", [DumpIr("ir/"), VerifyNumerics()])
    graph = manager.run(graph, PassContext(target=target))
"""

from qcompile.ir.fields import Bounds
from qcompile.passmgr.context import PassContext, Skip
from qcompile.passmgr.execution import PassManager, PassRecord, run_pipeline
from qcompile.passmgr.facts import Fact
from qcompile.passmgr.passbase import Pass
from qcompile.passmgr.pipeline import parse_pipeline, print_pass, print_pipeline
from qcompile.passmgr.registry import PassInfo, PassRegistry, list_passes
from qcompile.passmgr.tolerance import AllClose, Exact, MaxLsb, MinSqnrDb, Tolerance

__all__ = [
    "AllClose",
    "Bounds",
    "Exact",
    "Fact",
    "MaxLsb",
    "MinSqnrDb",
    "Pass",
    "PassContext",
    "PassInfo",
    "PassManager",
    "PassRecord",
    "PassRegistry",
    "Skip",
    "Tolerance",
    "list_passes",
    "parse_pipeline",
    "print_pass",
    "print_pipeline",
    "run_pipeline",
]
