"""Merged decoders of encoders: what the first run computes for all others stays in the bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from decoder_models import save, translating
from onnx import helper

import qcompile
from qcompile import driver, runtime
from qcompile.errors import UnsupportedOpError, UsageError
from qcompile.ir.initial import initial_states
from qcompile.ops.interpreter import Interpreter

PLACES, ENCODED = 24, 9
SHAPES: dict[str, Any] = {"encoder_hidden_states": [1, ENCODED, 12], "encoder_attention_mask": [1, ENCODED]}
SETTINGS: dict[str, Any] = {"state": ["auto"], "max_length": PLACES, "input_shapes": SHAPES}
CUTS = (1, 3, 1, 1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(translating(), tmp_path_factory.mktemp("translating") / "decoder_model_merged.onnx")


def tokens(cuts: Sequence[int] = CUTS) -> list[Any]:
    rng = np.random.default_rng(3)
    return [rng.integers(0, 31, (1, count)) for count in cuts]


def encoded(seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    mask = (np.arange(ENCODED) < ENCODED - seed)[None].astype(np.int64)
    return {
        "encoder_hidden_states": rng.normal(0, 1, (1, ENCODED, 12)).astype(np.float32),
        "encoder_attention_mask": mask,
    }


def reference(path: Path, source: dict[str, Any], given: Sequence[Any]) -> list[Any]:
    """Return ONNX Runtime's logits, keys and values passed back as Optimum does it."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    caches = [i.name for i in session.get_inputs() if i.name.startswith("past")]
    past = {n: np.zeros((1, 4, ENCODED if ".encoder." in n else 0, 8), np.float32) for n in caches}
    results, goes_on = [], False
    for ids in given:
        feeds = {"input_ids": ids, "use_cache_branch": np.array([goes_on]), **source, **past}
        made = dict(zip(names, session.run(None, feeds), strict=True))
        renewed = [name for name in caches if not goes_on or ".encoder." not in name]
        past |= {name: made[name.replace("past_key_values", "present")] for name in renewed}
        goes_on = True
        results.append(made["logits"])
    return results


def close(found: Any, wanted: Any) -> bool:
    return found.shape == wanted.shape and bool(np.abs(found - wanted).max() <= 2e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("cuts", [CUTS, (5, 1, 2)])
def test_the_encoder_is_read_in_the_first_run_only(model: Path, tmp_path: Path, cuts: Sequence[int]) -> None:
    made = qcompile.compile(model, precision="fp32", output=tmp_path / "b", **SETTINGS)
    assert "2 tensors are computed in the run that starts a sequence, and kept" in made.notes
    with runtime.load(tmp_path / "b", threads=2) as session:
        assert {tensor.name for tensor in session.inputs} == {"input_ids", *SHAPES}
        assert [tensor.name for tensor in session.outputs] == ["logits"]
        for seed in range(2):
            session.reset()
            source = encoded(seed)
            wanted = reference(model, source, tokens(cuts))
            for ids, logits in zip(tokens(cuts), wanted, strict=True):
                assert close(session.run({"input_ids": ids, **source})["logits"], logits)
                source = {**source, "encoder_hidden_states": np.full((1, ENCODED, 12), np.nan, np.float32)}


def test_the_interpreter_keeps_them_too(model: Path) -> None:
    config = driver.resolve_config(model, None, {"precision": "fp32", **SETTINGS})
    context, _, graph = driver.prepare(model, config, None, None)
    final, _ = driver.to_precision(driver.simplify(graph, config, context, ())[0], config, context, ())
    interpreter, kept, source = Interpreter(final), initial_states(final), encoded(0)
    for ids, logits in zip(tokens(), reference(model, source, tokens()), strict=True):
        made = interpreter.run({"input_ids": ids, **source, **kept})
        assert close(made["logits"], logits)
        kept = {state.input: made[state.output] for state in final.states}


def test_keys_are_kept_as_the_product_reads_them(model: Path) -> None:
    config = driver.resolve_config(model, None, {"precision": "fp32", **SETTINGS})
    _, _, graph = driver.prepare(model, config, None, None)
    fills = [node for node in graph.nodes if node.op.name == "cache_append" and node.attrs.once]
    readers = {node.output.shape: [user.op.name for user in node.output.users()] for node in fills}
    assert readers == {(1, 4, 8, ENCODED): ["cache_scores"], (1, 4, ENCODED, 8): ["cache_mix"]}


@pytest.mark.parametrize("kind", ["int8", "float16"])
def test_all_caches_are_narrow(model: Path, kind: str) -> None:
    config = driver.resolve_config(model, None, {"precision": "fp32", "cache": kind, **SETTINGS})
    context, _, graph = driver.prepare(model, config, None, None)
    final, _ = driver.to_precision(driver.simplify(graph, config, context, ())[0], config, context, ())
    kept = {value.name: value.dtype for value in final.inputs if value.name.startswith("past")}
    assert {dtype for name, dtype in kept.items() if "scales" not in name} == {kind}
    products = [node.attrs.integer for node in final.nodes if node.op.name in ("cache_scores", "cache_mix")]
    assert products == [kind == "int8"] * 4


def test_other_precisions(model: Path, tmp_path: Path) -> None:
    source = encoded(0)
    wanted = np.concatenate(reference(model, source, tokens()), 1)
    for precision, cache, error in (("fp32", "int8", 0.03), ("fp32", "float16", 1e-3), ("dynamic", "float32", 0.1)):
        folder = tmp_path / precision / cache
        qcompile.compile(model, precision=precision, cache=cache, output=folder, **SETTINGS)
        with runtime.load(folder) as session:
            found = [session.run({"input_ids": ids, **source})["logits"] for ids in tokens()]
        assert np.abs(np.concatenate(found, 1) - wanted).max() < error * np.abs(wanted).max()


def test_the_length_of_what_was_encoded_is_asked_for(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="open extent 'encoder_sequence_length', of another sequence") as raised:
        qcompile.compile(model, precision="fp32", output=tmp_path / "b", state=["auto"], max_length=PLACES)
    assert "--input-shape encoder_hidden_states=1,LENGTH,12" in str(raised.value.hint)


def test_a_tensor_that_no_branch_makes(tmp_path: Path) -> None:
    model = translating()
    name = "present.0.encoder.key"
    choice = model.graph.node[0]
    choice.output[list(choice.output).index(name)] = "elsewhere"
    model.graph.node.append(helper.make_node("Identity", ["past_key_values.0.encoder.key"], [name]))
    path = save(model, tmp_path / "model.onnx")
    with pytest.raises(UnsupportedOpError, match=f"output '{name}' of .* is made by no branch of a first run"):
        qcompile.compile(path, precision="fp32", output=tmp_path / "b", **SETTINGS)
