"""`--tune`: the layers of a program, the slowest first, until all are measured or the time is over."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from qcompile import __version__
from qcompile.device import Device, open_device
from qcompile.errors import DeviceError, UsageError
from qcompile.ir.cost import modelled_ns
from qcompile.ir.graph import Graph
from qcompile.kernels import isa as instruction_sets
from qcompile.kernels.conv_workload import ConvWorkload, workload_fields
from qcompile.kernels.tuned import TunedPlans
from qcompile.lower.lowering import generate
from qcompile.progress import Progress
from qcompile.targets import Target
from qcompile.targets.detect import machine_name
from qcompile.tuner.bench import Bench
from qcompile.tuner.layer_search import LayerSearch
from qcompile.tuner.steps import time_steps, unknown_steps
from qcompile.tuning.database import Database, append_record
from qcompile.tuning.record import Record, workload_key


@dataclass(frozen=True)
class Settings:
    """How to tune.

    Args:
        device: name of the device, as `open_device` takes it.
        budget_s: seconds after which no further layer is begun.
        file: where the records go.
        jobs: threads to compile on.
    """

    device: str
    budget_s: float
    file: Path
    jobs: int


@dataclass(frozen=True)
class Tuning:
    """What a run did.

    Args:
        layers: different layers of the program that have cuts to choose from.
        known: of these, measured on this processor by an earlier run.
        measured: by this run.
        won: of these, where another cut than the estimated one is faster.
        gain: time saved in the layers measured, as a share of their time with the estimated cuts.
        steps: kinds of other steps that were timed.
    """

    layers: int
    known: int
    measured: int
    won: int
    gain: float
    steps: int = 0

    def note(self) -> str:
        """Return the run in words."""
        if self.measured == 0 and self.steps == 0:
            return f"tuning: all {self.layers} layers were measured on this processor before"
        if self.measured == 0:
            return f"tuning: all {self.layers} layers were measured before, {self.steps} other steps timed"
        left = self.layers - self.known - self.measured
        text = f"tuning: {self.measured} of {self.layers} layers measured, {self.won} cut faster than estimated"
        text += f", which saves {self.gain:.1%} of their time"
        return f"{text}; {left} are left for another run" if left else text


def layers_of(graph: Graph, target: Target) -> list[ConvWorkload]:
    """Return the different convolutions and products of a program, the slowest by estimate first.

    Those that take the sums of another layer in are left out: they are never alone.
    """
    plans = TunedPlans()
    generate(graph, target, plans)

    def cost(work: ConvWorkload) -> float:
        read, written = work.height * work.width * work.channels, work.out_height * work.out_width * work.filters
        return plans.asked[work] * modelled_ns(work.macs, work.batch * (read + written), work.precision)

    return sorted((work for work in plans.asked if not work.low), key=lambda work: (-cost(work), repr(work)))


def tune(
    graph: Graph,
    target: Target,
    database: Database,
    settings: Settings,
    progress: Progress | None = None,
    *,
    twin: Graph | None = None,
) -> Tuning:
    """Measure the layers of a program.

    Every record is on disk as soon as its layer is measured, so an interrupted run goes on where it was.

    Args:
        graph: as for `lower_graph`.
        target: machine to compile for.
        database: known records; takes the new ones in.
        settings: how to tune.
        progress: called with (done, total, what).
        twin: the same network in float32, so that what else there is gets a cost in both precisions; None for none.

    Raises:
        DeviceError: the device cannot be reached, cannot run the code, or tells no time.
        UsageError: the program has nothing to tune; the records cannot be written.
    """
    if graph.symbols:
        raise UsageError("--tune: a network of open extents has no one time", hint="fix them with --input-shape")
    layers = layers_of(graph, target)
    if not layers:
        hint = "a network without convolutions and products with constant weights needs no --tune"
        raise UsageError("--tune: nothing could be measured, no layer can be cut in several ways", hint=hint)
    with open_device(settings.device) as device:
        _check(device, target)
        run = _Run(device, target, database, settings, progress)
        found = run.all(layers)
        return replace(found, steps=run.steps([graph] if twin is None else [graph, twin]))


def _check(device: Device, target: Target) -> None:
    if not device.tells_time:
        raise DeviceError(
            f"--tune: device '{device.name}' emulates a processor, its times say nothing",
            hint="tune on the real one: --device ssh://user@host",
        )
    if device.name == "local" and target.arch != machine_name():
        raise DeviceError(
            f"--tune: this machine cannot run code for target '{target.name}' ({target.arch})",
            hint="tune on one that can: --device ssh://user@host",
        )


class _Run:
    def __init__(
        self, device: Device, target: Target, database: Database, settings: Settings, progress: Progress | None
    ) -> None:
        self._database, self._settings, self._progress = database, settings, progress
        self._device, self._target, self._started = device, target, time.monotonic()
        self._isa = instruction_sets.load(target.isa)
        self._machine = device.processor()
        bench = Bench(target, device, settings.jobs)
        self._search = LayerSearch(bench, target, self._isa, self._machine, __version__)

    def all(self, layers: Sequence[ConvWorkload]) -> Tuning:
        """Measure what is not known, until the time is over; at least one layer."""
        left = [work for work in layers if not self._is_known(work)]
        found = []
        for number, work in enumerate(left):
            if number and self._is_over():
                break
            self._report(number, len(left))
            found.append(self._measure(work))
        self._report(len(found), len(found))
        before = sum(record.estimate_ns for record in found)
        gain = 1 - sum(record.ns for record in found) / before if before else 0.0
        won = sum(record.plan is not None for record in found)
        return Tuning(len(layers), len(layers) - len(left), len(found), won, gain)

    def steps(self, graphs: Sequence[Graph]) -> int:
        """Time what is no layer, as far as it is unknown and there is time; returns how many kinds of steps."""
        kept = 0
        for number, graph in enumerate(graphs):
            if self._is_over() or not unknown_steps(graph, self._target, self._machine, self._database):
                continue
            origin = self._machine, __version__
            jobs = self._settings.jobs
            for record in time_steps(graph, self._target, self._device, self._database, jobs, origin, number):
                self._keep(record)
                kept += 1
        return kept

    def _is_over(self) -> bool:
        return time.monotonic() - self._started >= self._settings.budget_s

    def _is_known(self, work: ConvWorkload) -> bool:
        record = self._database.get(self._key(work))
        return record is not None and record.tried > 1 and record.machine == self._machine

    def _key(self, work: ConvWorkload) -> str:
        return workload_key(self._isa.name, workload_fields(work))

    def _measure(self, work: ConvWorkload) -> Record:
        found = self._search.search(work)
        twin = found.twin
        if twin is not None and self._database.get(twin.key) is None:
            self._keep(twin)
        self._keep(found.record)
        return found.record

    def _keep(self, record: Record) -> None:
        append_record(self._settings.file, record)
        self._database.add(record)

    def _report(self, done: int, total: int) -> None:
        if self._progress is not None:
            self._progress(done, total, "tuning layers")
