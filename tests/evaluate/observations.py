"""What a measure sees of a sample, and what it makes of some."""

from __future__ import annotations

from qcompile.evaluate.measure import Observation, make_measure


def seen(outputs, label=None, reference=None, names=None):
    return Observation("sample", outputs, label, reference, names)


def value(text, *observations):
    measure = make_measure(text)
    return measure.estimate([measure.row(o) for o in observations]).value
