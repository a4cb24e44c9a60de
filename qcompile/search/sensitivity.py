"""How much noise each node adds at the outputs of a network when it alone is quantized.

A source of noise is put into the float network, and only what lies behind it is computed again. Where even that
is too much work, a first-order estimate takes its place for the sources that matter least: the noise is assumed
to reach the outputs as large, relative to the signal, as it is where it arises, times the median of the factors
measured for the others.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.cost import NodeCosts
from qcompile.ir.graph import Graph, Node, Value
from qcompile.ir.regions import computed_bytes, regions, run_in_course, times_run
from qcompile.ops.evaluation import freed_by_node
from qcompile.ops.interpreter import Interpreter
from qcompile.ops.sized_run import NodeRun
from qcompile.parallel import threads_within
from qcompile.progress import Progress
from qcompile.quant.affine import dequantize, quantize
from qcompile.quant.noise_power import deviation_power
from qcompile.search.output_use import output_uses, whole_outputs
from qcompile.search.processes import run_tasks
from qcompile.search.sources import WEIGHTS, Source, find_sources, wider

Array = npt.NDArray[Any]
Sample = Mapping[str, Array]

WORK = 250.0
"""Most work for one sample, in runs of the whole network; what exceeds it is estimated."""

_CHUNK = 8.0
"""Work of one task, in runs of the whole network."""

_MATTERS = 0.01
"""Share of all noise at an output from which on a tensor is measured with 16 bits, too; and share of its own from
which on what these leave is worth a thought."""

_TINY = 1e-300

_Tasks = Callable[..., list[Any]]
"""`run_tasks`, which knows by how many processes and threads."""


@dataclass(frozen=True)
class Noise:
    """What one source adds at the outputs.

    Args:
        source: where it arises.
        outputs: noise power over signal power at each graph output, or at each use of them.
        exact: False where it is estimated.
    """

    source: Source
    outputs: tuple[float, ...]
    exact: bool


@dataclass(frozen=True)
class Sensitivity:
    """What the quantization of one node alone does to the outputs.

    Args:
        node: ONNX name of the node, or the name of its result; of the graph input where that is rounded.
        op: operation, or "input".
        sqnr_db: at the worst output, dB.
        weights_db: the same if only its constants are rounded; None where it has none.
        exact: False where it is estimated.
    """

    node: str
    op: str
    sqnr_db: float
    weights_db: float | None
    exact: bool


def measure_all(
    graph: Graph,
    integer: Graph,
    samples: Sequence[Sample],
    *,
    jobs: int = 1,
    threads: int = 1,
    work: float = WORK,
    uses: bool = False,
    progress: Progress | None = None,
) -> list[Noise]:
    """Return what each source of a network adds at the outputs, and what 16 bits leave of those that matter.

    Args:
        graph: calibrated float graph whose nodes have a precision.
        integer: what `quantize` makes of it.
        samples: as for `measure_noise`.
        jobs: as there.
        threads: as there.
        work: as there.
        uses: as there.
        progress: as there.
    """

    def measured(sources: Sequence[Source]) -> list[Noise]:
        how: dict[str, Any] = {"jobs": jobs, "threads": threads, "work": work, "uses": uses, "progress": progress}
        return measure_noise(graph, sources, samples, **how)

    noises = measured(find_sources(graph, integer))
    total = [sum(at_output) for at_output in zip(*(n.outputs for n in noises), strict=True)]
    pairs = [(n, wide) for n in noises if _matters(n.outputs, total) and (wide := wider(n.source)) is not None]
    rests = measured([wide for _, wide in pairs])
    kept = [rest for (n, _), rest in zip(pairs, rests, strict=True) if _matters(rest.outputs, n.outputs)]
    return [*noises, *kept]


def _matters(noises: Sequence[float], others: Sequence[float]) -> bool:
    return any(noise > _MATTERS * other for noise, other in zip(noises, others, strict=True))


def measure_noise(
    graph: Graph,
    sources: Sequence[Source],
    samples: Sequence[Sample],
    *,
    jobs: int = 1,
    threads: int = 1,
    work: float = WORK,
    uses: bool = False,
    progress: Progress | None = None,
) -> list[Noise]:
    """Return what each source adds at the outputs.

    Formula:
        noise of source s at output o = Σ (y_o(s) − y_o)² / Σ y_o², sums over all elements of all samples, with
        y(s) the outputs when only s is rounded

    The activations of one sample per process or thread are held in memory, nothing more.

    Args:
        graph: calibrated float graph.
        sources: of this graph.
        samples: inputs, real values.
        jobs: processes.
        threads: of this process, where it computes.
        work: most work for one sample, in runs of the whole network.
        uses: whether the uses of the outputs count (`output_uses`), not the outputs.
        progress: called with (done, total, what).
    """
    paths = _Paths(graph, uses)
    tasks = partial(run_tasks, jobs=jobs, threads=threads_within(threads, computed_bytes(graph)))
    shares = [paths.share(source) for source in sources]
    chosen = list(range(len(sources)))
    local: list[float] = []
    if sum(shares) > work:
        local = _local_noise(paths, sources, samples, tasks, progress)
        chosen = _most_important(local, shares, work)
    measured = _measure(paths, sources, samples, chosen, shares, tasks, progress)
    if not local:
        return [Noise(s, measured[i], True) for i, s in enumerate(sources)]
    factors = _factors(measured, local, len(paths.uses))
    found = []
    for index, source in enumerate(sources):
        if index in measured:
            found.append(Noise(source, measured[index], True))
        else:
            pairs = zip(factors, paths.reaches(source), strict=True)
            found.append(Noise(source, tuple(local[index] * f if reached else 0.0 for f, reached in pairs), False))
    return found


def _factors(measured: Mapping[int, tuple[float, ...]], local: Sequence[float], outputs: int) -> tuple[float, ...]:
    """Return, per output, the median of what becomes of one unit of relative noise on its way there."""
    known = [(noise, local[i]) for i, noise in measured.items() if local[i] > 0]
    return tuple(median([noise[o] / start for noise, start in known] or [1.0]) for o in range(outputs))


def _most_important(local: Sequence[float], shares: Sequence[float], work: float) -> list[int]:
    """Return the sources with the most noise of their own that can be measured with some work."""
    chosen: list[int] = []
    for index in sorted(range(len(local)), key=lambda i: (-local[i], i)):
        if shares[index] <= work:
            chosen.append(index)
            work -= shares[index]
    return sorted(chosen)


class _Paths:
    """What lies behind each tensor of a graph."""

    def __init__(self, graph: Graph, uses: bool = False) -> None:
        self.graph = graph
        self.uses = output_uses(graph) if uses else whole_outputs(graph)
        self._run = NodeRun(graph)
        self.order = {node: index for index, node in enumerate(graph.nodes)}
        self._freed = freed_by_node(graph)
        costs = NodeCosts()  # how long the interpreter takes, roughly: no target counts
        self._time = {node: times * costs.node(node).ns for node, times in times_run(graph).items()}
        self._total = sum(self._time.values()) or 1.0
        self._behind: dict[Value, list[Node]] = {}

    def behind(self, value: Value) -> list[Node]:
        """Return the nodes that depend on a tensor, in order of computation."""
        if value not in self._behind:
            found: set[Node] = set()
            pending = [value]
            while pending:
                for reader in pending.pop().users():
                    if reader not in found:
                        found.add(reader)
                        pending.extend(reader.outputs)
            for region in regions(self.graph.nodes):
                if not found.isdisjoint(region.nodes):
                    found.update(region.nodes)
            self._behind[value] = sorted(found, key=self.order.__getitem__)
        return self._behind[value]

    def share(self, source: Source) -> float:
        """Return the work of measuring a source once, in runs of the whole network."""
        nodes = self.behind(source.value)
        own = self._time[source.node] if source.constants and source.node is not None else 0.0
        return (own + sum(self._time[node] for node in nodes)) / self._total

    def reaches(self, source: Source) -> list[bool]:
        """Return which uses of the outputs depend on a source."""
        results = {source.value, *(v for node in self.behind(source.value) for v in node.outputs)}
        return [self.graph.outputs[use.output] in results for use in self.uses]

    def run(self, sample: Sample) -> dict[Value, Array]:
        """Return every tensor of the float network for one sample."""
        known: dict[Value, Array] = {}
        with np.errstate(all="ignore"):
            Interpreter(self.graph).run(sample, on_value=known.__setitem__)
        return known

    def _prepared(self, node: Node, known: Mapping[Value, Array]) -> Callable[..., Sequence[Array]]:
        sizes = self._run.sizes({value.name: known[value] for value in self.graph.inputs})
        return self._run.prepared(node, sizes, over=True)

    def _round(self, source: Source, known: Mapping[Value, Array]) -> Callable[[Mapping[Value, Array]], Array]:
        """Return what rounds a source, given the tensors before it: the tensor that it is, or that it changes."""
        node, qparams = source.node, source.qparams
        if not source.constants or node is None:
            assert qparams is not None
            return lambda at: dequantize(quantize(at[source.value], qparams), qparams)
        apply, place = self._prepared(node, known), node.outputs.index(source.value)
        return lambda at: apply([source.constants.get(i, at.get(v)) for i, v in enumerate(node.inputs)])[place]

    def rounded(self, source: Source, known: Mapping[Value, Array]) -> Array:
        """Return the tensor at a source once the source is rounded."""
        with np.errstate(all="ignore"):
            return self._round(source, known)(known)

    def outputs(self, source: Source, known: Mapping[Value, Array]) -> list[Array]:
        """Return the graph's outputs when only one source is rounded."""
        nodes, round_source = self.behind(source.value), self._round(source, known)
        plans = {node: (self._prepared(node, known), self._freed[node], source.value in node.outputs) for node in nodes}
        changed = {source.value: self.rounded(source, known)}
        latest = ChainMap(changed, known)  # type: ignore[arg-type]  # nothing is written to what is known

        def step(node: Node) -> None:
            apply, freed, rounds = plans[node]  # it rounds within a loop, in each of its iterations
            operands = [changed[v] if v in changed else known.get(v) for v in node.inputs]
            before = {v: changed[v] for v in node.inputs if v in changed} if rounds else {}
            for value in freed:
                changed.pop(value, None)
            for value, result in zip(node.outputs, apply(operands), strict=True):
                changed[value] = result
            if rounds:
                changed[source.value] = round_source(ChainMap(before, latest))

        with np.errstate(all="ignore"):
            run_in_course(nodes, step, latest.__getitem__, changed.__setitem__, lambda v: changed.pop(v, None))
        return [changed[v] if v in changed else _content(v, known) for v in self.graph.outputs]


