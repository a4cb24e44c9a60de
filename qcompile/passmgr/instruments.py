"""What watches a pipeline: prints, files and times. See `verify_numerics` for the numeric check."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from qcompile.errors import UsageError, did_you_mean
from qcompile.ir.graph import Graph
from qcompile.ir.printer import print_graph
from qcompile.passmgr.context import PassContext
from qcompile.passmgr.execution import Instrument, PassRecord
from qcompile.passmgr.passbase import Pass

Write = Callable[[str], None]


class PrintIr(Instrument):
    """Writes the graph's text after passes.

    Args:
        write: takes a text with its newlines.
        after: names of the passes to print after; None for all of them.
        only_changed: print only where the pass changed the graph.
    """

    def __init__(
        self, write: Write, after: Sequence[str] | None = None, *, only_changed: bool = False
    ) -> None:
        self.write = write
        self.after = None if after is None else frozenset(after)
        self.only_changed = only_changed

    def check_names(self, known: Sequence[str]) -> None:
        """Refuse names that are not in the pipeline.

        Args:
            known: names of the passes that will run.

        Raises:
            UsageError: a name to print after is none of them.
        """
        for name in sorted(self.after or ()):
            if name not in known:
                raise UsageError(
                    f"pass '{name}' is not in the pipeline", hint=did_you_mean(name, list(known))
                )

    def after_pass(
        self, item: Pass, before: Graph, after: Graph, record: PassRecord, context: PassContext
    ) -> None:
        """Write the graph."""
        if (self.after is None or item.name in self.after) and (record.changed or not self.only_changed):
            state = "" if record.changed else " (unchanged)"
            self.write(f"// after {record.text}{state}\n{print_graph(after)}")


class DumpIr(Instrument):
    """Writes the graph before the first and after every pass to NNN_pass.qir.

    Args:
        directory: made if it does not exist.

    Raises:
        UsageError: it cannot be written to.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)

    def start(self, graph: Graph, context: PassContext) -> None:
        """Write 000_input.qir."""
        self._write("000_input.qir", print_graph(graph))

    def after_pass(
        self, item: Pass, before: Graph, after: Graph, record: PassRecord, context: PassContext
    ) -> None:
        """Write the graph, headed by the pass and what it skipped."""
        head = [f"// {record.text}: {'changed' if record.changed else 'unchanged'}"]
        head += [f"// skip: {skip}" for skip in record.skips]
        self._write(f"{record.index + 1:03}_{item.name}.qir", "\n".join([*head, print_graph(after)]))

    def _write(self, name: str, text: str) -> None:
        temporary = self.directory / f".{name}.{os.getpid()}"
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(self.directory / name)
        except OSError as error:
            raise UsageError(f"cannot write IR to '{self.directory}': {error.strerror}") from error


class TimePasses(Instrument):
    """Writes a table of the passes with their times when all have run.

    Args:
        write: takes a text with its newlines.
    """

    def __init__(self, write: Write) -> None:
        self.write = write

    def finish(self, records: Sequence[PassRecord]) -> None:
        """Write the table."""
        total = sum(record.seconds for record in records)
        width = max([len(record.text) for record in records] + [5])
        lines = [f"{'pass':{width}}  {'ms':>9}      %  changed  skips  nodes"]
        for record in records:
            share = 100 * record.seconds / total if total else 0.0
            changed = "yes" if record.changed else "no"
            lines.append(
                f"{record.text:{width}}  {record.seconds * 1e3:9.2f}  {share:5.1f}  {changed:>7}"
                f"  {len(record.skips):5}  {record.nodes:5}"
            )
        lines.append(f"{'total':{width}}  {total * 1e3:9.2f}")
        self.write("\n".join(lines) + "\n")
