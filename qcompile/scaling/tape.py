"""One evaluation of a float graph, remembered so that gradients can follow it back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.ir.graph import Graph, Node, Value
from qcompile.ops.arithmetic import activate_layer
from qcompile.ops.interpreter import Interpreter
from qcompile.ops.sized_run import sizes_from
from qcompile.scaling.gradients import Evaluated, derivative, gradients, without_activation
from qcompile.shapes.specialize import Specializer

Array = npt.NDArray[Any]

OnGradient = Callable[[Value, Array, Array, Array], None]
"""Called with a tensor, its array, its gradient, and the gradient before the activation fused into its producer."""


class Tape(Interpreter):
    """A float graph at the sizes of one sample, evaluated on it.

    Args:
        graph: float, activations fused or not. Of a loop the last iteration is remembered.
        sample: inputs.
        specializer: of a graph with open extents.
    """

    def __init__(self, graph: Graph, sample: Mapping[str, Array], specializer: Specializer | None = None) -> None:
        self._originals: Mapping[Value, Value] | None = None
        if specializer is not None:
            graph, self._originals = specializer.at(sizes_from(graph, sample))
        super().__init__(graph)
        self._evaluated: dict[Node, Evaluated] = {}
        self._shapes = {self._original(value): value.shape for value in graph.outputs}
        with np.errstate(all="ignore"):
            self.run(sample)

    def shape(self, value: Value) -> tuple[int, ...]:
        """Return the shape that an output of the original graph has in this evaluation."""
        return self._shapes[value]

    def evaluate(self, node: Node, inputs: list[Array]) -> tuple[Array, ...]:
        """Evaluate one node, and remember what gradients need of it."""
        attrs = node.attrs
        slopes: Array | float = 1.0
        if getattr(attrs, "activation", "none") == "none" or node.output.dtype != "float32":
            results = super().evaluate(node, inputs)
        else:
            (total,) = node.op.evaluate(without_activation(attrs), inputs)
            results = (np.asarray(activate_layer(attrs, total), np.float32),)
            slopes = np.asarray(derivative(partial(activate_layer, attrs), total), np.float32)
        self._evaluated[node] = Evaluated(node, inputs, results, slopes)
        return results

    def follow(self, given: Mapping[Value, Array], generator: np.random.Generator, on_gradient: OnGradient) -> None:
        """Follow gradients from outputs back to all tensors.

        Args:
            given: gradients of tensors of the original graph, in the shapes of the sample.
            generator: of signs where a derivative is not known.
            on_gradient: called with each float tensor that is computed; tensors are those of the original graph.
        """
        found = {value: given[self._original(value)] for value in self.graph.outputs if self._original(value) in given}
        for node in reversed(self.graph.nodes):
            if node not in self._evaluated or not any(value in found for value in node.outputs):
                continue
            of = self._evaluated[node]
            own = []
            for value, array in zip(node.outputs, of.results, strict=True):
                after = found.pop(value, None)
                after = np.zeros(array.shape, np.float32) if after is None else after
                before = np.asarray(after * of.slopes, np.float32)
                own.append(before)
                if array.dtype == np.float32 and array.size:
                    on_gradient(self._original(value), array, after, before)
            for index, more in gradients(of, own, generator).items():
                operand = node.inputs[index]
                found[operand] = found[operand] + more if operand in found else more

    def _original(self, value: Value) -> Value:
        return value if self._originals is None else self._originals[value]
