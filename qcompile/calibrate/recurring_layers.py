"""Layers that no walk side by side corrects: those in loops and behind them, and those that share their weights.

What they read in the integer network depends on their own weights, by way of the steps before. So they are rounded for
what they read in the float network, over all steps of all samples.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.calibrate.layer_moments import LayerMoments, moment_bytes, window
from qcompile.calibrate.paired_run import LayerInputs, LayerPair
from qcompile.ir.graph import Graph
from qcompile.ops.interpreter import Interpreter

Array = npt.NDArray[Any]
Sample = Mapping[str, Array]


class SharedLayer:
    """Layers that have the same weights, in float and as integers, with the moments of what the float ones read.

    Args:
        pairs: at least one.
        samples: that will be added.
        seed: of the positions.
        means_only: whether covariances are not needed.

    Attributes:
        pairs: the layers, in order of computation.
        moments: over all of them.
        own: of each of them, means alone.
    """

    def __init__(self, pairs: Sequence[LayerPair], samples: int, seed: int, *, means_only: bool) -> None:
        self.pairs = tuple(pairs)
        self.moments = LayerMoments.of(pairs[0], samples, seed, means_only=means_only)
        self.own = [LayerMoments.of(pair, samples, seed, means_only=True) for pair in pairs]

    def update(self, seen: Mapping[str, list[Array]]) -> None:
        """Add one sample.

        Args:
            seen: what values of the float graph were, once for each iteration of a loop.
        """
        parts = [_together(pair, seen[pair.reference.inputs[0].name]) for pair in self.pairs]
        for moments, part in zip(self.own, parts, strict=True):
            if part is not None:
                moments.update(LayerInputs(part, part, None))
        alike: dict[object, list[tuple[LayerPair, Array]]] = defaultdict(list)
        for pair, part in zip(self.pairs, parts, strict=True):
            if part is not None:
                alike[part.shape[1:], window(pair.node)].append((pair, part))
        for known in alike.values():
            every = np.concatenate([part for _, part in known])
            self.moments.update(LayerInputs(every, every, None), known[0][0].node)


def _together(pair: LayerPair, arrays: list[Array]) -> Array | None:
    """Return what a layer read in all iterations as one batch, None where it was never run."""
    if pair.node.op.name == "dense":
        arrays = [array.reshape(-1, array.shape[-1]) for array in arrays]
    return np.concatenate(arrays) if arrays else None


def shared_layers(pairs: Iterable[LayerPair]) -> list[list[LayerPair]]:
    """Return the pairs in groups that have the same weights, in float and as integers, and multiply them alike.

    Strides, pads and dilations may differ within a group: which elements a weight is multiplied with is another matter.
    """
    groups: dict[object, list[LayerPair]] = defaultdict(list)
    for pair in pairs:
        weight, attrs = pair.node.inputs[1], pair.node.attrs
        form = pair.node.op.name, getattr(attrs, "layout", ""), getattr(attrs, "groups", 1)
        groups[pair.reference.inputs[1].content_digest(), weight.content_digest(), weight.qparams, form].append(pair)
    return list(groups.values())


def batches(groups: Sequence[list[LayerPair]], limit: int) -> Iterator[list[list[LayerPair]]]:
    """Yield the groups in order, as many at a time as have moments that fit in a number of bytes, at least one."""
    some: list[list[LayerPair]] = []
    used = 0
    for group in groups:
        size = moment_bytes(group[0].node)
        if some and used + size > limit:
            yield some
            some, used = [], 0
        some.append(group)
        used += size
    if some:
        yield some


def observe(reference: Graph, layers: Sequence[SharedLayer], samples: Iterable[Sample]) -> None:
    """Run the float graph on samples and add up what layers read.

    Args:
        reference: float graph.
        layers: to fill.
        samples: {input name: array}, real values.
    """
    wanted = {pair.reference.inputs[0].name for layer in layers for pair in layer.pairs}
    run = Interpreter(reference)
    for sample in samples:
        seen: dict[str, list[Array]] = defaultdict(list)

        def look(value: Any, array: Array, seen: dict[str, list[Array]] = seen) -> None:
            if value.name in wanted:
                seen[value.name].append(array)

        with np.errstate(all="ignore"):
            run.run(sample, on_value=look)
        for layer in layers:
            layer.update(seen)
