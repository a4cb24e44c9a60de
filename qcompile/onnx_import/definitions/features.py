"""Preparation of tables as ONNX's operators of classical machine learning do it (domain ai.onnx.ml).

Exporters of scikit-learn put them around multilayer perceptrons: rows of features [N, C] are scaled, filled in,
selected, and classes become the numbers that they stand for.

Source:
    ONNX, ai.onnx.ml: Scaler, Normalizer, Binarizer, Imputer, ArrayFeatureExtractor, FeatureVectorizer, OneHotEncoder,
    LabelEncoder. Where that leaves a form open (rows whose norm is 0, values that are not among the keys), they do
    what ONNX Runtime does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import numpy_helper

from qcompile.onnx_import.definitions.body import Body


def _columns(body: Body) -> int:
    """Return the number of features of a row."""
    shape = body.shape(0)
    if len(shape) not in (1, 2):
        body.fail(f"an input {list(shape)}; rows of features have one or two axes")
    return shape[-1]


def _per_column(body: Body, name: str, values: Sequence[Any], dtype: str = "float32") -> str:
    """Append one number for all columns, or one for each."""
    if len(values) not in (1, _columns(body)):
        body.fail(f"{name} has {len(values)} numbers for {_columns(body)} columns")
    return body.constant(values, dtype)


def _scaler(body: Body) -> None:
    """Define (x − offset) · scale."""
    offset, scale = (_per_column(body, name, body.attr(name, [])) for name in ("offset", "scale"))
    body.add("Mul", [body.add("Sub", [body.real(0), offset]), scale], body.output(0))


def _normalizer(body: Body) -> None:
    """Define x / norm(x) for each row; a row whose norm is 0 stays."""
    _columns(body)
    norms = {"MAX": "ReduceMax", "L1": "ReduceL1", "L2": "ReduceL2"}
    kind = str(body.attr("norm", "MAX"))
    if kind not in norms:
        body.fail(f"unknown norm '{kind}'")
    x = body.real(0)
    norm = body.add(norms[kind], [x, body.constant([-1], "int64")], keepdims=1)
    zero = body.add("Equal", [norm, body.constant(0)])
    body.add("Div", [x, body.add("Where", [zero, body.constant(1), norm])], body.output(0))


def _binarizer(body: Body) -> None:
    """Define x > threshold, as 0 and 1."""
    above = body.add("Greater", [body.real(0), body.constant(body.attr("threshold", 0.0))])
    body.cast(above, "float32", body.output(0))


def _imputer(body: Body) -> None:
    """Put numbers of their columns in the place of one that means "unknown", often NaN."""
    integer = body.attr("imputed_value_int64s") is not None
    kind, dtype = ("int64", "int64") if integer else ("float", "float32")
    given = body.attr(f"imputed_value_{kind}s", [])
    unknown = body.attr(f"replaced_value_{kind}", 0)
    x = body.input(0) if integer else body.real(0)
    replaced = _per_column(body, f"imputed_value_{kind}s", given, dtype)
    where = body.add("IsNaN", [x]) if math.isnan(unknown) else body.add("Equal", [x, body.constant(unknown, dtype)])
    body.add("Where", [where, replaced, x], body.output(0))


def _array_feature_extractor(body: Body) -> None:
    """Take the columns that the second input counts; a vector is one row."""
    places = body.reshape(body.input(1), [-1])
    if len(body.shape(0)) == 1:
        taken = body.add("Gather", [body.input(0), places], axis=0)
        body.add("Unsqueeze", [taken, body.constant([0], "int64")], body.output(0))
    else:
        body.add("Gather", [body.input(0), places], body.output(0), axis=-1)


def _feature_vectorizer(body: Body) -> None:
    """Put the columns of all inputs beside each other, each table filled up with zeros to the extent it is to have."""
    extents = [int(n) for n in body.attr("inputdimensions", [])]
    if len(extents) != len(body.operands):
        body.fail(f"inputdimensions has {len(extents)} numbers for {len(body.operands)} inputs")
    tables = []
    for index, extent in enumerate(extents):
        shape, table = body.shape(index), body.real(index)
        if len(shape) not in (1, 2) or shape[-1] > extent:
            body.fail(f"an input {list(shape)} for {extent} columns")
        if len(shape) == 1:
            table = body.add("Unsqueeze", [table, body.constant([0], "int64")])
        if shape[-1] < extent:
            table = body.add("Pad", [table, body.constant([0, 0, 0, extent - shape[-1]], "int64")])
        tables.append(table)
    body.add("Concat", tables, body.output(0), axis=1)


def _equal_to_each(body: Body, x: str, keys: npt.ArrayLike, dtype: str) -> str:
    """Append whether x equals each key, as 0 and 1 [..., keys]."""
    wide = body.add("Unsqueeze", [x, body.constant([-1], "int64")])
    return body.cast(body.add("Equal", [wide, body.constant(keys, dtype)]), "float32")


def _one_hot_encoder(body: Body) -> None:
    """Define 1 at the place of the category that x is, 0 at others [..., categories]."""
    categories = body.attr("cats_int64s")
    if not categories:
        body.fail("categories of text are not supported")
    if not body.attr("zeros", 1):
        body.fail("zeros = 0 asks for an error where a category is unknown, which no kernel can raise")
    x = body.cast(body.input(0), "int64")
    body.add("Identity", [_equal_to_each(body, x, categories, "int64")], body.output(0))


def _label_encoder(body: Body) -> None:
    """Define values[k] where x is keys[k], the default elsewhere; the first of equal keys counts."""
    keys, values = _numbers(body, "keys"), _numbers(body, "values")
    if len(keys) != len(values) or np.isnan(keys).any():
        body.fail(f"{len(keys)} keys for {len(values)} values, or a key that is NaN")
    of, to = "int64" if keys.dtype.kind in "iu" else "float32", values.dtype.name
    default = body.attr("default_int64", -1) if values.dtype.kind in "iu" else body.attr("default_float", -0.0)
    if body.attr("default_tensor") is not None:
        default = numpy_helper.to_array(body.attr("default_tensor")).item()
    same = _equal_to_each(body, body.cast(body.input(0), of), keys, of)
    place = body.add("ArgMax", [same], axis=-1, keepdims=0)
    known = body.add("ReduceMax", [same, body.constant([-1], "int64")], keepdims=0)
    value = body.add("Gather", [body.constant(values, to), place], axis=0)
    found = body.add("Greater", [known, body.constant(0.5)])
    body.add("Where", [found, value, body.constant(default, to)], body.output(0))


def _numbers(body: Body, which: str) -> npt.NDArray[Any]:
    """Return what one of several attributes holds: the numbers of a list or a tensor."""
    lists = {f"{which}_int64s": "int64", f"{which}_floats": "float32"}
    found = [np.asarray(body.attr(name), dtype) for name, dtype in lists.items() if body.attr(name) is not None]
    if body.attr(f"{which}_tensor") is not None:
        found.append(numpy_helper.to_array(body.attr(f"{which}_tensor")).reshape(-1))
    if len(found) != 1 or found[0].dtype.kind not in "iuf":
        body.fail(f"its {which} are not given once, as numbers; text is not supported")
    return found[0]


DOMAIN = "ai.onnx.ml"
DEFINITIONS = {
    "ArrayFeatureExtractor": _array_feature_extractor,
    "Binarizer": _binarizer,
    "FeatureVectorizer": _feature_vectorizer,
    "Imputer": _imputer,
    "LabelEncoder": _label_encoder,
    "Normalizer": _normalizer,
    "OneHotEncoder": _one_hot_encoder,
    "Scaler": _scaler,
}
