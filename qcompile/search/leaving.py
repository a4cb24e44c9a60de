"""Which nodes leave int8, and in what each may compute then."""

from __future__ import annotations

from dataclasses import dataclass

from qcompile.cost import NodeCosts
from qcompile.ir.graph import Node
from qcompile.search.sources import INT8


@dataclass(frozen=True)
class Kept:
    """Nodes that leave int8, by the names of their results.

    Args:
        real: those that compute in float32.
        wide: those that compute on 16-bit activations.
    """

    real: tuple[str, ...] = ()
    wide: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.real or self.wide)

    @property
    def names(self) -> tuple[str, ...]:
        """All of them."""
        return (*self.real, *self.wide)


@dataclass(frozen=True)
class Prices:
    """How much longer a node takes than in int8, nanoseconds.

    Args:
        wide: on 16-bit activations; None where it cannot compute on these, or takes no less time than in float32.
        real: in float32.
    """

    wide: float | None
    real: float

    @staticmethod
    def of(node: Node, costs: NodeCosts, times: int = 1) -> Prices:
        """Return the prices of a node of a float graph on the target, which an inference runs so many times."""
        own = costs.node(node, INT8).ns
        wide, real = (times * (costs.node(node, precision).ns - own) for precision in ("int16", "float32"))
        possible = not (node.op.integer_obstacle(node) or node.op.int16_obstacle(node))
        return Prices(wide if possible and wide < real else None, real)
