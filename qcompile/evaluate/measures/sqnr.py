"""Signal to quantization noise ratio at the outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from qcompile.evaluate.measure import Array, Measure, Observation, noisy_outputs, reference_output
from qcompile.quant.noise_power import LIMIT_DB, deviation_power


@dataclass(frozen=True)
class Sqnr(Measure):
    """Return how far the outputs are above their error, against the float model; of several outputs the worst.

    Formula:
        min over outputs of 10·log₁₀(Σ r² / Σ (r − a)²), sums over all elements of all samples, within ±200 dB

    Args:
        output: the output to look at; "" for all that hold real numbers; where none does, for all.
    """

    name: ClassVar[str] = "sqnr"
    unit: ClassVar[str] = "dB"
    needs_reference: ClassVar[bool] = True

    output: str = ""

    def row(self, seen: Observation) -> Any:
        """Return (signal, noise) of each output."""
        names = noisy_outputs(seen, self.output)
        sums: list[float] = []
        for name in names:
            sums += deviation_power(reference_output(seen, name), seen.outputs[name])
        return tuple(sums)

    def value(self, sums: Array) -> Array:
        """Return the decibels of the worst output."""
        signal, noise = sums[..., 0::2], sums[..., 1::2]
        with np.errstate(divide="ignore", invalid="ignore"):
            decibel = 10 * (np.log10(signal) - np.log10(noise))
        decibel = np.where(noise == 0, LIMIT_DB, decibel)
        return np.asarray(np.clip(decibel, -LIMIT_DB, LIMIT_DB).min(axis=-1))
