"""Operators of classical machine learning, and the outputs that come with them, against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qcompile.errors import ModelImportError, UnsupportedOpError
from qcompile.onnx_import import import_onnx
from qcompile.onnx_import.definitions import foreign_operators
from qcompile.ops.interpreter import Interpreter

ort = pytest.importorskip("onnxruntime")

DOMAIN = "ai.onnx.ml"
ROWS = np.array([[1, -2, 3], [0, 0, 0], [-4, -1, -2]], np.float32)
HOLES = np.array([[1, np.nan, 3], [np.nan, 0, 0]], np.float32)
CODES = np.array([[1, 5], [2, 9]])
SIX = [0.1, 0.2, 0.3, 0.4, -0.5, 0.6]
CASES: dict[str, tuple[str, list[Any], dict[str, Any], list[str]]] = {
    # name: operator, inputs, attributes, types of outputs
    "scaler": ("Scaler", [ROWS], {"offset": [1.0, 2, 3], "scale": [2.0, 1, 0.5]}, ["f"]),
    "scaler_row": ("Scaler", [ROWS[0]], {"offset": [1.0, 2, 3], "scale": [2.0, 1, 4]}, ["f"]),
    "scaler_integers": ("Scaler", [ROWS.astype(np.int64)], {"offset": [1.0], "scale": [2.0]}, ["f"]),
    "normalizer_max": ("Normalizer", [ROWS], {"norm": "MAX"}, ["f"]),
    "normalizer_l1": ("Normalizer", [ROWS.astype(np.int32)], {"norm": "L1"}, ["f"]),
    "normalizer_l2": ("Normalizer", [ROWS], {"norm": "L2"}, ["f"]),
    "normalizer_row": ("Normalizer", [ROWS[0]], {"norm": "L2"}, ["f"]),
    "binarizer": ("Binarizer", [ROWS], {"threshold": 0.5}, ["f"]),
    "imputer": ("Imputer", [HOLES], {"imputed_value_floats": [7.0, 8, 9], "replaced_value_float": np.nan}, ["f"]),
    "imputer_number": ("Imputer", [ROWS], {"imputed_value_floats": [7.0], "replaced_value_float": -2.0}, ["f"]),
    "imputer_integers": ("Imputer", [CODES], {"imputed_value_int64s": [7, 8], "replaced_value_int64": 2}, ["i"]),
    "extractor": ("ArrayFeatureExtractor", [ROWS, np.array([[2, 0]])], {}, ["f"]),
    "extractor_cube": ("ArrayFeatureExtractor", [ROWS.reshape(1, 3, 3), np.array([1, 0, 1, 2])], {}, ["f"]),
    "extractor_row": ("ArrayFeatureExtractor", [ROWS[0], np.array([[1], [2]])], {}, ["f"]),
    "vectorizer": ("FeatureVectorizer", [ROWS[:, :2], ROWS], {"inputdimensions": [3, 3]}, ["f"]),
    "vectorizer_row": ("FeatureVectorizer", [ROWS[0], ROWS[2]], {"inputdimensions": [3, 4]}, ["f"]),
    "one_hot": ("OneHotEncoder", [CODES], {"cats_int64s": [1, 2, 5], "zeros": 1}, ["f"]),
    "one_hot_floats": ("OneHotEncoder", [(CODES + 0.5).astype(np.float32)], {"cats_int64s": [1, 2, 5]}, ["f"]),
    "labels": ("LabelEncoder", [CODES], {"keys_int64s": [1, 5, 1], "values_int64s": [7, 8, 9]}, ["i"]),
    "labels_real": ("LabelEncoder", [ROWS], {"keys_floats": [-2.0, 3], "values_floats": [7.0, 8],
                                              "default_float": 0.25}, ["f"]),
    "labels_tensors": ("LabelEncoder", [CODES.astype(np.int64)],
                       {"keys_tensor": numpy_helper.from_array(np.array([1, 5])),
                        "values_tensor": numpy_helper.from_array(np.array([0.5, 8], np.float32)),
                        "default_tensor": numpy_helper.from_array(np.array([7], np.float32))}, ["f"]),
    "labels_to_real": ("LabelEncoder", [CODES], {"keys_int64s": [1, 5], "values_floats": [0.5, 8]}, ["f"]),
    "regressor": ("LinearRegressor", [ROWS], {"coefficients": SIX, "intercepts": [1.0, 2], "targets": 2}, ["f"]),
    "regressor_row": ("LinearRegressor", [ROWS[0]], {"coefficients": SIX[:3]}, ["f"]),
    "regressor_logistic": ("LinearRegressor", [ROWS], {"coefficients": SIX, "targets": 2,
                                                        "post_transform": "LOGISTIC"}, ["f"]),
    "classifier": ("LinearClassifier", [ROWS], {"coefficients": SIX, "intercepts": [0.1, 0.3],
                                                 "classlabels_ints": [3, 4]}, ["i", "f"]),
    "classifier_softmax": ("LinearClassifier", [ROWS], {"coefficients": [*SIX, *SIX[:3]], "intercepts": [0.1, 0.3, 0],
                                                         "classlabels_ints": [3, 4, 9], "multi_class": 1,
                                                         "post_transform": "SOFTMAX"}, ["i", "f"]),
    "classifier_logistic": ("LinearClassifier", [ROWS.astype(np.int64)],
                            {"coefficients": SIX, "intercepts": [0.1, 0.3], "classlabels_ints": [3, 4],
                             "post_transform": "LOGISTIC"}, ["i", "f"]),
    "classifier_one": ("LinearClassifier", [ROWS], {"coefficients": SIX[:3], "intercepts": [0.1],
                                                     "classlabels_ints": [3, 4]}, ["i", "f"]),
    "classifier_one_logistic": ("LinearClassifier", [ROWS], {"coefficients": SIX[:3], "intercepts": [0.1],
                                                              "classlabels_ints": [3, 4],
                                                              "post_transform": "LOGISTIC"}, ["i", "f"]),
}  # fmt: skip
TYPES = {"f": TensorProto.FLOAT, "i": TensorProto.INT64, "s": TensorProto.STRING}


def model(nodes: list[Any], given: dict[str, Any], outputs: list[Any], constants: dict[str, Any] | None = None) -> Any:
    infos = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
             for n, a in given.items()]  # fmt: skip
    tensors = [numpy_helper.from_array(a, n) for n, a in (constants or {}).items()]
    graph = helper.make_graph(nodes, "g", infos, outputs, tensors)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 4)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def single(op: str, inputs: list[Any], attributes: dict[str, Any], types: list[str]) -> tuple[Any, dict[str, Any]]:
    given = {f"i{k}": array for k, array in enumerate(inputs)}
    outputs = [helper.make_tensor_value_info(f"o{k}", TYPES[kind], None) for k, kind in enumerate(types)]
    node = helper.make_node(op, list(given), [o.name for o in outputs], name="it", domain=DOMAIN, **attributes)
    return model([node], given, outputs), given


@pytest.mark.parametrize("name", CASES)
def test_agrees_with_onnx_runtime(name: str) -> None:
    proto, feed = single(*CASES[name])
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    got = Interpreter(import_onnx(proto)).run(feed)
    for output, expected in zip(session.get_outputs(), session.run(None, feed), strict=True):
        assert got[output.name].dtype == expected.dtype
        np.testing.assert_allclose(got[output.name], expected, rtol=1e-6, atol=1e-6)


def test_every_operator_is_tested() -> None:
    known = {name for name in foreign_operators() if name.startswith(DOMAIN)}
    assert {f"{DOMAIN}.{case[0]}" for case in CASES.values()} == known


@pytest.mark.parametrize(
    ("op", "attributes", "says"),
    [
        ("Scaler", {"offset": [1.0], "scale": [1.0, 2]}, "scale has 2 numbers for 3 columns"),
        ("Normalizer", {"norm": "L3"}, "unknown norm 'L3'"),
        ("OneHotEncoder", {"cats_strings": ["a"]}, "categories of text"),
        ("OneHotEncoder", {"cats_int64s": [1], "zeros": 0}, "zeros = 0"),
        ("LabelEncoder", {"keys_floats": [1.0], "values_strings": ["a"]}, "its values are not given once, as numbers"),
        ("LabelEncoder", {"keys_floats": [float("nan")], "values_floats": [1.0]}, "a key that is NaN"),
        ("LinearRegressor", {"coefficients": SIX, "targets": 1}, "6 coefficients for 3 columns and 1 targets"),
        ("LinearRegressor", {"coefficients": SIX, "targets": 2, "post_transform": "PROBIT"}, "'PROBIT' of 2 targets"),
        ("LinearRegressor", {"coefficients": SIX[:3], "post_transform": "LOGISTIC"}, "'LOGISTIC' of 1 target"),
        ("LinearClassifier", {"coefficients": SIX, "classlabels_strings": ["a", "b"]}, "classes of text"),
        ("LinearClassifier", {"coefficients": SIX, "classlabels_ints": [1, 2, 3]}, "2 rows of coefficients for 3"),
    ],
)
def test_forms_beyond_a_definition_are_refused(op: str, attributes: dict[str, Any], says: str) -> None:
    types = ["i", "f"] if op == "LinearClassifier" else ["f"]
    with pytest.raises(UnsupportedOpError, match=says):
        import_onnx(single(op, [ROWS], attributes, types)[0])


def test_a_model_of_nothing_else_needs_no_other_operator_set() -> None:
    proto, feed = single(*CASES["classifier"])
    del proto.opset_import[0]
    got = Interpreter(import_onnx(proto)).run(feed)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(got["o0"], session.run(["o0"], feed)[0])


def classifier(classes: Any, *, zipmap: bool) -> tuple[Any, dict[str, Any]]:
    """Return a classifier as scikit-learn's exporter writes it, and rows for it: the class, and how likely each is."""
    words = classes.dtype.kind == "U"
    constants = {
        "w": np.random.default_rng(0).normal(0, 1, (3, len(classes))).astype(np.float32),
        "classes": classes.astype(object) if words else classes,
        "flat": np.array([-1]),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["likely"]),
        helper.make_node("ArgMax", ["likely"], ["place"], axis=1),
        helper.make_node("ArrayFeatureExtractor", ["classes", "place"], ["chosen"], domain=DOMAIN),
        helper.make_node("Reshape", ["chosen", "flat"], ["label"]),
    ]
    outputs = [helper.make_tensor_value_info("label", TYPES["s" if words else "i"], None)]
    if zipmap:
        named = {"classlabels_strings" if words else "classlabels_int64s": classes.tolist()}
        nodes.append(helper.make_node("ZipMap", ["likely"], ["each"], name="zip", domain=DOMAIN, **named))
        number = helper.make_tensor_type_proto(TensorProto.FLOAT, None)
        kind = TYPES["s" if words else "i"]
        of_one = onnx.TypeProto(map_type=onnx.TypeProto.Map(key_type=kind, value_type=number))
        outputs.append(helper.make_value_info("each", helper.make_sequence_type_proto(of_one)))
    else:
        outputs.append(helper.make_tensor_value_info("likely", TYPES["f"], None))
    return model(nodes, {"x": ROWS}, outputs, constants), {"x": ROWS}


