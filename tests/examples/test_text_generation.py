"""The text generators write what ONNX Runtime would, on this machine and on ARM."""

from __future__ import annotations

import contextlib
import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest

import qcompile
from qcompile import bundle as bundles
from qcompile import driver, runtime, targets
from qcompile.ir.graph import Graph
from qcompile.ir.initial import initial_states
from qcompile.lower import lower_graph
from qcompile.ops.interpreter import Interpreter

EXAMPLE = Path(__file__).parents[2] / "examples" / "text_generation"
PROMPT, LENGTH = "One, two", 50


def module(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, EXAMPLE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


GENERATE = module("generate")


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "error: the prompt is empty\nhint: "),
        ("ß", "error: the prompt has letters that the model never saw: ß"),
        ("A", "error: none is no bundle"),
    ],
)
def test_what_cannot_go_on_is_refused(prompt: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["generate.py", "none", "--prompt", prompt])
    with pytest.raises(SystemExit, match=f"^{message}"):
        GENERATE.main()


def test_a_bundle_that_writes_no_text_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    session = contextlib.nullcontext(SimpleNamespace(inputs=[SimpleNamespace(name="image")]))
    monkeypatch.setattr(GENERATE, "load", lambda *_: session)
    monkeypatch.setattr(sys, "argv", ["generate.py", "vision"])
    with pytest.raises(SystemExit, match="vision has no input 'token' or 'input_ids', but image\nhint: "):
        GENERATE.main()


def written(step: Callable[[dict[str, Any]], Any], positions: bool) -> list[int]:
    """Return what greedy choice writes with a function that gives the logits of one step."""
    codes = [GENERATE.LETTERS.index(c) for c in PROMPT]
    for place in range(len(PROMPT) + LENGTH - 1):
        given = {"token": np.array([codes[place]], np.int64)}
        if positions:
            given["position"] = np.array([place], np.int64)
        logits = step(given)
        if place + 1 >= len(codes):
            codes.append(int(np.argmax(logits)))
    return codes


def reference(name: str) -> list[int]:
    session = onnxruntime.InferenceSession(str(EXAMPLE / f"{name}.onnx"), providers=["CPUExecutionProvider"])
    kept = {i.name: np.zeros(i.shape, np.float32) for i in session.get_inputs() if i.type == "tensor(float)"}
    names = [o.name for o in session.get_outputs()]

    def step(given: dict[str, Any]) -> Any:
        made = dict(zip(names, session.run(None, {**given, **kept}), strict=True))
        for old in kept:
            kept[old] = made["h_next" if old == "h" else old.replace("past", "present")]
        return made["logits"]

    return written(step, positions=name == "transformer")


@pytest.mark.parametrize("name", ["transformer", "gru"])
def test_the_same_text_as_onnx_runtime(name: str, tmp_path: Path) -> None:
    qcompile.compile(EXAMPLE / f"{name}.onnx", precision="fp32", state=["auto"], output=tmp_path / "b")
    expected = reference(name)
    with GENERATE.load(tmp_path / "b", 1) as session:
        for _ in range(2):
            assert list(GENERATE.generate(session, PROMPT, LENGTH)) == expected
    assert "".join(GENERATE.LETTERS[c] for c in expected).startswith(PROMPT)


def test_the_transformer_stops_at_its_last_place(tmp_path: Path) -> None:
    qcompile.compile(EXAMPLE / "transformer.onnx", precision="fp32", state=["auto"], output=tmp_path / "b")
    with runtime.load(tmp_path / "b") as session:
        limit = GENERATE.places(session)
        assert len(list(GENERATE.generate(session, "I", 10_000))) == limit + 1
        drawn = [list(GENERATE.generate(session, "I met", 30, 0.8, seed)) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]


def integer_gru() -> Graph:
    path = EXAMPLE / "gru.onnx"
    config = driver.resolve_config(path, None, {"state": ["auto"], "samples": 200})
    context, _, graph = driver.prepare(path, config, list(module("samples").samples()), None)
    simplified, _ = driver.simplify(graph, config, context, ())
    return driver.to_precision(simplified, config, context, ())[0]


def sequence(folder: Path, codes: list[int], runner: list[Any], positions: bool) -> np.ndarray:
    """Return the logits that the C program gives for a sequence of characters."""
    np.array(codes, np.int64).tofile(folder / "tokens")
    np.arange(len(codes), dtype=np.int64).tofile(folder / "places")
    files = [folder / "tokens", *([folder / "places"] if positions else [])]
    command = [*runner, "--sequence", *files, "--output", folder / "out"]
    subprocess.run([str(word) for word in command], check=True, capture_output=True, timeout=300)
    return np.fromfile(folder / "out", np.float32).reshape(len(codes), -1)


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same transformer with caches that grow."""
    path = tmp_path_factory.mktemp("decoder") / "decoder.onnx"
    module("make_growing").write(path)
    return path


@pytest.mark.parametrize("settings", [{}, {"cache": "int8"}, {"weight_bits": 8, "cache": "float16"}])
def test_growing_caches_write_the_same_text(decoder: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    settings = {"precision": "fp32", **settings}
    qcompile.compile(decoder, state=["auto"], max_length=96, output=tmp_path / "b", **settings)
    pace, expected = GENERATE.Pace(), reference("transformer")
    with GENERATE.load(tmp_path / "b", 1) as session:
        written = list(GENERATE.generate(session, PROMPT, LENGTH, pace=pace))
        assert written == expected
        assert pace.count == {"read": len(PROMPT), "written": LENGTH - 1}
        long = list(GENERATE.generate(session, PROMPT * 7, 200))
        assert len(long) == 96 + 1
        drawn = [list(GENERATE.generate(session, "I met", 30, 0.8, seed)) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]


@pytest.mark.arm
def test_the_integer_gru_writes_the_same_on_arm(tmp_path: Path, qemu_aarch64: str) -> None:
    graph = integer_gru()
    assert any(node.is_integer for node in graph.nodes)
    interpreter, kept = Interpreter(graph), initial_states(graph)

    def step(given: dict[str, Any]) -> Any:
        made = interpreter.run({**given, **kept})
        kept.update({state.input: made[state.output] for state in graph.states})
        return made["logits"]

    codes = written(step, positions=False)
    executable = tmp_path / "model"
    executable.write_bytes(bundles.build_executable(lower_graph(graph, targets.load("rpi4"))))
    executable.chmod(0o755)
    logits = sequence(tmp_path, codes[:-1], [qemu_aarch64, "-cpu", "cortex-a72", executable], positions=False)
    assert logits.argmax(1)[len(PROMPT) - 1 :].tolist() == codes[len(PROMPT) :]


@pytest.mark.arm
def test_the_transformer_writes_the_same_on_arm(tmp_path: Path, qemu_aarch64: str) -> None:
    path = EXAMPLE / "transformer.onnx"
    config = driver.resolve_config(path, None, {"state": ["auto"], "precision": "fp32"})
    context, _, graph = driver.prepare(path, config, None, None)
    simplified, _ = driver.simplify(graph, config, context, ())
    final, _ = driver.to_precision(simplified, config, context, ())
    executable = tmp_path / "model"
    executable.write_bytes(bundles.build_executable(lower_graph(final, targets.load("rpi4"))))
    executable.chmod(0o755)
    codes = reference("transformer")
    logits = sequence(tmp_path, codes[:-1], [qemu_aarch64, "-cpu", "cortex-a72", executable], positions=True)
    assert logits.argmax(1)[len(PROMPT) - 1 :].tolist() == codes[len(PROMPT) :]
