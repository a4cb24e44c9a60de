"""Tasks of a search on a dask.distributed cluster that the user runs: `--executor dask://host:port`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from qcompile.errors import UsageError

SCHEME = "dask://"
SECONDS = 10
"""To wait for the scheduler."""

_HINT = "start one with `dask scheduler` and `dask worker HOST:8786`, with the same qcompile installed"


class Cluster:
    """A connection to a scheduler.

    Args:
        text: "dask://host:port".

    Raises:
        UsageError: the text has another form, dask.distributed is not installed, or nobody answers.
    """

    def __init__(self, text: str) -> None:
        address = text.removeprefix(SCHEME)
        if not text.startswith(SCHEME) or not address.rpartition(":")[2].isdigit() or ":" not in address:
            raise UsageError(f"--executor '{text}' is no dask://HOST:PORT", hint="such as dask://192.168.1.5:8786")
        try:
            import distributed
        except ImportError:
            raise UsageError("--executor needs dask.distributed", hint="pip install 'qcompile[distributed]'") from None
        self._text = text
        try:
            self._client = distributed.Client(f"tcp://{address}", timeout=SECONDS, set_as_default=False)
        except (OSError, TimeoutError) as error:
            raise UsageError(f"no scheduler answers at {text}: {str(error).splitlines()[0]}", hint=_HINT) from None

    def check(self) -> None:
        """Make sure that there are workers, and that they have this version.

        Raises:
            UsageError: there are none, or they have another one or none.
        """
        from qcompile.search import transport

        workers = self._client.scheduler_info().get("workers", {})
        if not workers:
            raise UsageError(f"the cluster at {self._text} has no workers", hint=_HINT)
        try:
            found = self._client.run(transport.version)
        except Exception as error:
            raise UsageError(f"a worker at {self._text} cannot run qcompile: {error}", hint=_HINT) from None
        other = {where: what for where, what in found.items() if what != transport.version()}
        if other:
            where, what = next(iter(other.items()))
            raise UsageError(f"the worker {where} has qcompile {what}, here is {transport.version()}", hint=_HINT)

    def results(self, work: Callable[[int], Any], count: int) -> Iterator[Any]:
        """Yield what a function gives for 0, 1, …, count − 1, computed by the workers.

        Raises:
            UsageError: the workers died.
        """
        import distributed

        from qcompile.search import transport

        packed = self._client.scatter(transport.pack(work), broadcast=True)
        futures = [self._client.submit(transport.call, packed, index, pure=False) for index in range(count)]
        try:
            for future in futures:
                yield future.result()
        except (distributed.KilledWorker, distributed.CancelledError, OSError) as error:
            raise UsageError(
                f"the cluster at {self._text} lost its workers: {str(error).splitlines()[0]}",
                hint="the search goes on where it was when it is started again",
            ) from None
        finally:
            self._client.cancel(futures)

    def close(self) -> None:
        """End the connection; the cluster goes on."""
        self._client.close()
