"""How near to float the outputs of a network should be, as far as their shapes tell what they are for."""

from __future__ import annotations

from collections.abc import Sequence

from qcompile.ir.graph import Graph
from qcompile.passmgr.likely_states import likely_states
from qcompile.search.drop import is_classifier, single_shape
from qcompile.search.output_use import output_uses

CLASSES_DB, STATE_DB, SIGNAL_DB = 25.0, 48.0, 48.0
"""SQNR to reach at class scores; at a state, whose error is fed back; at everything else, where noise shows."""


def targets(graph: Graph) -> list[float]:
    """Return the SQNR that each use of the outputs should have (`output_uses`), dB.

    Args:
        graph: outputs like some of its inputs are states (`likely_states`); the one vector of a graph with nothing
            else holds class scores, and what a softmax makes their probabilities; parts of an output that sigmoids
            made are scores, too. A single number is a signal: a price, a similarity.
    """
    states, single = set(likely_states(graph).values()), is_classifier(graph)
    found = []
    for use in output_uses(graph):
        value = graph.outputs[use.output]
        scores = single or use.scores or use.axis is not None or _is_vector(single_shape(graph, value))
        found.append(STATE_DB if value in states else CLASSES_DB if scores else SIGNAL_DB)
    return found


def _is_vector(shape: Sequence[int]) -> bool:
    return sum(extent > 1 for extent in shape) == 1
