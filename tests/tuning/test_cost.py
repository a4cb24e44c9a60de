"""What nodes cost: measured where there is a record of the instruction set, else modelled; what follows from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper

from qcompile import driver, ops, targets
from qcompile.config import CompileConfig
from qcompile.cost import NodeCosts
from qcompile.ir.graph import Graph
from qcompile.ir.parser import parse_graph
from qcompile.kernels.conv_workload import ConvWorkload, workload_fields
from qcompile.tuning.database import Database, append_record
from qcompile.tuning.record import Record

ISA = "avx2"


def record(precision: str, ns: float, **epilogue: object) -> Record:
    output = "int8" if precision == "int8" else "float32"
    work = ConvWorkload(1, 6, 6, 4, 8, (3, 3), precision=precision, output=output, **epilogue)  # type: ignore[arg-type]
    return Record(ISA, workload_fields(work), None, ns, ns, 5, "cpu", "0")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cost")
    weight = np.random.default_rng(0).normal(0, 0.2, (8, 4, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], name="conv")],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 4, 6, 6))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 8, 4, 4))],
        [numpy_helper.from_array(weight, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "m.onnx")
    np.save(folder / "x.npy", np.random.default_rng(1).standard_normal((8, 4, 6, 6)).astype(np.float32))
    return folder / "m.onnx"


def final(model: Path, records: list[Record], target: str = "x86-64-v3") -> tuple[Graph, list[str]]:
    """The graph after the default passes with these records, and why nodes stayed in float."""
    config = CompileConfig(target=target, calib=str(model.with_name("x.npy")), tuning="off")
    context, _, graph = driver.prepare(model, config, None, None)
    context.records = Database(records)
    simplified, _ = driver.simplify(graph, config, context, ())
    found, passes = driver.to_precision(simplified, config, context, ())
    return found, [skip.reason for r in passes for skip in r.skips]


def test_a_layer_that_is_slower_in_int8_stays_in_float(model: Path) -> None:
    slow = [record("int8", 900_000.0), record("float32", 1_000.0)]
    graph, reasons = final(model, slow)
    assert not any(node.is_integer for node in graph.nodes)
    assert "its conversions would cost more than integers save" in reasons
    graph, _ = final(model, [record("int8", 1_000.0), record("float32", 900_000.0)])
    assert [node.is_integer for node in graph.nodes if node.op.name == "conv2d"] == [True]


def test_where_no_instruction_multiplies_codes_layers_stay_in_float(model: Path, tmp_path: Path) -> None:
    settings = yaml.safe_load((Path(targets.__file__).parent / "x86-64.yaml").read_text())
    (tmp_path / "plain.yaml").write_text(yaml.safe_dump({**settings, "name": "plain", "isa": "portable"}))
    graph, reasons = final(model, [], target=str(tmp_path / "plain.yaml"))
    assert not any(node.is_integer for node in graph.nodes)
    assert "its conversions would cost more than integers save" in reasons
    graph, _ = final(model, [], target="x86-64")
    assert [node.is_integer for node in graph.nodes if node.op.name == "conv2d"] == [True]


def test_what_moves_elements_may_stay_in_float_before_a_layer_in_int8(model: Path, tmp_path: Path) -> None:
    options = {"calib": str(model.with_name("x.npy")), "keep_float": ["op:transpose"], "tuning": "off"}
    made = driver.compile(model, target="host", output=tmp_path / "out", **options)
    precision = {step["op"]: step["precision"] for step in made.manifest["steps"]}
    assert precision["conv2d"] == "int8"


def test_records_of_another_instruction_set_say_nothing(model: Path) -> None:
    slow = [record("int8", 900_000.0), record("float32", 1_000.0)]
    graph, _ = final(model, slow, target="rpi4")
    assert [node.is_integer for node in graph.nodes if node.op.name == "conv2d"] == [True]


def test_measured_and_modelled_costs(model: Path) -> None:
    config = CompileConfig(target="x86-64-v3", precision="fp32", tuning="off")
    context, _, graph = driver.prepare(model, config, None, None)
    simplified, _ = driver.simplify(graph, config, context, ())
    conv = next(node for node in simplified.nodes if node.op.name == "conv2d")
    costs = NodeCosts(ISA, Database([record("int8", 500.0), record("int8", 700.0, table=True)]))
    assert (costs.node(conv, "int8").ns, costs.node(conv, "int8").measured) == (600.0, True)
    modelled = costs.node(conv, "float32")
    assert not modelled.measured
    assert modelled == NodeCosts(ISA).node(conv, "float32") == costs.node(conv)
    assert costs.digest() != NodeCosts(ISA).digest()


def test_the_report_shows_both_columns(model: Path, tmp_path: Path) -> None:
    file = tmp_path / "records.jsonl"
    append_record(file, record("int8", 123_400.0))
    append_record(file, record("float32", 987_600.0))
    options = {"target": "x86-64-v3", "calib": str(model.with_name("x.npy")), "tuning": str(file)}
    page = driver.compile(model, output=tmp_path / "out", **options).report.read_text()
    assert ">123<" in page
    assert ">988<" in page
    assert "≈ 123" not in page


def test_a_search_under_a_time_counts_measured_costs(model: Path) -> None:
    graph, _ = final(model, [record("int8", 1_000.0), record("float32", 900_000.0)])
    isa = targets.load("x86-64-v3").isa
    fast, slow = (NodeCosts(isa, Database([record("int8", ns)])).graph_ms(graph) for ns in (1_000.0, 801_000.0))
    assert slow - fast == pytest.approx(0.8)


def test_what_only_selects_reads_what_it_returns() -> None:
    """The rows of a dictionary that a sentence leaves alone cost nothing."""
    text = """graph "rows" {
  input %table : f32[30000,8]
  input %i : i64[3]
  %y = gather(%table, %i) : f32[3,8]
  output "y" = %y
}
"""
    (node,) = parse_graph(text, ops.all_ops()).nodes
    assert node.op.moved(node) == 3 * 8 + 3 + 3 * 8
    assert NodeCosts(ISA).node(node).ns < 10.0
