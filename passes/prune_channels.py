"""Make convolutions narrower by the channels that are missed least."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from qcompile.calibrate.layer_refit import own_constants
from qcompile.calibrate.sample_choice import fitted_samples
from qcompile.compression.account import account
from qcompile.compression.channel_choice import Reader, Widths, Work, compensated, plain_losses
from qcompile.compression.channel_classes import ChannelClasses
from qcompile.compression.moments import Moments, input_moments
from qcompile.compression.refit import refit
from qcompile.ir.graph import Graph, Node, Value
from qcompile.ir.regions import total_macs
from qcompile.passmgr import Bounds, MinSqnrDb, Pass, PassContext, Tolerance
from qcompile.passmgr.facts import CHANNELS_LAST, FLOAT, Fact
from qcompile.passmgr.selection import selected

Array = npt.NDArray[Any]

_REFIT_SAMPLES = 32


@dataclass(frozen=True)
class PruneChannels(Pass):
    """Remove whole channels from layers, and from everything between and after them, until enough work is saved.

    Formula:
        the channel goes first whose loss for each multiply-accumulate saved is least: activations, ‖w_c‖² / (Σ⁻¹)_cc
        of the layers that read it, relative to the power of their results, Σ the covariance of what they read; l1 and
        l2, the norm of the weights that write it. The weights that remain become the least squares fit
        W' = W · Σ[:, S] · Σ[S, S]⁻¹ to what the layer computed, its bias keeps the mean. Then all layers are fitted
        once more, one after the other, on what the narrower layers before them give (`calibrate.layer_refit`), unless
        that is no better on samples that were not fitted to.

    Before:
        %a = conv2d(%x, @w, @b) {activation="relu"} : f32[1,8,8,32]
        %y = conv2d(%a, @v, @c) : f32[1,8,8,16]
    After:
        %a = conv2d(%x, @w.1, @b.1) {activation="relu"} : f32[1,8,8,24]
        %y = conv2d(%a, @v.1, @c.1) : f32[1,8,8,16]

    Channels go through depthwise convolutions, activations, pooling, additions (the operands lose the same ones),
    concatenations and a flattening reshape.

    Options:
        macs: least share of the multiply-accumulates to save; a note tells where the other options do not allow it.
        criterion: "activations" needs calibration samples; "l1" and "l2" do not, and make up for nothing.
        multiple: the channels that remain of a layer are a multiple of this, as vector code likes them.
        most: largest share of its channels that a layer may lose.
        samples: calibration samples to use at most.
        keep: layers whose channels stay: names, globs, "/regular expressions/", "op:dense", "from..to".

    Preconditions: a float graph with channels last. Run fold-batchnorm before.

    Refusals: channels that the caller sees; channels that an operation mixes which this pass does not know, grouped
    convolutions among them.
    """

    name: ClassVar[str] = "prune-channels"
    requires: ClassVar[tuple[Fact, ...]] = (FLOAT, CHANNELS_LAST)
    tolerance: ClassVar[Tolerance] = MinSqnrDb(-3.0)

    macs: Annotated[float, Bounds(above=0.0, below=1.0)] = 0.3
    criterion: Literal["activations", "l1", "l2"] = "activations"
    multiple: Annotated[int, Bounds(1)] = 8
    most: Annotated[float, Bounds(above=0.0, below=1.0)] = 0.75
    samples: Annotated[int, Bounds(1)] = 48
    keep: tuple[str, ...] = ()

    def run(self, graph: Graph, context: PassContext) -> None:
        """Choose channels and remove them."""
        before = graph.clone()
        classes = ChannelClasses(graph)
        kept = selected(graph, self.keep, option="keep") if self.keep else set()
        for layer in (layer for layer in classes.layers if layer.node in kept):
            for root in classes.classes(layer.outputs).tolist():
                classes.frozen.setdefault(root, "kept by request")
        candidates = _candidates(classes, context)
        if not candidates:
            self._nothing(context, "there is no layer whose channels could go")
            return
        criterion, moments = self._measured(graph, classes, context)
        gone = self._chosen(graph, classes, candidates, criterion, moments)
        if not gone:
            self._nothing(context, f"no layer can go down to a multiple of {self.multiple} channels")
            return
        rewriter = context.rewriter(graph)
        if criterion == "activations":
            for layer in (layer for layer in classes.layers if not layer.depthwise):
                stays = ~np.isin(classes.classes(layer.inputs), list(gone))
                if not stays.all():
                    node = layer.node
                    fitted, bias = compensated(node, moments[node.inputs[0]], stays)
                    # The columns that go are cut off with the others' below; what they hold does not matter.
                    weight = np.zeros(node.inputs[1].shape, np.float32)
                    weight[..., stays] = fitted
                    rewriter.set_operand(node, 1, rewriter.constant(node.inputs[1].name, weight))
                    rewriter.set_operand(node, 2, rewriter.constant(node.inputs[2].name, bias))
        more = self._refit(before, graph, classes, gone, context) if criterion == "activations" else ""
        classes.remove(rewriter, gone)
        account(self.name, before, graph, context, more)
        saved = 1.0 - total_macs(graph) / total_macs(before)
        if saved < self.macs - 1e-9:
            context.note(
                f"prune-channels: macs={self.macs:g} is out of reach, {saved:.1%} are saved: what remains of a layer "
                f"is a multiple of {self.multiple} channels, and at least {1 - self.most:.0%} of them (options "
                "`multiple` and `most`)"
            )

    def _nothing(self, context: PassContext, reason: str) -> None:
        """Say that no channel goes, and why."""
        context.skip(None, reason)
        context.note(f"prune-channels: nothing goes: {reason}")

    def _refit(self, before: Graph, graph: Graph, classes: ChannelClasses, gone: set[int], context: PassContext) -> str:
        """Fit all layers in order, the columns of what goes at zero; return what to say of it."""
        if graph.symbols:
            return ""
        masks: dict[Node, Array] = {}
        for layer in (layer for layer in classes.layers if own_constants(layer.node)):
            stays = ~np.isin(classes.classes(layer.inputs), list(gone)) if not layer.depthwise else np.ones(1, bool)
            masks[layer.node] = np.broadcast_to(stays, layer.node.inputs[1].shape)
        limit = min(self.samples, _REFIT_SAMPLES)
        return refit(before, graph, masks, context, limit=limit, what="layers in order")

    def _measured(
        self, graph: Graph, classes: ChannelClasses, context: PassContext
    ) -> tuple[str, dict[Value, Moments]]:
        """Return the criterion that can be applied, and what it needs."""
        if self.criterion != "activations":
            return self.criterion, {}
        samples = fitted_samples(context, self.samples)
        if not samples:
            context.note("prune-channels: no calibration samples, so channels are judged by their weights (l2)")
            return "l2", {}
        mixing = [layer.node for layer in classes.layers if not layer.depthwise]
        return self.criterion, dict(input_moments(graph, mixing, samples, context))

    def _chosen(
        self,
        graph: Graph,
        classes: ChannelClasses,
        candidates: dict[int, tuple[int, ...]],
        criterion: str,
        moments: dict[Value, Moments],
    ) -> set[int]:
        """Return the classes to remove."""
        roots = list(candidates)
        numbers = {root: number for number, root in enumerate(roots)}
        total = total_macs(graph)
        work, widths = Work(classes, total), Widths(classes)
        saved = np.array([max(work.saved(root), 1.0) for root in roots])
        loss = np.zeros(len(roots))
        readers: list[Reader] = []
        if criterion == "activations":
            for layer in (layer for layer in classes.layers if not layer.depthwise):
                reads = np.array([numbers.get(root, -1) for root in classes.classes(layer.inputs).tolist()])
                if (reads >= 0).any():
                    readers.append(Reader(layer, moments[layer.node.inputs[0]], reads))
                    readers[-1].add_losses(loss)
        else:
            plain = plain_losses(classes, 1 if criterion == "l1" else 2)
            loss = np.array([plain[root] for root in roots])
        left = Counter(candidates.values())
        least = {family: max(self.multiple, int(np.ceil(n * (1 - self.most)))) for family, n in left.items()}
        order: list[int] = []
        open_ = np.ones(len(roots), bool)
        goal = (1 - self.macs) * total
        while open_.any():
            number = int(np.argmin(np.where(open_, loss / saved, np.inf)))
            family = candidates[roots[number]]
            open_[number] = False
            if left[family] <= least[family] or not widths.may_lose(roots[number]):
                continue
            left[family] -= 1
            order.append(roots[number])
            work.remove(roots[number])
            widths.remove(roots[number])
            for reader in (reader for reader in readers if (reader.candidates == number).any()):
                reader.remove(number)
                reader.add_losses(loss)
            # What rounding gives back changes only here.
            if work.total <= goal and not left[family] % self.multiple:
                gone = _rounded(order, candidates, left, self.multiple)
                if Work(classes, total).without(gone) <= goal:
                    return gone
        return _rounded(order, candidates, left, self.multiple)


def _candidates(classes: ChannelClasses, context: PassContext) -> dict[int, tuple[int, ...]]:
    """Return each class that may go, with the layers that write it: they narrow together."""
    writers: dict[int, list[int]] = {}
    read = {root for layer in classes.layers if not layer.depthwise for root in classes.classes(layer.inputs).tolist()}
    for number, layer in enumerate(classes.layers):
        if layer.depthwise:
            continue
        roots = classes.classes(layer.outputs).tolist()
        stuck = [classes.frozen[root] for root in roots if root in classes.frozen]
        if stuck:
            context.skip(layer.node, stuck[0])
        for root in roots:
            if root in read and root not in classes.frozen:
                writers.setdefault(root, []).append(number)
    return {root: tuple(sorted(set(found))) for root, found in writers.items()}


def _rounded(
    order: list[int], candidates: dict[int, tuple[int, ...]], left: Counter[tuple[int, ...]], multiple: int
) -> set[int]:
    """Return the chosen classes without those, the last chosen first, that keep a layer off a multiple."""
    gone, left = set(order), left.copy()
    for root in reversed(order):
        family = candidates[root]
        if left[family] % multiple:
            left[family] += 1
            gone.discard(root)
    return gone
