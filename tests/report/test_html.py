"""The report: valid, complete, the same every time, and alone."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import qcompile
from qcompile.report import html

VOID = {"meta", "br", "hr", "img", "input", "link"}
EVIL = "a<script>alert(1)</script>\"&'{{7*7}}"


class Page(HTMLParser):
    """Checks that elements close in order; collects tags, attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.rows: list[list[str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.rows and ("td" in self.open or "th" in self.open):
            self.rows[-1][-1] += data


def network(names: tuple[str, str, str]) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    constants = [
        numpy_helper.from_array(rng.normal(0, 0.3, shape).astype(np.float32), name)
        for name, shape in (("w0", (8, 3, 3, 3)), ("w1", (4, 8)))
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["c"], name=names[0], pads=[1, 1, 1, 1]),
        helper.make_node("Erf", ["c"], ["e"], name=names[1]),
        helper.make_node("GlobalAveragePool", ["e"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w1"], ["y"], name=names[2], transB=1),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])
    graph = helper.make_graph(nodes, "g", [x], [y], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def compiled(
    folder: Path, names: tuple[str, str, str] = ("conv", "middle", "head"), **settings: object
) -> tuple[Page, dict]:  # type: ignore[type-arg]
    onnx.save(network(names), folder / "net.onnx")
    bundle = qcompile.compile(folder / "net.onnx", output=folder / "b", **settings)  # type: ignore[arg-type]
    return Page(bundle.report.read_text(encoding="utf-8")), bundle.manifest


def samples() -> list[np.ndarray]:
    rng = np.random.default_rng(2)
    return [rng.normal(size=(1, 3, 8, 8)).astype(np.float32) for _ in range(3)]


def test_int8_report(tmp_path: Path) -> None:
    page, manifest = compiled(tmp_path, calibration=samples())
    layers = [row for row in page.rows if len(row) == 10][1:]
    assert [row[0] for row in layers] == [step["node"] for step in manifest["steps"]]
    for row, step in zip(layers, manifest["steps"], strict=True):
        assert row[1:3] == [step["op"], step["precision"]]
        assert row[5].replace(",", "") == (str(step["macs"]) if step["macs"] else "")
    by_node = {row[0]: row for row in layers}
    assert re.fullmatch(r"-?\d\S* … \d\S*", by_node["conv"][3]), "the range of the result"
    for node in ("conv", "middle", "head"):
        assert float(by_node[node][4].removesuffix(" dB")) > 15
    shares = [float(row[9].strip(" %")) for row in layers]
    assert sum(shares) == pytest.approx(100, abs=0.1 * len(shares))
    assert "3 from samples" in page.text
    assert manifest["calibration"]["sha256"] in page.text
    assert manifest["model"]["sha256"] in page.text
    circles = [tag for tag, _ in page.tags if tag == "circle"]
    assert len(circles) == sum(bool(row[4]) for row in layers)


def test_float_report(tmp_path: Path) -> None:
    page, manifest = compiled(tmp_path, precision="fp32")
    layers = [row for row in page.rows if len(row) == 9][1:]
    assert [row[0] for row in layers] == [step["node"] for step in manifest["steps"]]
    assert "SQNR" not in page.text
    assert "a float network needs no ranges" in page.text


def test_settings_are_shown_as_they_are_written(tmp_path: Path) -> None:
    steps = {"resize": 8, "mean": [127.0, 120.0, 100.0], "color": "rgb"}
    page, _ = compiled(tmp_path, precision="fp32", preprocess=steps)
    settings = dict(row for row in page.rows if len(row) == 2)
    assert settings["preprocess"] == "resize=8, mean=127.0 120.0 100.0, color=rgb"
    assert (settings["passes"], settings["labels"], settings["per_channel"]) == ("–", "–", "yes")


def test_missing_data_stands_out(tmp_path: Path) -> None:
    page, _ = compiled(tmp_path)
    assert ("p", {"class": "warning"}) in page.tags
    assert "accuracy is unverified" in page.text


def test_an_accuracy_of_which_nothing_is_known_is_no_number(tmp_path: Path) -> None:
    page, _ = compiled(tmp_path, calibration=samples()[:1])
    assert "unknown" in page.text
    assert "nothing follows from one calibration sample" in page.text
    assert "SQNR against float" not in page.text


def test_nothing_is_loaded_from_elsewhere(tmp_path: Path) -> None:
    page, _ = compiled(tmp_path)
    text = (tmp_path / "b/report.html").read_text(encoding="utf-8")
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "img", "iframe", "object", "embed", "base")
        assert not {"src", "href", "srcset", "action", "data"} & set(attributes)
    for word in ("http:", "https:", "//", "url(", "@import"):
        assert word not in re.sub(r"/\*.*?\*/", "", text), word
    assert text.startswith("<!doctype html>")


def test_names_are_only_text(tmp_path: Path) -> None:
    page, _ = compiled(tmp_path, (EVIL, "middle", "head"))
    assert EVIL in page.text
    assert not [tag for tag, _ in page.tags if tag == "script"]
    assert EVIL in [attributes.get("title") for tag, attributes in page.tags if tag == "td"]


def test_the_manifest_knows_the_report(tmp_path: Path) -> None:
    _, manifest = compiled(tmp_path)
    content = (tmp_path / "b/report.html").read_bytes()
    assert manifest["files"]["report.html"]["bytes"] == len(content)
    assert json.loads((tmp_path / "b/manifest.json").read_text()) == manifest


def test_the_end_of_a_long_name_is_shown(tmp_path: Path) -> None:
    names = tuple(f"{'/model/encoder' * 4}/{part}" for part in ("query/MatMul", "gelu", "output"))
    page, _ = compiled(tmp_path, names, calibration=samples())  # type: ignore[arg-type]
    shown = [row[0] for row in page.rows if len(row) == 10][1:]
    assert max(len(name) for name in shown) == 38
    assert [name for name in shown if name.startswith("/model/en…")] == [f"/model/en…{n[-28:]}" for n in names]
    assert set(names) <= {attributes.get("title") for tag, attributes in page.tags if tag == "td"}


def test_what_is_not_there_takes_no_room(tmp_path: Path) -> None:
    page, _ = compiled(tmp_path, calibration=samples())
    assert "zero point" not in page.text
    assert ["keep_float", "–"] in page.rows
    assert ["per_channel", "yes"] in page.rows
    assert "≈" not in page.text, "all times are modelled, and the page says so once"
    page, _ = compiled(tmp_path, calibration=samples(), io="int8")
    assert "zero point" in page.text


def test_the_steps_of_a_recurrent_layer_have_facts_of_their_own(tmp_path: Path) -> None:
    """All nodes of an unrolled layer bear one name: each shows its own noise and time, once."""
    rng = np.random.default_rng(4)
    shapes = {"w": (1, 32, 6), "r": (1, 32, 8), "b": (1, 64)}
    node = helper.make_node("LSTM", ["x", "w", "r", "b"], ["y"], name="recur", hidden_size=8)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [6, 1, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [6, 1, 1, 8])],
        [numpy_helper.from_array(rng.normal(0, 0.5, s).astype(np.float32), n) for n, s in shapes.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "r.onnx")
    given = [rng.normal(size=(6, 1, 6)).astype(np.float32) for _ in range(24)]
    bundle = qcompile.compile(tmp_path / "r.onnx", calibration=given, output=tmp_path / "b")
    rows = [row for row in Page(bundle.report.read_text(encoding="utf-8")).rows if len(row) == 10][1:]
    products = [row for row in rows if row[1] == "dense" and row[4]]
    assert len(products) >= 6
    assert len({row[4] for row in products}) > 1, "the noise of one step is not that of another"
    # One concatenation of small tensors takes no time to speak of, in however many steps it copies them.
    shares: dict[str, float] = {}
    for row in rows:
        shares[row[1]] = shares.get(row[1], 0.0) + float(row[9].strip(" %"))
    assert shares["dense"] > 4 * shares["concat"]


def test_what_is_kept_between_runs_is_listed(tmp_path: Path) -> None:
    """Its noise may be the worst of all, which the summary tells; the work of a small network is no 0.0 million."""
    weight = numpy_helper.from_array(np.random.default_rng(0).normal(0, 0.3, (6, 6)).astype(np.float32), "w")
    nodes = [
        helper.make_node("Add", ["x", "h"], ["s"]),
        helper.make_node("MatMul", ["s", "w"], ["m"], name="mix"),
        helper.make_node("Tanh", ["m"], ["h_next"], name="bend"),
        helper.make_node("Neg", ["h_next"], ["y"]),
    ]
    x, h, y, made = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 6]) for n in ("x", "h", "y", "h_next"))
    graph = helper.make_graph(nodes, "cell", [x, h], [y, made], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "c.onnx")
    inputs = [{"x": x} for x in np.random.default_rng(1).normal(size=(9, 1, 6)).astype(np.float32)]
    bundle = qcompile.compile(tmp_path / "c.onnx", output=tmp_path / "b", calibration=inputs, state=["auto"])
    page = Page(bundle.report.read_text(encoding="utf-8"))
    kinds = {row[0]: row[1:] for row in page.rows if len(row) == 5 and row[0] in ("input", "output", "state")}
    assert kinds["state"][0] == "h"
    assert float(kinds["state"][-1].removesuffix(" dB")) == pytest.approx(
        bundle.manifest["recipe"]["accuracy"]["outputs"]["h_next"], abs=0.06
    )
    assert "of 36 MACs in int8" in page.text


@pytest.mark.parametrize("template", sorted(Path(html.__file__).parent.glob("*.html.j2")), ids=lambda path: path.name)
def test_charts_and_tables_are_read_on_small_screens_and_on_paper(template: Path) -> None:
    """What is wider than a screen scrolls in a box of its own, and lies open on paper, where nothing scrolls."""
    text = template.read_text()
    wide = re.findall(r'(.*)<svg [^>]*width="100%"', text)
    assert all(before.endswith('<div class="wide">') for before in wide)
    if "</style>" in text:
        paper = text[text.index("@media print") :]
        assert ".wide { overflow: visible; }" in paper
        assert ".wide { overflow-x: auto; }" in text
        assert 'svg[width="100%"] { min-width: 640px; }' in text
