"""Small graphs and passes that the tests of the pass manager share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from qcompile import ops
from qcompile.ir.graph import Graph
from qcompile.ir.parser import parse_graph
from qcompile.passmgr import AllClose, Exact, Pass, PassContext, Tolerance

CONV = """
graph "net" {
  input %x : f32[1,3,6,6]
  const @w : f32[9,3,3,3] = normal(1, 0.3)
  const @b : f32[9] = normal(2)
  const @two : f32[] = [2.0]
  %c = conv2d(%x, @w, @b) : f32[1,9,4,4] loc("Conv_0")
  %y = mul(%c, @two) : f32[1,9,4,4] loc("Mul_1")
  output "y" = %y
}
"""


def conv_graph() -> Graph:
    return parse_graph(CONV, ops.all_ops())


@dataclass(frozen=True)
class ScaleProduct(Pass):
    """Change the factor of every mul by a constant."""

    name: ClassVar[str] = "scale-product"
    tolerance: ClassVar[Tolerance] = AllClose(1e-5, 1e-6)

    by: float = 1.0
    mode: Literal["all", "first"] = "all"
    indices: tuple[int, ...] = ()
    verbose: bool = False
    label: str | None = None

    def run(self, graph: Graph, context: PassContext) -> None:
        rewriter = context.rewriter(graph)
        for node in list(graph.nodes):
            if node.op.name != "mul":
                context.skip(node, "it is no product")
                continue
            factor = node.inputs[1].constant() * node.inputs[1].constant().dtype.type(self.by)
            rewriter.set_operand(node, 1, rewriter.constant("factor", factor))


@dataclass(frozen=True)
class Raises(Pass):
    """Fail."""

    name: ClassVar[str] = "raises"
    tolerance: ClassVar[Tolerance] = Exact()

    def run(self, graph: Graph, context: PassContext) -> None:
        raise ZeroDivisionError("an accident")


@dataclass(frozen=True)
class BreaksUses(Pass):
    """Leave a graph behind whose uses are wrong."""

    name: ClassVar[str] = "breaks-uses"
    tolerance: ClassVar[Tolerance] = Exact()

    def run(self, graph: Graph, context: PassContext) -> None:
        graph.nodes[0].output.uses.clear()
