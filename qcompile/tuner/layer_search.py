"""Searches the cuts of one layer: register tiles, then blocks, then a fresh race of the best against the estimate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qcompile.kernels.conv_plan import ConvPlan
from qcompile.kernels.conv_workload import ConvWorkload, workload_fields
from qcompile.kernels.isa import Isa
from qcompile.kernels.plan_space import block_plans, estimated_plan, tile_plans
from qcompile.kernels.tuned import numbers_of
from qcompile.targets import Target
from qcompile.tuner.bench import Bench, Effort, Times
from qcompile.tuner.operands import Candidate, Operands
from qcompile.tuning.record import Record

MOST_TILES = 7
_LOOK = Effort(rounds=7, turn_us=300)
_PROVE = Effort(rounds=15, turn_us=600)
_GAIN = 0.98
"""A plan must be two percent faster: less than that, another network around it turns into its opposite."""

_CLOSE = 1.03


@dataclass(frozen=True)
class Found:
    """What the search of one layer found.

    Args:
        record: of the layer.
        twin: of the same layer in float32, measured beside it; None for a float layer.
    """

    record: Record
    twin: Record | None


class LayerSearch:
    """Searches layer by layer.

    Args:
        bench: times candidates.
        target: what the kernels are compiled for.
        isa: its instruction set.
        machine: the processor's name, for the records.
        version: of qcompile, for the records.
    """

    def __init__(self, bench: Bench, target: Target, isa: Isa, machine: str, version: str) -> None:
        self._bench, self._target, self._isa = bench, target, isa
        self._machine, self._version = machine, version

    def search(self, work: ConvWorkload, *, twin: bool = True) -> Found:
        """Measure one layer.

        Args:
            work: the layer.
            twin: also measure an int8 layer in float32.
        """
        operands = Operands(work, self._isa)
        estimate = estimated_plan(work, self._isa, self._target.l2_bytes)
        tiles = tile_plans(work, self._isa, self._target.l2_bytes)
        plans = [estimate, *[plan for plan in tiles if plan != estimate][: MOST_TILES - 1]]
        candidates = [operands.candidate(plan, self._target) for plan in plans]
        program = self._bench.load(candidates)
        ratios = relative(self._bench.time(program, range(len(plans)), _LOOK))
        order = sorted(range(len(plans)), key=lambda i: (ratios[i], i))
        leaders = [i for i in order[:2] if ratios[i] <= _CLOSE * ratios[order[0]]]
        further = list(dict.fromkeys(p for i in leaders for p in block_plans(plans[i], work, self._isa)))
        tried = len(plans) + len([p for p in further if p not in plans])
        second = list(dict.fromkeys([estimate, *(plans[i] for i in leaders), *further]))
        return self._second(work, operands, second, tried, twin=twin)

    def _second(
        self, work: ConvWorkload, operands: Operands, plans: list[ConvPlan], tried: int, *, twin: bool
    ) -> Found:
        candidates = [operands.candidate(plan, self._target) for plan in plans]
        other = self._twin(work) if twin and work.precision == "int8" else None
        program = self._bench.load([*candidates, *([other[1]] if other is not None else [])])
        ratios = relative(self._bench.time(program, range(len(plans)), _LOOK))
        best = min(range(len(plans)), key=lambda i: (ratios[i], i))
        if best == 0:
            times = np.repeat(self._bench.time(program, [0], _PROVE), 2, axis=1)
        else:
            times = self._bench.time(program, [0, best], _PROVE)
        wins = best > 0 and is_faster(times)
        ns = float(np.median(times[:, 1 if wins else 0]))
        plan = numbers_of(plans[best]) if wins else None
        record = self._record(work, plan, ns, float(np.median(times[:, 0])), tried)
        if other is None:
            return Found(record, None)
        float_ns = float(np.median(self._bench.time(program, [len(plans)], _PROVE)))
        return Found(record, self._record(other[0], None, float_ns, float_ns, 1))

    def _twin(self, work: ConvWorkload) -> tuple[ConvWorkload, Candidate]:
        """Return the float32 layer that an int8 layer stands for, with the estimated plan."""
        shape = (work.batch, work.height, work.width, work.channels, work.filters)
        geometry = (work.kernel, work.strides, work.dilations, work.pads, work.groups)
        twin = ConvWorkload(*shape, *geometry, precision="float32", output="float32", residual=work.residual)
        return twin, Operands(twin, self._isa).candidate(None, self._target)

    def _record(
        self, work: ConvWorkload, plan: tuple[int, ...] | None, ns: float, estimate_ns: float, tried: int
    ) -> Record:
        fields = workload_fields(work)
        return Record(self._isa.name, fields, plan, ns, estimate_ns, tried, self._machine, self._version)


def relative(times: Times) -> list[float]:
    """Return each candidate's median, over the rounds, of its time by the first one's of the same round."""
    return [float(ratio) for ratio in np.median(times / times[:, :1], axis=0)]


def is_faster(times: Times) -> bool:
    """Return whether the second candidate is faster than the first by more than the noise.

    The upper end of the median's confidence interval, by the sign test's order statistic, must lie below the gain
    asked for: of 15 rounds the 12th smallest ratio, 98 % sure.

    Args:
        times: [rounds, 2].
    """
    ratios = np.sort(times[:, 1] / times[:, 0])
    rounds = len(ratios)
    upper = min(rounds - 1, int(np.ceil(rounds / 2 + np.sqrt(rounds))) - 1)
    return bool(ratios[upper] < _GAIN)
