"""ONNX's own test cases, for every operator that has a converter: import, interpret, compare.

Cases of one node are grouped by its operator; cases of several nodes (the expansions of ONNX's function operators,
and short compositions) form one group. Each is run twice: with its data as inputs, and as constants, when all of
it must fold at import.
"""

from __future__ import annotations

import fnmatch
import re
import warnings
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from qcompile.errors import QCompileError, UnsupportedOpError
from qcompile.onnx_import import import_onnx
from qcompile.onnx_import.support import converters
from qcompile.ops.interpreter import Interpreter

SUPPORTED = [
    "Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization", "Relu", "Clip", "LeakyRelu", "PRelu",
    "HardSwish", "HardSigmoid", "Sigmoid", "Tanh", "Softmax", "Add", "Sub", "Mul", "Div", "Concat", "Split",
    "Slice", "Pad", "Resize", "Upsample", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool",
    "ReduceMean", "ReduceMax", "ReduceSum", "Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Gather",
    "Shape", "Constant", "Cast", "Identity", "Dropout",
]  # fmt: skip
"""Operators that qcompile promises; all must have a converter and cases that pass."""

PARAMETERS = {
    **{op: (1,) for op in converters() if op.startswith("Reduce")},
    "CastLike": (1,),
    "Clip": (1, 2),
    "ConstantOfShape": (0,),
    "Dropout": (1, 2),
    "Expand": (1,),
    "Pad": (1, 2, 3),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Squeeze": (1,),
    "Unsqueeze": (1,),
    "Upsample": (1,),
}
"""Inputs that decide shapes and must be constants for a compiler; the cases give them at run time."""

ONE_OUTPUT = {
    "LayerNormalization": "mean and deviation are by-products of training",
    "MaxPool": "the indices serve unpooling and training",
}
"""Operators whose first output alone is compared, and why the others do not exist."""

_RANK = "only 1-D and 2-D"
_TRAINING = "training mode"
_ELEMENT = "unsupported element type|a cast to ONNX element type"
EXCLUDED: dict[str, tuple[str, str]] = {
    "test_*_uint16*": ("the IR has no 16 bit unsigned integers", _ELEMENT),
    "test_*_uint32*": ("the IR has no 32 bit unsigned integers", _ELEMENT),
    "test_*_uint64*": ("the IR has no 64 bit unsigned integers", _ELEMENT),
    "test_cast*FLOAT8*": ("the IR has no 8 bit floats", _ELEMENT),
    "test_cast*FLOAT4*": ("the IR has no 4 bit floats", _ELEMENT),
    "test_cast*INT4*": ("the IR has no 4 bit integers", _ELEMENT),
    "test_cast*INT2*": ("the IR has no 2 bit integers", _ELEMENT),
    "test_averagepool_3d_*": ("windows have one or two axes", _RANK),
    "test_maxpool_3d_*": ("windows have one or two axes", _RANK),
    "test_convtranspose_3d": ("windows have one or two axes", _RANK),
    "test_batchnorm_*_training_mode": ("qcompile compiles inference only", _TRAINING),
    "test_training_dropout*": ("qcompile compiles inference only", _TRAINING),
    "test_equal_string*": ("there are no tensors of text", _ELEMENT),
    "test_not_*": ("it is written for operator set 1", "operator set 1;"),
    "test_identity_sequence": ("values are tensors, not sequences", "not a tensor"),
    "test_identity_opt": ("values are tensors, not optionals", "not a tensor"),
    "test_center_crop_pad_*_expanded": ("the extents of its result are an input", "computed at run time"),
    "test_resize_tf_crop_and_resize*": ("the region of interest is an input", "tf_crop_and_resize"),
    "test_resize_*_antialias": ("there is no antialiasing filter", "antialias"),
    "test_reduce_*_empty_set": ("an input extent of 0 is taken as unknown", "dynamic axis"),
    "test_reduce_*_empty_set_[bn]*": ("an input extent of 0 is taken as unknown", "dynamic axis"),
    "test_reduce_*[1me]_empty_set_expanded": ("an input extent of 0 is taken as unknown", "dynamic axis"),
    "test_reshape_allowzero_reordered": ("an input extent of 0 is taken as unknown", "does not fit shape"),
    "test_castlike_*_expanded": ("an input extent of 0 is taken as unknown", _ELEMENT + "|must be f32"),
    "test_split_zero_size_splits_*": ("an input extent of 0 is taken as unknown", "does not split"),
}
"""Cases that must be refused: pattern → (why, what the error says)."""

DEVIATIONS = {
    "test_resize_downsample_scales_linear_align_corners": "result extents are whole numbers in ONNX Runtime, PyTorch",
    "test_resize_downsample_scales_cubic_align_corners": "result extents are whole numbers in ONNX Runtime, PyTorch",
}
"""Cases whose expected output is not what runtimes compute; there ONNX Runtime decides."""

NARROW = {"float16": (2e-2, 1e-2), "bfloat16": (2e-2, 1e-2), "float64": (1e-3, 1e-6)}
"""Element types that are computed in float32, with the relative and absolute tolerance that takes."""


@cache
def onnx_cases() -> list[Any]:
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(collect_testcases(None))


