"""Detected boxes: how outputs and labels become lists of them, and which of them match."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.calibrate.python_function import load_function
from qcompile.errors import UsageError, with_line

Array = npt.NDArray[Any]

_DETECTION = 6  # x1, y1, x2, y2, score, class
_TRUTH = 5  # x1, y1, x2, y2, class

_CALL = "it is called with the outputs, arrays by name, and returns an array [boxes, 6]: x1, y1, x2, y2, score, class"

_decoder = cache(partial(load_function, refusal=UsageError))


def detections(outputs: Mapping[str, Array], decode: str, where: str) -> Array:
    """Return the boxes that a detector's outputs say.

    Args:
        outputs: real values by output name.
        decode: `module:function`, called with the outputs and returning the boxes; "" where the outputs are boxes:
            one output of [..., n, 6], or three of [..., n, 4], [..., n] scores and [..., n] classes.
        where: the sample, for messages.

    Returns:
        float64 [n, 6] with x1, y1, x2, y2, score, class, best score first.

    Raises:
        UsageError: the outputs hold no boxes, or the decoder fails.
    """
    if decode:
        function: Any = _decoder(decode)
        try:
            found = np.asarray(function(dict(outputs)), np.float64)
        except (Exception, SystemExit) as error:
            problem = f"decoder '{decode}' raised {with_line(error)}"
            raise UsageError(problem, loc=where, hint=_CALL) from error
        if found.size == 0:
            return np.zeros((0, _DETECTION))
        if found.ndim != 2 or found.shape[1] != _DETECTION:
            raise UsageError(f"decoder '{decode}' returned {list(found.shape)}, not [boxes, 6]", loc=where, hint=_CALL)
    else:
        found = _plain(outputs)
    return np.asarray(found[np.argsort(-found[:, 4], kind="stable")])


def _plain(outputs: Mapping[str, Array]) -> Array:
    arrays = [np.asarray(array, np.float64) for array in outputs.values()]
    if len(arrays) == 1 and arrays[0].ndim >= 2 and arrays[0].shape[-1] == _DETECTION:
        return arrays[0].reshape(-1, _DETECTION)
    corners = [a.reshape(-1, 4) for a in arrays if a.ndim >= 2 and a.shape[-1] == 4]
    flat = [a.reshape(-1, 1) for a in arrays if not (a.ndim >= 2 and a.shape[-1] == 4)]
    if len(corners) == 1 and len(flat) == 2 and {len(f) for f in flat} == {len(corners[0])}:
        # Scores come before classes, as in every detector that has three outputs.
        return np.concatenate([corners[0], *flat], axis=1)
    shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in outputs.items())
    raise UsageError(
        f"the outputs are no boxes: {shapes}",
        hint='f1_boxes{decode="module:function"} (or map) reads [boxes, 6] from them: x1, y1, x2, y2, score, class',
    )


def true_boxes(label: Any, where: str) -> Array:
    """Return the boxes of a label, float64 [n, 5] with x1, y1, x2, y2, class.

    Raises:
        UsageError: it has another shape.
    """
    hint = "give an array [boxes, 5] for each sample: x1, y1, x2, y2, class"
    boxes = np.asarray(label)
    if boxes.dtype.kind not in "fiu" and boxes.size:
        raise UsageError(f"{where}: the label {label!r} is no list of boxes", hint=hint)
    if boxes.size == 0:
        return np.zeros((0, _TRUTH))
    if boxes.ndim != 2 or boxes.shape[1] != _TRUTH:
        problem = f"{where}: a label of shape {list(boxes.shape)}, not [boxes, 5]: x1, y1, x2, y2, class"
        raise UsageError(problem, hint=hint)
    return boxes.astype(np.float64)


def overlaps(first: Array, second: Array) -> Array:
    """Return the intersection over union of all pairs, [n, m], from [n, ≥4] and [m, ≥4] corners."""
    # Boxes without finite corners overlap nothing.
    first, second = (np.where(np.isfinite(b[:, :4]).all(axis=1, keepdims=True), b[:, :4], 0.0) for b in (first, second))
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:4], second[None, :, 2:4])
    shared = np.clip(high - low, 0, None).prod(axis=-1)
    areas = [np.clip(b[:, 2:4] - b[:, :2], 0, None).prod(axis=-1) for b in (first, second)]
    union = areas[0][:, None] + areas[1][None, :] - shared
    return np.asarray(np.divide(shared, union, out=np.zeros_like(shared), where=union > 0))


def matched(found: Array, truth: Array, threshold: float) -> Array:
    """Return which detections are right: each takes the free true box of its class that it overlaps most.

    Args:
        found: [n, 6], best score first.
        truth: [m, 5].
        threshold: least intersection over union.

    Returns:
        bool [n].

    Source:
        Everingham et al., "The Pascal visual object classes challenge", 2010, §4.2.
    """
    right = np.zeros(len(found), bool)
    free = np.ones(len(truth), bool)
    scores = overlaps(found, truth)
    for index in range(len(found)):
        allowed = free & (truth[:, 4] == found[index, 5]) & (scores[index] >= threshold)
        if allowed.any():
            best = int(np.argmax(np.where(allowed, scores[index], -1.0)))
            right[index], free[best] = True, False
    return right
