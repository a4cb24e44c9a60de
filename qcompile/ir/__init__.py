"""The intermediate representation: typed SSA graphs, their text, their edits and their checks."""

from qcompile.ir.graph import Graph, Node, Value
from qcompile.ir.opdef import NoAttrs, OpDef, Quantization
from qcompile.ir.types import TensorType

__all__ = ["Graph", "NoAttrs", "Node", "OpDef", "Quantization", "TensorType", "Value"]
