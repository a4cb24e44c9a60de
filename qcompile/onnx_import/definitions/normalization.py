"""Normalizations with the additions before them."""

from __future__ import annotations

from qcompile.onnx_import.definitions.body import Body


def _normalize(body: Body, x: str, scale: str, bias: str | None, rms: bool, axis: int = -1) -> None:
    epsilon = float(body.attr("epsilon", 1e-12 if not rms else 1e-5))
    if rms:
        body.add("RMSNormalization", [x, scale], body.output(0), axis=axis, epsilon=epsilon)
    else:
        body.add("LayerNormalization", [x, scale, bias or ""], body.output(0), axis=axis, epsilon=epsilon)
    for index in (1, 2):
        if body.output(index):
            body.fail(f"its output {index}, a by-product of training, is not supported")


def _skip(body: Body, scale: int, bias: int | None, extra: int, rms: bool) -> None:
    """Define the normalization of input + skip (+ bias); output 3 is that sum."""
    terms = [body.input(0), body.input(1)]
    if body.has(extra):
        total = body.add("Add", [body.add("Add", terms), body.input(extra)], body.output(3))
    else:
        total = body.add("Add", terms, body.output(3))
    shift = body.input(bias) if bias is not None and body.has(bias) else None
    _normalize(body, total, body.input(scale), shift, rms)


def _skip_layer(body: Body) -> None:
    _skip(body, scale=2, bias=3, extra=4, rms=False)


def _skip_simplified(body: Body) -> None:
    _skip(body, scale=2, bias=None, extra=3, rms=True)


def _simplified(body: Body) -> None:
    if body.output(1):
        body.fail("its output 1, a by-product of training, is not supported")
    _normalize(body, body.input(0), body.input(1), None, rms=True, axis=int(body.attr("axis", -1)))


def _embedding(body: Body) -> None:
    """Define the normalized sum of word, position and segment vectors; output 2 is the sum."""
    length = body.shape(0)[1]
    words = body.add("Gather", [body.input(2), body.input(0)])
    if body.has(8):
        places = body.add("Gather", [body.input(3), body.input(8)])
    else:
        places = body.add("Slice", [body.input(3), body.constant([0], "int64"), body.constant([length], "int64")])
    total = body.add("Add", [words, places], None if body.has(4) else body.output(2))
    if body.has(4):
        segments = body.add("Gather", [body.input(4), body.input(1)])
        total = body.add("Add", [total, segments], body.output(2))
    epsilon = float(body.attr("epsilon", 1e-12))
    body.add("LayerNormalization", [total, body.input(5), body.input(6)], body.output(0), axis=-1, epsilon=epsilon)
    if body.output(1) and body.has(7):
        mask = body.cast(body.input(7), "int32")
        body.add("ReduceSum", [mask, body.constant([1], "int64")], body.output(1), keepdims=0)
    elif body.output(1):
        body.add("Constant", [], body.output(1), value_ints=[0] * body.shape(0)[0])


DOMAIN = "com.microsoft"
DEFINITIONS = {
    "EmbedLayerNormalization": _embedding,
    "SimplifiedLayerNormalization": _simplified,
    "SkipLayerNormalization": _skip_layer,
    "SkipSimplifiedLayerNormalization": _skip_simplified,
}
