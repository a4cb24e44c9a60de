"""The integer weights with the least error at the output of a layer, from second moments of its input."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.quant.byte_pairs import nearest_even, needing_halves

Array = npt.NDArray[Any]

_BLOCK = 64
_TRIALS = (16, 32), (64, 16), (256, 6), (1 << 30, 1)  # up to so many terms, try so many scales
_SMALLEST_FACTOR = 0.75
_LEAST_VARIANCE = 1e-30  # below, an input is constant and any rounding is as good as another


def compensated_weights(weight: Array, own: Array, cross: Array, residual: Array, damping: float) -> Array:
    """Return the real weights that make up best for the error of their input.

    Formula:
        argmin over V of E‖W·p + r − V·q‖² + λ‖V − W‖² = W + (W·cov(p − q, q) + cov(r, q)) · (cov(q, q) + λI)⁻¹,
        λ = damping · mean diag cov(q, q)

    Args:
        weight: W, real units, [groups, outputs, terms].
        own: cov(q, q), [groups, terms, terms].
        cross: cov(p − q, q), the same shape.
        residual: cov(r, q), [groups, outputs, terms].
        damping: dimensionless.

    Source:
        Ridge regression; in the place of the plain weights of Frantar et al., "GPTQ", 2022, as Li et al.,
        "GPTAQ: Efficient finetuning-free quantization for asymmetric calibration", 2025.
    """
    target = np.matmul(weight, cross) + residual
    solved = np.linalg.solve(damped(own, damping), target.transpose(0, 2, 1))
    return np.asarray(weight + solved.transpose(0, 2, 1))


def damped(own: Array, damping: float) -> Array:
    """Return H + λI with λ = damping · mean diag H of each group, which is never singular."""
    level = np.diagonal(own, axis1=1, axis2=2).mean(axis=1)
    level = damping * np.where(level > _LEAST_VARIANCE, level, 1.0)
    result: Array = own.copy()
    every = np.arange(own.shape[-1])
    result[:, every, every] += level[:, None]
    return result


def round_weights(weight: Array, scale: Array, hessian: Array, *, qmax: int = 127, sweeps: int = 2) -> Array:
    """Round weights so that the errors of different terms cancel at the output.

    Formula:
        minimize Σ_o (w_o − s_o·z_o)ᵀ H (w_o − s_o·z_o) over integers |z| ≤ qmax: term by term in the order of
        falling H_kk, each making up for the errors of those before it (the rule of GPTQ, by the Cholesky factor of
        H in the place of that of H⁻¹); then sweeps of coordinate descent,
        z_k ← rne(z_k + (H·(w − s·z))_k / (H_kk·s)), each step of which can only lower the error

    Args:
        weight: real units, [groups, outputs, terms].
        scale: real units per LSB, [groups, outputs].
        hessian: H, positive definite, [groups, terms, terms].
        qmax: largest integer, LSB.
        sweeps: of coordinate descent.

    Returns:
        Integers in LSB, float64 [groups, outputs, terms].

    Source:
        Frantar et al., "GPTQ: Accurate post-training quantization for generative pre-trained transformers",
        2022 (order, Cholesky form); Nagel et al., "Up or down? Adaptive rounding for post-training
        quantization", 2020 (the quadratic task).
    """
    order = np.argsort(-np.diagonal(hessian, axis1=1, axis2=2), axis=1, kind="stable")
    h = np.stack([matrix[np.ix_(o, o)] for matrix, o in zip(hessian, order, strict=True)])
    # The problem in units of the scale: each output then rounds to whole numbers.
    w = np.take_along_axis(weight / scale[:, :, None], order[:, None, :], 2)
    z = _in_order(w, h, qmax)
    nearest = np.clip(np.rint(w), -qmax, qmax)
    worse = _cost(w - z, h) > _cost(w - nearest, h)
    z = np.where(worse[:, :, None], nearest, z)
    for _ in range(sweeps):
        _descend(w, z, h, qmax)
    result = np.empty_like(z)
    np.put_along_axis(result, np.broadcast_to(order[:, None, :], z.shape), z, 2)
    return result


def best_scales(
    weight: Array, scale: Array, hessian: Array, least: Array, *, qmax: int = 127, sweeps: int = 2
) -> tuple[Array, Array]:
    """Round weights with the scale of each output that gives the least error there.

    Formula:
        s_o = argmin over s = f · scale_o, s ≥ least_o, of the minimum that `round_weights` finds; the more
        terms, the fewer factors f are tried

    Args:
        weight: real units, [groups, outputs, terms].
        scale: to start from, real units per LSB, [groups, outputs].
        hessian: H, positive definite, [groups, terms, terms].
        least: smallest scale allowed, [groups, outputs].
        qmax: largest integer, LSB.
        sweeps: of coordinate descent.

    Returns:
        Integers in LSB [groups, outputs, terms], and scales [groups, outputs], float32 values.
    """
    count = next(n for terms, n in _TRIALS if weight.shape[2] <= terms)
    outputs = weight.shape[1]
    factors = np.linspace(1.0, _SMALLEST_FACTOR, count) if count > 1 else np.ones(1)
    trials = np.maximum(scale[:, None, :] * factors[None, :, None], least[:, None, :])
    # Every trial is an output of its own: one pass over the terms rounds them all.
    flat = trials.astype(np.float32).astype(np.float64).reshape(scale.shape[0], -1)
    copies = np.tile(weight, (1, count, 1))
    z = round_weights(copies, flat, hessian, qmax=qmax, sweeps=sweeps)
    cost = _cost(copies - z * flat[:, :, None], hessian)
    best = cost.reshape(-1, count, outputs).argmin(axis=1) * outputs + np.arange(outputs)
    return np.take_along_axis(z, best[:, :, None], 1), np.take_along_axis(flat, best, 1)


def round_pairs(
    weight: Array, scale: Array, integers: Array, hessian: Array, run: int, *, qmax: int = 127, rounds: int = 4
) -> tuple[Array, float]:
    """Make the weights of crowded pairs even, so that the errors still cancel at the output.

    Formula:
        coordinate descent as in `round_weights`, in steps of 2 for the weights of `quant.byte_pairs.needing_halves`;
        pairs which that makes crowded join in the next round, and are rounded by themselves after the last

    Args:
        weight: real units, [groups, outputs, terms].
        scale: real units per LSB, [groups, outputs].
        integers: what `round_weights` found, LSB, [groups, outputs, terms].
        hessian: H, positive definite, [groups, terms, terms].
        run: terms of which pairs are counted from the first, as for `quant.byte_pairs.needing_halves`.
        qmax: largest integer, LSB.
        rounds: of coordinate descent.

    Returns:
        Integers in LSB, and by how many dB the error at the output grows.
    """
    w, z = weight / scale[:, :, None], np.array(integers, np.float64)
    even = np.zeros(z.shape, np.bool_)
    for _ in range(rounds):
        odd = needing_halves(z, run)
        if not odd.any():
            break
        even |= odd
        _descend(w, z, hessian, qmax, np.where(even, 2.0, 1.0))
    z = nearest_even(z, z, run)
    before, after = ((_cost(w - one, hessian) * scale**2).sum() for one in (integers, z))
    return z, 10 * float(np.log10(after / before)) if before > 0.0 else 0.0


def _cost(error: Array, h: Array) -> Array:
    """Return e ᵀ H e of each output, [groups, outputs]."""
    return np.asarray((np.matmul(error, h) * error).sum(axis=2))


def _in_order(w: Array, h: Array, qmax: int) -> Array:
    """Round term by term, each making up for the errors of those before it.

    Formula:
        eᵀ H e = Σ_k d_k·(e_k + Σ_{i<k} share_ki·e_i)²: z_k = rne(w_k + Σ_{i<k} share_ki·e_i), e_k = w_k − z_k
    """
    terms = w.shape[2]
    shares = np.linalg.cholesky(h[:, ::-1, ::-1])[:, ::-1, ::-1].transpose(0, 2, 1)
    shares /= np.diagonal(shares, axis1=1, axis2=2)[:, :, None].copy()
    z, errors = np.empty_like(w), np.empty_like(w)
    for start in range(0, terms, _BLOCK):
        stop = min(start + _BLOCK, terms)
        before = shares[:, start:stop, :start].transpose(0, 2, 1)
        # One row for each term: what an iteration reads and writes is in one piece.
        part = np.ascontiguousarray(w[:, :, start:stop].transpose(0, 2, 1))
        wanted = part + np.matmul(errors[:, :, :start], before).transpose(0, 2, 1)
        rounded, error = np.empty_like(part), np.empty_like(part)
        for k in range(stop - start):
            np.minimum(np.maximum(np.rint(wanted[:, k]), -qmax), qmax, out=rounded[:, k])
            np.subtract(part[:, k], rounded[:, k], out=error[:, k])
            wanted[:, k + 1 :] += error[:, None, k] * shares[:, start + k + 1 : stop, start + k, None]
        z[:, :, start:stop] = rounded.transpose(0, 2, 1)
        errors[:, :, start:stop] = error.transpose(0, 2, 1)
    return z


def _descend(w: Array, z: Array, h: Array, qmax: int, step: Array | None = None) -> None:
    """Improve z in place, one term after the other; ``step``, of the same shape, is what each is a multiple of."""
    gradient = np.matmul(w - z, h)
    for start in range(0, w.shape[2], _BLOCK):
        stop = min(start + _BLOCK, w.shape[2])
        before = z[:, :, start:stop].copy()
        # One row for each term: what an iteration reads and writes is in one piece.
        block, found = (np.ascontiguousarray(x[:, :, start:stop].transpose(0, 2, 1)) for x in (gradient, z))
        for k in range(stop - start):
            at = start + k
            wanted = found[:, k] + block[:, k] / h[:, at, at, None]
            unit = 1 if step is None else step[:, :, at]
            change = np.clip(unit * np.rint(wanted / unit), qmax % unit - qmax, qmax - qmax % unit) - found[:, k]
            found[:, k] += change
            # The terms before it have had their turn.
            block[:, k + 1 :] -= change[:, None] * h[:, at, at + 1 : stop, None]
        z[:, :, start:stop] = found.transpose(0, 2, 1)
        gradient -= np.matmul(z[:, :, start:stop] - before, h[:, start:stop, :])
