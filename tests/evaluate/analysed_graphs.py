"""A small graph to analyze, made into integers pass by pass."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from qcompile.evaluate.analysis import NodeAnalysis
from qcompile.ir.graph import Graph
from qcompile.passmgr import PassContext, PassManager

TEXT = """
graph "chain" {
  input %x : f32[1,6,6,8]
  const @w1 : f32[16,1,1,8] = normal(1, 0.3)
  const @b1 : f32[16] = normal(2, 0.1)
  const @w2 : f32[8,1,1,16] = normal(3, 0.3)
  const @b2 : f32[8] = normal(4, 0.1)
  %first = conv2d(%x, @w1, @b1) {layout="NHWC"} : f32[1,6,6,16] loc("First")
  %relu = relu(%first) : f32[1,6,6,16] loc("Relu")
  %second = conv2d(%relu, @w2, @b2) {layout="NHWC"} : f32[1,6,6,8] loc("Second")
  %p = softmax(%second) : f32[1,6,6,8] loc("Softmax")
  output "p" = %p
}
"""

PIPELINE = (
    "fuse-activation{tables=false},insert-observers,calibrate,assign-precision{keep_float=[]},quantize,fuse-requantize,"
    "fuse-residual,eliminate-dead"
)


def samples(count: int = 4, reach: float = 1.0) -> list[dict[str, np.ndarray]]:
    generator = np.random.default_rng(5)
    return [{"x": generator.normal(0, reach, (1, 6, 6, 8)).astype(np.float32)} for _ in range(count)]


def quantized(graph: Graph, keep: Sequence[str] = (), *, reach: float = 1.0, narrow: str = "") -> tuple[Graph, Graph]:
    """Return the float graph that was calibrated, and the integer graph.

    Args:
        graph: float.
        keep: nodes to keep in float.
        reach: of the samples.
        narrow: tensor that gets a third of its range.
    """
    context = PassContext(samples=lambda: iter(samples(reach=reach)))
    first, rest = PIPELINE.split(",assign")
    calibrated = PassManager(first).run(graph, context)
    for value in calibrated.values():
        if value.name == narrow and value.qspec is not None and value.qspec.range is not None:
            low, high = value.qspec.range
            value.qspec = replace(value.qspec, range=(low / 3, high / 3))
    final = PassManager(f"assign{rest}".replace("keep_float=[]", f"keep_float={json.dumps(keep)}")).run(
        calibrated, context
    )
    assert context.reference is not None
    return context.reference, final


def excluded_by(node: NodeAnalysis) -> list[str]:
    """Return the nodes that the options keep in float which the analysis names for a node."""
    return shlex.split(node.exclusion.replace("--keep-float ", ""))
