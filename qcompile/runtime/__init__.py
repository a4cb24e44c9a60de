"""Load and run bundles; needs NumPy and nothing of the compiler.

`run.py` is the file that every bundle carries a copy of, so it knows nothing of this package. Here its errors
become those of `qcompile.errors`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from qcompile.errors import BundleError, UsageError
from qcompile.runtime import run as _run
from qcompile.runtime.run import Tensor

__all__ = ["BundleError", "Session", "Tensor", "load"]


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except _run.InputError as error:
        raise UsageError(error.message, hint=error.hint) from None
    except _run.BundleError as error:
        raise BundleError(error.message, hint=error.hint) from None


class Session(_run.Session):
    """A loaded model; see `qcompile.runtime.run.Session` for its methods and attributes."""

    def __init__(self, path: str | os.PathLike[str], threads: int = 1) -> None:
        with _translated():
            super().__init__(path, threads)

    def open_axes(self, tensor: Tensor) -> tuple[tuple[int, ...], tuple[range | None, ...]]:
        """Return the shape of an input, with the smallest extent of an open batch axis, and the extents of each axis.

        Args:
            tensor: one of `inputs`.

        Returns:
            Extents, and for each axis those it may have, None for a fixed one; () where all are fixed.
        """
        return open_extents(tensor.name, tensor.shape, self.symbols)

    def _state(self, name: str) -> Any:
        with _translated():
            return super()._state(name)

    def set_state(self, name: str, value: Any) -> None:
        """Set a kept tensor for the next run; see `qcompile.runtime.run.Session.set_state`."""
        with _translated():
            super().set_state(name, value)

    def _run(self, inputs: Mapping[str, Any], times: int | None) -> dict[str, Any]:
        with _translated():
            return super()._run(inputs, times)


def open_extents(
    name: str, shape: tuple[int, ...], symbols: Sequence[Mapping[str, Any]]
) -> tuple[tuple[int, ...], tuple[range | None, ...]]:
    """Return the shape of an input, with the smallest extent of an open batch axis, and the extents of each axis.

    Args:
        name: of the input.
        shape: its largest.
        symbols: the open extents, as the manifest lists them.

    Returns:
        As `Session.open_axes`.
    """
    ranges = {
        axis: range(symbol["least"], symbol["most"] + 1, symbol["step"])
        for symbol in symbols
        for place, axis in symbol["places"]
        if place == name
    }
    if not ranges:
        return shape, ()
    smallest = (ranges[0].start, *shape[1:]) if 0 in ranges else shape
    return smallest, tuple(ranges.get(axis) for axis in range(len(shape)))


def chosen_sizes(symbols: Sequence[Mapping[str, Any]], inputs: Mapping[str, Any]) -> list[int]:
    """Return the size of each open extent that the shapes of inputs tell.

    Args:
        symbols: the open extents, as the manifest lists them.
        inputs: an array for each input, by name.

    Raises:
        UsageError: axes of one name differ, or a size is not allowed.
    """
    with _translated():
        return [_run._size(symbol, inputs) for symbol in symbols]


def load(path: str | os.PathLike[str], threads: int = 1) -> Session:
    """Check a bundle and make it ready to run.

    Args:
        path: the bundle's directory.
        threads: number of threads, 1 to 64; 0 for one per core that this process may use.

    Raises:
        BundleError: it is not a bundle, a file is missing, truncated or altered, it is for another
            architecture, or this processor lacks an instruction set that it needs.
        UsageError: `threads` is out of range.
    """
    return Session(path, threads)
