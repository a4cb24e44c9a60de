"""Moments of patches do not depend on how many samples are added up at once."""

from __future__ import annotations

import numpy as np
import pytest

from qcompile import ops
from qcompile.calibrate.layer_moments import LayerMoments
from qcompile.calibrate.paired_run import LayerInputs
from qcompile.ir.parser import parse_graph


@pytest.mark.parametrize("terms", [8, 600])
@pytest.mark.parametrize("residual", [False, True])
def test_moments_are_those_of_all_samples_together(terms: int, residual: bool) -> None:
    text = f"""graph "g" {{
  input %x : f32[3,{terms}]
  const @w : f32[2,{terms}] = normal(1, 1)
  const @b : f32[2] = normal(2, 1)
  %y = dense(%x, @w, @b) : f32[3,2]
  output "y" = %y
}}
"""
    node = parse_graph(text, ops.all_ops()).nodes[0]
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
