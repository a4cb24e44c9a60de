"""Measure the range of every observed tensor on calibration samples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from qcompile.calibrate.data_free import NormalizingInterpreter, data_free_range
from qcompile.calibrate.histogram import TensorStatistics
from qcompile.calibrate.observer import make_observer
from qcompile.calibrate.runner import calibrate as measure
from qcompile.calibrate.sample import graph_inputs
from qcompile.calibrate.synthetic import synthetic_samples
from qcompile.errors import InternalError
from qcompile.ir.graph import Graph, Value
from qcompile.ops.interpreter import Interpreter
from qcompile.passmgr import Exact, Pass, PassContext, Tolerance
from qcompile.passmgr.facts import CALIBRATED, Fact


@dataclass(frozen=True)
class Calibrate(Pass):
    """Run the float graph on the calibration samples and write the range of each tensor into its QSpec.

    Without samples, seeded synthetic inputs take their place, and the statistics of folded BatchNorms bring every
    tensor to its trained scale; the accuracy is then unverified, and the pass says so.

    Before:
        %y = conv2d(%x, @w, @b) : f32[1,4,4,8] spec(observer="mse")
    After:
        %y = conv2d(%x, @w, @b) : f32[1,4,4,8] spec(observer="mse", range=[-0.2, 5.7])

    Options:
        samples: how many synthetic samples to make where none are given.
        seed: of the synthetic samples.

    Memory is bounded: one histogram per tensor, the activations of one sample.
    """

    name: ClassVar[str] = "calibrate"
    establishes: ClassVar[tuple[Fact, ...]] = (CALIBRATED,)
    tolerance: ClassVar[Tolerance] = Exact()

    samples: int = 16
    seed: int = 0

    def run(self, graph: Graph, context: PassContext) -> None:
        """Fill the ranges in."""
        observed = [v for v in graph.values() if _needs_range(v)]
        for value in observed:
            if value.is_constant:
                _set_range(value, *_constant_range(value))
        run_time = [v for v in observed if not v.is_constant]
        if not run_time:
            return
        statistics = self._statistics(graph, run_time, context)
        context.statistics.update(statistics)
        for value in run_time:
            if value.qspec is None:
                raise InternalError(f"{value.name} lost its QSpec")
            lo, hi = make_observer(value.qspec.observer).range(statistics[value.name])
            _set_range(value, *(data_free_range(value, lo, hi) if context.samples is None else (lo, hi)))

    def _statistics(
        self, graph: Graph, observed: list[Value], context: PassContext
    ) -> dict[str, TensorStatistics]:
        observers = {v.name: make_observer(v.qspec.observer) for v in observed if v.qspec is not None}
        executor = Interpreter(graph)
        samples: Iterable[Mapping[str, Any]]
        if context.samples is not None:
            samples = context.samples()
        else:
            context.note("no calibration data: ranges come from synthetic inputs, accuracy is unverified")
            samples = synthetic_samples(graph_inputs(graph), self.samples, self.seed, context.preprocess)
            executor = normalizing = NormalizingInterpreter(graph)
            normalizing.learn(samples)
        return measure(
            executor,
            samples,
            observers,
            progress=lambda done, total: context.progress(done, total or 0, "calibrating"),
        )


def _needs_range(value: Value) -> bool:
    spec = value.qspec
    return spec is not None and spec.kind == "own" and spec.range is None and not spec.symmetric


def _constant_range(value: Value) -> tuple[float, float]:
    data = value.constant()
    return min(0.0, float(data.min(initial=0.0))), max(0.0, float(data.max(initial=0.0)))


def _set_range(value: Value, lo: float, hi: float) -> None:
    assert value.qspec is not None
    value.qspec = replace(value.qspec, range=(float(lo), float(hi)))
