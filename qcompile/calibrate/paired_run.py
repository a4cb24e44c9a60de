"""Runs the integer graph and its float reference side by side, layer by layer, over several samples.

What corrects a layer needs to see what the layer really gets: integers that carry the errors of all layers
before it, as those are after their own correction, next to the real values they stand for.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import dropwhile, takewhile
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.ir.graph import Graph, Node, Value
from qcompile.ir.opdef import Quantization
from qcompile.ir.origin import original_name
from qcompile.ir.regions import last_readers
from qcompile.ops.sized_run import NodeRun
from qcompile.parallel import in_order
from qcompile.quant.affine import dequantize, quantize

Array = npt.NDArray[Any]

_BYTES_REAL, _BYTES_INTEGER = 4, 1


@dataclass(frozen=True)
class LayerPair:
    """A layer with weights in the integer graph, and the one it was made from.

    Args:
        node: conv2d, conv_transpose2d or dense in integer form.
        reference: the same layer in the float graph.
        residual: float value of the tensor that `node` adds, None where it adds none.
    """

    node: Node
    reference: Node
    residual: Value | None


@dataclass(frozen=True)
class LayerInputs:
    """What a pair of layers reads for one sample, in real units, float32.

    Args:
        real: operand of the float layer.
        quantized: operand of the integer layer, dequantized.
        residual_error: real minus quantized residual operand, None where there is none.
    """

    real: Array
    quantized: Array
    residual_error: Array | None


class PairInputs:
    """What a pair of layers reads, one element for each sample, made when it is asked for: on any thread.

    Args:
        pair: the layers.
        real: operand of the float layer for each sample.
        integer: that of the integer layer.
        residuals: what the float layer's result is added to and what the integer layer adds; None where there is none.
    """

    def __init__(
        self,
        pair: LayerPair,
        real: list[Array],
        integer: list[Array],
        residuals: tuple[list[Array], list[Array]] | None,
    ) -> None:
        self._pair, self._real, self._integer, self._residuals = pair, real, integer, residuals

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shape of the operand for each sample."""
        return [array.shape for array in self._integer]

    def __getitem__(self, index: int) -> LayerInputs:
        inputs, error = self._pair.node.inputs, None
        if self._residuals is not None:
            wanted, given = self._residuals
            error = wanted[index] - real_values(inputs[3], given[index])
        return LayerInputs(self._real[index], real_values(inputs[0], self._integer[index]), error)


Visit = Callable[[LayerPair, PairInputs], None]
"""Sees a layer before it runs, and may give it other constants."""


def pair_layers(reference: Graph, graph: Graph) -> tuple[list[LayerPair], list[Node]]:
    """Find the float layer of each integer layer with weights that can be run side by side with it.

    Args:
        reference: float graph.
        graph: made from it by quantize and the passes behind.

    Returns:
        The pairs in order of computation, and the integer layers without a float layer. From the first loop on there
        are neither: side by side every node is run once.
    """
    return _paired(reference, takewhile(lambda node: not node.op.region, graph.nodes))


def pair_recurring(reference: Graph, graph: Graph) -> list[LayerPair]:
    """Find the float layers of those in and behind the first loop, as `pair_layers` does for all others."""
    return _paired(reference, dropwhile(lambda node: not node.op.region, graph.nodes))[0]


def _paired(reference: Graph, nodes: Iterable[Node]) -> tuple[list[LayerPair], list[Node]]:
    """Return pairs, by the names of their operands, and layers of which none was found."""
    originals: dict[tuple[str, str], list[Node]] = defaultdict(list)
    for node in reference.nodes:
        if node.op.integer is Quantization.ACCUMULATE and node.inputs[1].is_constant:
            originals[node.inputs[0].name, node.inputs[1].name].append(node)
    values = {value.name: value for value in reference.values()}
    pairs, strangers = [], []
    for node in nodes:
        if node.op.integer is not Quantization.ACCUMULATE or node.inputs[0].qparams is None:
            continue
        x, weight = (original_name(v.name, values) for v in node.inputs[:2])
        original = _original(node, originals[x, weight], values)
        adds = bool(getattr(node.attrs, "residual", False))
        residual = values.get(original_name(node.inputs[3].name, values)) if adds else None
        if original is None or original.inputs[1].shape != node.inputs[1].shape or (adds and residual is None):
            strangers.append(node)
        else:
            pairs.append(LayerPair(node, original, residual))
    return pairs, strangers


def _original(node: Node, candidates: Sequence[Node], known: Container[str]) -> Node | None:
    """Return the one of some float layers with the right operands that an integer layer was made from, if any."""
    for what in ("bias", "output"):
        if len(candidates) > 1:
            name = original_name(_part(node, what).name, known)
            candidates = [one for one in candidates if _part(one, what).name == name] or candidates
    return candidates[0] if len(candidates) == 1 else None


