"""Quantization parameters and the exact integer arithmetic; NumPy only."""

from qcompile.quant.qparams import QParams, QSpec

__all__ = ["QParams", "QSpec"]
