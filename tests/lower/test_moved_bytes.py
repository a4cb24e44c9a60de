"""What a step is said to read and write: no more than it touches of large tensors."""

from __future__ import annotations

from graph_checks import graph_of

from qcompile import targets
from qcompile.kernels.kernel import Kernel
from qcompile.lower.lowering import generate
from qcompile.lower.storage import Buffer, DraftStep

RPI5 = targets.load("rpi5")


def moved(text: str) -> dict[str, int]:
    return {step.op: step.bytes for step in generate(graph_of(text), RPI5).steps}


def test_a_gather_reads_the_rows_that_it_picks_and_not_its_table() -> None:
    text = """
    graph "embedding" {
      input %ids : i64[3]
      const @table : f32[5000,64] = normal(1)
      %rows = gather(@table, %ids) : f32[3,64]
      output "rows" = %rows
    }
    """
    # An index for each element at most, but no more than there are.
    assert moved(text) == {"gather": 3 * 64 * 4 + 3 * 8 + 3 * 64 * 4}


def test_a_slice_reads_what_it_returns() -> None:
    text = """
    graph "slice" {
      input %x : f32[1000,8]
      %part = slice(%x) {starts=[20,0], sizes=[10,8], steps=[1,1]} : f32[10,8]
      output "part" = %part
    }
    """
    assert moved(text) == {"slice": 2 * 10 * 8 * 4}


def test_a_concatenation_writes_its_result_once() -> None:
    text = """
    graph "concat" {
      input %x : f32[40,8]
      input %y : f32[2,8]
      %both = concat(%x, %y) {axis=0} : f32[42,8]
      output "both" = %both
    }
    """
    total = sum(step.bytes for step in generate(graph_of(text), RPI5).steps)
    assert total == 2 * 42 * 8 * 4


def test_a_reduction_reads_all_that_it_sums() -> None:
    text = """
    graph "sum" {
      input %x : f32[40,80]
      %sum = reduce_sum(%x) {axes=[1]} : f32[40,1]
      output "sum" = %sum
    }
    """
    assert moved(text) == {"reduce_sum": 40 * 80 * 4 + 40 * 4}


def test_a_row_of_a_table_is_read_each_time_that_a_loop_picks_one() -> None:
    table, row = Buffer(5000 * 256), Buffer(256)
    step = DraftStep(Kernel("k_0", None, 1, 0), (table, row), 1, (), "pick", "gather", "float32", 0, touched=(256, 256))
    assert step.bytes_of(7) == 7 * 2 * 256
