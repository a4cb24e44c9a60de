"""What a pass sees of the compilation around it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy.typing as npt

from qcompile.ir.graph import Graph, Node
from qcompile.ir.rewrite import Rewriter
from qcompile.progress import Progress
from qcompile.tuning.database import Database
from qcompile.tuning.record import Record

if TYPE_CHECKING:
    from qcompile.calibrate.histogram import TensorStatistics
    from qcompile.calibrate.preprocess import Preprocess
    from qcompile.targets import Target

T = TypeVar("T")

Sample = dict[str, npt.NDArray[Any]]
"""One array per graph input, by name."""


@dataclass(frozen=True)
class Skip:
    """A place that a pass left alone, and why.

    Args:
        node: the node, as "op location"; "" for the graph as a whole.
        reason: what stood in the way.
    """

    node: str
    reason: str

    def __str__(self) -> str:
        return f"{self.node}: {self.reason}" if self.node else self.reason


@dataclass
class PassContext:
    """Services that passes use; one context lives through all passes of a compilation.

    Args:
        target: the machine compiled for; None where no target is chosen yet.
        samples: returns a fresh iterator of calibration samples each time it is called; None without
            calibration data.
        statistics: what calibration saw, by value name; `calibrate` fills it.
        memory: results that depend on their key and the samples alone, for those who run the same passes several
            times; None keeps none. See `remembered`.
        reference: the float graph that `quantize` rewrote, for passes that compare; never to be changed.
        imported: the network as it was read, by whose names the user knows its nodes; never to be changed.
        original: the user's float network, where passes that the user asked for changed it: what accuracy is measured
            against; never to be changed.
        preprocess: how a photograph becomes an input, for made-up ones; None takes the defaults.
        on_progress: called with (done, total, what) by `progress`; total is 0 where it is not known.
        seed: of every pseudo-random choice.
        threads: on which to run samples side by side; results do not depend on it.
        records: how long layers take, as measured.
        used_records: those that decided how a layer of the program is cut.

    Attributes:
        notes: what passes want the user to know, in order, without repetition.
        skips: what the running pass left alone; the pass manager moves them into its records.
        judging: whether nodes are still chosen that leave int8: of few samples some are then left to judge the choice.
        stopped: what `on_progress` raised, the way of a program to stop a compilation: no fault of a pass.
    """

    target: Target | None = None
    samples: Callable[[], Iterator[Sample]] | None = None
    statistics: dict[str, TensorStatistics] = field(default_factory=dict)
    memory: dict[str, Any] | None = None
    reference: Graph | None = None
    imported: Graph | None = None
    original: Graph | None = None
    preprocess: Preprocess | None = None
    on_progress: Progress | None = None
    seed: int = 0
    threads: int = 1
    records: Database = field(default_factory=Database)
    used_records: list[Record] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    skips: list[Skip] = field(default_factory=list)
    judging: bool = False
    stopped: Exception | None = None

    def skip(self, node: Node | None, reason: str) -> None:
        """Say why a node is left alone.

        Args:
            node: None for the graph as a whole.
            reason: what stands in the way, naming the value.
        """
        entry = Skip("" if node is None else str(node), reason)
        if entry not in self.skips:
            self.skips.append(entry)

    def note(self, text: str) -> None:
        """Tell the user something that matters for the result, on screen and in the manifest."""
        if text not in self.notes:
            self.notes.append(text)

    def remembered(self, key: Callable[[], str], compute: Callable[[], T]) -> T:
        """Return what a function gives, or gave before under the same key.

        Args:
            key: gives what stands for all that the result depends on besides the samples; asked for only where there
                is a memory, for it usually reads every weight.
            compute: takes long; nobody changes what it returns.
        """
        if self.memory is None:
            return compute()
        name = key()
        if name not in self.memory:
            self.memory[name] = compute()
        found: T = self.memory[name]
        return found

    def progress(self, done: int, total: int, what: str) -> None:
        """Report how far a long pass has come.

        Args:
            done: units finished.
            total: units in all; 0 where unknown.
            what: the work, e.g. "calibrating".
        """
        if self.on_progress is None:
            return
        try:
            self.on_progress(done, total, what)
        except Exception as error:
            self.stopped = error
            raise

    def rewriter(self, graph: Graph) -> Rewriter:
        """Return the means to edit the graph."""
        return Rewriter(graph)
