"""What a pass is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from qcompile.ir.fields import check_bounds
from qcompile.ir.graph import Graph
from qcompile.passmgr.context import PassContext
from qcompile.passmgr.facts import Fact
from qcompile.passmgr.tolerance import Tolerance


@dataclass(frozen=True)
class Pass(ABC):
    """A transformation of a graph; a subclass is a frozen dataclass whose fields are its options.

    Example:
        @dataclass(frozen=True)
        class ScaleOutput(Pass):
            '''Multiply every output by a factor.'''

            name = "scale-output"
            tolerance = AllClose(1e-6)
            factor: float = 2.0

            def run(self, graph, context): ...

    Options have defaults and types among bool, int, float, str, Literal, tuples of these, and "| None"; the
    text `scale-output{factor=3.0}` sets them, and `Annotated[float, Bounds(0.0)]` refuses numbers beyond bounds. A
    pass edits through `context.rewriter(graph)`, never while it iterates over `graph.nodes` itself, keeps nothing
    between runs, and calls `context.skip(node, reason)` for what it leaves alone. Whether anything changed is for the
    pass manager to find out.

    Class attributes:
        name: lower-case words joined by hyphens; the file has the same name with underscores.
        tolerance: how far the outputs may move.
        requires: facts that must hold before; see `qcompile.passmgr.facts`.
        establishes: facts that hold afterwards; checked as well.
    """

    name: ClassVar[str]
    tolerance: ClassVar[Tolerance]
    requires: ClassVar[tuple[Fact, ...]] = ()
    establishes: ClassVar[tuple[Fact, ...]] = ()

    def __post_init__(self) -> None:
        """Refuse options beyond their bounds, in passes that Python makes too.

        What text makes is checked after this: a pass may have one of its own.

        Raises:
            ValueError: a number is not within.
        """
        check_bounds(self)

    @abstractmethod
    def run(self, graph: Graph, context: PassContext) -> None:
        """Change the graph in place.

        Args:
            graph: a clone that belongs to this run; well formed before and after.
            context: services of the compilation.
        """
