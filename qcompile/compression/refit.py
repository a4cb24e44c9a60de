"""Fits what remains of a network that a pass made smaller, where that pays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

from qcompile.calibrate.layer_refit import fit_remaining
from qcompile.calibrate.sample_choice import fitted_samples, other_samples
from qcompile.compression.account import sqnr_on_others
from qcompile.ir.graph import Graph, Node
from qcompile.passmgr import PassContext


def refit(
    before: Graph,
    graph: Graph,
    masks: Mapping[Node, npt.NDArray[Any]],
    context: PassContext,
    *,
    limit: int,
    what: str,
) -> str:
    """Fit layers in order, unless that is no better on samples that nothing was fitted to.

    Args:
        before: the original; its nodes correspond to those of `graph` one by one.
        graph: changed.
        masks: layers of `graph`, and which of their weights may differ from zero, shaped like the weights.
        context: gives samples, shows progress, takes the record where the fit was left out.
        limit: samples to fit to at most.
        what: is fitted, in words.

    Returns:
        What to add to the pass's account; "" where nothing was gained.
    """
    if not other_samples(context, 1):
        context.skip(None, f"{what} are not fitted: that takes two calibration samples, one of them to judge it by")
        return ""
    plain, fitted = fit_remaining(
        before,
        graph,
        masks,
        fitted_samples(context, limit),
        lambda made: sqnr_on_others(before, made, context),
        seed=context.seed,
        progress=lambda done, total: context.progress(done, total, f"fitting {what}"),
    )
    if fitted > plain:
        return f", {what} fitted ({plain:.1f} dB without)"
    context.skip(None, f"fitting {what} gives {fitted:.1f} dB on other samples, {plain:.1f} dB without")
    return ""
