"""Real values at the ends of a graph that may keep its inputs and outputs in integers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.ir.graph import Graph
from qcompile.quant.affine import dequantize, quantize

Array = npt.NDArray[Any]


def bound_sample(graph: Graph, sample: Mapping[str, Array]) -> dict[str, Array]:
    """Return a sample as the inputs of a graph take it: some may be kept in integers.

    Args:
        graph: to run.
        sample: real values; inputs that it does not hold are left out.
    """
    return {
        v.name: quantize(sample[v.name], v.qparams) if v.qparams is not None else sample[v.name]
        for v in graph.inputs
        if v.name in sample
    }


def real_outputs(graph: Graph, names: Sequence[str], named: Mapping[str, Array]) -> list[Array]:
    """Return the outputs of a graph, some of which may be kept in integers, as real values.

    Args:
        graph: that was run.
        names: of the outputs to return, in order.
        named: what it returned.
    """
    pairs = zip(graph.output_names, graph.outputs, strict=True)
    real = {n: dequantize(named[n], v.qparams) if v.qparams is not None else named[n] for n, v in pairs}
    return [np.asarray(real[name]) for name in names]