def test_a_list_of_dictionaries_is_its_table() -> None:
    proto, feed = classifier(np.array([4, 7, 9]), zipmap=True)
    graph = import_onnx(proto)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    label, each = session.run(None, feed)
    got = Interpreter(graph).run(feed)
    np.testing.assert_array_equal(got["label"], label)
    np.testing.assert_allclose(got["each"], [[row[c] for c in (4, 7, 9)] for row in each], rtol=1e-5)
    assert any("'each', a list of dictionaries, is a table" in n and "columns: 4, 7, 9" in n for n in graph.notes)


@pytest.mark.parametrize("zipmap", [False, True])
def test_words_are_left_out(zipmap: bool) -> None:
    graph = import_onnx(classifier(np.array(["cat", "dog"]), zipmap=zipmap)[0])
    assert graph.output_names == ["each" if zipmap else "likely"]
    assert any("output 'label' holds words" in note for note in graph.notes)
    assert any("columns: cat, dog" in note for note in graph.notes) == zipmap


def test_a_model_that_only_says_words_is_refused() -> None:
    proto, _ = classifier(np.array(["cat", "dog"]), zipmap=False)
    del proto.graph.output[1]
    with pytest.raises(ModelImportError, match="output 'label' of model holds words; no output holds numbers"):
        import_onnx(proto)
