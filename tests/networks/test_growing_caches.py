"""Decoders whose keys and values grow: one bundle keeps them, and says what ONNX Runtime says, run after run."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from decoder_models import crossing, fused, gpt2, llama, merged, save

import qcompile
from qcompile import bundle as bundles
from qcompile import driver, runtime, targets
from qcompile.cli import run_command
from qcompile.errors import BundleError, QCompileError, UnsupportedOpError, UsageError
from qcompile.ir.graph import Graph
from qcompile.ir.initial import initial_states
from qcompile.lower import lower_graph
from qcompile.onnx_import import import_onnx, load
from qcompile.ops.interpreter import Interpreter
from qcompile.shapes.single import with_one_place

PLACES = 48
MODELS = {"gpt2": gpt2, "llama": llama}
CUTS = (7, 1, 1, 3, 1, 20, 1)


def chunks(cuts: Sequence[int] = CUTS, seed: int = 3) -> list[Any]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 31, (1, count)) for count in cuts]


def reference(path: Path, given: Sequence[Any]) -> list[Any]:
    """Return ONNX Runtime's logits for runs one after another, the caches passed back by hand."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    inputs = {i.name: i.shape for i in session.get_inputs()}
    past = {n: np.zeros([1, s[1], 0, s[3]], np.float32) for n, s in inputs.items() if n.startswith("past")}
    results, length = [], 0
    for ids in given:
        count = ids.shape[1]
        feeds = {"input_ids": ids, **past}
        if "attention_mask" in inputs:
            feeds["attention_mask"] = np.ones((1, length + count), np.int64)
        if "use_cache_branch" in inputs:
            feeds["use_cache_branch"] = np.array([length > 0])
        if "position_ids" in inputs:
            feeds["position_ids"] = np.arange(length, length + count)[None]
        made = dict(zip(names, session.run(None, feeds), strict=True))
        past = {name: made[name.replace("past_key_values", "present")] for name in past}
        length += count
        results.append(made["logits"])
    return results


def close(found: Any, wanted: Any, tolerance: float = 2e-5) -> bool:
    return found.shape == wanted.shape and bool(np.abs(found - wanted).max() <= tolerance * np.abs(wanted).max())


@pytest.fixture(scope="module", params=list(MODELS))
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(MODELS[request.param](), tmp_path_factory.mktemp(request.param) / "decoder.onnx")


@pytest.fixture(scope="module")
def bundle(model: Path) -> Path:
    path = model.parent / "bundle"
    qcompile.compile(model, precision="fp32", state=["auto"], max_length=PLACES, output=path)
    return path


def prepared(model: Path, **settings: Any) -> Graph:
    return forms(model, **settings)[0]


def forms(model: Path, **settings: Any) -> tuple[Graph, Graph | None]:
    """Return the graph for runs of any length, and that for runs of one place."""
    config = driver.resolve_config(model, None, {"state": ["auto"], "precision": "fp32", **settings})
    context, _, graph = driver.prepare(model, config, None, None)
    simplified, _ = driver.simplify(graph, config, context, ())
    final, _ = driver.to_precision(simplified, config, context, ())
    single = with_one_place(final)
    bounded = driver.bound_extents(final, config, context, ())[0]
    return bounded, driver.bound_extents(single, config, context, ())[0] if single is not None else None


def test_runs_of_any_length_one_after_another(model: Path, bundle: Path) -> None:
    wanted = reference(model, chunks())
    with runtime.load(bundle, threads=2) as session:
        assert [tensor.name for tensor in session.inputs] == ["input_ids"]
        assert [tensor.name for tensor in session.outputs] == ["logits"]
        for _ in range(2):
            session.reset()
            for ids, logits in zip(chunks(), wanted, strict=True):
                assert close(session.run({"input_ids": ids})["logits"], logits)
            assert session.state("cache_length").tolist() == [sum(CUTS)]


