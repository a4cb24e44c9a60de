"""What a node costs in each precision on the machine compiled for: as measured where it was, else as modelled."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from qcompile.ir.cost import modelled_ns
from qcompile.ir.graph import Graph, Node, Value
from qcompile.ir.regions import times_run
from qcompile.ir.types import NARROW
from qcompile.kernels.conv_workload import LEAST_PIXELS, ConvWorkload, dense, workload_fields
from qcompile.kernels.winograd import is_sharable
from qcompile.tuning.database import Database

if TYPE_CHECKING:
    from qcompile.passmgr.context import PassContext

PAIRING = ("avx2",)
"""Instruction sets whose kernels sum two products of bytes in 16 bits, and are slower where weights are too great."""

_ELEMENT_BYTES = {"int8": 1, "int16": 2, "float16": 2, "bfloat16": 2}
_EPILOGUE = ("output", "residual", "table", "activation")
"""Fields of a workload that hardly matter for its time."""


@dataclass(frozen=True)
class Cost:
    """Time of one node.

    Args:
        ns: one thread, nanoseconds.
        measured: whether it was measured on this instruction set, else it is modelled.
    """

    ns: float
    measured: bool


class NodeCosts:
    """Costs on one instruction set.

    Args:
        isa: its name; "" where no target is chosen, then everything is modelled.
        records: what was measured.
    """

    def __init__(self, isa: str = "", records: Database | None = None) -> None:
        self._isa = isa
        found: dict[str, list[float]] = {}
        for record in records or Database():
            if record.isa == isa:
                found.setdefault(_key(dict(record.workload)), []).append(record.ns)
        self._measured = {key: median(times) for key, times in found.items()}

    @staticmethod
    def of(context: PassContext) -> NodeCosts:
        """Return the costs on a compilation's target."""
        return NodeCosts(context.target.isa if context.target is not None else "", context.records)

    def node(self, node: Node, precision: str | None = None) -> Cost:
        """Return what a node costs.

        Args:
            node: of a float or an integer graph.
            precision: "int8", "int16", "float16", "bfloat16" or "float32"; None for the form that the node has.
        """
        precision = precision or precision_of(node)
        ns = self._measured.get(_key(_fields(node, precision))) if self._measured else None
        if ns is not None:
            return Cost(ns, True)
        moved = node.op.moved(node) * _ELEMENT_BYTES.get(precision, 4)
        return Cost(modelled_ns(node.op.macs(node), moved, precision, self._isa), False)

    def graph_ms(self, graph: Graph) -> float:
        """Return the time of one inference on one core, milliseconds."""
        return sum(times * self.node(node).ns for node, times in times_run(graph).items()) / 1e6

    def conversion_ns(self, value: Value, integer_bytes: int = 1) -> float:
        """Return the time to bring a tensor from integers to float or back, modelled, nanoseconds."""
        return modelled_ns(0, (integer_bytes + 4) * value.type.size, "float32", self._isa)

    def digest(self) -> str:
        """Return a digest of all that costs depend on besides the node."""
        text = json.dumps([self._isa, sorted(self._measured.items())])
        return hashlib.sha256(text.encode()).hexdigest()


_BYTES = ("int8", "uint8")


def precision_of(node: Node) -> str:
    """Return what a node computes in: "int8", "int16", "float16", "bfloat16" or "float32".

    An integer node computes in what it reads, whatever its result is written as; the conversion of real numbers in what
    it makes.
    """
    if not node.is_integer:
        # A model that comes quantized multiplies integers of its own.
        if node.inputs and node.inputs[0].dtype in _BYTES and node.op.macs(node):
            return "int8"
        return node.outputs[0].dtype if node.outputs[0].dtype in NARROW else "float32"
    codes = node.inputs[0] if node.inputs[0].qparams is not None else node.outputs[0]
    return "int16" if codes.dtype == "int16" else "int8"


def is_layer(node: Node) -> bool:
    """Return whether a node is a convolution or product, which kernels with cuts to choose compute."""
    return node.op.name in ("conv2d", "dense", "conv_transpose2d")


def paired_run(node: Node, isa: str) -> int | None:
    """Return in which runs of weights the kernel of an int8 layer may sum two products of bytes in 16 bits.

    Layers that may rather share products (`kernels.winograd`) do not count.

    Args:
        node: of an integer graph.
        isa: name of an instruction set.

    Returns:
        Neighbouring weights of a filter whose pixels are neighbours, too; None where kernels multiply no pairs.
    """
    work = _workload(node, "int8") if isa in PAIRING and precision_of(node) == "int8" else None
    if work is None or work.groups > 1 or is_sharable(work):
        return None
    if work.batch * work.out_height * work.out_width < LEAST_PIXELS:
        return None
    columns = work.kernel[1] if work.dilations[1] == 1 else 1
    return columns * work.channels


def step_fields(node: Node, precision: str | None = None) -> dict[str, Any]:
    """Return what stands in a record for a node that is no layer: operation, precision and shapes.

    Args:
        node: of a float or an integer graph.
        precision: None for the form that it has.
    """
    shapes = [list(value.shape) for value in node.inputs if not value.is_constant]
    result = list(node.outputs[0].shape)
    return {"op": node.op.name, "precision": precision or precision_of(node), "inputs": shapes, "result": result}


def _fields(node: Node, precision: str) -> dict[str, Any]:
    work = _workload(node, precision)
    return workload_fields(work) if work is not None else step_fields(node, precision)


def _key(fields: dict[str, Any]) -> str:
    """Return what layers of about the same time share."""
    return json.dumps({name: value for name, value in fields.items() if name not in _EPILOGUE}, sort_keys=True)


def _workload(node: Node, precision: str) -> ConvWorkload | None:
    """Return the kernel's workload of a layer without its epilogue; None where the node is no such layer."""
    if precision not in ("int8", *NARROW, "float32") or node.op.name not in ("conv2d", "dense"):
        return None
    x, weight = node.inputs[0], node.inputs[1]
    output = precision
    if node.op.name == "dense":
        rows = x.type.size // max(1, x.shape[-1])
        return dense(rows, x.shape[-1], weight.shape[0], precision=precision, output=output) if rows else None
    attrs = node.attrs
    if attrs.layout != "NHWC" or min(x.shape) < 1:
        return None
    geometry = (attrs.strides, attrs.dilations, attrs.pads, attrs.groups)
    filters, rows, columns, _ = weight.shape
    n, h, w, channels = x.shape
    return ConvWorkload(n, h, w, channels, filters, (rows, columns), *geometry, precision=precision, output=output)
