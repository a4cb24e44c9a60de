"""How far the integer graph is from the float graph, at the outputs and at every tensor between."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy.typing as npt

from qcompile.calibrate.preprocess import Preprocess
from qcompile.calibrate.sample import graph_inputs
from qcompile.calibrate.sample_choice import compared_samples
from qcompile.calibrate.sequence import from_the_start, growing_states
from qcompile.calibrate.synthetic import synthetic_samples
from qcompile.ir.graph import Graph, Value
from qcompile.ir.initial import state_input
from qcompile.ir.origin import original_name
from qcompile.ir.regions import computed_bytes
from qcompile.ir.types import NARROW
from qcompile.ops.interpreter import Interpreter
from qcompile.ops.packed_weights import PACKED
from qcompile.parallel import in_order, threads_within
from qcompile.progress import Progress
from qcompile.quant.affine import dequantize
from qcompile.quant.noise_power import NoisePower, deviation_power

Array = npt.NDArray[Any]

COMPARED = 8
"""Samples to compare on, of networks that take long."""

SYNTHETIC = 4
"""Made-up inputs where there are no samples."""

_Powers = tuple[Value, tuple[float, float]]
"""A tensor, and the powers of its signal and of its noise."""


@dataclass(frozen=True)
class TensorError:
    """Quantization error of one tensor, with all errors before it included.

    Args:
        name: of the tensor in the float graph.
        loc: ONNX node that makes it, or the tensor's own name in the integer graph.
        op: operation that makes it, in the integer graph.
        sqnr_db: signal to quantization noise ratio over all samples, dB.
        value: name of the tensor in the integer graph.
    """

    name: str
    loc: str
    op: str
    sqnr_db: float
    value: str


@dataclass(frozen=True)
class Comparison:
    """Float against integers on some samples.

    Args:
        samples: how many were run.
        verified: whether they were the user's, not synthetic ones.
        fitted: whether weights may have been fitted to them, so that others are further from float.
        outputs: SQNR of each graph output by name, dB; those of integers only where there are no others.
        tensors: error of each tensor that the float graph has too, in order of computation; without those that are
            zero in all samples.
        unseen: whether calibration has not seen them.
        empty: the samples, in words, where they tell nothing of the accuracy on others; else empty.
    """

    samples: int
    verified: bool
    outputs: dict[str, float]
    tensors: tuple[TensorError, ...]
    fitted: bool = False
    unseen: bool = False
    empty: str = ""

    @property
    def worst_output_db(self) -> float:
        """SQNR of the worst output, dB."""
        return min(self.outputs.values())


def is_rounded(graph: Graph) -> bool:
    """Return whether a graph may answer otherwise than the float one: with integers or with fewer than 32 bits."""
    if any(value.dtype in NARROW for value in graph.values()):
        return True
    if any(state_input(graph, state).dtype == "int8" for state in graph.states if state.in_place):
        return True
    return any(node.is_integer or node.op.rounds or node.op.name in PACKED for node in graph.nodes)


def compare_graphs(
    reference: Graph,
    actual: Graph,
    samples: Iterable[Mapping[str, Array]] | None,
    *,
    original: Graph | None = None,
    count: int = COMPARED,
    fitted: int = 0,
    seed: int = 0,
    preprocess: Preprocess | None = None,
    threads: int = 1,
    progress: Progress | None = None,
) -> Comparison:
    """Run both graphs in the interpreter and compare what they compute.

    Formula:
        SQNR = 10·log10(Σ x² / Σ (x̂ − x)²), sums over all elements of all samples

    Args:
        reference: float graph.
        actual: integer graph made from it; its tensors keep the float tensors' names.
        samples: inputs; None for synthetic ones.
        original: float graph whose outputs are to be met; None for the reference.
        count: samples to use at most, evenly spaced over all.
        fitted: samples to which layers were corrected at most.
        seed: of synthetic inputs.
        preprocess: the image steps, for the range of synthetic inputs.
        threads: to run samples on; each holds the tensors of the float graph.
        progress: called with (done, total, what).
    """
    verified = samples is not None
    given = samples if samples is not None else synthetic_samples(graph_inputs(reference), SYNTHETIC, seed, preprocess)
    total, chosen = compared_samples(from_the_start(given, reference), count, fitted)
    counterparts = match_tensors(reference, actual)
    powers: dict[Value, NoisePower] = {}
    grown = {state.output for state in actual.states} if growing_states(actual) else set()
    outputs = {n: NoisePower() for n in judged_outputs(reference, [n for n in actual.output_names if n not in grown])}
    float_run, integer_run = Interpreter(reference), Interpreter(actual)
    original_run = Interpreter(original) if original is not None else None

    def compared(sample: Mapping[str, Array]) -> tuple[list[_Powers], list[tuple[float, float]]]:
        expected: dict[str, Array] = {}
        within: list[_Powers] = []
        real = float_run.run(sample, on_value=partial(_remember, expected))
        if original_run is not None:
            real = original_run.run(sample)
        result = integer_run.run(_at_inputs(actual, sample), on_value=partial(_compare, expected, within, counterparts))
        ends = [(v, n) for v, n in zip(actual.outputs, actual.output_names, strict=True) if n in outputs]
        return within, [deviation_power(real[n], _real(v, result[n])) for v, n in ends]

    done = 0
    for within, at_outputs in in_order(compared, chosen, threads_within(threads, computed_bytes(reference))):
        for value, found in within:
            powers.setdefault(value, NoisePower()).add_powers(found)
        for power, found in zip(outputs.values(), at_outputs, strict=True):
            power.add_powers(found)
        done += 1
        if progress is not None:
            progress(done, total, "comparing with float")
    # Of what is zero in all samples, such as a step that none reaches, there is no ratio.
    tensors = tuple(_tensor_error(counterparts[v], v, p) for v, p in powers.items() if p.signal)
    kind = "samples" if verified else "made-up inputs"
    empty = _emptiness(list(outputs.values()), exact=verified or reference.is_quantized)
    levels = {n: p.db for n, p in outputs.items()}
    return Comparison(done, verified, levels, tensors, empty=f"{done} {kind} {empty}" if empty else "")


def _emptiness(outputs: Sequence[NoisePower], *, exact: bool) -> str:
    """Return why nothing follows from what was compared, in words; empty where something does.

    Args:
        outputs: signal and noise of each.
        exact: whether there may be no noise at all; else it tells that made-up lengths or masks left nothing of what is
            rounded.
    """
    if not any(power.signal or power.noise for power in outputs):
        return "whose answers are zero throughout"
    if exact or any(power.noise for power in outputs):
        return ""
    return "whose answers rounding does not change"


def judged_outputs(reference: Graph, names: Sequence[str]) -> list[str]:
    """Return the outputs whose noise says how accurate a network is.

    Where an index or a count differs it is another one, however near its number is: integers have no noise to speak of.
    The float graph tells integers that stand for real numbers; `measure.noisy_outputs` is the same of arrays, where
    there is no graph.

    Args:
        reference: the float graph.
        names: of outputs.

    Returns:
        The names of those that stand for real numbers in the float graph; all where none does.
    """
    values = zip(reference.output_names, reference.outputs, strict=True)
    real = {name for name, v in values if v.qparams is not None or v.dtype.startswith(("float", "bfloat"))}
    return [name for name in names if name in real] or list(names)


def _remember(expected: dict[str, Array], value: Value, array: Array) -> None:
    expected[value.name] = array


def _compare(
    expected: Mapping[str, Array],
    found: list[_Powers],
    counterparts: Mapping[Value, str],
    value: Value,
    array: Array,
) -> None:
    if value in counterparts:
        found.append((value, deviation_power(expected[counterparts[value]], _real(value, array))))


def match_tensors(reference: Graph, actual: Graph) -> dict[Value, str]:
    """Return, for each computed tensor of the integer graph that has one, the name of its float counterpart.

    Quantizing passes append to the names of the tensors they replace, and a fused operation takes the name of the
    last tensor it computes. Where the model has roundings of its own, the counterpart of integers is the rounded
    tensor. Accumulators, which no float tensor stands for, are left out.

    Args:
        reference: the float graph.
        actual: the integer graph made from it.
    """
    known = {v.name: v for v in (*reference.inputs, *(v for node in reference.nodes for v in node.outputs))}
    found = {}
    for value in (v for node in actual.nodes for v in node.outputs):
        name = original_name(value.name, known)
        per_tensor = value.qparams is None or not value.qparams.per_channel
        codes = value.dtype == "int8" and value.qparams is None  # of a cache
        if name in known and known[name].shape == value.shape and per_tensor and not codes:
            made = value.producer
            integer = value.qparams is not None or (made is not None and made.op.name == "dequantize")
            found[value] = _rounded(known[name]).name if integer else name
    return found


def _rounded(value: Value) -> Value:
    """Return what a model that is quantized already makes of a tensor before anybody reads it."""
    readers = value.users()
    while len(readers) == 1 and readers[0].op.name == "fake_quantize":
        value = readers[0].output
        readers = value.users()
    return value


def _tensor_error(name: str, value: Value, power: NoisePower) -> TensorError:
    node = value.producer
    loc, op = (node.loc, node.op.name) if node else ("", "input")
    return TensorError(name, loc or value.name, op, power.db, value.name)


def _real(value: Value, array: Array) -> Array:
    return dequantize(array, value.qparams) if value.qparams is not None else array


def _at_inputs(graph: Graph, sample: Mapping[str, Array]) -> dict[str, Array]:
    """Quantize a float sample for inputs that are kept in integers."""
    from qcompile.quant.affine import quantize

    known = {**sample, **growing_states(graph)}
    given = ((value, known[value.name]) for value in graph.inputs)
    return {v.name: quantize(array, v.qparams) if v.qparams is not None else array for v, array in given}
