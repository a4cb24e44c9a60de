"""Writes quantized graphs as ONNX models for other tools."""

from qcompile.onnx_export.operators import check_operations
from qcompile.onnx_export.qdq import qdq_model, write_qdq

__all__ = ["check_operations", "qdq_model", "write_qdq"]
