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

from qcompile.errors import QCompileError
from qcompile.ir.counted import trimmed
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
    "AffineGrid": (1,),
    "BlackmanWindow": (0,),
    "CastLike": (1,),
    "CenterCropPad": (1,),
    "Clip": (1, 2),
    "Col2Im": (1, 2),
    "ConstantOfShape": (0,),
    "CumProd": (1,),
    "CumSum": (1,),
    "DFT": (1, 2),
    "Dropout": (1, 2),
    "Expand": (1,),
    "GRU": (3,),
    "HammingWindow": (0,),
    "HannWindow": (0,),
    "If": (0,),
    "LSTM": (3, 7),
    "Loop": (0, 1),
    "MaxUnpool": (2,),
    "MelWeightMatrix": (0, 1, 2, 3, 4),
    "NonMaxSuppression": (2, 3, 4),
    "OneHot": (1,),
    "Pad": (1, 2, 3),
    "RNN": (3,),
    "Range": (0, 1, 2),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "STFT": (1, 2, 3),
    "Squeeze": (1,),
    "Tile": (1,),
    "TopK": (1,),
    "Trilu": (1,),
    "Unsqueeze": (1,),
    "Upsample": (1,),
}
"""Inputs that decide shapes and must be constants for a compiler; the cases give them at run time."""

ONE_OUTPUT = {
    "LayerNormalization": "mean and deviation are by-products of training",
}
"""Operators whose first output alone is compared, and why the others do not exist."""

_MISSING = "not supported: "
_ELEMENT = "unsupported element type|a cast to ONNX element type"
EXCLUDED: dict[str, tuple[str, str]] = {
    "test_bitcast_*float64*": ("float64 is computed in float32", "different widths|as ONNX element type 11"),
    "test_bernoulli*": ("results that depend on chance are no inference", _MISSING + "RandomUniformLike"),
    "test_image_decoder_*": ("files are decoded before the model", _ELEMENT + "|" + _MISSING + "ImageDecoder"),
}
"""Cases that must be refused: pattern → (why, what the error says)."""

DEVIATIONS = {
    "test_resize_downsample_scales_linear_align_corners": "result extents are whole numbers in ONNX Runtime, PyTorch",
    "test_resize_downsample_scales_cubic_align_corners": "result extents are whole numbers in ONNX Runtime, PyTorch",
}
"""Cases whose expected output is not what runtimes compute; there ONNX Runtime decides."""

NOISE = {"DFT": 1e-6}
"""Absolute tolerance for operators whose expected zeros are the noise of another algorithm."""

NARROW = {"float16": (2e-2, 1e-2), "bfloat16": (2e-2, 1e-2), "float64": (1e-3, 1e-6)}
"""Element types that are computed in float32, with the relative and absolute tolerance that takes."""


@cache
def onnx_cases() -> list[Any]:
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(collect_testcases(None))


def expanded_operator(case: Any) -> str:
    """Return the operator that a case gives the definition of, "" where it is not such a case."""
    return operator_of().get(case.name.removesuffix("_expanded"), "") if case.name.endswith("_expanded") else ""


@cache
def operator_of() -> dict[str, str]:
    return {case.name: case.model.graph.node[0].op_type for case in onnx_cases()}


def out_of_scope(case: Any) -> str | None:
    """Return why a case is none of a tensor compiler's business, None where it is."""
    graph = case.model.graph
    for value in (*graph.input, *graph.output):
        kind = value.type.WhichOneof("value")
        if kind != "tensor_type":
            return f"a {kind.removesuffix('_type')}"
        if value.type.tensor_type.elem_type == onnx.TensorProto.STRING:
            return "text"
    if any(node.op_type.startswith("Optional") for node in graph.node):
        return "an optional"
    if fnmatch.fnmatch(case.name, "*training*"):
        return "training"
    domains = {node.domain for node in graph.node} - {""}
    return f"the domain {domains.pop()}" if domains else None


@cache
def all_cases() -> dict[str, list[Any]]:
    """Return the cases in scope of each group, sorted."""
    groups: dict[str, list[Any]] = {}
    for case in onnx_cases():
        nodes = case.model.graph.node
        if out_of_scope(case) is None:
            groups.setdefault(nodes[0].op_type if len(nodes) == 1 else "compositions", []).append(case)
    return dict(sorted(groups.items()))


def exclusion(name: str) -> tuple[str, str] | None:
    return next((reason for pattern, reason in EXCLUDED.items() if fnmatch.fnmatch(name, pattern)), None)


def array(data: Any) -> Any:
    return numpy_helper.to_array(data) if isinstance(data, onnx.TensorProto) else np.asarray(data)


def single(data: Any) -> Any:
    """Return data as the importer takes it: floats of any width as float32."""
    if data.dtype.name.startswith(("float8", "float4")):
        return data.astype(np.float32)
    widened = {"int4": np.int8, "uint4": np.uint8, "int2": np.int8, "uint2": np.uint8}
    return data.astype(np.float32 if data.dtype.name in NARROW else widened.get(data.dtype.name, data.dtype))


def prepared(case: Any, constants: bool) -> tuple[Any, dict[str, Any]]:
    """Return a case's model, with parameters (or all data) as constants, and what is left to feed."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    graph = model.graph
    fixed = {node.input[k] for node in graph.node for k in PARAMETERS.get(node.op_type, ()) if k < len(node.input)}
    fixed |= {graph.input[k].name for k in PARAMETERS.get(expanded_operator(case), ()) if k < len(graph.input)}
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
    # An extent of 0 in a file usually means that it is not known; here it is meant.
    empty = {name: array(data).shape for name, data in feed.items() if not array(data).size}
    graph = import_onnx(model, empty)
    if constants:
        assert graph.nodes == []
        assert all(value.is_constant for value in graph.outputs)
    given = {value.name: single(array(feed[value.name])) for value in graph.inputs}
    return trimmed(graph.counted, Interpreter(graph).run(given))


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
        atol = max(atol, NOISE.get(case.model.graph.node[0].op_type, 0.0))
        assert got[value.name].shape == expected.shape
        assert got[value.name].dtype == single(expected).dtype
        np.testing.assert_allclose(got[value.name], single(expected), rtol, atol)


@pytest.mark.parametrize("group", list(all_cases()))
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


def test_training_is_refused() -> None:
    cases = [case for case in onnx_cases() if out_of_scope(case) == "training"]
    assert len(cases) > 5
    assert all("training mode" in str(refusal(case)) for case in cases)


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


def test_most_cases_pass() -> None:
    """Nine in ten of the cases in scope; the rest are refused, each for the reason in the table."""
    cases = [case for group in all_cases().values() for case in group]
    passed = [case for case in cases if exclusion(case.name) is None]
    print(f"{len(passed)} of {len(cases)} cases pass, {len(passed) / len(cases):.1%}")
    assert len(passed) >= 0.9 * len(cases)


def test_other_operators_are_named() -> None:
    """An operator that is neither converted nor defined by others is refused by its name."""
    seen = set()
    for cases in all_cases().values():
        for case in cases:
            reason = exclusion(case.name)
            if reason is not None and reason[1].startswith(_MISSING) and _ELEMENT not in reason[1]:
                assert case.model.graph.node[0].op_type in str(refusal(case))
                seen.add(case.model.graph.node[0].op_type)
    assert not seen & set(converters())
