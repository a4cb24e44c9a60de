"""Writes quantized graphs as ONNX models for other tools."""

from qcompile.onnx_export.operators import check_writable
from qcompile.onnx_export.qdq import qdq_model, write_qdq

__all__ = ["check_writable", "qdq_model", "write_qdq"]
