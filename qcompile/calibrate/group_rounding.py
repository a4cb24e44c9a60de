"""Rounds weights to a few bits by groups of a row, so that the errors of different terms cancel at the output."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.calibrate.layer_refit import Task
from qcompile.quant.groups import GroupedWeights, quantize_groups

Array = npt.NDArray[Any]


def round_groups(task: Task, bits: int, group: int, *, symmetric: bool = True) -> GroupedWeights:
    """Round the rows of a matrix, term by term, each error passed on to the terms not yet rounded.

    Formula:
        as `quant.groups.quantize_groups` for each group as it is when its turn comes; then for its terms k in order
        e = (w_k − v_k) / U_kk, w_j ← w_j − e · U_kj for j > k, U the upper Cholesky factor of H⁻¹; a row for which
        plain rounding costs less is rounded plainly

    Args:
        task: of a layer of one group of channels.
        bits: 1, 2, 4 or 8.
        group: neighbours that share a scale.
        symmetric: no zero points.

    Source:
        Frantar et al., "GPTQ: Accurate post-training quantization for generative pre-trained transformers", 2022.
    """
    plain = quantize_groups(task.wanted[0].astype(np.float32), bits, group, symmetric=symmetric)
    passed = _in_order(task, bits, group, symmetric)
    worse = task.cost(group_values(passed, group)[None])[0] > task.cost(group_values(plain, group)[None])[0]
    if passed.scale.dtype != plain.scale.dtype:
        return plain if worse.mean() > 0.5 else passed  # one type of scales serves a whole layer
    pick = worse[:, None]
    zero = None
    if plain.zero_point is not None and passed.zero_point is not None:
        zero = np.where(pick, plain.zero_point, passed.zero_point)
    codes, scale = np.where(pick, plain.codes, passed.codes), np.where(pick, plain.scale, passed.scale)
    return GroupedWeights(codes, scale, zero, plain.centre)


def group_values(made: GroupedWeights, group: int) -> Array:
    """Return what the integers stand for, float64 [N, K]."""
    inner = made.codes.shape[1]
    scale = np.repeat(made.scale.astype(np.float64), group, axis=1)[:, :inner]
    zero = made.centre if made.zero_point is None else np.repeat(made.zero_point, group, axis=1)[:, :inner]
    return np.asarray(scale * (made.codes.astype(np.float64) - zero))


def _in_order(task: Task, bits: int, group: int, symmetric: bool) -> GroupedWeights:
    """Round group by group, passing each error on."""
    w, inner = task.wanted[0].copy(), task.wanted.shape[2]
    factor = np.linalg.cholesky(np.linalg.inv(task.hessian[0])).T
    low, high = (-1, 1) if bits == 2 else (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
    parts = []
    for start in range(0, inner, group):
        stop = min(start + group, inner)
        made = quantize_groups(w[:, start:stop].astype(np.float32), bits, group, symmetric=symmetric)
        scale = made.scale[:, 0].astype(np.float64)
        zero = made.centre if made.zero_point is None else made.zero_point[:, 0].astype(np.float64)
        codes, errors = np.empty((len(w), stop - start)), np.empty((len(w), stop - start))
        for k in range(start, stop):
            steps = np.divide(w[:, k], scale, out=np.zeros(len(w)), where=scale != 0)
            found = np.where(steps >= 0, 0, -1) if bits == 1 else np.clip(np.rint(steps + zero), low, high)
            error = (w[:, k] - scale * (found - zero)) / factor[k, k]
            w[:, k + 1 : stop] -= error[:, None] * factor[k, k + 1 : stop]
            codes[:, k - start], errors[:, k - start] = found, error
        w[:, stop:] -= errors @ factor[start:stop, stop:]
        parts.append((codes.astype(np.int8), made))
    half = all(made.scale.dtype == np.float16 for _, made in parts)
    scales = np.concatenate([made.scale.astype(np.float32) for _, made in parts], axis=1)
    zeros = [made.zero_point for _, made in parts if made.zero_point is not None]
    return GroupedWeights(
        np.concatenate([codes for codes, _ in parts], axis=1),
        scales.astype(np.float16) if half else scales,
        np.concatenate(zeros, axis=1) if zeros else None,
        parts[0][1].centre,
    )
