"""Moments of patches do not depend on how many samples are added up at once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from qcompile import ops
from qcompile.calibrate.layer_moments import LayerMoments
from qcompile.calibrate.paired_run import LayerInputs
from qcompile.errors import InternalError
from qcompile.ir.graph import Node
from qcompile.ir.parser import parse_graph


def dense(rows: int, terms: int) -> Node:
    """Return a layer of two outputs."""
    text = f"""graph "g" {{
  input %x : f32[{rows},{terms}]
  const @w : f32[2,{terms}] = normal(1, 1)
  const @b : f32[2] = normal(2, 1)
  %y = dense(%x, @w, @b) : f32[{rows},2]
  output "y" = %y
}}
"""
    return parse_graph(text, ops.all_ops()).nodes[0]


@pytest.mark.parametrize("terms", [8, 600])
@pytest.mark.parametrize("residual", [False, True])
def test_moments_are_those_of_all_samples_together(terms: int, residual: bool) -> None:
    node = dense(3, terms)
    weight = node.inputs[1].constant()[None]
    random = np.random.default_rng(0)
    real = random.normal(1, 1, (70, 3, terms)).astype(np.float32)
    quantized = (real + random.normal(0, 0.1, real.shape)).astype(np.float32)
    error = random.normal(0, 1, (70, 3, 2)).astype(np.float32)
    moments = LayerMoments(node, weight, 8, 0)
    for index in range(70):
        moments.update(LayerInputs(real[index], quantized[index], error[index] if residual else None))
        if index == 30:
            assert moments.count == 31 * 3
            assert np.isfinite(moments.means[1]).all()  # what was added so far counts, and more may follow
    p, q = (array.reshape(-1, terms).astype(np.float64) for array in (real, quantized))
    r = error.reshape(-1, 2).astype(np.float64) if residual else np.zeros((210, 2))
    for found, wanted in zip(moments.means, (p, q, r), strict=True):
        np.testing.assert_allclose(found[0], wanted.mean(axis=0), atol=1e-5)
    centred = q - q.mean(axis=0)
    for found, wanted in zip(moments.covariances, (q, p - q, r), strict=True):
        np.testing.assert_allclose(found[0], wanted.T @ centred / len(q), atol=1e-4)
    np.testing.assert_allclose(moments.variances[0], (p @ weight[0].T).var(axis=0), rtol=1e-3)


def test_what_hardly_varies_far_from_zero() -> None:
    """Variances of a millionth of the mean's square are those of the data, not of the rounding of float32."""
    node = dense(64, 8)
    moments = LayerMoments(node, node.inputs[1].constant()[None], 64, 0)
    x = (100 + np.random.default_rng(0).normal(0, 0.01, (64, 8))).astype(np.float32)
    for _ in range(2):
        moments.update(LayerInputs(x, x, None))
    np.testing.assert_allclose(moments.covariances[0][0], np.cov(x.astype(np.float64).T, bias=True), rtol=0, atol=1e-9)
    np.testing.assert_allclose(moments.means[1][0], x.mean(axis=0, dtype=np.float64), rtol=1e-7)
    weight = node.inputs[1].constant().astype(np.float64)
    np.testing.assert_allclose(moments.variances[0], (x @ weight.T).var(axis=0), rtol=1e-4)


def test_means_alone() -> None:
    node = dense(64, 8)
    random = np.random.default_rng(0)
    inputs = LayerInputs(*(random.normal(1, 1, (64, n)).astype(np.float32) for n in (8, 8, 2)))
    full, means = (LayerMoments(node, node.inputs[1].constant()[None], 64, 0, means_only=m) for m in (False, True))
    for moments in (full, means):
        moments.update(inputs)
    for found, wanted in zip(means.means, full.means, strict=True):
        np.testing.assert_array_equal(found, wanted)
    with pytest.raises(InternalError, match="only the means were kept"):
        _ = means.covariances
    assert full.covariances[0].shape == (1, 8, 8)
    with pytest.raises(InternalError, match="after its covariances were taken"):
        full.update(inputs)


def test_variances_of_a_layer_that_adds_a_residual_are_not_kept() -> None:
    node = dense(64, 8)
    node.attrs = replace(node.attrs, residual=True)
    moments = LayerMoments(node, node.inputs[1].constant()[None], 64, 0)
    x = np.random.default_rng(0).normal(1, 1, (64, 8)).astype(np.float32)
    moments.update(LayerInputs(x, x, np.zeros((64, 2), np.float32)))
    assert moments.covariances[0].shape == (1, 8, 8)
    with pytest.raises(InternalError, match="variances, which were not kept"):
        _ = moments.variances
