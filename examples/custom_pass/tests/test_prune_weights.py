import numpy as np
import pytest

from qcompile import ops
from qcompile.errors import UsageError
from qcompile.ir.parser import parse_graph
from qcompile.passmgr import PassManager, parse_pipeline, print_pipeline
from qcompile.passmgr.verify_numerics import VerifyNumerics

GRAPH = """
graph "net" {
  input %x : f32[1,4]
  input %w2 : f32[2,2]
  const @w : f32[2,4] = [1.0, 0.5, 0.015625, -0.0078125, 8.0, -4.0, 0.25, 0.0625]
  const @b : f32[2] = [0.0, 1.0]
  %y = dense(%x, @w, @b) : f32[1,2] loc("first")
  %z = dense(%y, %w2, @b) : f32[1,2] loc("second")
  output "z" = %z
}
"""


def test_small_weights_become_zero():
    manager = PassManager("prune-weights{threshold=0.01}", [VerifyNumerics()])
    result = manager.run(parse_graph(GRAPH, ops.all_ops()))
    weight = result.nodes[0].inputs[1].constant()
    expected = [[1.0, 0.5, 0.015625, 0.0], [8.0, -4.0, 0.25, 0.0]]
    assert np.array_equal(weight, np.array(expected, np.float32))
    (record,) = manager.records
    assert record.changed
    assert [str(skip) for skip in record.skips] == ["dense second: w2 is not a real-valued constant"]


def test_a_second_run_changes_nothing():
    once = PassManager("prune-weights").run(parse_graph(GRAPH, ops.all_ops()))
    again = PassManager("prune-weights")
    again.run(once)
    assert not again.records[0].changed


def test_options():
    text = "prune-weights{threshold=0.05},fold-batchnorm"
    assert print_pipeline(parse_pipeline(text)) == text
    with pytest.raises(UsageError, match=r"threshold 2\.0 is not between 0 and 1"):
        parse_pipeline("prune-weights{threshold=2.0}")
