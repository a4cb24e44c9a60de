"""Merged decoders of encoders: what the first run computes for all others stays in the bundle."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from decoder_models import save, translating
from onnx import helper

import qcompile
from qcompile import bundle as bundles
from qcompile import driver, runtime, targets
from qcompile.errors import UnsupportedOpError, UsageError
from qcompile.ir.initial import initial_states
from qcompile.lower import lower_graph
from qcompile.ops.interpreter import Interpreter
from qcompile.shapes.single import with_one_place

PLACES, ENCODED = 24, 9
SHAPES: dict[str, Any] = {"encoder_hidden_states": [1, ENCODED, 12], "encoder_attention_mask": [1, ENCODED]}
SETTINGS: dict[str, Any] = {"state": ["auto"], "max_length": PLACES, "input_shapes": SHAPES}
OPEN: dict[str, Any] = {"encoder_hidden_states": [1, f"S:1..{ENCODED}", 12]}
CUTS = (1, 3, 1, 1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(translating(), tmp_path_factory.mktemp("translating") / "decoder_model_merged.onnx")


def tokens(cuts: Sequence[int] = CUTS) -> list[Any]:
    rng = np.random.default_rng(3)
    return [rng.integers(0, 31, (1, count)) for count in cuts]


def encoded(seed: int, length: int = ENCODED) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    mask = (np.arange(length) < length - seed)[None].astype(np.int64)
    return {
        "encoder_hidden_states": rng.normal(0, 1, (1, length, 12)).astype(np.float32),
        "encoder_attention_mask": mask,
    }


def reference(path: Path, source: dict[str, Any], given: Sequence[Any]) -> list[Any]:
    """Return ONNX Runtime's logits, keys and values passed back as Optimum does it."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    caches = [i.name for i in session.get_inputs() if i.name.startswith("past")]
    length = source["encoder_attention_mask"].shape[1]
    past = {n: np.zeros((1, 4, length if ".encoder." in n else 0, 8), np.float32) for n in caches}
    results, goes_on = [], False
    for ids in given:
        feeds = {"input_ids": ids, "use_cache_branch": np.array([goes_on]), **source, **past}
        made = dict(zip(names, session.run(None, feeds), strict=True))
        renewed = [name for name in caches if not goes_on or ".encoder." not in name]
        past |= {name: made[name.replace("past_key_values", "present")] for name in renewed}
        goes_on = True
        results.append(made["logits"])
    return results


def close(found: Any, wanted: Any, error: float = 2e-5) -> bool:
    return found.shape == wanted.shape and bool(np.abs(found - wanted).max() <= error * np.abs(wanted).max())


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


@pytest.fixture(scope="module", params=["float32", "int8"])
def opened(model: Path, request: pytest.FixtureRequest) -> tuple[Path, float]:
    """Return a bundle for encoders' sequences of many lengths, and how far it may be from the model."""
    folder = model.parent / request.param
    qcompile.compile(model, precision="fp32", cache=request.param, output=folder, **{**SETTINGS, "input_shapes": OPEN})
    return folder, 2e-5 if request.param == "float32" else 0.03


@pytest.mark.parametrize("cuts", [CUTS, (5, 1, 2)])
def test_encoders_of_many_lengths(model: Path, opened: tuple[Path, float], cuts: Sequence[int]) -> None:
    """Later runs are not given what the first alone reads."""
    folder, error = opened
    with runtime.load(folder, threads=2) as session:
        for length in (ENCODED, 4, 1, 7):
            session.reset()
            source = encoded(0, length)
            wanted = reference(model, source, tokens(cuts))
            for ids, logits in zip(tokens(cuts), wanted, strict=True):
                assert close(session.run({"input_ids": ids, **source})["logits"], logits, error)
                source.pop("encoder_hidden_states", None)
            assert session.state("S_length").tolist() == [length]


def test_nothing_past_the_end_of_an_encoder_is_read(opened: tuple[Path, float]) -> None:
    source, ids = encoded(0, 4), tokens((3, 1))
    with runtime.load(opened[0]) as session:
        first = session.run({"input_ids": ids[0], **source})["logits"]
        wanted = session.run({"input_ids": ids[1], **source})["logits"]
        session.reset()
        for tensor in session.states:
            if ".encoder." in tensor.name and tensor.dtype == "float32":
                session.set_state(tensor.name, np.full(tensor.shape, np.nan, np.float32))
        assert np.array_equal(session.run({"input_ids": ids[0], **source})["logits"], first)
        assert np.array_equal(session.run({"input_ids": ids[1], **source})["logits"], wanted)


def test_a_first_run_without_its_inputs_is_an_error(opened: tuple[Path, float]) -> None:
    source, (ids, *_) = encoded(0, 4), tokens()
    later = {"input_ids": ids, "encoder_attention_mask": source["encoder_attention_mask"]}
    with runtime.load(opened[0]) as session:
        with pytest.raises(UsageError, match="input 'encoder_hidden_states' is missing"):
            session.run(later)
        session.run({**later, **source})
        session.run(later)
        with pytest.raises(UsageError, match=r"'encoder_attention_mask' has shape \(1, 5\), expected \(1, 4\)"):
            session.run({**later, "encoder_attention_mask": np.ones((1, 5), np.int64)})
        session.reset()
        with pytest.raises(UsageError, match="input 'encoder_hidden_states' is missing"):
            session.run(later)