def test_a_full_cache_is_an_error_and_leaves_the_sequence_as_it_was(model: Path, bundle: Path) -> None:
    given = chunks([30, 18, 1])
    wanted = reference(model, [given[0], given[2]])
    with runtime.load(bundle) as session:
        session.run({"input_ids": given[0]})
        with pytest.raises(BundleError, match="longer than the model keeps"):
            session.run({"input_ids": np.concatenate([given[1], given[2]], 1)})
        assert close(session.run({"input_ids": given[2]})["logits"], wanted[1])
        session.reset()
        session.run({"input_ids": given[0]})
        session.run({"input_ids": given[1]})
        with pytest.raises(BundleError, match="reset it"):
            session.run({"input_ids": given[2]})


def test_a_sequence_can_be_taken_back(model: Path, bundle: Path) -> None:
    """Fewer places count again after the kept length is set: as speculative decoding needs it."""
    given = chunks([5, 4, 3])
    wanted = reference(model, [given[0], given[2]])
    with runtime.load(bundle) as session:
        session.run({"input_ids": given[0]})
        session.run({"input_ids": given[1]})
        session.set_state("cache_length", np.array([5]))
        assert close(session.run({"input_ids": given[2]})["logits"], wanted[1])


def test_sessions_of_one_bundle_keep_sequences_of_their_own(model: Path, bundle: Path) -> None:
    ours, others = chunks(), chunks(seed=4)
    wanted = [reference(model, given) for given in (ours, others)]
    with runtime.load(bundle, threads=2) as first, runtime.load(bundle) as second:
        for step, pair in enumerate(zip(ours, others, strict=True)):
            for session, ids, logits in zip((first, second), pair, wanted, strict=True):
                assert close(session.run({"input_ids": ids})["logits"], logits[step])
        first.reset()
        assert second.state("cache_length").tolist() == [sum(CUTS)]
        assert close(first.run({"input_ids": others[0]})["logits"], wanted[1][0])


def test_nothing_past_the_length_is_ever_read(bundle: Path) -> None:
    ids = chunks([6, 1])
    with runtime.load(bundle) as session:
        for part in ids:
            wanted = session.run({"input_ids": part})["logits"]
        session.reset()
        for tensor in session.states:
            if tensor.name != "cache_length":
                session.set_state(tensor.name, np.full(tensor.shape, np.nan, tensor.dtype))
        for part in ids:
            found = session.run({"input_ids": part})["logits"]
    assert np.array_equal(found, wanted)


