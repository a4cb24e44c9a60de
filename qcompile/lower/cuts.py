"""How many vectors of channels lie side by side in the weights of each layer, so that two forms can share them.

The order of packed weights follows from that number. A network that is compiled for many places and for one place of a
sequence has two kernels for each layer; the second takes the number of the first.
"""

from __future__ import annotations

from qcompile.ir.graph import Node, Value
from qcompile.kernels.amx_kernel import AmxKernel
from qcompile.kernels.conv_plan import ConvPlan, Tiling, choose_blocking, choose_plan, micro_kernel
from qcompile.kernels.conv_workload import ConvWorkload
from qcompile.kernels.depthwise import depthwise_kernel
from qcompile.kernels.isa import Isa
from qcompile.targets import Target


class Cuts:
    """The numbers of one form of a network.

    Args:
        main: those of the form whose weights are shared; None for the first form.
    """

    def __init__(self, main: Cuts | None = None) -> None:
        self._main = main
        self._known: dict[str, int] = {}

    def wanted(self, node: Node) -> int | None:
        """Return the number of vectors that the other form of a layer has, None where it has none."""
        return None if self._main is None else self._main._known.get(_key(node))

    def note(self, node: Node, vectors: int) -> None:
        """Remember the number of vectors of a layer."""
        self._known.setdefault(_key(node), vectors)

    def plan(
        self, work: ConvWorkload, output: Value, found: ConvPlan | None, isa: Isa, target: Target
    ) -> ConvPlan | None:
        """Return how a layer is cut, with weights in the order that the other form has.

        Args:
            work: the layer.
            output: its result.
            found: the cut it would have alone, None for the kernel's estimate.
            isa: instruction set.
            target: cache sizes.
        """
        node = output.producer
        row = work.canonical()
        if node is None or depthwise_kernel(work, isa) is not None or isinstance(micro_kernel(row, isa), AmxKernel):
            return found
        vectors = self.wanted(node)
        if vectors is None:
            if self._main is None:
                self.note(node, (found or choose_plan(row, isa, target.l2_bytes)).tiling.nv)
            return found
        tiling = Tiling(1, 1, vectors)
        return ConvPlan(tiling, choose_blocking(row, isa, tiling, target.l2_bytes))


def _key(node: Node) -> str:
    """Identify a layer by its weights, packed or not."""
    weight = node.inputs[1]
    source = weight.producer.inputs[0] if weight.producer is not None else weight
    return str(source.content_digest())