def _part(layer: Node, what: str) -> Value:
    return layer.inputs[2] if what == "bias" else layer.output


def samples_within(graph: Graph, limit: int) -> int:
    """Return how many samples can be held side by side in a number of bytes, at least one.

    Args:
        graph: of the network, in either form.
        limit: bytes for the activations of both graphs.
    """
    last_reader = last_readers(graph)
    live, worst = sum(v.type.size for v in graph.inputs), 1
    for node in graph.nodes:
        live += sum(v.type.size for v in node.outputs)
        worst = max(worst, live)
        live -= sum(v.type.size for v in set(node.inputs) if last_reader[v] is node and not v.is_constant)
    return max(1, limit // (worst * (_BYTES_REAL + _BYTES_INTEGER)))


class Lane:
    """One graph under evaluation for all samples at once; a tensor goes when its last reader has run.

    Args:
        graph: in float or in integers.
        samples: inputs.
        extra_readers: values that somebody else reads, each as often as it stands there.
        threads: on which to evaluate a node for several samples.
    """

    def __init__(
        self, graph: Graph, samples: list[Mapping[str, Array]], extra_readers: Iterable[Value], threads: int = 1
    ) -> None:
        self.graph = graph
        self._threads = threads
        self._run = NodeRun(graph)
        self._sizes = [self._run.sizes(sample) for sample in samples]
        self.values: dict[Value, list[Array]] = {v: [_bound(v, s) for s in samples] for v in graph.inputs}
        self._readers = Counter(v for node in graph.nodes for v in set(node.inputs))
        self._readers.update(extra_readers)
        self._next = 0

    def run(self, node: Node) -> None:
        """Evaluate one node for every sample."""
        columns = [None if v.data is not None else self.values[v] for v in node.inputs]

        def evaluated(i: int) -> tuple[Array, ...]:
            return self._run.evaluate(node, [None if c is None else c[i] for c in columns], self._sizes[i])

        results = list(in_order(evaluated, range(len(self._sizes)), self._threads))
        for index, value in enumerate(node.outputs):
            self.values[value] = [r[index] for r in results]
            if not self._readers[value]:
                del self.values[value]
        for value in set(node.inputs):
            self.release(value)

    def advance_to(self, value: Value) -> list[Array]:
        """Evaluate nodes until a value is known, and return it for each sample."""
        while value not in self.values:
            node = self.graph.nodes[self._next]
            self._next += 1
            self.run(node)
        return self.values[value]

    def release(self, value: Value) -> None:
        """Count one reader of a value as done."""
        self._readers[value] -= 1
        if not self._readers[value]:
            self.values.pop(value, None)


def run_side_by_side(
    reference: Graph,
    graph: Graph,
    pairs: list[LayerPair],
    samples: list[Mapping[str, Array]],
    visit: Visit,
    threads: int = 1,
) -> None:
    """Run both graphs on the samples and show each pair of layers, with what it reads, before it runs.

    Args:
        reference: float graph.
        graph: integer graph; `visit` may replace constants of the layer it is shown.
        pairs: of `pair_layers`.
        samples: {input name: array}, real values.
        visit: called with the pair and its inputs.
        threads: to run samples on.
    """
    by_node = {pair.node: pair for pair in pairs}
    wanted = [v for p in pairs for v in (p.reference.inputs[0], p.residual) if v is not None and not v.is_constant]
    real = Lane(reference, samples, wanted, threads)
    integer = Lane(graph, samples, (), threads)
    for node in graph.nodes if pairs else ():
        pair = by_node.pop(node, None)
        if pair is not None:
            visit(pair, _inputs(pair, real, integer))
            for value in (pair.reference.inputs[0], pair.residual):
                if value is not None and not value.is_constant:
                    real.release(value)
        if not by_node:
            break
        integer.run(node)


def _inputs(pair: LayerPair, real: Lane, integer: Lane) -> PairInputs:
    inputs, residuals = pair.node.inputs, None
    xs = real.advance_to(pair.reference.inputs[0])
    if pair.residual is not None and not pair.residual.is_constant:
        residuals = real.advance_to(pair.residual), integer.values[inputs[3]]
    return PairInputs(pair, xs, integer.values[inputs[0]], residuals)


def real_values(value: Value, array: Array) -> Array:
    """Return what an array of a tensor stands for, float32."""
    return dequantize(array, value.qparams) if value.qparams is not None else array


def _bound(value: Value, sample: Mapping[str, Array]) -> Array:
    array = np.asarray(sample[value.name])
    return quantize(array, value.qparams) if value.qparams is not None else array
