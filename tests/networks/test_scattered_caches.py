"""Caches of one length that TensorScatter writes to: kept in the bundle, they grow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from decoder_models import save, scattering

import qcompile
from qcompile import driver, runtime
from qcompile.errors import UnsupportedOpError, UsageError

PLACES = 24
CUTS = (5, 1, 3, 1)
SETTINGS: dict[str, Any] = {"state": ["auto"], "precision": "fp32"}


def tokens(batch: int = 1) -> list[Any]:
    rng = np.random.default_rng(3)
    return [rng.integers(0, 31, (batch, count)) for count in CUTS]


def reference(path: Path, batch: int = 1) -> list[Any]:
    """Return ONNX Runtime's logits, the caches passed back by hand."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    past = {i.name: np.zeros([batch, *i.shape[1:]], np.float32) for i in session.get_inputs() if "past" in i.name}
    results, length = [], 0
    for ids in tokens(batch):
        after = np.full(batch, length + ids.shape[1])
        lengths = {"write_indices": np.full(batch, length), "nonpad_kv_seqlen": after}
        made = dict(zip(names, session.run(None, {"input_ids": ids, **lengths, **past}), strict=True))
        past = {name: made[name.replace("past_key_values", "present")] for name in past}
        length += ids.shape[1]
        results.append(made["logits"])
    return results


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("cache", "error"), [("float32", 2e-5), ("int8", 0.03)])
def test_rows_are_appended_in_place(tmp_path: Path, cache: str, error: float, batch: int) -> None:
    path = save(scattering(PLACES), tmp_path / "model.onnx")
    shapes = {} if batch == 1 else {"input_shapes": {"input_ids": [batch, "S"]}}
    made = qcompile.compile(path, output=tmp_path / "b", cache=cache, **SETTINGS, **shapes)
    together = "the sequences of a batch have one length: 'write_indices', 'nonpad_kv_seqlen' follow from it"
    assert any(note.startswith(together) for note in made.notes) == (batch > 1)
    with runtime.load(tmp_path / "b") as session:
        assert [tensor.name for tensor in session.inputs] == ["input_ids"]
        assert {tensor.shape[-2:] for tensor in session.states if tensor.name.endswith(".key")} == {(8, PLACES)}
        for _ in range(2):
            session.reset()
            for ids, wanted in zip(tokens(batch), reference(path, batch), strict=True):
                found = session.run({"input_ids": ids})["logits"]
                assert np.abs(found - wanted).max() <= error * np.abs(wanted).max()


def kept(path: Path, **settings: Any) -> set[str]:
    config = driver.resolve_config(path, None, {**SETTINGS, **settings})
    _, _, graph = driver.prepare(path, config, None, None)
    return {node.op.name for node in graph.nodes if node.op.name.startswith("cache_")}


def test_an_open_batch_is_refused(tmp_path: Path) -> None:
    path = save(scattering(PLACES), tmp_path / "model.onnx")
    with pytest.raises(UsageError, match=r"the batch 'B:1\.\.4' of input 'input_ids' is open"):
        kept(path, input_shapes={"input_ids": ["B:1..4", "S"]})


def test_a_batch_and_circular_caches_stay_as_they_are(tmp_path: Path) -> None:
    """Their rows have places of their own; the caches are kept whole."""
    path = save(scattering(PLACES), tmp_path / "model.onnx")
    batch: dict[str, Any] = {name: [2] for name in ("write_indices", "nonpad_kv_seqlen")}
    batch |= {f"past_key_values.{n}.{part}": [2, 2, PLACES, 8] for n in range(2) for part in ("key", "value")}
    whole = {**batch, "input_ids": [2, 3]}
    assert kept(path, input_shapes=whole) == set()
    with pytest.raises(UsageError, match="--max-length is for models whose caches grow") as raised:
        kept(path, input_shapes=whole, max_length=16)
    assert "leave the extents of 'past_key_values.0.key' out of --input-shape" in str(raised.value.hint)
    circular = save(scattering(PLACES, mode="circular"), tmp_path / "circular.onnx")
    assert kept(circular, input_shapes={"input_ids": [1, 3]}) == set()


def test_an_index_that_means_more_is_refused(tmp_path: Path) -> None:
    model = scattering(PLACES)
    fewer = [
        onnx.helper.make_node("Shape", ["input_ids"], ["new"], start=1, end=2),
        onnx.helper.make_node("Div", ["new", "new"], ["one"]),
        onnx.helper.make_node("Add", ["write_indices", "one"], ["fewer"]),
    ]
    for node in model.graph.node:
        if node.op_type == "Attention":
            node.input[6] = "fewer"
    nodes = [*fewer, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.input.remove(next(v for v in model.graph.input if v.name == "nonpad_kv_seqlen"))
    path = save(model, tmp_path / "model.onnx")
    with pytest.raises(UnsupportedOpError, match="output 'logits' is another one where the caches grow"):
        kept(path)
