"""Linear models of classical machine learning (domain ai.onnx.ml) as matrix products: rows of features [N, C].

Source:
    ONNX, ai.onnx.ml: LinearRegressor, LinearClassifier; scores of a single row of coefficients as ONNX Runtime has
    them.
"""

from __future__ import annotations

from qcompile.onnx_import.definitions.body import Body


def _product(body: Body, count: int | None, output: str | None = None) -> tuple[str, int]:
    """Append x · coefficientsᵀ + intercepts and return it with its columns: `count`, or one for each intercept."""
    coefficients = list(body.attr("coefficients", []))
    shape = body.shape(0)
    if len(shape) not in (1, 2) or not shape[-1] or len(coefficients) % shape[-1] or not coefficients:
        body.fail(f"{len(coefficients)} coefficients for an input {list(shape)}")
    rows = len(coefficients) // shape[-1]
    if count not in (None, rows):
        body.fail(f"{len(coefficients)} coefficients for {shape[-1]} columns and {count} targets")
    intercepts = list(body.attr("intercepts", [])) or [0.0] * rows
    if len(intercepts) != rows:
        body.fail(f"{len(intercepts)} intercepts for {rows} rows of coefficients")
    matrix = body.reshape(body.constant(coefficients), [rows, shape[-1]])
    x = body.reshape(body.real(0), [1, -1]) if len(shape) == 1 else body.real(0)
    return body.add("Gemm", [x, matrix, body.constant(intercepts)], output, transB=1), rows


def _linear_regressor(body: Body) -> None:
    functions = {"NONE": "Identity", "SOFTMAX": "Softmax", "LOGISTIC": "Sigmoid"}
    transform = str(body.attr("post_transform", "NONE"))
    score, count = _product(body, int(body.attr("targets", 1)))
    if transform not in functions or (count == 1 and transform != "NONE"):
        # ONNX Runtime leaves a single target as it is, against the specification: whom to follow is open.
        body.fail(f"post_transform '{transform}' of {count} target{'s' * (count > 1)} is not supported")
    body.add(functions[transform], [score], body.output(0))


def _linear_classifier(body: Body) -> None:
    """Write the class with the highest score, and the scores. A single row of coefficients tells of the second one."""
    classes = body.attr("classlabels_ints")
    if not classes:
        body.fail("classes of text are not supported")
    transform = str(body.attr("post_transform", "NONE"))
    score, rows = _product(body, None)
    if rows == 1 and len(classes) == 2 and transform in ("NONE", "LOGISTIC"):
        second = body.add("Greater", [body.add("Squeeze", [score, body.constant([1], "int64")]), body.constant(0)])
        place = body.cast(second, "int64")
        if transform == "LOGISTIC":
            both = body.add("Concat", [body.add("Neg", [score]), score], axis=1)
            result = body.add("Sigmoid", [both])
        else:
            result = body.add("Concat", [body.add("Sub", [body.constant(1), score]), score], axis=1)
    elif rows == len(classes) and transform in ("NONE", "SOFTMAX", "LOGISTIC"):
        place = body.add("ArgMax", [score], axis=1, keepdims=0)
        function = {"NONE": "Identity", "SOFTMAX": "Softmax", "LOGISTIC": "Sigmoid"}[transform]
        result = body.add(function, [score])
    else:
        body.fail(f"{rows} rows of coefficients for {len(classes)} classes with post_transform '{transform}'")
    body.add("Gather", [body.constant(classes, "int64"), place], body.output(0), axis=0)
    body.add("Identity", [result], body.output(1))


DOMAIN = "ai.onnx.ml"
DEFINITIONS = {"LinearClassifier": _linear_classifier, "LinearRegressor": _linear_regressor}
