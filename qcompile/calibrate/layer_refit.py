"""Fits the weights of a compressed float network, layer after layer, to what the layers of the original compute.

A layer that has lost weights or precision leaves an error, and the next one reads it. So each layer is fitted on what
the compressed layers before it really give, to the result of the original layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.calibrate.layer_moments import (
    LAYERS,
    LayerMoments,
    few_terms,
    grouped_weights,
    layer_weights,
    ungrouped_weights,
)
from qcompile.calibrate.paired_run import LayerPair, PairInputs, run_side_by_side, samples_within
from qcompile.calibrate.weight_rounding import compensated_weights, damped
from qcompile.ir.graph import Graph, Node
from qcompile.ir.rewrite import Rewriter

Array = npt.NDArray[Any]
Sample = Mapping[str, Array]

_BYTES = 2**29
_DAMPING = 3.0


@dataclass(frozen=True)
class Task:
    """What the weights of a layer are to do.

    Formula:
        minimize Σ_o (w_o − v_o)ᵀ H (w_o − v_o) over the weights v that are allowed

    Args:
        wanted: w, the unconstrained best for what the layer reads now, float64 [groups, outputs, terms].
        hessian: H, the damped covariance of what it reads, [groups, terms, terms].
    """

    wanted: Array
    hessian: Array

    def cost(self, weight: Array) -> Array:
        """Return the sum of each output, [groups, outputs]."""
        error = self.wanted - weight
        return np.asarray((np.matmul(error, self.hessian) * error).sum(axis=2))


Fit = Callable[[Node, Task], Array]
"""Returns the weights of a layer, [groups, outputs, terms]."""


def fit_layers(
    before: Graph,
    graph: Graph,
    nodes: Sequence[Node],
    samples: Sequence[Sample],
    fit: Fit,
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Give layers the weights that a function finds, and the biases that keep the mean of every output.

    Args:
        before: the original; its nodes correspond to those of `graph` one by one.
        graph: changed.
        nodes: conv2d and dense layers of `graph` with constant weights, none of which another layer reads.
        samples: to fit to; as many are used as fit in memory.
        fit: gets each layer and its task, in order of computation.
        seed: of the patches drawn.
        progress: called with layers done and their number.
    """
    given = list(samples)[: samples_within(before, _BYTES)]
    originals = dict(zip(graph.nodes, before.nodes, strict=True))
    pairs = [_pair(node, originals[node]) for node in nodes]
    rewriter, done = Rewriter(graph), 0

    def visit(pair: LayerPair, inputs: PairInputs) -> None:
        nonlocal done
        moments = LayerMoments.of(pair, len(given), seed)
        moments.fill(inputs)
        _refit(rewriter, pair, moments, fit)
        done += 1
        if progress is not None:
            progress(done, len(pairs))

    run_side_by_side(before, graph, pairs, given, visit)


def fit_remaining(
    before: Graph,
    graph: Graph,
    masks: Mapping[Node, Array],
    samples: Sequence[Sample],
    judge: Callable[[Graph], float],
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[float, float]:
    """Fit the weights that pruning left, unless that is no better.

    Args:
        before: the original; its nodes correspond to those of `graph` one by one.
        graph: changed.
        masks: layers of `graph`, and which of their weights may differ from zero, shaped like the weights.
        samples: to fit to.
        judge: how near a graph is to the original on other samples, dB.
        seed: of the patches drawn.
        progress: as for `fit_layers`.

    Returns:
        What `judge` says of the graph as it was, and of the fitted one.
    """
    candidate = graph.clone()
    twins = dict(zip(graph.nodes, candidate.nodes, strict=True))
    allowed = {twins[node]: grouped_weights(node, mask) for node, mask in masks.items()}
    nodes = [node for node in candidate.nodes if node in allowed]

    def fit(node: Node, task: Task) -> Array:
        return masked_weights(task, allowed[node])

    fit_layers(before, candidate, nodes, samples, fit, seed=seed, progress=progress)
    plain, fitted = judge(graph), judge(candidate)
    rewriter = Rewriter(graph)
    for node in masks if fitted > plain else ():
        for operand in (1, 2):
            data = twins[node].inputs[operand].constant()
            rewriter.set_operand(node, operand, rewriter.constant(node.inputs[operand].name, data))
    return plain, fitted


def own_constants(node: Node) -> bool:
    """Return whether a layer can be fitted: its constants are its own, and few enough."""
    own = node.op.name in LAYERS and all(v.is_constant and len(v.uses) == 1 for v in node.inputs[1:3])
    return own and few_terms(node)


def _pair(node: Node, reference: Node) -> LayerPair:
    return LayerPair(node, reference, reference.inputs[3] if reference.attrs.residual else None)


def _refit(rewriter: Rewriter, pair: LayerPair, moments: LayerMoments, fit: Fit) -> None:
    """Replace the constants of one layer."""
    node, reference = pair.node, pair.reference
    own, cross, residual = moments.covariances
    damping = _DAMPING * moments.uncertainty
    original = layer_weights(reference).astype(np.float64)
    wanted = compensated_weights(original, own, cross, residual, damping)
    weight = fit(node, Task(wanted, damped(own, damping))).astype(np.float32)
    bias = reference.inputs[2].constant().astype(np.float64).reshape(moments.groups, -1)
    bias = moments.centred_bias(bias, original, weight.astype(np.float64))
    for operand, data in ((1, ungrouped_weights(node, weight)), (2, bias.reshape(-1))):
        value = rewriter.constant(node.inputs[operand].name, np.asarray(data, np.float32))
        rewriter.set_operand(node, operand, value)


def masked_weights(task: Task, mask: Array, steps: int = 60) -> Array:
    """Return the best weights of which only some may differ from zero, by conjugate gradients in all rows at once.

    Formula:
        (H·v)_k = (H·w)_k for every k in the mask, v_k = 0 for the others; the diagonal of H is the preconditioner

    Args:
        task: of the layer.
        mask: which weights remain, bool [groups, outputs, terms].
        steps: at most; each only lowers the cost.
    """
    h = task.hessian
    diagonal = np.diagonal(h, axis1=1, axis2=2)[:, None, :]
    v = np.where(mask, task.wanted, 0.0)
    rest = np.where(mask, np.matmul(task.wanted - v, h), 0.0)
    direction = rest / diagonal
    power = (rest * direction).sum(axis=2)
    first = power.copy()
    for _ in range(steps):
        turned = np.where(mask, np.matmul(direction, h), 0.0)
        slope = (direction * turned).sum(axis=2)
        length = np.divide(power, slope, out=np.zeros_like(power), where=slope > 1e-300)
        v = v + length[:, :, None] * direction
        rest = rest - length[:, :, None] * turned
        scaled = rest / diagonal
        after = (rest * scaled).sum(axis=2)
        share = np.divide(after, power, out=np.zeros_like(power), where=power > 1e-300)
        direction, power = scaled + share[:, :, None] * direction, after
        if np.all(power <= 1e-12 * first):
            break
    return np.asarray(v)
