"""Runs the float model on the samples and gathers the statistics of its tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
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
        CalibrationError: there is no sample, or an output became NaN.
    """
    statistics = {name: observer.new_statistics(name) for name, observer in observers.items()}

    def observed(sample: Mapping[str, Array]) -> tuple[list[tuple[str, Seen]], list[str]]:
        found: list[tuple[str, Seen]] = []

        def on_value(value: Value, array: Array) -> None:
            if value.name in statistics:
                found.append((value.name, look(array, value.name)))

        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            outputs = executor.run(sample, on_value=on_value)
        return found, [name for name, array in outputs.items() if array.dtype.kind == "f" and np.isnan(array).any()]

    total = _length(samples)
    if progress is not None:
        progress(0, total)
    done = 0
    for found, lost in in_order(observed, samples, threads):
        if lost:
            raise _no_answer(lost[0], done + 1, [name for name, seen in found if math.isnan(seen.marker)])
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


def _no_answer(output: str, sample: int, tensors: Sequence[str]) -> CalibrationError:
    """Return what to say of an output that is NaN, and of the tensors that were NaN on the way to it."""
    origin = f", tensor '{tensors[0]}' is the first on the way there" if tensors and tensors[0] != output else ""
    return CalibrationError(
        f"output '{output}' is NaN for calibration sample {sample}{origin}",
        hint="run the float model on this sample: it has no valid result for it",
    )


def _length(samples: Iterable[Mapping[str, Array]]) -> int | None:
    size = getattr(samples, "size", None)
    if isinstance(size, int):
        return size
    try:
        return len(samples)  # type: ignore[arg-type]
    except TypeError:
        return None
