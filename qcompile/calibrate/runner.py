"""Runs the float model on the samples and gathers the statistics of its tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from qcompile.calibrate.histogram import Seen, TensorStatistics, look
from qcompile.calibrate.observer import Observer
from qcompile.errors import CalibrationError, InternalError
from qcompile.ir.graph import Value
from qcompile.parallel import in_order

Array = npt.NDArray[Any]

Progress = Callable[[int, "int | None"], None]
"""Called with the samples done and their number, None where it is not known; first with 0 done."""


class Executor(Protocol):
    """Whatever runs a graph and shows every tensor, such as `qcompile.ops.interpreter.Interpreter`."""

    def run(
        self, inputs: Mapping[str, Array], on_value: Callable[[Value, Array], None] | None = None
    ) -> Mapping[str, Array]:
        """Evaluate the graph once and call on_value with every input and result."""


def calibrate(
    executor: Executor,
    samples: Iterable[Mapping[str, Array]],
    observers: Mapping[str, Observer],
    *,
    threads: int = 1,
    progress: Progress | None = None,
) -> dict[str, TensorStatistics]:
    """Run all samples through the model and return the statistics of the observed tensors.

    Only the statistics are kept, never the activations; nothing is written, so that an interruption leaves
    no trace.

    Args:
        executor: runs the float graph.
        samples: {input name: array}, such as a CalibrationSet.
        observers: name of each value to observe, and the observer that will choose its range.
        threads: to run samples on.
        progress: told after each sample.

    Returns:
        Value name to statistics, in the order of `observers`.

    Raises:
        CalibrationError: there is no sample, or a tensor became NaN.
    """
    statistics = {name: observer.new_statistics(name) for name, observer in observers.items()}

    def observed(sample: Mapping[str, Array]) -> list[tuple[str, Seen]]:
        found: list[tuple[str, Seen]] = []

        def on_value(value: Value, array: Array) -> None:
            if value.name in statistics:
                found.append((value.name, look(array, value.name)))

        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            executor.run(sample, on_value=on_value)
        return found

    total = _length(samples)
    if progress is not None:
        progress(0, total)
    done = 0
    for found in in_order(observed, samples, threads):
        for name, seen in found:
            statistics[name].take(seen)
        done += 1
        if progress is not None:
            progress(done, total)
    if done == 0:
        raise CalibrationError("there is no calibration sample")
    # What a loop computes is seen once an iteration.
    unseen = [name for name, entry in statistics.items() if entry.samples < done]
    if unseen:
        raise InternalError(f"calibration saw no value for {', '.join(unseen)}")
    return statistics


def _length(samples: Iterable[Mapping[str, Array]]) -> int | None:
    size = getattr(samples, "size", None)
    if isinstance(size, int):
        return size
    try:
        return len(samples)  # type: ignore[arg-type]
    except TypeError:
        return None
