"""Measure the range of every observed tensor on calibration samples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

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

    Without samples, seeded synthetic inputs and the statistics of folded BatchNorms take their place
    (β ± 6·|γ| bounds the range of a normalized tensor); the accuracy is then unverified, and the pass says so.

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
            _set_range(value, *self._with_batch_norm(value, lo, hi, data_free=context.samples is None))

    def _statistics(
        self, graph: Graph, observed: list[Value], context: PassContext
    ) -> dict[str, TensorStatistics]:
        samples: Iterable[Mapping[str, Any]]
        if context.samples is not None:
            samples = context.samples()
        else:
            context.note("no calibration data: ranges come from synthetic inputs, accuracy is unverified")
            samples = synthetic_samples(graph_inputs(graph), count=self.samples, seed=self.seed)
        observers = {v.name: make_observer(v.qspec.observer) for v in observed if v.qspec is not None}
        return measure(
            Interpreter(graph),
            samples,
            observers,
            progress=lambda done, total: context.progress(done, total or 0, "calibrating"),
        )

    @staticmethod
    def _with_batch_norm(value: Value, lo: float, hi: float, *, data_free: bool) -> tuple[float, float]:
        if value.stats is None or not data_free:
            return lo, hi
        mean, std = value.stats
        low, high = float(np.min(mean - 6.0 * std)), float(np.max(mean + 6.0 * std))
        # Synthetic inputs excite a network too little or too much; the trained statistics know better, but a
        # clamp behind the BatchNorm (ReLU6) still holds: what was never seen below lo = 0 stays there.
        return (0.0 if lo >= 0.0 else low), high


def _needs_range(value: Value) -> bool:
    spec = value.qspec
    return spec is not None and spec.kind == "own" and spec.range is None and not spec.symmetric


def _constant_range(value: Value) -> tuple[float, float]:
    data = value.constant()
    return min(0.0, float(data.min(initial=0.0))), max(0.0, float(data.max(initial=0.0)))


def _set_range(value: Value, lo: float, hi: float) -> None:
    assert value.qspec is not None
    value.qspec = replace(value.qspec, range=(float(lo), float(hi)))
