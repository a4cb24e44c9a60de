"""Keep weights in a few bits, while everything else stays float32."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt

from qcompile import ops
from qcompile.calibrate.group_rounding import group_values, round_groups
from qcompile.calibrate.layer_refit import Task, fit_layers, own_constants
from qcompile.calibrate.sample_choice import fitted_samples
from qcompile.compression.account import sqnr_on_others
from qcompile.errors import UsageError, did_you_mean
from qcompile.ir.graph import Graph, Node, Value
from qcompile.ir.opdef import Quantization
from qcompile.ir.rewrite import Rewriter
from qcompile.ops.packed_weights import is_product
from qcompile.ops.unpack_groups import BITS, LEAST_GROUP, packed
from qcompile.passmgr import Bounds, MinSqnrDb, Pass, PassContext, Tolerance
from qcompile.passmgr.facts import CHANNELS_LAST, Fact
from qcompile.passmgr.float_reasons import KEPT
from qcompile.passmgr.selection import selected
from qcompile.quant.groups import GroupedWeights, quantize_groups

Array = npt.NDArray[Any]

_FITTED_BITS = 4
"""Weights of more bits lose too little to be worth a fit."""

_TOLD = 0.05
"""Share of the weights from which on it is told that they stay as they are."""

_OPERATIONS = ("gather", "dense", "conv2d")


@dataclass(frozen=True)
class QuantizeWeights(Pass):
    """Round the weights of float layers to a few bits, one scale for each group of a row.

    Formula:
        w[n, k] ≈ scale[n, k // group_size] · (q[n, k] − zero_point[n, k // group_size]); the scale, kept as
        float16, has the least squared error of its group

    Before:
        %y = dense(%x, @w, @b) : f32[1,64]
    After:
        %w.real = unpack_groups(@w.q, @w.scale) {shape=[64, 128], bits=4} : f32[64,128]
        %y = dense(%x, %w.real, @b) : f32[1,64]

    With calibration samples, weights of 4 bits and fewer are rounded term by term, each error passed on to the terms
    not yet rounded so that it does least at the layer's output, on what the rounded layers before it give; the bias
    keeps the mean. Where that is no better on samples that were not fitted to, they are rounded plainly.

    Dense layers, 1×1 convolutions of stride 1 and tables that `gather` reads by rows unpack in registers; sums are
    float32. No calibration data is needed, but it helps.

    Options:
        bits: 8, 4, 2 (ternary) or 1 (the sign).
        group_size: weights that share a scale, a power of two.
        symmetric: no zero points; false gives each group one, a byte more for better accuracy (4 and 8 bits).
        keep: nodes whose weights stay float: names, globs, "/regular expressions/", "op:gather", "from..to".
        smallest: weights that a constant must have to be worth it.
        operations: whose weights to take: "gather", "dense", "conv2d".
        samples: calibration samples to fit to at most; 0 rounds plainly.

    Preconditions: to-nhwc ran. Integer layers are left alone.

    Refusals: a weight that is computed at run time or has other readers; a convolution with a kernel, a stride,
    padding or groups; a small constant.
    """

    name: ClassVar[str] = "quantize-weights"
    requires: ClassVar[tuple[Fact, ...]] = (CHANNELS_LAST,)
    tolerance: ClassVar[Tolerance] = MinSqnrDb(-3.0)

    bits: int = 8
    group_size: int = 32
    symmetric: bool = True
    keep: tuple[str, ...] = ()
    smallest: Annotated[int, Bounds(1)] = 256
    operations: tuple[str, ...] = _OPERATIONS
    samples: Annotated[int, Bounds(0)] = 32

    def run(self, graph: Graph, context: PassContext) -> None:
        """Replace the weights of every layer that has a kernel for it."""
        self._check()
        kept = selected(graph, self.keep, option="keep") if self.keep else set()
        weights: dict[Value, list[tuple[Node, int]]] = {}
        for node in graph.nodes:
            operand = 0 if node.op.name == "gather" else 1
            if node.op.name not in self.operations:
                continue
            reason = KEPT if node in kept else self._obstacle(node, operand)
            if reason is None:
                weights.setdefault(node.inputs[operand], []).append((node, operand))
            else:
                context.skip(node, reason)
        if self.operations == _OPERATIONS:
            _tell_left(graph, weights, kept, context)
        rewriter = context.rewriter(graph)
        fitted = self._fitted(graph, weights, context)
        for number, (value, readers) in enumerate(weights.items()):
            if len(readers) != len(value.uses):
                for node, _ in readers:
                    context.skip(node, f"{value.name} has other readers")
                continue
            if value in fitted:
                made, bias = fitted[value]
                node = readers[0][0]
                rewriter.set_operand(node, 2, rewriter.constant(node.inputs[2].name, bias))
            else:
                made = context.remembered(partial(self._key, value), partial(self._quantized, value))
            operands = [rewriter.constant(f"{value.name}.q", packed(made.codes, self.bits))]
            operands.append(rewriter.constant(f"{value.name}.scale", made.scale))
            if made.zero_point is not None:
                operands.append(rewriter.constant(f"{value.name}.zero_point", made.zero_point))
            attrs = self._attrs(value, made)
            first, name = readers[0][0], f"{value.name}.real"
            node = rewriter.insert(first, ops.get("unpack_groups"), operands, attrs, name=name, loc=first.loc)
            for reader, operand in readers:
                rewriter.set_operand(reader, operand, node.output)
            context.progress(number + 1, len(weights), "quantizing weights")

    def _key(self, value: Value) -> str:
        return f"groups{value.content_digest()}{value.type}{self.bits}/{self.group_size}/{self.symmetric}"

    def _quantized(self, value: Value) -> GroupedWeights:
        matrix = value.constant().reshape(value.shape[0], -1)
        return quantize_groups(matrix, self.bits, self.group_size, symmetric=self.symmetric)

    def _fitted(
        self, graph: Graph, weights: dict[Value, list[tuple[Node, int]]], context: PassContext
    ) -> dict[Value, tuple[GroupedWeights, Array]]:
        """Return integers and bias of the layers that samples help to round; empty where they do not."""
        if self.bits > _FITTED_BITS or self.samples < 1 or context.samples is None or graph.symbols:
            return {}
        plain, best = graph.clone(), graph.clone()
        layers = [readers[0][0] for value, readers in weights.items() if _alone(value, readers)]
        if not layers:
            return {}
        numbers = [graph.nodes.index(node) for node in layers]
        found: dict[Node, GroupedWeights] = {}

        def fit(node: Node, task: Task) -> Array:
            found[node] = round_groups(task, self.bits, self.group_size, symmetric=self.symmetric)
            return group_values(found[node], self.group_size)[None]

        def round_plainly(node: Node) -> None:
            weight = node.inputs[1].constant()
            matrix = weight.reshape(len(weight), -1)
            made = quantize_groups(matrix, self.bits, self.group_size, symmetric=self.symmetric)
            data = group_values(made, self.group_size).astype(np.float32).reshape(weight.shape)
            Rewriter(plain).set_operand(node, 1, plain.add_constant(node.inputs[1].name, data))

        for number in numbers:
            round_plainly(plain.nodes[number])
        samples = fitted_samples(context, self.samples)
        fit_layers(
            graph,
            best,
            [best.nodes[number] for number in numbers],
            samples,
            fit,
            seed=context.seed,
            progress=lambda done, all_: context.progress(done, all_, "rounding weights"),
        )
        before, after = (sqnr_on_others(graph, made, context) for made in (plain, best))
        if after <= before:
            context.skip(None, f"rounding by samples gives {after:.1f} dB on other samples, {before:.1f} dB without")
            return {}
        bits = f"{self.bits} bit{'s' * (self.bits > 1)}"
        context.note(
            f"quantize-weights: {len(layers)} layers rounded to {bits} by {len(samples)} calibration samples, "
            f"SQNR {before:.1f} → {after:.1f} dB on others"
        )
        twins = [(node, best.nodes[number]) for node, number in zip(layers, numbers, strict=True)]
        return {node.inputs[1]: (found[twin], twin.inputs[2].constant()) for node, twin in twins}

    def _check(self) -> None:
        """Refuse options that no kernel serves."""
        unknown = [name for name in self.operations if name not in _OPERATIONS]
        if unknown:
            raise UsageError(f"no weights of '{unknown[0]}'", hint=did_you_mean(unknown[0], list(_OPERATIONS)))
        if self.bits not in BITS:
            raise UsageError(f"no weights of {self.bits} bits", hint="8, 4, 2 (ternary) or 1 (the sign)")
        size = self.group_size
        if size < LEAST_GROUP or size & (size - 1) or size * self.bits < 32:
            least = max(LEAST_GROUP, 32 // self.bits)
            hint = f"a power of two, {least} or more for {self.bits} bits"
            raise UsageError(f"no groups of {size} weights", hint=hint)

    def _attrs(self, value: Value, made: GroupedWeights) -> object:
        attrs = ops.get("unpack_groups").Attrs
        return attrs(shape=value.shape, bits=self.bits, group=self.group_size, zero_point=made.centre)

    def _obstacle(self, node: Node, operand: int) -> str | None:
        weight = node.inputs[operand]
        if node.is_integer or weight.dtype != "float32":
            return f"{weight.name} is {weight.dtype}"
        if not weight.is_constant:
            return f"{weight.name} is computed at run time"
        if node.op.name == "gather":
            if node.attrs.axis != 0 or len(weight.shape) < 2:
                return f"it does not pick rows of {weight.name}"
        elif not is_product(node):
            return "it is a convolution with a kernel, a stride, padding or groups"
        if weight.type.size < self.smallest:
            return f"{weight.name} has {weight.type.size} elements only"
        if not np.isfinite(weight.constant()).all():
            return f"{weight.name} is not finite"
        return None


def _tell_left(
    graph: Graph, weights: dict[Value, list[tuple[Node, int]]], kept: set[Node], context: PassContext
) -> None:
    """Note which share of the weights has no kernel in a few bits, unless it is small."""
    layers = {
        node: node.inputs[1]
        for node in graph.nodes
        if node.op.integer is Quantization.ACCUMULATE and not node.is_integer and node not in kept
    }
    tables = {node: node.inputs[0] for readers in weights.values() for node, operand in readers if operand == 0}
    sizes = {value: value.type.size for value in (*layers.values(), *tables.values()) if value.is_constant}
    left = [node for node, value in layers.items() if value not in weights and value.is_constant]
    share = sum({node.inputs[1]: node.inputs[1].type.size for node in left}.values()) / max(1, sum(sizes.values()))
    if share >= _TOLD:
        windows = [node for node in left if node.op.name != "dense"]
        why = "convolutions with a kernel, a stride, padding or groups" if windows else "layers of few weights"
        context.note(
            f"quantize-weights: {len(left)} of {len(layers) + len(tables)} layers ({share:.0%} of the weights) stay "
            f"float32: {why}; --store float16 or --int8 make those smaller"
        )


def _alone(value: Value, readers: list[tuple[Node, int]]) -> bool:
    """Return whether a weight is that of one layer that can be fitted."""
    node = readers[0][0]
    return len(readers) == len(value.uses) == 1 and own_constants(node)
