"""Made-up operands of a layer, packed as its plan wants them: what a kernel is timed on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.kernels.conv import plan_conv
from qcompile.kernels.conv_packing import pack_conv, pack_table
from qcompile.kernels.conv_plan import ConvPlan
from qcompile.kernels.conv_workload import ConvWorkload
from qcompile.kernels.isa import Isa
from qcompile.kernels.kernel import Kernel
from qcompile.kernels.parameters import LayerScalars
from qcompile.targets import Target

Array = npt.NDArray[Any]

_OUTPUT = 6


@dataclass(frozen=True)
class Candidate:
    """A kernel with its operands.

    Args:
        kernel: the code.
        arguments: bytes behind each of the eight pointers; None for NULL, and for the output.
        output_bytes: size of the output.
    """

    kernel: Kernel
    arguments: tuple[bytes | None, ...]
    output_bytes: int


class Operands:
    """The numbers of one layer, the same for every plan, so that every plan must give the same bits.

    Args:
        work: the layer.
        isa: instruction set.
    """

    def __init__(self, work: ConvWorkload, isa: Isa) -> None:
        self._work, self._isa = work, isa
        random = np.random.default_rng(0)
        shape = (work.batch, work.height, work.width, work.channels)
        out = (work.batch, work.out_height, work.out_width, work.filters)
        kernel = (work.filters, *work.kernel, work.channels // work.groups)
        self._output_type = isa.activation_dtype if work.output == "int8" else work.output
        self._output_bytes = int(np.prod(out)) * np.dtype(self._output_type).itemsize
        self._bias: Array
        if work.precision == "float32":
            self._x, self._weights = (random.standard_normal(s, np.float32) for s in (shape, kernel))
            self._bias, self._residual = (random.standard_normal(s, np.float32) for s in ((work.filters,), out))
        else:
            self._x, self._residual = (
                random.integers(0, 256, s).astype(np.uint8).view(isa.activation_dtype) for s in (shape, out)
            )
            self._weights = random.integers(-127, 128, kernel).astype(np.int8)
            self._bias = random.integers(-1000, 1000, work.filters).astype(np.int32)
        if work.low:
            self._residual = random.integers(-(2**20), 2**20, out).astype(np.int32)
        self._table = random.integers(-128, 128, 256).astype(np.int8)

    def candidate(self, plan: ConvPlan | None, target: Target) -> Candidate:
        """Return the layer's kernel under a plan, with operands."""
        work = self._work
        multiplier = np.float32(1.0 / (75 * np.sqrt(work.reduction)))
        packed = pack_conv(work, self._isa, self._weights, self._bias, multiplier, LayerScalars(), plan)
        arrays = (
            self._x,
            packed.weights,
            packed.bias,
            packed.multipliers if packed.multipliers.size else None,
            self._residual if work.residual or work.low else None,
            pack_table(self._table, self._isa) if work.table else None,
            None,
            packed.parameters,
        )
        arguments = tuple(np.ascontiguousarray(a).tobytes() if a is not None else None for a in arrays)
        return Candidate(plan_conv(work, self._isa, target, plan), arguments, self._output_bytes)
