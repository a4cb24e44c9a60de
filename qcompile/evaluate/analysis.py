"""Which node of a quantized network hurts, and why: float against integers, node by node."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.calibrate.calibration_set import usual_count
from qcompile.calibrate.preprocess import Preprocess
from qcompile.calibrate.sample import graph_inputs
from qcompile.calibrate.sample_choice import FITTED, compared_samples
from qcompile.calibrate.synthetic import synthetic_samples
from qcompile.cost import precision_of
from qcompile.evaluate.cause import Findings, explain, origin
from qcompile.evaluate.comparison import SYNTHETIC, judged_outputs, match_tensors
from qcompile.evaluate.exclusion import Exclusions, exclusion_text
from qcompile.evaluate.node_statistics import NodeStatistics
from qcompile.ir.graph import Graph, Node, Value
from qcompile.ir.opdef import Quantization
from qcompile.ops.arithmetic import CONVERSIONS
from qcompile.ops.interpreter import Interpreter
from qcompile.ops.sized_run import NodeRun
from qcompile.progress import Progress
from qcompile.quant.affine import dequantize, quantize
from qcompile.quant.noise_power import NoisePower

Array = npt.NDArray[Any]

_WEIGHT_SAMPLES = 2  # weights do not change, and a second evaluation of every layer takes time


@dataclass(frozen=True)
class NodeAnalysis:
    """What quantization does to one node.

    Args:
        name: ONNX node.
        op: IR operation.
        precision: what it computes in: "int8" or "int16".
        tensor: its result, by the float graph's name.
        alone_db: SQNR with only this node quantized, that is its operands, its weights and its result rounded; None
            where the float graph has no such operands.
        accumulated_db: SQNR with everything before it quantized as well.
        findings: measured facts behind the cause.
        cause: what limits its accuracy, in words.
        exclusion: the options that take the cause away.
        histogram: counts of the exact values, from half a range below the range to half a range above.
        weight_peaks: largest magnitude of the float weights per output channel, real units; empty without weights.
        original_peaks: the same before channels were equalized; empty where nothing was.
    """

    name: str
    op: str
    precision: str
    tensor: str
    alone_db: float | None
    accumulated_db: float
    findings: Findings
    cause: str
    exclusion: str
    histogram: tuple[int, ...]
    weight_peaks: tuple[float, ...]
    original_peaks: tuple[float, ...] = ()


@dataclass(frozen=True)
class Analysis:
    """What `qcompile analyze` found.

    Args:
        model: name of the graph.
        samples: how many were run.
        verified: whether they were the user's, not made up.
        outputs: SQNR of each graph output, dB; those of integers only where there are no others.
        nodes: integer nodes in order of computation; without those whose exact result is zero in all samples.
        kept: nodes that compute in float, with the reason where it is known.
        notes: what the user should know.
    """

    model: str
    samples: int
    verified: bool
    outputs: dict[str, float]
    nodes: tuple[NodeAnalysis, ...]
    kept: dict[str, str]
    notes: tuple[str, ...] = ()

    def worst(self, count: int) -> list[NodeAnalysis]:
        """Return the nodes that are least accurate by themselves, worst first."""
        known = [node for node in self.nodes if node.alone_db is not None]
        return sorted(known, key=lambda node: node.alone_db or 0.0)[:count]

    def to_mapping(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def analyze_graphs(
    reference: Graph,
    actual: Graph,
    samples: Iterable[Mapping[str, Array]] | None,
    *,
    count: int = 8,
    seed: int = 0,
    preprocess: Preprocess | None = None,
    kept: Mapping[str, str] | None = None,
    original: Graph | None = None,
    progress: Progress | None = None,
) -> Analysis:
    """Run both graphs in the interpreter, and each integer node once more on exact operands.

    The second gives the SQNR of a node alone: its operands are the quantized exact values, so that no error of
    nodes before it is in it; one pass over the samples is enough for all nodes.

    Args:
        reference: float graph.
        actual: integer graph made from it; its tensors keep the float tensors' names.
        samples: inputs; None for made-up ones.
        count: samples to use at most, evenly spaced over all.
        seed: of made-up inputs.
        preprocess: the image steps, for the range of made-up inputs.
        kept: ONNX node to the reason it stays in float.
        original: the float graph before its channels were equalized; None where it is the reference.
        progress: called with (done, total, what).
    """
    run = _Run(reference, actual, original)
    made_up = synthetic_samples(graph_inputs(reference), SYNTHETIC, seed, preprocess)
    fitted = 0 if reference.is_quantized else usual_count(reference, FITTED)
    total, chosen = compared_samples(samples if samples is not None else made_up, count, fitted)
    for sample in chosen:
        run.include(sample)
        if progress is not None:
            progress(run.done, total, "analyzing")
    return Analysis(
        reference.name,
        run.done,
        samples is not None,
        {name: power.db for name, power in run.outputs.items()},
        run.results(),
        {name: reason for name, reason in (kept or {}).items() if name in run.float_nodes()},
    )


class _Run:
    """Follows the samples through both graphs."""

    def __init__(self, reference: Graph, actual: Graph, original: Graph | None) -> None:
        self.actual = actual
        self.originals = {v.name: node for node in original.nodes for v in node.outputs} if original is not None else {}
        self.float_run, self.integer_run = Interpreter(reference), Interpreter(actual)
        self.float_nodes_run, self.integer_nodes_run = NodeRun(reference), NodeRun(actual)
        self.producers = {v.name: node for node in reference.nodes for v in node.outputs}
        self.names = {**match_tensors(reference, actual), **{v: v.name for v in actual.inputs}}
        self.names |= {a: self.names[v] for a, v in _read_as_real(actual).items() if v in self.names}
        self.outputs = {name: NoisePower() for name in judged_outputs(reference, actual.output_names)}
        self.statistics = {node: s for node in actual.nodes if (s := self._watched(node)) is not None}
        operands = [_made(value) for node in self.statistics for value in node.inputs if not value.is_constant]
        self.arriving = {value: NoisePower() for value in operands if self._in_float(value)}
        self.done = 0
        self.sizes: dict[str, int] | None = None

    def _watched(self, node: Node) -> NodeStatistics | None:
        """Return the statistics to gather for a node; None where its result stands for no float tensor."""
        value = node.outputs[0]
        if not node.is_integer or value not in self.names or node.op.name == "dequantize":
            return None
        return NodeStatistics(node, value.qparams if value.dtype in ("int8", "int16") else None)

    def _in_float(self, value: Value) -> bool:
        """Return whether a node in float makes a tensor of the float graph: no statistics of that are gathered."""
        made = value.producer
        return value in self.names and value.dtype == "float32" and made is not None and not made.is_integer

    def include(self, sample: Mapping[str, Array]) -> None:
        """Run one sample."""
        exact: dict[str, Array] = {}
        real = self.float_run.run(sample, on_value=lambda value, array: exact.update({value.name: array}))
        accumulated: dict[Value, Array] = {}
        watched = {*self.arriving, *(node.outputs[0] for node in self.statistics)}
        if self.done < _WEIGHT_SAMPLES:
            watched |= {node.inputs[0] for node in self.statistics if node.op.integer is Quantization.ACCUMULATE}

        def keep(value: Value, array: Array) -> None:
            if value in watched:
                accumulated[value] = array

        self.sizes = self.integer_nodes_run.sizes(sample)
        given = {v.name: _in_form(v, sample[v.name]) for v in self.actual.inputs}
        result = self.integer_run.run(given, on_value=keep)
        for name, value in zip(self.actual.output_names, self.actual.outputs, strict=True):
            if name in self.outputs:
                self.outputs[name].add(real[name], _real(value, result[name]))
        for node, statistics in self.statistics.items():
            self._include(node, statistics, exact, accumulated)
        for value, power in self.arriving.items():
            power.add(exact[self.names[value]], accumulated[value])
        self.done += 1

    def _include(
        self, node: Node, statistics: NodeStatistics, exact: Mapping[str, Array], accumulated: Mapping[Value, Array]
    ) -> None:
        value = node.outputs[0]
        truth = exact[self.names[value]]
        statistics.update(truth)
        statistics.accumulated.add(truth, _real(value, accumulated[value]))
        operands = self._operands(node, exact)
        if operands is not None:
            statistics.alone.add(truth, _real(value, self.integer_nodes_run.evaluate(node, operands, self.sizes)[0]))
        if self.done < _WEIGHT_SAMPLES:
            if node.op.integer is Quantization.ACCUMULATE:
                self._include_weights(node, statistics, exact, accumulated.get(node.inputs[0]))
            self._include_roundings(node, statistics, exact, truth)

    def _operands(self, node: Node, exact: Mapping[str, Array]) -> list[Array | None] | None:
        """Return a node's operands as if nothing before it were quantized; None where the float graph lacks one."""
        operands: list[Array | None] = []
        for value in node.inputs:
            if value.is_constant:
                operands.append(None)
                continue
            if value not in self.names:
                return None
            operands.append(_in_form(value, exact[self.names[value]]))
        return operands

    def _include_weights(
        self, node: Node, statistics: NodeStatistics, exact: Mapping[str, Array], arriving: Array | None
    ) -> None:
        """Evaluate the float node with the integer node's weights, and with its own rounded to the nearest.

        Args:
            node: of the integer graph.
            statistics: of the node.
            exact: float tensors by name.
            arriving: the node's operand with all errors before it; None where it is not known.
        """
        truth = exact[self.names[node.outputs[0]]]
        original = self.producers.get(self.names[node.outputs[0]])
        params = node.inputs[1].qparams
        if original is None or params is None or original.op is not node.op:
            return
        if original.inputs[1].shape != node.inputs[1].shape:
            return
        operands = [None if v.is_constant else exact[v.name] for v in original.inputs]
        statistics.weights, statistics.nearest = statistics.weights or NoisePower(), statistics.nearest or NoisePower()
        rounded = dequantize(node.inputs[1].constant(), params)
        nearest = dequantize(quantize(original.inputs[1].constant(), params), params)

        def add(power: NoisePower, changes: Mapping[int, Array]) -> None:
            given = [changes.get(place, operand) for place, operand in enumerate(operands)]
            power.add(truth, self.float_nodes_run.evaluate(original, given, self.sizes)[0])

        add(statistics.weights, {1: rounded})
        add(statistics.nearest, {1: nearest})
        if arriving is not None and self.names.get(node.inputs[0]) == original.inputs[0].name:
            statistics.offset = statistics.offset or (NoisePower(), NoisePower())
            operands[0] = _real(node.inputs[0], arriving)
            add(statistics.offset[0], {1: rounded, **_fitted_bias(node, original)})
            add(statistics.offset[1], {1: nearest})

    def _include_roundings(
        self, node: Node, statistics: NodeStatistics, exact: Mapping[str, Array], truth: Array
    ) -> None:
        """Evaluate the float node with one operand after the other rounded: which of several costs most."""
        original = self.producers.get(self.names[node.outputs[0]])
        places = [i for i in node.op.operand_activations(node) if node.inputs[i] in self.names]
        if len(places) < 2 or original is None or original.op is not node.op:
            return
        if [v.name for v in original.inputs] != [self.names.get(v, v.name) for v in node.inputs]:
            return  # what is merged into the node reads other operands
        operands = [None if v.is_constant else exact[v.name] for v in original.inputs]
        for place in places:
            value, given = node.inputs[place], list(operands)
            given[place] = _real(value, _in_form(value, exact[self.names[value]]))
            power = statistics.operands.setdefault(place, NoisePower())
            power.add(truth, self.float_nodes_run.evaluate(original, given, self.sizes)[0])

    def results(self) -> tuple[NodeAnalysis, ...]:
        """Return what was found, node by node."""
        found = {value: Findings.real(power.db) for value, power in self.arriving.items() if power.signal}
        exclusions = Exclusions(self.float_run.graph, self.names, self.float_nodes())
        excluded: dict[Value, tuple[str, ...]] = {}
        analyses = []
        for node, statistics in self.statistics.items():
            if not statistics.accumulated.signal:
                continue  # of what is zero throughout, such as a step that no sample reaches, there is no ratio
            roundings = {v: facts for v in node.inputs if (facts := _known(v, found)) is not None}
            blamed = _blamed(node, statistics, roundings)
            makers = {self._maker(v): facts for v, facts in roundings.items()}
            findings = Findings.of(statistics, makers, self._maker(blamed) if blamed is not None else None)
            found[node.outputs[0]] = findings
            names = exclusions.of(node, origin(findings), blamed)
            if origin(findings) in ("inherited", "fitted") and roundings:
                # What takes the cause away from the node before takes it away from this one.
                worst = _made(min(roundings, key=lambda value: roundings[value].accumulated_db))
                names = self._excluded(worst, excluded) or exclusions.in_integers((findings.operand,))
            excluded[node.outputs[0]] = names
            analyses.append(self._analysis(node, statistics, findings, names))
        return tuple(analyses)

    def _excluded(self, value: Value, excluded: Mapping[Value, tuple[str, ...]]) -> tuple[str, ...]:
        """Return what takes the noise of a tensor away: past nodes in float, that of the worst in integers before."""
        found: dict[Value, None] = {}
        waiting = [value]
        while waiting:
            if (value := _made(waiting.pop())) in found:
                continue
            found[value] = None
            if value not in excluded and value.producer is not None:
                waiting += [v for v in value.producer.inputs if not v.is_constant]
        known = [value for value in found if excluded.get(value)]
        return excluded[min(known, key=self._accumulated)] if known else ()

    def _accumulated(self, value: Value) -> float:
        """Return the SQNR, dB, of the first result of an analysed node."""
        assert value.producer is not None
        return self.statistics[value.producer].accumulated.db

    def _maker(self, value: Value) -> str:
        """Return the node whose result an operand is, past what only moves it; "" for an input of the graph."""
        made = _made(value)
        return self._name(made) if made.producer is not None else ""

    def _analysis(
        self, node: Node, statistics: NodeStatistics, findings: Findings, excluded: tuple[str, ...]
    ) -> NodeAnalysis:
        tensor = self.names[node.outputs[0]]
        original = self.producers.get(tensor)
        peaks = _weight_peaks(original) if original is not None else ()
        return NodeAnalysis(
            self._name(node.outputs[0]),
            node.op.name,
            precision_of(node),
            tensor,
            statistics.alone.db if statistics.alone.signal or statistics.alone.noise else None,
            statistics.accumulated.db,
            findings,
            explain(findings),
            exclusion_text(excluded),
            tuple(int(n) for n in statistics.histogram),
            peaks,
            self._original_peaks(original, peaks),
        )

    def _original_peaks(self, node: Node | None, peaks: tuple[float, ...]) -> tuple[float, ...]:
        """Return the weights' peaks of a layer before equalization; empty where it changed none."""
        loc = node.loc if node is not None else ""
        found = [n for n in self.originals.values() if loc and n.loc == loc and n.op is node.op]  # type: ignore[union-attr]
        before = _weight_peaks(found[0]) if len(found) == 1 else ()
        return before if len(before) == len(peaks) and not np.allclose(before, peaks, rtol=1e-5) else ()

    def _name(self, value: Value) -> str:
        """Return the ONNX node that makes a tensor, or the tensor's own name in the float graph."""
        return (
            value.producer.loc
            if value.producer is not None and value.producer.loc
            else self.names.get(value, value.name)
        )

    def float_nodes(self) -> set[str]:
        """Return the names of nodes that compute real numbers in float in the final graph."""
        # The roundings around a node bear its name, too.
        nodes = [node for node in self.actual.nodes if node.op.name not in CONVERSIONS]
        real = {node.loc for node in nodes if not node.is_integer and node.outputs[0].dtype == "float32"}
        return real - {node.loc for node in nodes if node.is_integer}