class _Runs:
    """The float network on one sample after the other: the tasks of a sample share what the first of them computes.

    Args:
        paths: of the network.
        samples: inputs.
    """

    def __init__(self, paths: _Paths, samples: Sequence[Sample]) -> None:
        self._paths, self._samples = paths, samples
        self._lock = Lock()
        self._latest: tuple[int, dict[Value, Array]] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return _Runs, (self._paths, self._samples)  # another machine runs the network itself

    def of(self, index: int) -> dict[Value, Array]:
        """Return every tensor of the float network for one sample."""
        with self._lock:
            if self._latest is None or self._latest[0] != index:
                self._latest = None  # what it holds may be large
                self._latest = index, self._paths.run(self._samples[index])
            return self._latest[1]


def _content(value: Value, known: Mapping[Value, Array]) -> Array:
    return value.data if value.data is not None else known[value]


Powers = list[tuple[float, float]]
"""Signal and noise power, per use of an output."""


def _measure(
    paths: _Paths,
    sources: Sequence[Source],
    samples: Sequence[Sample],
    chosen: Sequence[int],
    shares: Sequence[float],
    run: _Tasks,
    progress: Progress | None,
) -> dict[int, tuple[float, ...]]:
    """Return the noise at the outputs of the chosen sources, by index."""
    chunks = _chunks(chosen, shares)
    tasks = [(sample, chunk) for sample in range(len(samples)) for chunk in chunks]
    runs = _Runs(paths, samples)

    def work(index: int) -> list[Powers]:
        sample, chunk = tasks[index]
        known = runs.of(sample)
        expected = [_content(v, known) for v in paths.graph.outputs]
        rounded = (paths.outputs(sources[i], known) for i in chunk)
        return [[use.powers(expected, outputs) for use in paths.uses] for outputs in rounded]

    def report(done: int, total: int) -> None:
        if progress is not None:
            progress(done, total, "measuring sensitivity")

    found = run(work, len(tasks), progress=report)
    sums: dict[int, list[list[float]]] = {i: [[0.0, 0.0] for _ in paths.uses] for i in chosen}
    for (_, chunk), results in zip(tasks, found, strict=True):
        for i, powers in zip(chunk, results, strict=True):
            for total, (signal, noise) in zip(sums[i], powers, strict=True):
                total[0] += signal
                total[1] += noise
    return {i: tuple(noise / max(signal, _TINY) if noise else 0.0 for signal, noise in t) for i, t in sums.items()}


