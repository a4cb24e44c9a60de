"""What an output should be, value by value: the label, or the float model's answer where there is none."""

from __future__ import annotations

from contextlib import suppress

import numpy as np

from qcompile.errors import UsageError
from qcompile.evaluate.measure import Array, Observation, float_outputs, output_name, reference_output


def true_values(seen: Observation, wanted: str, metric: str) -> tuple[Array, Array]:
    """Return what an output should be, and what it is, in the same shape.

    Args:
        seen: the sample.
        wanted: the output's name, "" for the only one.
        metric: what asks, for messages.

    Raises:
        UsageError: there is neither a label nor a float model, or the label is no array of such numbers.
    """
    name = output_name(seen, wanted)
    answer = np.asarray(seen.outputs[name])
    target = np.asarray(_number(seen.label) if seen.label is not None else _by_float(seen, name, metric))
    if target.dtype.kind not in "fiu":
        said = repr(seen.label) if isinstance(seen.label, str) else f"of {target.dtype}"
        hint = f"{metric} compares numbers: give one for each value of output '{name}'"
        raise UsageError(f"{seen.where}: the label {said} is no number", hint=hint)
    if target.size != answer.size:
        hint = f"{metric} compares each value of output '{name}' with one of the label"
        raise UsageError(
            f"{seen.where}: label of shape {list(target.shape)} for an output of {list(answer.shape)}",
            hint=f"{hint}; where the label is a class, --metric top1" if target.size == 1 else hint,
        )
    return target.reshape(answer.shape), answer


def deviations(seen: Observation, wanted: str, metric: str) -> tuple[Array, Array]:
    """Return the true values that are finite, and by how much the answers miss them, float64 [values].

    What is not finite in the answers alone misses by infinity, whatever it is: no number stands for it.

    Args:
        seen: the sample.
        wanted: the output's name, "" for the only one.
        metric: what asks, for messages.

    Raises:
        UsageError: as for `true_values`.
    """
    truth, answer = (np.asarray(array, np.float64).reshape(-1) for array in true_values(seen, wanted, metric))
    known = np.isfinite(truth)
    truth, answer = truth[known], answer[known]
    return truth, np.where(np.isfinite(answer), np.abs(answer - truth), np.inf)


def _by_float(seen: Observation, name: str, metric: str) -> Array:
    float_outputs(seen, metric)
    return reference_output(seen, name)


def _number(label: object) -> object:
    """Return the number that a label in a list of files says; other labels as they are."""
    if isinstance(label, str):
        with suppress(ValueError):
            return float(label)
    return label
