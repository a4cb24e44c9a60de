"""Activations of transformers."""

from __future__ import annotations

from qcompile.onnx_import.definitions.body import Body


def _gelu(body: Body) -> None:
    body.add("Gelu", [body.input(0)], body.output(0))


def _bias_gelu(body: Body) -> None:
    body.add("Gelu", [body.add("Add", [body.input(0), body.input(1)])], body.output(0))


def _fast_gelu(body: Body) -> None:
    x = body.add("Add", [body.input(0), body.input(1)]) if body.has(1) else body.input(0)
    body.add("Gelu", [x], body.output(0), approximate="tanh")


def _quick_gelu(body: Body) -> None:
    """Define x · sigmoid(alpha · x)."""
    scaled = body.add("Mul", [body.input(0), body.constant(body.attr("alpha", 1.702))])
    body.add("Mul", [body.input(0), body.add("Sigmoid", [scaled])], body.output(0))


DOMAIN = "com.microsoft"
DEFINITIONS = {"BiasGelu": _bias_gelu, "FastGelu": _fast_gelu, "Gelu": _gelu, "QuickGelu": _quick_gelu}
