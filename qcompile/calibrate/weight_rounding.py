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
_MANY = 0.1  # share of the terms that move, above which all outputs go through the terms together
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
    known: Array | None
    (cost, known), (cost_nearest, gradient_nearest) = (_cost_and_gradient(w - one, h) for one in (z, nearest))
    worse = (cost > cost_nearest)[:, :, None]
    z, known = np.where(worse, nearest, z), np.where(worse, gradient_nearest, known)
    for _ in range(sweeps):
        _descend(w, z, h, qmax, gradient=known)
        known = None
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
    if count == 1:
        return z, flat
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
    odd = even = needing_halves(z, run)
    if not odd.any():
        return z, 0.0
    known: Array | None
    cost, known = _cost_and_gradient(w - z, hessian)
    for _ in range(rounds):
        even = even | odd
        _descend(w, z, hessian, qmax, np.where(even, 2.0, 1.0), known)
        odd, known = needing_halves(z, run), None
        if not odd.any():
            break
    z = nearest_even(z, z, run)
    before, after = ((one * scale**2).sum() for one in (cost, _cost(w - z, hessian)))
    return z, 10 * float(np.log10(after / before)) if before > 0.0 else 0.0


def _cost(error: Array, h: Array) -> Array:
    """Return e ᵀ H e of each output, [groups, outputs]."""
    return _cost_and_gradient(error, h)[0]


def _cost_and_gradient(error: Array, h: Array) -> tuple[Array, Array]:
    """Return e ᵀ H e of each output, and e ᵀ H, of which `_descend` begins."""
    gradient = np.matmul(error, h)
    return np.asarray((gradient * error).sum(axis=2)), gradient


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


def _descend(w: Array, z: Array, h: Array, qmax: int, step: Array | None = None, gradient: Array | None = None) -> None:
    """Improve z in place, one term after the other.

    Args:
        w: real weights, LSB.
        z: integers.
        h: H of each group.
        qmax: largest integer, LSB.
        step: what each integer is a multiple of, 1 or 2, of the shape of z; None for 1.
        gradient: H·(w − z), which is written over, where it is known.
    """
    if gradient is None:
        gradient = np.matmul(w - z, h)
    terms = w.shape[2]
    for start in range(0, terms, _BLOCK):
        stop = min(start + _BLOCK, terms)
        part, near = slice(start, stop), h[:, start:stop, start:stop]
        found, block = z[:, :, part].copy(), np.ascontiguousarray(gradient[:, :, part])
        unit = None if step is None else np.ascontiguousarray(step[:, :, part])
        moves = _moves(found, block, np.diagonal(near, axis1=1, axis2=2)[:, None, :], qmax, unit)
        if np.count_nonzero(moves) > _MANY * moves.size:
            _descend_by_term(found, block, near, qmax, unit)
        else:
            _descend_by_move(found, block, near, qmax, unit, moves)
        change = found - z[:, :, part]
        z[:, :, part] = found
        if stop < terms and change.any():
            gradient[:, :, stop:] -= np.matmul(change, h[:, part, :])[:, :, stop:]


def _moves(z: Array, gradient: Array, diagonal: Array, qmax: int, unit: Array | None) -> Array:
    """Return how far each term is from where the error is least while the others stay, LSB."""
    wanted = z + gradient / diagonal
    if unit is None:
        return np.asarray(np.minimum(np.maximum(np.rint(wanted), -qmax), qmax) - z)
    most = qmax - qmax % unit
    return np.asarray(np.minimum(np.maximum(unit * np.rint(wanted / unit), -most), most) - z)


def _descend_by_term(z: Array, gradient: Array, h: Array, qmax: int, unit: Array | None) -> None:
    """Improve the terms of a block in place, each of all outputs at once; the gradient is written over."""
    # One row for each term: what an iteration reads and writes is in one piece.
    block, found = (np.ascontiguousarray(x.transpose(0, 2, 1)) for x in (gradient, z))
    units = None if unit is None else np.ascontiguousarray(unit.transpose(0, 2, 1))
    for k in range(h.shape[1]):
        of = None if units is None else units[:, k]
        change = _moves(found[:, k], block[:, k], h[:, k, k, None], qmax, of)
        found[:, k] += change
        # The terms before it have had their turn.
        block[:, k + 1 :] -= change[:, None] * h[:, k, k + 1 :, None]
    z[:] = found.transpose(0, 2, 1)


def _descend_by_move(z: Array, gradient: Array, h: Array, qmax: int, unit: Array | None, moves: Array) -> None:
    """Do the same where few terms move: each output goes from one that does to the next.

    A term that stays changes nothing for those behind it, so that the results are those of `_descend_by_term`.

    Args:
        z: integers of a block of terms, [groups, outputs, terms].
        gradient: of the same terms.
        h: H among them.
        qmax: as for `_descend`.
        unit: as there.
        moves: of `_moves`.
    """
    outputs, terms = z.shape[1:]
    later, diagonal, places = np.triu(h, 1), np.diagonal(h, axis1=1, axis2=2), np.arange(terms)
    flat = z.reshape(-1, terms)
    rows = np.flatnonzero(moves.any(axis=2))
    found, block, moves = (x.reshape(-1, terms)[rows] for x in (z, gradient, moves))
    unit = None if unit is None else unit.reshape(-1, terms)[rows]
    while rows.size:
        every, first = np.arange(len(rows)), (moves != 0.0).argmax(axis=1)
        groups, change = rows // outputs, moves[every, first]
        found[every, first] += change
        block -= change[:, None] * later[groups, first]
        moves = _moves(found, block, diagonal[groups], qmax, unit)
        moves[places <= first[:, None]] = 0.0  # these have had their turn
        goes_on = moves.any(axis=1)
        flat[rows[~goes_on]] = found[~goes_on]
        rows, found, block, moves = (x[goes_on] for x in (rows, found, block, moves))
        unit = None if unit is None else unit[goes_on]
