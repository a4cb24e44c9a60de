"""Move what outlier channels of an activation need from its codes into the weights behind it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt

from qcompile import ops
from qcompile.calibrate.reader import spaced
from qcompile.calibrate.sample_choice import some_samples
from qcompile.calibrate.smoothing import Smoothing, best_smoothing
from qcompile.ir.graph import Graph, Node, Value
from qcompile.ir.rewrite import Rewriter
from qcompile.ops.interpreter import Interpreter
from qcompile.passmgr import AllClose, Bounds, Pass, PassContext, Tolerance
from qcompile.passmgr.facts import FLOAT, Fact

Array = npt.NDArray[Any]

_ROWS = 512
"""Rows of an activation to judge by, over all samples."""


@dataclass(frozen=True)
class SmoothActivations(Pass):
    """Divide the channels that a layer normalization makes by factors, and multiply the dense layers behind by them.

    Formula:
        W·(γ·n + β) = (W·S)·((γ/s)·n + β/s), s_c = (max |x_c|)^a / (max |W_c|)^(1 − a), scaled to mean log s = 0,
        with a of 0.25, 0.5, 0.75, 1 by least E‖Ŵ·x̂ − W·x‖² when both are rounded to 8 bits

    The real numbers stay the same; an activation of which one channel is 30 times as large as the others no longer
    spends its 256 codes on that one.

    Before:
        %n = layer_norm(%x, @g, @b) : f32[1,64,384]
        %y = dense(%n, @w, @c) : f32[1,64,384]
    After:
        %n = layer_norm(%x, @g.1, @b.1) : f32[1,64,384]
        %y = dense(%n, @w.1, @c) : f32[1,64,384]

    Where something else reads the normalized tensor too (a residual addition), the dense layers get a normalization
    of their own: it costs far less than they do.

    Options:
        samples: calibration samples to use at most.
        gain: the squared error behind must become this many times smaller; else the layers stay as they are.
        synthetic: samples to make up where no calibration set is given; 0 leaves the graph as it is.

    Refusals: no calibration samples; weights that are computed; too small a gain.

    Source:
        Xiao et al., "SmoothQuant: accurate and efficient post-training quantization for large language models", 2022.
    """

    name: ClassVar[str] = "smooth-activations"
    requires: ClassVar[tuple[Fact, ...]] = (FLOAT,)
    tolerance: ClassVar[Tolerance] = AllClose(1e-4, 1e-5)

    samples: Annotated[int, Bounds(1)] = 16
    gain: Annotated[float, Bounds(0.0)] = 1.25
    synthetic: Annotated[int, Bounds(0)] = 0

    def run(self, graph: Graph, context: PassContext) -> None:
        """Smooth every normalized tensor that dense layers read."""
        places = {node: readers for node in graph.nodes if (readers := _dense_readers(node))}
        if not places:
            return
        samples = some_samples(graph, context, self.samples, self.synthetic)
        rows = _observed({node.output for node in places}, graph, samples, max(1, _ROWS // max(1, self.samples)))
        if not rows:
            context.skip(None, "there are no calibration samples")
            return
        rewriter = context.rewriter(graph)
        for node, readers in places.items():
            weight = np.concatenate([reader.inputs[1].constant() for reader in readers])
            found = best_smoothing(rows[node.output], weight)
            if found.gain < self.gain:
                context.skip(node, f"its channels are even enough: {found.gain:.2f} times less noise only")
                continue
            _apply(rewriter, node, readers, found)


def _dense_readers(node: Node) -> list[Node]:
    """Return the dense layers that read what a layer normalization makes of each row; empty for other nodes."""
    if node.op.name != "layer_norm" or len(node.inputs[1].shape) != 1:
        return []
    if not all(value.is_constant for value in node.inputs[1:]):
        return []
    return [reader for reader in node.output.users() if _is_plain_dense(reader, node.output)]


def _is_plain_dense(node: Node, x: Value) -> bool:
    places = [index for index, value in enumerate(node.inputs) if value is x]
    return node.op.name == "dense" and node.inputs[1].is_constant and places == [0]


def _observed(
    values: set[Value], graph: Graph, samples: Iterable[Mapping[str, Array]], count: int
) -> dict[Value, Array]:
    """Return rows of each tensor, [rows, channels], so many of each sample, evenly spaced within it."""
    rows: dict[Value, list[Array]] = {value: [] for value in values}

    def keep(value: Value, array: Array) -> None:
        if value in rows:
            flat = array.reshape(-1, array.shape[-1])
            rows[value].append(flat[list(spaced(len(flat), count))].astype(np.float64))

    run = Interpreter(graph)
    with np.errstate(all="ignore"):
        for sample in samples:
            run.run(sample, on_value=keep)
    return {value: np.concatenate(parts) for value, parts in rows.items() if parts}


def _apply(rewriter: Rewriter, node: Node, readers: list[Node], found: Smoothing) -> None:
    """Scale a normalization and the layers behind it, or a copy of the normalization where others read it too."""
    x, gamma, beta = node.inputs
    own = set(node.output.users()) == set(readers) and node.output not in rewriter.graph.outputs
    parameters = [rewriter.constant(v.name, (v.constant() / found.factors).astype(v.dtype)) for v in (gamma, beta)]
    if own:
        for index, value in enumerate(parameters, start=1):
            rewriter.set_operand(node, index, value)
    else:
        following = rewriter.graph.nodes[rewriter.graph.nodes.index(node) + 1]
        operands = [x, *parameters]
        name = f"{node.output.name}.smooth"
        twin = rewriter.insert(following, ops.get("layer_norm"), operands, node.attrs, name=name, loc=node.loc)
        for reader in readers:
            rewriter.set_operand(reader, 0, twin.output)
    for reader in readers:
        weight = reader.inputs[1]
        scaled = (weight.constant().astype(np.float64) * found.factors).astype(weight.dtype)
        rewriter.set_operand(reader, 1, rewriter.constant(weight.name, scaled))
