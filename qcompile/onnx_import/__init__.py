"""ONNX files to graphs: read, check, fix the shapes, convert node by node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qcompile.ir.graph import Graph
    from qcompile.ir.symbol import Symbol


def import_onnx(
    model: str | PathLike[str] | Any,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    input_values: Mapping[str, Sequence[float]] | None = None,
    *,
    symbols: Sequence[Symbol] = (),
    keeps_loops: bool = True,
) -> Graph:
    """Read an ONNX model into a graph of float32, integer and bool tensors with static shapes.

    Args:
        model: path of a .onnx file, or an onnx.ModelProto.
        input_shapes: extents by input name, for inputs with dynamic axes. A batch axis (axis 0) that the model
            leaves open and nobody fixes becomes 1.
        input_values: numbers by input name, for inputs that become constants; see `fixed_inputs.fix_inputs`.
        symbols: open extents, whose largest values `input_shapes` has; see `bounds.import_bounded`.
        keeps_loops: whether loops stay loops that could be unrolled, but are not short.

    Returns:
        The graph; `graph.notes` says what was assumed or converted on the way.

    Raises:
        ModelImportError: the file cannot be read, is not a valid model, or leaves an extent open.
        UnsupportedOpError: the model uses operators that qcompile does not have; all of them are named.
        UsageError: `input_shapes` or `input_values` names an unknown input or contradicts the model.
    """
    # ONNX is loaded on the first import of a model, not with the package.
    from qcompile.onnx_import.convert import convert_model
    from qcompile.onnx_import.fixed_inputs import fix_inputs
    from qcompile.onnx_import.load import load_model

    loaded = load_model(model)
    fix_inputs(loaded, input_values or {})
    return convert_model(loaded, dict(input_shapes or {}), symbols, keeps_loops=keeps_loops)


__all__ = ["import_onnx"]
