"""What watches a pipeline: prints, files and times. See `verify_numerics` for the numeric check."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from qcompile.errors import UsageError, did_you_mean
from qcompile.files import replaced
from qcompile.ir.graph import Graph
from qcompile.ir.printer import print_graph
from qcompile.passmgr.context import PassContext
from qcompile.passmgr.execution import Instrument, PassRecord
from qcompile.passmgr.passbase import Pass
from qcompile.passmgr.registry import PassRegistry

Write = Callable[[str], object]


def instruments_for(
    *,
    dump_ir: str | Path | None = None,
    print_ir_after: str | None = None,
    verify_numerics: bool = False,
    time_passes: bool = False,
    pass_path: Sequence[str | Path] = (),
    write: Write = sys.stderr.write,
) -> list[Instrument]:
    """Return the instruments that command line options ask for.

    Args:
        dump_ir: directory to write the graph to after every pass.
        print_ir_after: "all", "change", or names of passes separated by commas.
        verify_numerics: whether to compare results before and after every pass.
        time_passes: whether to write a table of times.
        pass_path: directories of further passes that `print_ir_after` may name.
        write: takes what is to be shown.

    Raises:
        UsageError: `print_ir_after` names an unknown pass.
    """
    from qcompile.passmgr.verify_numerics import VerifyNumerics

    instruments: list[Instrument] = []
    if dump_ir is not None:
        instruments.append(DumpIr(dump_ir))
    if print_ir_after in ("all", "change"):
        instruments.append(PrintIr(write, only_changed=print_ir_after == "change"))
    elif print_ir_after is not None:
        known = PassRegistry(pass_path).names()
        names = [name.strip() for name in print_ir_after.split(",")]
        for name in names:
            if name not in known:
                hint = did_you_mean(name, ["all", "change", *known])
                raise UsageError(f"cannot print after '{name}': there is no such pass", hint=hint)
        instruments.append(PrintIr(write, names))
    if verify_numerics:
        instruments.append(VerifyNumerics())
    if time_passes:
        instruments.append(TimePasses(write))
    return instruments


class PrintIr(Instrument):
    """Writes the graph's text after passes.

    Args:
        write: takes a text with its newlines.
        after: names of the passes to print after; None for all of them.
        only_changed: print only where the pass changed the graph.
    """

    def __init__(self, write: Write, after: Sequence[str] | None = None, *, only_changed: bool = False) -> None:
        self.write = write
        self.after = None if after is None else frozenset(after)
        self.only_changed = only_changed

    def after_pass(self, item: Pass, before: Graph, after: Graph, record: PassRecord, context: PassContext) -> None:
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
        self._count = 0

    def start(self, graph: Graph, context: PassContext) -> None:
        """Write 000_input.qir, unless this continues an earlier pipeline."""
        if self._count == 0:
            self._write("000_input.qir", print_graph(graph))

    def after_pass(self, item: Pass, before: Graph, after: Graph, record: PassRecord, context: PassContext) -> None:
        """Write the graph, headed by the pass and what it skipped."""
        head = [f"// {record.text}: {'changed' if record.changed else 'unchanged'}"]
        head += [f"// skip: {skip}" for skip in record.skips]
        self._count += 1
        self._write(f"{self._count:03}_{item.name}.qir", "\n".join([*head, print_graph(after)]))

    def _write(self, name: str, text: str) -> None:
        with replaced(self.directory / name, f"cannot write IR to '{self.directory}'") as temporary:
            self.directory.mkdir(parents=True, exist_ok=True)
            temporary.write_text(text, encoding="utf-8")


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