def _fitted_bias(node: Node, original: Node) -> dict[int, Array]:
    """Return the bias of an integer layer in real units, which may be fitted as its weights are, by its place."""
    bias = node.inputs[2] if len(node.inputs) > 2 and len(original.inputs) > 2 else None
    if bias is None or not bias.is_constant or bias.qparams is None or bias.shape != original.inputs[2].shape:
        return {}
    return {2: np.asarray(dequantize(bias.constant(), bias.qparams))}


def _made(value: Value) -> Value:
    """Return what a tensor is before nodes move its elements and conversions round them."""
    while (made := value.producer) is not None and (made.op.name in CONVERSIONS or made.op.only_moves(made)):
        operands = [v for v in made.inputs if not v.is_constant]
        if len(operands) != 1:
            break
        (value,) = operands
    return value


def _known(value: Value, found: Mapping[Value, Findings]) -> Findings | None:
    """Return the facts of a tensor; those of what it is a part of where it is a further result of a node."""
    while value not in found:
        made = value.producer
        if made is None or not made.op.only_moves(made):
            return None
        value = made.inputs[0]
    return found[value]


def _blamed(node: Node, statistics: NodeStatistics, roundings: Mapping[Value, Findings]) -> Value | None:
    """Return the operand whose rounding costs most: as measured, else the one that is written worst."""
    if statistics.operands:
        return node.inputs[min(statistics.operands, key=lambda place: statistics.operands[place].db)]
    return min(roundings, key=lambda value: roundings[value].rounding_db, default=None)


def _read_as_real(graph: Graph) -> dict[Value, Value]:
    """Return accumulators that nothing but a conversion to real values reads, and what that gives."""
    found = {}
    for node in graph.nodes:
        # Nodes that tell the size of an open extent have no operands.
        if node.op.name == "dequantize" and node.inputs[0].dtype == "int32" and node.inputs[0].users() == [node]:
            found[node.inputs[0]] = node.outputs[0]
    return found


def _weight_peaks(node: Node) -> tuple[float, ...]:
    if node.op.integer is not Quantization.ACCUMULATE or not node.inputs[1].is_constant:
        return ()
    weight = node.inputs[1].constant()
    return tuple(float(p) for p in np.abs(weight).reshape(weight.shape[0], -1).max(axis=1))


def _in_form(value: Value, array: Array) -> Array:
    return np.asarray(quantize(array, value.qparams)) if value.qparams is not None else array


def _real(value: Value, array: Array) -> Array:
    return np.asarray(dequantize(array, value.qparams)) if value.qparams is not None else array
