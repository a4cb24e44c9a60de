"""The machine code of generic kernels: vectors of full width, no call, no division by a loop's extents."""

from __future__ import annotations

import re

import pytest
from graph_checks import graph_of

from qcompile import targets
from qcompile.kernels.build import assembly
from qcompile.lower.lowering import generate

CASES = {
    "add": "%y = add(%a, %b) : i8[1,14,14,64] q(scale=0.1, zp=3)",
    "mul": "%y = mul(%a, %s) : i8[1,14,14,64] q(scale=0.1, zp=3)",
    "max_pool": '%y = max_pool(%a) {kernel=[2,2], strides=[2,2], layout="NHWC"} : i8[1,7,7,64] q(scale=0.05, zp=-20)',
    "avg_pool": '%y = avg_pool(%a) {kernel=[3,3], strides=[2,2], layout="NHWC"} : i8[1,6,6,64] q(scale=0.05)',
    "requantize": "%y = requantize(%a) : i8[1,14,14,64] q(scale=0.1, zp=3)",
    "quantize": "%y = quantize(%x) : i8[1,14,14,64] q(scale=0.1, zp=3)",
    "dequantize": "%y = dequantize(%a) : f32[1,14,14,64]",
    "gelu": "%y = gelu(%x) : f32[1,14,14,64]",
    "exp": "%y = exp(%x) : f32[1,14,14,64]",
    "softmax": "%y = softmax(%x) : f32[1,14,14,64]",
    "global_avg_pool": '%y = global_avg_pool(%x) {layout="NHWC"} : f32[1,1,1,64]',
    "transpose": "%y = transpose(%x) {perm=[0,3,1,2]} : f32[1,64,14,14]",
    "resize": '%y = resize(%x) {size=[28,28], scales=[2.0,2.0], mode="linear", layout="NHWC"} : f32[1,28,28,64]',
}
GRAPH = """
graph "g" {{
  input %a : i8[1,14,14,64] q(scale=0.05, zp=-20)
  input %b : i8[1,14,14,64] q(scale=0.02, zp=7)
  input %s : i8[1,1,1,64] q(scale=0.02, zp=7)
  input %x : f32[1,14,14,64]
  {}
  output "y" = %y
}}
"""
WIDE = {"x86-64-v4-vnni": "zmm", "x86-64-v3": "ymm", "x86-64": "xmm", "rpi4": r"\bv\d+\.", "rpi5": r"\bv\d+\."}
CALL = re.compile(r"^\s+(?:callq?|bl)\s+(\S+)", re.MULTILINE)


@pytest.mark.parametrize("target", list(WIDE))
@pytest.mark.parametrize("name", list(CASES))
def test_kernels_are_vector_code_without_calls(name: str, target: str) -> None:
    machine = targets.load(target)
    steps = generate(graph_of(GRAPH.format(CASES[name])), machine).steps
    kernel = next(step.kernel for step in steps if step.op == name)
    text = assembly([kernel], machine)
    assert not CALL.findall(text)
    assert len(re.findall(WIDE[target], text)) > 4
