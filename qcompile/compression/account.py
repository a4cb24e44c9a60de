"""What a pass that makes a network smaller says of size, work and accuracy."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy.typing as npt

from qcompile.calibrate.sample_choice import fitted_samples, other_samples
from qcompile.ir.graph import Graph
from qcompile.ir.regions import total_macs
from qcompile.ops.interpreter import Interpreter
from qcompile.passmgr.context import PassContext
from qcompile.passmgr.stimuli import stimuli
from qcompile.quant.noise_power import LIMIT_DB, NoisePower

Array = npt.NDArray[Any]
Sample = Mapping[str, Array]

_COMPARED = 8


def sqnr_on_others(before: Graph, graph: Graph, context: PassContext) -> float:
    """Return the SQNR of a graph against the original on calibration samples that nothing was fitted to, dB."""
    return sqnr_db(before, graph, other_samples(context, _COMPARED))


def weight_bytes(graph: Graph) -> int:
    """Return the bytes that all constants take."""
    return sum(value.type.nbytes for value in graph.constants())


def account(name: str, before: Graph, after: Graph, context: PassContext, extra: str = "") -> None:
    """Note what a pass did to size, work and accuracy.

    Args:
        name: of the pass.
        before: graph before it.
        after: graph after it, with the same inputs and outputs.
        context: gives samples, takes the note.
        extra: more to say, such as ", 50% of them zero".
    """
    samples, of = _judges(before, context)
    work = change_text(total_macs(before), total_macs(after), COUNTS)
    size = change_text(weight_bytes(before), weight_bytes(after), SIZES)
    context.note(f"{name}: {work} MACs, {size} of constants{extra}, SQNR {sqnr_db(before, after, samples):.1f} dB {of}")


COUNTS = ((1e6, ",.1f", " million"), (1, ",.0f", ""))
SIZES = ((1e6, ",.2f", " MB"), (1e3, ",.2f", " kB"), (1, ",.0f", " bytes"))
"""Units from the largest down: how many it is, and how numbers of it are written."""


def change_text(before: int, after: int, units: Sequence[tuple[float, str, str]]) -> str:
    """Return "BEFORE to AFTER UNIT" in the largest unit in which they differ, and neither is less than one.

    Args:
        before: MACs or bytes.
        after: the same, of what a pass made.
        units: COUNTS or SIZES.
    """
    text = ""
    for factor, form, unit in units:
        first, second = format(before / factor, form), format(after / factor, form)
        text = f"{first} to {second}{unit}"
        if min(before, after) >= factor and (first != second or before == after):
            break
    return text


def _judges(graph: Graph, context: PassContext) -> tuple[Sequence[Sample], str]:
    """Return inputs to judge a pass by, and what they are, in words."""
    if others := other_samples(context, _COMPARED):
        return others, f"on {len(others)} calibration sample{'s' * (len(others) > 1)} that nothing was fitted to"
    if only := fitted_samples(context, _COMPARED):
        return only, "on the only calibration sample"
    noise = [inputs for kind, inputs in stimuli(graph, context.seed) if kind == "normal"]
    return noise, "on noise, which says little"


def sqnr_db(before: Graph, after: Graph, samples: Iterable[Sample]) -> float:
    """Return 10·log10(Σ y² / Σ (ŷ − y)²) of the worst float output, at most 200 dB."""
    powers: dict[str, NoisePower] = defaultdict(NoisePower)
    runs = Interpreter(before), Interpreter(after)
    for sample in samples:
        wanted, found = (run.run(sample) for run in runs)
        for key, array in wanted.items():
            if array.dtype.kind == "f":
                powers[key].add(array, found[key])
    return min([LIMIT_DB, *(power.db for power in powers.values())])
