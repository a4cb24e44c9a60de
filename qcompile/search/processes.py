"""Independent tasks in parallel processes or on threads, with results in order."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from qcompile.errors import UsageError
from qcompile.parallel import in_order

if TYPE_CHECKING:
    from qcompile.search.cluster import Cluster

T = TypeVar("T")

_POLL = 1.0
"""Seconds between two looks of a process at whether its parent still lives."""

_cluster: Cluster | None = None
"""Where tasks go instead of to processes."""

_current: Callable[[int], Any] | None = None
"""What the processes compute: they inherit it, since graphs and samples are too large to be sent."""


def run_tasks(
    work: Callable[[int], T],
    count: int,
    *,
    jobs: int = 1,
    threads: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> list[T]:
    """Return what a function gives for 0, 1, …, count − 1.

    Args:
        work: depends on its argument alone, so that the results do not depend on `jobs`; they must be small, as
            they come back through a pipe.
        count: number of tasks.
        jobs: processes; 1 computes in this one.
        threads: of this process, where it computes.
        progress: called with (done, count).

    Raises:
        UsageError: a process died.
    """
    results = []
    if _cluster is not None:
        source = _cluster.results(work, count)
    elif jobs <= 1 or count <= 1 or "fork" not in multiprocessing.get_all_start_methods():
        source = in_order(work, range(count), threads)
    else:
        source = _results(work, count, min(jobs, count))
    for result in source:
        results.append(result)
        if progress is not None:
            progress(len(results), count)
    return results


@contextmanager
def tasks_on(cluster: Cluster | None) -> Iterator[None]:
    """Send the tasks of `run_tasks` to a cluster for a while; None changes nothing."""
    global _cluster
    before, _cluster = _cluster, cluster
    try:
        yield
    finally:
        _cluster = before


def _results(work: Callable[[int], T], count: int, jobs: int) -> Iterator[T]:
    global _current
    _current = work
    try:
        context = multiprocessing.get_context("fork")
        with ProcessPoolExecutor(jobs, context, initializer=_prepare, initargs=(os.getpid(),)) as pool:
            yield from pool.map(_call, range(count))
    except BrokenProcessPool:
        raise UsageError(
            "a process of the search ended without a result, probably for want of memory",
            hint="--jobs 1 needs the least; the search goes on where it was",
        ) from None
    finally:
        _current = None


def _call(index: int) -> Any:
    assert _current is not None
    return _current(index)


def _prepare(parent: int) -> None:
    """Leave interruptions to the parent, and end with it even where it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()


def _follow(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_POLL)
    os._exit(1)
