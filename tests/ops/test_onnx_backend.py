"""ONNX's own test cases for every operator that has a converter: import, interpret, compare with the expected outputs."""

from __future__ import annotations

import fnmatch
import warnings
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from qcompile.errors import UnsupportedOpError
from qcompile.onnx_import import import_onnx
from qcompile.onnx_import.support import converters
from qcompile.ops.interpreter import Interpreter

PARAMETERS: dict[str, tuple[int, ...]] = {}
EXCLUDED: dict[str, tuple[str, str]] = {}


@cache
def all_cases() -> dict[str, Any]:
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {case.name: case for case in collect_testcases(None)}
