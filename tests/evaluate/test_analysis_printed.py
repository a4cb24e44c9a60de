"""What the analysis says of nodes behind others in float, and how it prints exclusions."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from analysed_graphs import TEXT, excluded_by, quantized, samples

from qcompile import ops
from qcompile.evaluate.analysis import analyze_graphs
from qcompile.ir.parser import parse_graph
from qcompile.report.accuracy_tables import print_analysis

AMPLIFIED = """
graph "amplified" {
  input %x : f32[1,6,6,8]
  const @w1 : f32[16,1,1,8] = normal(1, 0.3)
  const @b : f32[16] = normal(2, 0.1)
  const @often : f32[1] = [20.0]
  const @w2 : f32[8,1,1,16] = normal(3, 0.3)
  %first = conv2d(%x, @w1, @b) {layout="NHWC"} : f32[1,6,6,16] loc("First")
  %many = mul(%first, @often) : f32[1,6,6,16] loc("Many")
  %wave = sin(%many) : f32[1,6,6,16] loc("Wave")
  const @b2 : f32[8] = normal(4, 0.1)
  %second = conv2d(%wave, @w2, @b2) {layout="NHWC"} : f32[1,6,6,8] loc("Second")
  output "y" = %second
}
"""


def test_noise_that_arrives_from_a_node_in_float_is_called_so() -> None:
    """The sine of twenty times what was rounded: neither its own rounding nor that of the layer behind is the cause."""
    reference, final = quantized(parse_graph(AMPLIFIED, ops.all_ops()), ["Many", "Wave"])
    result = analyze_graphs(reference, final, samples())
    behind = [node for node in result.nodes if node.name in ("Wave", "Second")]
    assert [node.op for node in behind] == ["quantize", "conv2d"]
    for node in behind:
        assert (node.alone_db or 0.0) > 35.0
        assert node.accumulated_db < 20.0
        assert re.fullmatch(r"inherited: 'Wave' arrives with 1\d\.\d dB", node.cause)
        assert excluded_by(node) == ["First"]  # Wave itself is in float already
    _, followed = quantized(parse_graph(AMPLIFIED, ops.all_ops()), ["Many", "Wave", "First"])
    after = analyze_graphs(reference, followed, samples())
    assert min(after.outputs.values()) > min(result.outputs.values()) + 10.0


def test_an_exclusion_is_told_once_in_whatever_order_it_names_nodes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = analyze_graphs(*quantized(parse_graph(TEXT, ops.all_ops())), samples())
    first, second, *_ = found.worst(3)
    nodes = (
        replace(first, cause="one", exclusion="--keep-float A --keep-float B"),
        replace(second, cause="other", exclusion="--keep-float B --keep-float A"),
    )
    print_analysis(replace(found, nodes=nodes), top=5, as_json=False)
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("exclude")]
    assert lines == [["exclude", "--keep-float", "A", "--keep-float", "B"]]
