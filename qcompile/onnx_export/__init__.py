"""Writes quantized graphs as ONNX models for other tools."""

from qcompile.onnx_export.qdq import qdq_model, write_qdq

__all__ = ["qdq_model", "write_qdq"]