@cache
def all_cases() -> dict[str, list[Any]]:
    """Return the cases of each group whose operators all have converters."""
    groups: dict[str, list[Any]] = {op: [] for op in (*converters(), "compositions")}
    for case in onnx_cases():
        nodes = case.model.graph.node
        if all(node.op_type in converters() and node.domain == "" for node in nodes):
            groups[nodes[0].op_type if len(nodes) == 1 else "compositions"].append(case)
    return groups


def exclusion(name: str) -> tuple[str, str] | None:
    return next((reason for pattern, reason in EXCLUDED.items() if fnmatch.fnmatch(name, pattern)), None)


def array(data: Any) -> Any:
    return numpy_helper.to_array(data) if isinstance(data, onnx.TensorProto) else np.asarray(data)


def single(data: Any) -> Any:
    """Return data as the importer takes it: floats of any width as float32."""
    return data.astype(np.float32) if data.dtype.name in NARROW else data


def prepared(case: Any, constants: bool) -> tuple[Any, dict[str, Any]]:
    """Return a case's model, with parameters (or all data) as constants, and what is left to feed."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    graph = model.graph
    fixed = {node.input[k] for node in graph.node for k in PARAMETERS.get(node.op_type, ()) if k < len(node.input)}
    feed = {}
    for value, data in zip(list(graph.input), case.data_sets[0][0], strict=True):
        if constants or value.name in fixed:
            tensor = data if isinstance(data, onnx.TensorProto) else numpy_helper.from_array(np.asarray(data))
            graph.initializer.append(tensor)
            graph.initializer[-1].name = value.name
        else:
            feed[value.name] = data
    if graph.node[0].op_type in ONE_OUTPUT:
        del graph.output[1:]
    return model, feed


def outputs(case: Any, constants: bool) -> dict[str, Any]:
    model, feed = prepared(case, constants)
    graph = import_onnx(model)
    if constants:
        assert graph.nodes == []
        assert all(value.is_constant for value in graph.outputs)
    return Interpreter(graph).run({value.name: single(array(feed[value.name])) for value in graph.inputs})


def refusal(case: Any) -> QCompileError:
    """Return the error that a case ends in."""
    try:
        outputs(case, constants=False)
    except QCompileError as error:
        return error
    return pytest.fail(f"{case.name} passes: it need not be excluded")


def compare(case: Any, got: dict[str, Any]) -> None:
    assert got
    for value, data in zip(case.model.graph.output, case.data_sets[0][1], strict=True):
        if value.name not in got:
            assert case.model.graph.node[0].op_type in ONE_OUTPUT
            continue
        expected = array(data)
        rtol, atol = NARROW.get(expected.dtype.name, (case.rtol, case.atol))
        assert got[value.name].shape == expected.shape
        assert got[value.name].dtype == single(expected).dtype
        np.testing.assert_allclose(got[value.name], single(expected), rtol, atol)


@pytest.mark.parametrize("group", [*converters(), "compositions"])
def test_cases_pass(group: str) -> None:
    cases = [c for c in all_cases()[group] if exclusion(c.name) is None and c.name not in DEVIATIONS]
    assert cases or group not in SUPPORTED
    failures = []
    for case in cases:
        for constants in (False, True):
            try:
                compare(case, outputs(case, constants))
            except (AssertionError, QCompileError) as error:
                failures.append(f"{case.name}{' folded' if constants else ''}: {error}")
    assert not failures, "\n".join(failures)


def test_promised_operators_have_converters() -> None:
    assert set(SUPPORTED) <= set(converters())


def test_exclusions_are_refused_with_one_clear_error() -> None:
    matched = set()
    for cases in all_cases().values():
        for case in cases:
            for pattern, (_, says) in EXCLUDED.items():
                if fnmatch.fnmatch(case.name, pattern):
                    matched.add(pattern)
                    assert re.search(says, str(refusal(case))), f"{case.name}: {refusal(case)}"
                    break
    assert matched == set(EXCLUDED)


def test_deviations_agree_with_onnx_runtime() -> None:
    import onnxruntime

    cases = {case.name: case for group in all_cases().values() for case in group}
    for name in DEVIATIONS:
        case = cases[name]
        got = outputs(case, constants=False)
        with pytest.raises(AssertionError):
            compare(case, got)
        session = onnxruntime.InferenceSession(case.model.SerializeToString(), providers=["CPUExecutionProvider"])
        feed = {v.name: array(d) for v, d in zip(case.model.graph.input, case.data_sets[0][0], strict=True)}
        (expected,) = session.run(None, feed)
        np.testing.assert_allclose(next(iter(got.values())), expected, 1e-5)


def test_other_operators_are_named() -> None:
    """Every operator of ONNX without a converter is refused by its name, never with a traceback."""
    seen = set()
    for case in onnx_cases():
        node = case.model.graph.node[0]
        if len(case.model.graph.node) > 1 or not case.model.graph.input or node.op_type in {*converters(), *seen}:
            continue
        seen.add(node.op_type)
        error = refusal(case)
        if isinstance(error, UnsupportedOpError) and "operator" in str(error):
            assert node.op_type in str(error)
    assert len(seen) > 80
