"""Measure the range of every observed tensor on calibration samples."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, ClassVar

import numpy as np

from qcompile.calibrate.data_free import NormalizingInterpreter, data_free_range
from qcompile.calibrate.histogram import TensorStatistics
from qcompile.calibrate.observer import Observer, make_observer
from qcompile.calibrate.room import with_room
from qcompile.calibrate.runner import calibrate as measure
from qcompile.calibrate.sample import graph_inputs
from qcompile.calibrate.sequence import from_the_start
from qcompile.calibrate.synthetic import synthetic_samples
from qcompile.calibrate.through_function import is_steep, range_through
from qcompile.errors import InternalError
from qcompile.ir.graph import Graph, Node, Value
from qcompile.ir.opdef import Quantization
from qcompile.ir.range_source import range_source
from qcompile.ops.arithmetic import CLAMPS, clamp_bounds
from qcompile.ops.interpreter import Interpreter
from qcompile.passmgr import Bounds, Exact, Pass, PassContext, Tolerance
from qcompile.passmgr.facts import CALIBRATED, Fact
from qcompile.passmgr.likely_states import joined_states


@dataclass(frozen=True)
class Calibrate(Pass):
    """Run the float graph on the calibration samples and write the range of each tensor into its QSpec.

    Where a tensor has no reader but a function such as a leaky rectifier, observers that weigh errors weigh those of
    its result. A computed tensor gets room for what samples to come are expected to exceed those given by.

    Without samples, seeded synthetic inputs take their place, and the statistics of folded BatchNorms bring every
    tensor to its trained scale; the accuracy is then unverified, and the pass says so.

    Before:
        %y = conv2d(%x, @w, @b) : f32[1,4,4,8] spec(observer="mse")
    After:
        %y = conv2d(%x, @w, @b) : f32[1,4,4,8] spec(observer="mse", range=[-0.2, 5.7])

    Options:
        samples: how many synthetic samples to make where none are given.
        seed: of the synthetic samples.

    Memory is bounded: one histogram per tensor, the activations of one sample on each thread.
    """

    name: ClassVar[str] = "calibrate"
    establishes: ClassVar[tuple[Fact, ...]] = (CALIBRATED,)
    tolerance: ClassVar[Tolerance] = Exact()

    samples: Annotated[int, Bounds(1)] = 16
    seed: Annotated[int, Bounds(0)] = 0

    def run(self, graph: Graph, context: PassContext) -> None:
        """Fill the ranges in."""
        observed = [v for v in graph.values() if _needs_range(v)]
        run_time = [v for v in observed if not v.is_constant]
        if run_time:
            self._measure(graph, run_time, context)
        for value in observed:
            if value.is_constant:
                _set_range(value, *_constant_range(value))

    def _measure(self, graph: Graph, run_time: list[Value], context: PassContext) -> None:
        """Fill in the ranges of what is computed."""
        statistics = self._statistics(graph, run_time, context)
        context.statistics.update(statistics)
        for value in run_time:
            if value.qspec is None:
                raise InternalError(f"{value.name} lost its QSpec")
            _set_range(value, *self._range(value, value.qspec.observer, graph, context))
        if context.samples is not None:
            _take_over(graph, context)

    def _range(self, value: Value, name: str, graph: Graph, context: PassContext) -> tuple[float, float]:
        """Return the range of what is computed."""
        observer, statistics = make_observer(name), context.statistics[value.name]
        lo, hi = observer.range(statistics)
        if context.samples is None:
            return data_free_range(value, lo, hi)
        if not observer.weighs_errors:
            return lo, hi
        if (reader := _function_of(value, graph)) is not None:
            found, function = statistics.distribution(), partial(_result, reader)
            if is_steep(found, function):
                return range_through(found, function)
        if value.producer is None:
            return lo, hi  # what is fed has bounds of its own, such as those of pixels
        return _clamped(value.producer, *with_room(statistics, lo, hi))

    def _statistics(self, graph: Graph, observed: list[Value], context: PassContext) -> dict[str, TensorStatistics]:
        """Return the statistics of the observed tensors, without a run where the same ones are known already."""
        observers = {v.name: make_observer(v.qspec.observer) for v in observed if v.qspec is not None}
        return context.remembered(lambda: _digest(graph, observers), lambda: self._gather(graph, observers, context))

    def _gather(
        self, graph: Graph, observers: Mapping[str, Observer], context: PassContext
    ) -> dict[str, TensorStatistics]:
        executor, threads = Interpreter(graph), 1
        samples: Iterable[Mapping[str, Any]]
        if context.samples is not None:
            samples = context.samples()
            threads = context.threads
        else:
            context.note("no calibration data: ranges come from synthetic inputs, accuracy is unverified")
            made_up = synthetic_samples(graph_inputs(graph), self.samples, self.seed, context.preprocess)
            samples = from_the_start(made_up, graph)
            executor = normalizing = NormalizingInterpreter(graph)
            normalizing.learn(samples)
        return measure(
            executor,
            samples,
            observers,
            threads=threads,
            progress=lambda done, total: context.progress(done, total or 0, "calibrating"),
        )


def _take_over(graph: Graph, context: PassContext) -> None:
    """Give a state that all samples left at zero the range of what it will be, where it is only joined to that."""
    taken = []
    for state, following in joined_states(graph).items():
        source = range_source(following)
        own, other = (context.statistics.get(value.name) for value in (state, source))
        if own is None or other is None or own.minimum != 0.0 or own.maximum != 0.0:
            continue
        if source.qspec is not None and source.qspec.range is not None:
            context.statistics[state.name] = other
            _set_range(state, *source.qspec.range)
            taken.append(state.name)
    if taken:
        more = f" (and {len(taken) - 1} more states)" if taken[1:] else ""
        context.note(f"'{taken[0]}'{more} was zero in all samples: its range is that of the output which continues it")


def _digest(graph: Graph, observers: Mapping[str, Observer]) -> str:
    """Return a digest of what statistics depend on besides the samples: the float graph, the tensors, what is kept."""
    bare = graph.clone()
    for value in bare.values():
        value.qspec = None
    names = [value.name for value in (*bare.inputs, *(v for node in bare.nodes for v in node.outputs))]
    kept = [(name, observer.new_statistics(name).momentum) for name, observer in observers.items()]
    return hashlib.sha256(f"statistics{bare.structural_hash()}{names}{kept}".encode()).hexdigest()


def _function_of(value: Value, graph: Graph) -> Node | None:
    """Return the unary function that alone reads a tensor; None where there is none."""
    readers = value.users()
    single = len(readers) == 1 and readers[0].op.integer is Quantization.TABLE and value not in graph.outputs
    return readers[0] if single else None


def _result(node: Node, x: Any) -> Any:
    return node.op.function(node.attrs, x)


def _needs_range(value: Value) -> bool:
    spec = value.qspec
    return spec is not None and spec.kind == "own" and spec.range is None and not spec.symmetric


def _constant_range(value: Value) -> tuple[float, float]:
    """Return the range of a constant; a bound that the result of a minimum or maximum never reaches counts for little.

    What such an operation takes from beyond its result's range is cut off there anyway, so -3e38 as "no lower bound"
    needs no code of its own.
    """
    data = value.constant()
    results = [node.output.qspec for node in value.users() if node.op.name in ("minimum", "maximum")]
    ranges = [spec.range for spec in results if spec is not None and spec.range is not None]
    if ranges and len(ranges) == len(value.users()):
        data = np.clip(data, min(lo for lo, _ in ranges), max(hi for _, hi in ranges))
    return min(0.0, float(data.min(initial=0.0))), max(0.0, float(data.max(initial=0.0)))


def _clamped(node: Node, lo: float, hi: float) -> tuple[float, float]:
    """Return the part of a range that a node's fused activation lets through."""
    attrs: Any = node.attrs
    if getattr(attrs, "activation", "") not in CLAMPS:
        return lo, hi
    least, most = clamp_bounds(attrs.activation, attrs.alpha, attrs.beta)
    return max(lo, min(least, 0.0)), min(hi, max(most, 0.0))


def _set_range(value: Value, lo: float, hi: float) -> None:
    assert value.qspec is not None
    value.qspec = replace(value.qspec, range=(float(lo), float(hi)))