def _chunks(chosen: Iterable[int], shares: Sequence[float]) -> list[list[int]]:
    """Divide the sources into tasks of about the same work."""
    chunks: list[list[int]] = []
    filled = _CHUNK
    for index in chosen:
        if filled >= _CHUNK:
            chunks.append([])
            filled = 0.0
        chunks[-1].append(index)
        filled += shares[index]
    return chunks


def _local_noise(
    paths: _Paths,
    sources: Sequence[Source],
    samples: Sequence[Sample],
    run: _Tasks,
    progress: Progress | None,
) -> list[float]:
    """Return noise over signal of each source where it arises."""

    def work(index: int) -> Powers:
        known = paths.run(samples[index])
        return [deviation_power(known[s.value], paths.rounded(s, known)) for s in sources]

    def report(done: int, total: int) -> None:
        if progress is not None:
            progress(done, total, "estimating sensitivity")

    found = run(work, len(samples), progress=report)
    columns = [[powers[i] for powers in found] for i in range(len(sources))]
    return [sum(n for _, n in c) / max(sum(s for s, _ in c), _TINY) if any(n for _, n in c) else 0.0 for c in columns]


def sensitivities(noises: Sequence[Noise]) -> list[Sensitivity]:
    """Return what each node does to the outputs, the most harmful first.

    Formula:
        SQNR = −10·log10 max_o Σ noise of the node's constants and results at output o

    Args:
        noises: of `measure_noise`.
    """
    groups: dict[str, list[Noise]] = {}
    for noise in noises:
        node = noise.source.node
        groups.setdefault(noise.source.name if node is None else node.loc or node.outputs[0].name, []).append(noise)
    rows = []
    for name, group in groups.items():
        node = group[0].source.node
        weights = [n for n in group if n.source.kind == WEIGHTS]
        exact = all(n.exact for n in group)
        weights_db = worst_db(weights) if weights else None
        rows.append(Sensitivity(name, node.op.name if node else "input", worst_db(group), weights_db, exact))
    return sorted(rows, key=lambda row: row.sqnr_db)


def worst_db(noises: Sequence[Noise]) -> float:
    """Return the SQNR at the worst output when the noises of some sources add up, dB."""
    width = len(noises[0].outputs) if noises else 0
    worst = max((sum(n.outputs[o] for n in noises) for o in range(width)), default=0.0)
    return float(np.clip(-10 * np.log10(max(worst, 1e-20)), -200.0, 200.0))
