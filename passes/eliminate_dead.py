"""Remove what no output depends on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qcompile.ir.graph import Graph
from qcompile.passmgr import Exact, Pass, PassContext, Tolerance


@dataclass(frozen=True)
class EliminateDead(Pass):
    """Erase every node that no graph output depends on.

    Before:
        %a = relu(%x) : f32[1,8]
        %b = tanh(%x) : f32[1,8]
        output "a" = %a
    After:
        %a = relu(%x) : f32[1,8]
        output "a" = %a

    Preconditions: none. Refusals: graph inputs stay, read or not, since callers bind them by name.
    """

    name: ClassVar[str] = "eliminate-dead"
    tolerance: ClassVar[Tolerance] = Exact()

    def run(self, graph: Graph, context: PassContext) -> None:
        """Erase dead nodes, readers before what they read."""
        context.rewriter(graph).eliminate_dead()