def test_the_file_is_read_once(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, paths = load._read, []

    def counted(path: Path, source: str) -> bytes:
        paths.append(path)
        return read(path, source)

    monkeypatch.setattr(load, "_read", counted)
    prepared(model, max_length=PLACES)
    assert paths == [model]


def test_the_interpreter_runs_the_masked_graph(model: Path) -> None:
    graph = prepared(model, max_length=PLACES)
    interpreter, kept = Interpreter(graph), initial_states(graph)
    for ids, logits in zip(chunks(), reference(model, chunks()), strict=True):
        made = interpreter.run({"input_ids": ids, **kept})
        assert close(made["logits"], logits)
        kept = {state.input: made[state.output] for state in graph.states}
    with pytest.raises(UsageError, match="54 places, the model keeps 48"):
        interpreter.run({"input_ids": chunks([20])[0], **kept})


def test_attention_reads_the_caches_where_they_lie(model: Path) -> None:
    graph = prepared(model, max_length=PLACES)
    kinds = [node.op.name for node in graph.nodes]
    assert (kinds.count("cache_append"), kinds.count("cache_scores"), kinds.count("cache_mix")) == (4, 2, 2)
    assert not {"matmul", "expand"} & set(kinds)
    for value in graph.inputs:
        if value.name.startswith("past"):
            assert [user.op.name for user in value.users()] == ["cache_append"]


def test_bounds_in_shapes_and_one_token_at_a_time(model: Path, bundle: Path, tmp_path: Path) -> None:
    heads = next(v for v in onnx.load(model).graph.input if "past" in v.name).type.tensor_type.shape.dim[1].dim_value
    names = [f"past_key_values.{n}.{part}" for n in (0, 1) for part in ("key", "value")]
    shapes: dict[str, Any] = {name: [1, heads, "P:0..30", 8] for name in names}
    shapes["input_ids"] = [1, 1]
    qcompile.compile(model, precision="fp32", state=["auto"], input_shapes=shapes, output=tmp_path / "b")
    given = chunks([1] * 31)
    with runtime.load(tmp_path / "b") as session:
        assert not session.symbols
        assert session.manifest["length"] == {"state": "cache_length", "new": "1", "most": 31}
        # Runs of many places and of one have kernels of their own, but the same weights.
        sizes = [runtime.load(path).manifest["memory"]["weights"] for path in (bundle, tmp_path / "b")]
        assert sizes[0] < 1.1 * sizes[1]
        for ids, logits in zip(given, reference(model, given), strict=True):
            assert close(session.run({"input_ids": ids})["logits"], logits)
        with pytest.raises(BundleError, match="longer than the model keeps"):
            session.run({"input_ids": given[0]})


def test_from_the_command_line(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--fp32", "--state", "auto", "--max-length", "24", "-o", str(tmp_path / "b")]
    assert run_command(["compile", str(model), *options]) == 0
    assert "4 growing caches are kept: up to 24 places" in capsys.readouterr().out
    ids = chunks([1, 1, 1])
    np.concatenate(ids).reshape(3, 1, 1).tofile(tmp_path / "ids")
    program = [str(tmp_path / "b" / "bin" / "qcrun"), "--size", "S=1"]
    command = [*program, "--sequence", str(tmp_path / "ids"), "--output", str(tmp_path / "out")]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    logits = np.fromfile(tmp_path / "out", np.float32).reshape(3, 1, 1, -1)
    for found, wanted in zip(logits, reference(model, ids), strict=True):
        assert close(found, wanted)
    np.zeros((25, 1, 1), np.int64).tofile(tmp_path / "ids")
    full = subprocess.run(command, capture_output=True, timeout=60, text=True)
    assert full.returncode == 1
    assert "frame 24: the sequence would be longer than the model keeps" in full.stderr
    assert subprocess.run([*program, "--bench", "60"], capture_output=True, timeout=60).returncode == 0


@pytest.mark.arm
@pytest.mark.parametrize("new", [3, 1])
def test_the_same_on_arm(model: Path, tmp_path: Path, qemu_aarch64: str, new: int) -> None:
    """Runs of one place have kernels of their own."""
    executable = tmp_path / "model"
    graph, single = forms(model, max_length=PLACES)
    program = lower_graph(graph, targets.load("rpi4"), single=single)
    assert program.single is not None
    executable.write_bytes(bundles.build_executable(program))
    executable.chmod(0o755)
    ids = chunks([new] * 3)
    np.concatenate(ids).reshape(3, 1, new).tofile(tmp_path / "ids")
    command = [qemu_aarch64, "-cpu", "cortex-a72", executable, "--size", f"S={new}", "--sequence", tmp_path / "ids"]
    command += ["--output", tmp_path / "out"]
    subprocess.run([str(word) for word in command], check=True, capture_output=True, timeout=120)
    logits = np.fromfile(tmp_path / "out", np.float32).reshape(3, 1, new, -1)
    for found, wanted in zip(logits, reference(model, ids), strict=True):
        assert close(found, wanted)


@pytest.mark.parametrize("kind", ["group", "multi", "onnx"])
@pytest.mark.parametrize("cache", ["float32", "int8"])
def test_attention_in_one_node(tmp_path: Path, kind: str, cache: str) -> None:
    path = save(fused(kind), tmp_path / "decoder.onnx")
    settings: dict[str, Any] = {"state": ["auto"], "max_length": PLACES, "cache": cache}
    assert not any(node.op.name == "matmul" for node in prepared(path, **settings).nodes)
    qcompile.compile(path, precision="fp32", output=tmp_path / "b", **settings)
    with runtime.load(tmp_path / "b") as session:
        for ids, wanted in zip(chunks(), reference(path, chunks()), strict=True):
            assert close(session.run({"input_ids": ids})["logits"], wanted, 2e-5 if cache == "float32" else 0.05)


def test_a_merged_decoder_chooses_its_branch_by_itself(tmp_path: Path) -> None:
    """Named as most files of the kind are."""
    path = save(merged(gpt2(layers=1)), tmp_path / "model.onnx")
    qcompile.compile(path, precision="fp32", state=["auto"], max_length=PLACES, output=tmp_path / "b")
    with runtime.load(tmp_path / "b") as session:
        assert [tensor.name for tensor in session.inputs] == ["input_ids"]
        for ids, wanted in zip(chunks(), reference(path, chunks()), strict=True):
            assert close(session.run({"input_ids": ids})["logits"], wanted)
    shapes = {v.name: (1, 4, 5, 8) for v in onnx.load(path).graph.input if v.name.startswith("past")}
    shapes |= {"input_ids": (1, 3), "attention_mask": (1, 8)}
    with pytest.raises(UnsupportedOpError, match="input 'use_cache_branch' decides which branch is run") as raised:
        import_onnx(path, shapes)
    assert "--input-value use_cache_branch=1" in str(raised.value.hint)


def test_a_branch_that_means_another_thing_is_refused(tmp_path: Path) -> None:
    model = merged(gpt2(layers=1))
    branch = next(a.g for a in model.graph.node[0].attribute if a.name == "else_branch")
    last = next(node for node in branch.node if "logits" in node.output)
    last.output[0] = "half"
    branch.node.append(onnx.helper.make_node("Add", ["half", "half"], ["logits"]))
    path = save(model, tmp_path / "model.onnx")
    with pytest.raises(UnsupportedOpError, match=r"with a past of 0 and .* output 'logits' differs"):
        prepared(path, max_length=PLACES)


def test_keys_and_values_of_an_encoder_are_given(tmp_path: Path) -> None:
    path = save(crossing(), tmp_path / "decoder.onnx")
    with pytest.raises(UsageError, match="open extent 'encoder_sequence_length', of another sequence") as raised:
        prepared(path, max_length=PLACES)
    assert "--input-shape past_key_values.0.encoder." in str(raised.value.hint)
    shapes: dict[str, Any] = {"encoder_attention_mask": [1, 9]}
    settings: dict[str, Any] = {"state": ["auto"], "max_length": PLACES, "input_shapes": shapes}
    qcompile.compile(path, precision="fp32", output=tmp_path / "b", **settings)
    rng = np.random.default_rng(0)
    names = [f"past_key_values.0.encoder.{part}" for part in ("key", "value")]
    given: dict[str, Any] = {name: rng.normal(0, 1, (1, 4, 9, 8)).astype(np.float32) for name in names}
    given["encoder_attention_mask"] = np.array([[1] * 6 + [0] * 3])
    whole = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    empty = {f"past_key_values.0.{part}": np.zeros((1, 4, 0, 8), np.float32) for part in ("key", "value")}
    ids = np.concatenate(chunks(), axis=1)
    (wanted,) = whole.run(["logits"], {"input_ids": ids, **given, **empty})
    with runtime.load(tmp_path / "b") as session:
        found = [session.run({"input_ids": part, **given})["logits"] for part in chunks()]
    assert close(np.concatenate(found, axis=1), wanted)


# -- batches -------------------------------------------------------------------------------------------------------

LENGTHS = (9, 4, 7)


def padded_runs(seed: int = 5) -> list[dict[str, Any]]:
    """Return runs of three sequences: a prompt with padding in front of the shorter ones, then tokens one by one."""
    rng, most = np.random.default_rng(seed), max(LENGTHS)
    mask = np.array([[0] * (most - n) + [1] * n for n in LENGTHS])
    places = np.maximum(mask.cumsum(1) - 1, 0)
    runs = [{"input_ids": rng.integers(0, 31, mask.shape), "attention_mask": mask, "position_ids": places}]
    for step, count in enumerate((1, 3, 1)):
        done = sum((1, 3, 1)[:step])
        new = np.array(LENGTHS)[:, None] + done + np.arange(count)
        ids = rng.integers(0, 31, (3, count))
        runs.append({"input_ids": ids, "attention_mask": np.ones((3, count), np.int64), "position_ids": new})
    return runs


def batch_reference(path: Path, runs: Sequence[dict[str, Any]]) -> list[Any]:
    """Return ONNX Runtime's logits; it wants the mask of all places."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    inputs = {i.name: i.shape for i in session.get_inputs()}
    past = {n: np.zeros([3, s[1], 0, s[3]], np.float32) for n, s in inputs.items() if n.startswith("past")}
    results, mask = [], np.zeros((3, 0), np.int64)
    for run in runs:
        mask = np.concatenate([mask, run["attention_mask"]], 1)
        feeds = {name: array for name, array in {**run, "attention_mask": mask}.items() if name in inputs}
        made = dict(zip(names, session.run(None, {**feeds, **past}), strict=True))
        past = {name: made[name.replace("past_key_values", "present")] for name in past}
        results.append(made["logits"])
    return results


@pytest.mark.parametrize("cache", ["float32", "int8"])
def test_a_batch_with_padding(model: Path, tmp_path: Path, cache: str) -> None:
    shapes: dict[str, Any] = {"input_ids": [3, "S"]}
    settings: dict[str, Any] = {"state": ["auto"], "max_length": 24, "input_shapes": shapes, "cache": cache}
    qcompile.compile(model, precision="fp32", output=tmp_path / "b", **settings)
    runs = padded_runs()
    with runtime.load(tmp_path / "b", threads=2) as session:
        names = [tensor.name for tensor in session.inputs]
        assert {"input_ids", "attention_mask"} <= set(names)
        for _ in range(2):
            session.reset()
            for run, wanted in zip(runs, batch_reference(model, runs), strict=True):
                found = session.run({name: run[name] for name in names})["logits"]
                real = run["attention_mask"].astype(bool)
                # What stands where padding is has no meaning: all its keys are hidden.
                assert close(found[real], wanted[real], 2e-5 if cache == "float32" else 0.05)


def test_places_that_see_nothing(tmp_path: Path) -> None:
    """A softmax over nothing but −∞ is NaN, here as everywhere, and the model makes zeros of it."""
    path = save(llama(boolean=True, layers=1), tmp_path / "decoder.onnx")
    settings: dict[str, Any] = {"state": ["auto"], "max_length": 24, "input_shapes": {"input_ids": [3, "S"]}}
    qcompile.compile(path, precision="fp32", output=tmp_path / "b", **settings)
    runs = padded_runs()
    with runtime.load(tmp_path / "b") as session:
        for run, wanted in zip(runs, batch_reference(path, runs), strict=True):
            assert close(session.run(run)["logits"], wanted)


def test_a_sequence_of_a_batch_is_what_it_is_alone(tmp_path: Path) -> None:
    path = save(llama(layers=1), tmp_path / "decoder.onnx")
    graph = prepared(path, max_length=24, input_shapes={"input_ids": [3, "S"]})
    alone = prepared(path, max_length=24)
    runs, kept, results = padded_runs(), initial_states(graph), []
    for run in runs:
        made = Interpreter(graph).run({**run, **kept})
        kept = {state.input: made[state.output] for state in graph.states}
        results.append(made["logits"])
    for row, length in enumerate(LENGTHS):
        kept = initial_states(alone)
        for number, (run, found) in enumerate(zip(runs, results, strict=True)):
            start = max(LENGTHS) - length if number == 0 else 0
            made = Interpreter(alone).run({"input_ids": run["input_ids"][row : row + 1, start:], **kept})
            kept = {state.input: made[state.output] for state in alone.states}
            assert close(found[row, start:], made["logits"][0])


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"input_ids": ["B:1..4", "S"]}, "the batch 'B:1..4' of input 'input_ids' is open"),
        (
            {"input_ids": [2, "S"], "attention_mask": [3, "T"]},
            "the batch is 2 of 'input_ids' and 3 of 'attention_mask'",
        ),
    ],
)
def test_batches_that_do_not_fit(tmp_path: Path, shapes: dict[str, Any], message: str) -> None:
    path = save(gpt2(layers=1), tmp_path / "decoder.onnx")
    with pytest.raises(UsageError, match=message):
        prepared(path, max_length=24, input_shapes=shapes)


# -- refusals ------------------------------------------------------------------------------------------------------


def test_a_length_without_caches(tmp_path: Path) -> None:
    model = gpt2(layers=1)
    for value in (*model.graph.input, *model.graph.output):
        if "key" in value.name or "value" in value.name:
            value.type.tensor_type.shape.dim[2].dim_value = 5
    path = tmp_path / "fixed.onnx"
    onnx.save(model, path)
    with pytest.raises(UsageError, match="--max-length is for models whose caches grow"):
        prepared(path, max_length=16)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_length": 24, "input_shapes": {"input_ids": [1, "S:1..24"]}}, "24 new places does not fit caches of 24"),
        ({"input_shapes": {"nothing": [1]}}, "no input named 'nothing'"),
        ({"input_shapes": {"input_ids": [1, 2, 3]}}, "has 2 axes, --input-shape gives 3"),
        ({"state_initial": {"past_key_values.0.key": 1.0}}, "cannot be kept beside caches that grow"),
        ({"max_length": 65}, "no form with 65 places: .*out of range for an axis of 64"),
    ],
)
def test_what_does_not_fit_is_said(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    path = save(gpt2(layers=1), tmp_path / "decoder.onnx")
    with pytest.raises(QCompileError, match=message):
        prepared(path, **settings)


def test_a_cache_that_is_more_than_appended_to(tmp_path: Path) -> None:
    model = gpt2(layers=1)
    node = next(n for n in model.graph.node if "present.0.key" in n.output)
    node.output[0] = "grown"
    model.graph.node.append(onnx.helper.make_node("Neg", ["grown"], ["present.0.key"]))
    for other in model.graph.node:
        if other.op_type not in ("Neg", "Concat"):
            for index, name in enumerate(other.input):
                other.input[index] = "grown" if name == "present.0.key" else name
    path = tmp_path / "odd.onnx"
    onnx.save(model, path)
    with pytest.raises(UnsupportedOpError, match=r"'present.0.key' is not 'past_key_values.0.key' with new rows"):
        prepared(path, max_length=PLACES)


def test_keys_that_are_read_in_another_way_are_still_right(tmp_path: Path) -> None:
    """A sum over all keys is no product of attention: it reads the cache as any tensor."""
    model = gpt2(layers=1)
    last = next(n for n in model.graph.node if "logits" in n.output)
    last.output[0] = "plain"
    axes = onnx.numpy_helper.from_array(np.array([1, 2, 3]), "all_axes")
    model.graph.initializer.append(axes)
    model.graph.node.append(onnx.helper.make_node("ReduceSum", ["present.0.key", "all_axes"], ["sum"]))
    model.graph.node.append(onnx.helper.make_node("Add", ["plain", "sum"], ["logits"]))
    path = save(model, tmp_path / "sum.onnx")
    qcompile.compile(path, precision="fp32", state=["auto"], max_length=PLACES, output=tmp_path / "b")
    with runtime.load(tmp_path / "b") as session:
        for ids, wanted in zip(chunks(), reference(path, chunks()), strict=True):
            assert close(session.run({"input_ids": ids})["logits"], wanted)
