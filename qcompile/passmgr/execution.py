"""Runs pipelines: clone, run, verify, measure; a pass is never trusted."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from qcompile.errors import CalibrationError, InternalError, PassError, QCompileError, with_line
from qcompile.ir.graph import Graph
from qcompile.ir.verify import verify
from qcompile.passmgr.context import PassContext, Skip
from qcompile.passmgr.passbase import Pass
from qcompile.passmgr.pipeline import parse_pipeline, print_pass, print_pipeline
from qcompile.passmgr.registry import BUILT_IN, PassRegistry, default_registry
from qcompile.passmgr.reproducer import reproducer_text


@dataclass(frozen=True)
class PassRecord:
    """What one pass of a pipeline did.

    Args:
        index: position in the pipeline, from 0.
        text: the pass with its options, as pipeline text.
        seconds: time in the pass itself.
        changed: whether the graph computes anything differently, by structural hash.
        skips: what it left alone, and why.
        nodes: nodes of the graph afterwards.
    """

    index: int
    text: str
    seconds: float
    changed: bool
    skips: tuple[Skip, ...]
    nodes: int

    @property
    def name(self) -> str:
        """The pass, without its options."""
        return self.text.partition("{")[0]


class Rejection(Exception):
    """Raised by an instrument that refuses what a pass made; the message says why."""


class Instrument:
    """Watches a pipeline; subclasses override what they need. See `qcompile.passmgr.instruments`."""

    def start(self, graph: Graph, context: PassContext) -> None:
        """Called before the first pass."""

    def after_pass(self, item: Pass, before: Graph, after: Graph, record: PassRecord, context: PassContext) -> None:
        """Called after a pass whose result is well formed.

        Args:
            item: the pass.
            before: the graph it was given; not to be changed.
            after: the graph it made; not to be changed.
            record: what the manager measured.
            context: services of the compilation.
        """

    def finish(self, records: Sequence[PassRecord]) -> None:
        """Called after the last pass."""


class PassManager:
    """Runs passes one after the other.

    Args:
        pipeline: passes, or their text.
        instruments: watch every pass, in this order.
        registry: where names in the text come from; the built-in and installed passes by default.

    Attributes:
        records: what each pass of the latest run did.
    """

    def __init__(
        self,
        pipeline: str | Sequence[Pass],
        instruments: Sequence[Instrument] = (),
        registry: PassRegistry | None = None,
    ) -> None:
        self.registry = registry or default_registry()
        if isinstance(pipeline, str):
            pipeline = parse_pipeline(pipeline, self.registry)
        self.passes = tuple(pipeline)
        self.instruments = tuple(instruments)
        self.records: list[PassRecord] = []

    def run(self, graph: Graph, context: PassContext | None = None) -> Graph:
        """Return what the passes make of a graph, which itself stays as it is.

        Args:
            graph: well formed.
            context: services for the passes; an empty context by default.

        Raises:
            QCompileError: a pass refuses the input, or a user's own pass fails.
            InternalError: one of our passes fails or breaks an invariant; carries a reproducer.
        """
        context = PassContext() if context is None else context
        self.records = []
        verify(graph)
        for instrument in self.instruments:
            instrument.start(graph, context)
        current, digest = graph, graph.structural_hash()
        for index, item in enumerate(self.passes):
            after, seconds = self._apply(index, current, context)
            after_digest = after.structural_hash()
            skips, context.skips = tuple(context.skips), []
            changed = after_digest != digest
            record = PassRecord(index, print_pass(item), seconds, changed, skips, len(after.nodes))
            self.records.append(record)
            try:
                for instrument in self.instruments:
                    instrument.after_pass(item, current, after, record, context)
            except Rejection as rejection:
                raise self._failure(index, current, str(rejection)) from rejection
            current, digest = after, after_digest
        for instrument in self.instruments:
            instrument.finish(self.records)
        return current.clone() if current is graph else current

    def _apply(self, index: int, graph: Graph, context: PassContext) -> tuple[Graph, float]:
        """Run one pass on a clone, and check the result."""
        item = self.passes[index]
        for fact in item.requires:
            offender = fact.offender(graph)
            if offender is not None:
                problem = f"pass '{item.name}' needs a graph that is '{fact}', which {offender} is not"
                raise PassError(problem, hint=fact.remedy)
        clone = graph.clone()
        context.skips = []
        started = time.perf_counter()
        try:
            returned: object = item.run(clone, context)
            seconds = time.perf_counter() - started
            if returned is not None:
                problem = f"run returned {type(returned).__name__}"
                raise PassError(problem, hint="change the graph in place: what run returns is not looked at")
        except CalibrationError:
            raise  # of a sample, whichever pass happens to read it first
        except QCompileError as error:
            error.loc = error.loc or f"pass '{item.name}'"
            raise
        except (Exception, SystemExit) as error:
            if error is context.stopped:
                raise
            raise self._failure(index, graph, with_line(error)) from error
        try:
            verify(clone)
        except Exception as error:  # attributes and types of the user's own making may be anything
            problem = str(error) if isinstance(error, InternalError) else with_line(error)
            raise self._failure(index, graph, f"it leaves a graph that is not well formed: {problem}") from error
        for fact in item.establishes:
            offender = fact.offender(clone)
            if offender is not None:
                raise self._failure(index, graph, f"it promises '{fact}', which {offender} is not")
        return clone, seconds

    def _failure(self, index: int, graph: Graph, problem: str) -> Exception:
        """Return the error for a pass that failed on a graph: ours, or the author's of a user's pass."""
        item = self.passes[index]
        message = f"pass '{item.name}' (number {index} of {print_pipeline(self.passes)}) failed: {problem}"
        reproducer = reproducer_text(graph, print_pass(item), message)
        origin = self.registry.origin(item.name)
        if origin == BUILT_IN:
            return InternalError(message, reproducer=reproducer)
        failure = PassError(message, hint=f"this pass comes from {origin}, not from qcompile")
        failure.reproducer = reproducer
        return failure


def run_pipeline(graph: Graph, pipeline: str | Sequence[Pass], context: PassContext | None = None) -> Graph:
    """Return what a pipeline makes of a graph, which itself stays as it is.

    Args:
        graph: well formed.
        pipeline: text such as "fold-batchnorm,my-pass{alpha=2}", or passes.
        context: services for the passes; an empty context by default.

    Raises:
        QCompileError: a pass refuses the input.
        InternalError: a pass fails or breaks an invariant; carries a reproducer.
    """
    return PassManager(pipeline).run(graph, context)
