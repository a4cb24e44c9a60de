"""Samples side by side on several threads, each with a BLAS of one thread.

NumPy's BLAS divides single products among all cores, and its threads wait for each other busily: on a machine that does
other work, too, they take several times as long as one thread does. Samples are independent, so that threads of our
own need not wait; what they compute does not depend on how many there are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import Future

    from qcompile.ir.graph import Graph

S = TypeVar("S")
T = TypeVar("T")

_MACS_PER_NODE = 1e5
"""Multiply-accumulates of an average node from which on NumPy, not Python, takes the time: Python runs one thread."""

_BYTES = 2**29
"""What the samples that are computed ahead may hold in memory."""


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Let products of NumPy run on one thread for a while, whatever the machine has."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1, user_api="blas"):
        yield


def worth_threads(graph: Graph, jobs: int) -> int:
    """Return on how many threads samples of a graph are best run.

    Args:
        graph: float, integer or mixed. Sizes of open extents and loops keep to one thread.
        jobs: threads to use at most.
    """
    from qcompile.ir.regions import regions, total_macs

    if graph.symbols or regions(graph.nodes) or total_macs(graph) < _MACS_PER_NODE * len(graph.nodes):
        return 1
    return jobs


def threads_within(threads: int, size: int) -> int:
    """Return how many of some threads find room for what each holds.

    Args:
        threads: to use at most.
        size: of the results of one that wait for their turn, bytes.
    """
    return max(1, min(threads, _BYTES // max(1, size)))


def in_order(work: Callable[[S], T], items: Iterable[S], threads: int) -> Iterator[T]:
    """Yield what a function gives for each of some items, in their order.

    Args:
        work: depends on its argument alone; with one thread it is called when its result is wanted.
        items: are read in the calling thread, as many ahead as there are threads.
        threads: to compute on.
    """
    if threads <= 1:
        yield from map(work, items)
        return
    from concurrent.futures import ThreadPoolExecutor

    waiting: deque[Future[T]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
