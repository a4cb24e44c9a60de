"""Progress of long work: a bar with an ETA on a terminal, plain lines in a log, nothing when quiet."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

Progress = Callable[[int, int, str], None]
"""What long work calls with the units done, the units in all (0 where unknown), and what it is."""

_LINE_INTERVAL = 10.0
"""Seconds between two plain lines of one piece of work."""
_NO_BARS = ("dumb", "unknown")
"""Values of TERM with which no line can be written over."""


class ProgressReporter:
    """Shows (done, total, what) reports; use it as a context manager.

    Args:
        quiet: show nothing.
        terminal: draw bars; None asks standard error and TERM, since a terminal that cannot move up shows no bars.
    """

    def __init__(self, *, quiet: bool = False, terminal: bool | None = None) -> None:
        self._quiet = quiet
        capable = os.environ.get("TERM", "").lower() not in _NO_BARS
        self._terminal = sys.stderr.isatty() and capable if terminal is None else terminal
        self._bars: RichProgress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._started: dict[str, float] = {}
        self._printed: dict[str, float] = {}

    def __enter__(self) -> ProgressReporter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def __call__(self, done: int, total: int, what: str) -> None:
        """Report how far a piece of work has come.

        Args:
            done: units finished.
            total: units in all; 0 where unknown.
            what: the work; each has its own bar.
        """
        if self._quiet:
            return
        if self._terminal:
            self._draw(done, total, what)
        else:
            self._print(done, total, what)

    def _draw(self, done: int, total: int, what: str) -> None:
        if self._bars is None:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (
                TextColumn("{task.description:<24}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
            )
            self._bars = Progress(*columns, console=Console(stderr=True))
            self._bars.start()
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(what, total=total or None)
        elif self._bars.tasks[self._tasks[what]].finished and done < total:
            self._bars.reset(self._tasks[what])  # the same work once more, on something else
        self._bars.update(self._tasks[what], completed=done, total=total or None)

    def _print(self, done: int, total: int, what: str) -> None:
        now = time.monotonic()
        started = self._started.setdefault(what, now)
        finished = bool(total) and done >= total
        if not finished and now - self._printed.get(what, started) < _LINE_INTERVAL:
            return
        self._printed[what] = now
        elapsed = now - started
        if finished:
            # The same work may be done once more, on something else.
            del self._started[what], self._printed[what]
        left = f", {elapsed * (total - done) / done:.0f} s left" if 0 < done < total else ""
        amount = f"{done}/{total}" if total else str(done)
        print(f"{what}: {amount} ({elapsed:.0f} s{left})", file=sys.stderr, flush=True)