def test_a_sequence_taken_back_to_its_start_begins_anew(model: Path, opened: tuple[Path, float]) -> None:
    """A new encoder's sequence, of another length, needs no reset then."""
    folder, error = opened
    given = tokens((3, 1))
    with runtime.load(folder) as session:
        for seed, length in ((0, 4), (1, 7)):
            source = encoded(seed, length)
            session.set_state("cache_length", np.array([0]))
            for ids, logits in zip(given, reference(model, source, given), strict=True):
                assert close(session.run({"input_ids": ids, **source})["logits"], logits, error)


def test_null_pointers_of_the_c_interface(opened: tuple[Path, float]) -> None:
    ids, mask, hidden = np.zeros((1, 1), np.int64), np.ones((1, 4), np.int64), np.ones((1, 4, 12), np.float32)
    logits = np.empty((1, 1, 31), np.float32)
    with runtime.load(opened[0]) as session:
        run = session._library[f"{session._prefix}run_sized"]

        def status(length: int, *inputs: Any) -> str:
            sizes, handle = (ctypes.c_int64 * 2)(length, 1), session._handle
            given = (ctypes.c_void_p * 3)(*(None if array is None else array.ctypes.data for array in inputs))
            made = (ctypes.c_void_p * 1)(logits.ctypes.data)
            return session._status_text(run(handle, sizes, given, made))

        assert [tensor.name for tensor in session.inputs] == ["input_ids", "encoder_attention_mask", *OPEN]
        assert status(4, ids, mask, None) == "an input is NULL that the run which starts a sequence reads"
        assert status(4, ids, mask, hidden) == "fine"
        assert status(4, ids, mask, None) == "fine"
        assert status(4, ids, None, None) == "an argument is NULL or out of range"
        assert status(5, ids, mask, hidden) == "an argument is NULL or out of range"
        assert session.state("cache_length").tolist() == [2]


@pytest.mark.arm
@pytest.mark.parametrize("new", [3, 1])
def test_the_same_on_arm(model: Path, tmp_path: Path, qemu_aarch64: str, new: int) -> None:
    config = driver.resolve_config(model, None, {"precision": "fp32", **SETTINGS, "input_shapes": OPEN})
    context, _, graph = driver.prepare(model, config, None, None)
    final, _ = driver.to_precision(driver.simplify(graph, config, context, ())[0], config, context, ())
    single = with_one_place(final)
    assert single is not None
    both = [driver.bound_extents(form, config, context, ())[0] for form in (final, single)]
    executable = tmp_path / "model"
    executable.write_bytes(bundles.build_executable(lower_graph(both[0], targets.load("rpi4"), single=both[1])))
    executable.chmod(0o755)
    source, ids = encoded(0, 5), tokens([new] * 3)
    frames = {"input_ids": np.stack(ids), **{name: np.stack([array] * 3) for name, array in source.items()}}
    for name, array in frames.items():
        array.tofile(tmp_path / name)
    order = [value.name for value in both[0].inputs if value.name in frames]
    command = [qemu_aarch64, "-cpu", "cortex-a72", executable, "--size", "S=5", "--size", f"new={new}", "--sequence"]
    command += [*(tmp_path / name for name in order), "--output", tmp_path / "out"]
    subprocess.run([str(word) for word in command], check=True, capture_output=True, timeout=120)
    logits = np.fromfile(tmp_path / "out", np.float32).reshape(3, 1, new, -1)
    for found, wanted in zip(logits, reference(model, source, ids), strict=True):
        assert close(found, wanted)


@pytest.mark.parametrize("bounds", ["S:0..9", "length:1..9"])
def test_bounds_that_cannot_be(model: Path, tmp_path: Path, bounds: str) -> None:
    shapes = {"encoder_hidden_states": [1, bounds, 12]}
    with pytest.raises(UsageError, match="is no length of a sequence beside one that grows"):
        qcompile.compile(model, precision="fp32", output=tmp_path / "b", **{**SETTINGS, "input_shapes": shapes})


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
    assert "or bounds as in E:1..128: --input-shape encoder_hidden_states=1,LENGTH,12" in str(raised.value.hint)


def test_a_tensor_that_no_branch_makes(tmp_path: Path) -> None:
    model = translating()
    name = "present.0.encoder.key"
    choice = model.graph.node[0]
    choice.output[list(choice.output).index(name)] = "elsewhere"
    model.graph.node.append(helper.make_node("Identity", ["past_key_values.0.encoder.key"], [name]))
    path = save(model, tmp_path / "model.onnx")
    with pytest.raises(UnsupportedOpError, match=f"output '{name}' of .* is made by no branch of a first run"):
        qcompile.compile(path, precision="fp32", output=tmp_path / "b", **SETTINGS)
