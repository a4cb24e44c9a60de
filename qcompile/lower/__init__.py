"""Turns an integer, float or mixed graph into a program: compiled kernels, steps, and a static memory plan."""

from qcompile.lower.lowering import lower_graph

__all__ = ["lower_graph"]
