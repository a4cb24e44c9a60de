"""Write text with a compiled model: one run per character; the bundle keeps what the model must remember.

A model whose caches grow reads the prompt in few runs, of as many characters as a run may have.

    python generate.py build/transformer --prompt "One, two" --length 80
    python generate.py build/gru --prompt "I met" --temperature 0.5 --seed 3
    python generate.py build/decoder --prompt "'Twas brillig" --length 60

It needs the bundle, Python and NumPy; on a device without them, `bin/qcrun --sequence` runs the same model.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

LETTERS = "".join(sorted(set((Path(__file__).parent / "poems.txt").read_text(encoding="utf-8"))))


def load(bundle: Path, threads: int) -> Any:
    """Load a bundle by the run.py that lies in it."""
    spec = importlib.util.spec_from_file_location("bundle_run", bundle / "run.py")
    if spec is None or spec.loader is None or not (bundle / "run.py").is_file():
        raise SystemExit(f"error: {bundle} is no bundle")
    run = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(run)
    return run.load(bundle, threads)


def places(session: Any) -> int | None:
    """Return how many characters a model with positions can look back to, None for one without."""
    if "length" in session.manifest:
        return int(session.manifest["length"]["most"])
    kept = [tensor.shape for tensor in session.states if tensor.name.startswith("past_key")]
    return kept[0][1] if kept else None


def choose(logits: np.ndarray, temperature: float, generator: np.random.Generator) -> int:
    """Return the likeliest character, or with a temperature above 0 draw one."""
    if temperature <= 0:
        return int(logits.argmax())
    powers = np.exp((logits - logits.max()) / temperature)
    return int(generator.choice(len(powers), p=powers / powers.sum()))


class Pace:
    """Counts characters and seconds, apart for those that are read and those that are written."""

    def __init__(self) -> None:
        self.count, self.seconds = {"read": 0, "written": 0}, {"read": 0.0, "written": 0.0}

    def run(self, session: Any, what: str, given: dict[str, Any]) -> np.ndarray:
        """Run the model, and return the logits of the last character."""
        started = time.perf_counter()
        logits = session.run(given)["logits"]
        self.seconds[what] += time.perf_counter() - started
        self.count[what] += next(iter(given.values())).size
        return logits.reshape(-1, logits.shape[-1])[-1]

    def __str__(self) -> str:
        parts = (f"{n} {what}, {n / self.seconds[what]:,.0f} a second" for what, n in self.count.items() if n)
        return "tokens: " + "; ".join(parts)


def continued(
    session: Any, prompt: str, length: int, temperature: float = 0.0, seed: int = 0, pace: Pace | None = None
) -> Iterator[int]:
    """Yield what `generate` does, with a model whose caches grow: it takes any number of characters in a run."""
    session.reset()
    generator, known, pace = np.random.default_rng(seed), [LETTERS.index(c) for c in prompt], pace or Pace()
    most = session.symbols[0]["most"]
    limit = places(session)
    yield from known[:limit]
    for start in range(0, min(len(known), limit), most):
        ids = np.array([known[start : min(start + most, limit)]], np.int64)
        logits = pace.run(session, "read", {"input_ids": ids})
    for position in range(len(known), len(known) + length):
        if position > limit:
            return
        code = choose(logits, temperature, generator)
        yield code
        if position < min(limit, len(known) + length - 1):
            logits = pace.run(session, "written", {"input_ids": np.array([[code]], np.int64)})


def generate(
    session: Any, prompt: str, length: int, temperature: float = 0.0, seed: int = 0, pace: Pace | None = None
) -> Iterator[int]:
    """Yield the characters' numbers, those of the prompt first.

    Args:
        session: a loaded bundle.
        prompt: text to go on from.
        length: characters to add.
        temperature: 0 takes the likeliest character each time.
        seed: of the draws.
        pace: measures.
    """
    if "length" in session.manifest:
        yield from continued(session, prompt, length, temperature, seed, pace)
        return
    pace = pace or Pace()
    session.reset()
    generator, known = np.random.default_rng(seed), [LETTERS.index(c) for c in prompt]
    limit = places(session)
    code = known[0]
    for position in range(len(known) + length - 1):
        yield code
        if limit is not None and position >= limit:
            return
        given = {"token": np.array([code], np.int64)}
        if limit is not None:
            given["position"] = np.array([position], np.int64)
        logits = pace.run(session, "read" if position + 1 < len(known) else "written", given)
        code = known[position + 1] if position + 1 < len(known) else choose(logits, temperature, generator)
    yield code


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--prompt", default="One, two")
    parser.add_argument("--length", type=int, default=100)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    unknown = sorted(set(options.prompt) - set(LETTERS))
    if not options.prompt:
        raise SystemExit("error: the prompt is empty\nhint: give at least one letter to go on from: --prompt A")
    if unknown:
        raise SystemExit(f"error: the prompt has letters that the model never saw: {''.join(unknown)}")
    with load(options.bundle, options.threads) as session:
        names = {tensor.name for tensor in session.inputs}
        if not names & {"token", "input_ids"}:
            problem = f"error: {options.bundle} has no input 'token' or 'input_ids', but {', '.join(sorted(names))}"
            raise SystemExit(f"{problem}\nhint: README.md tells how to make a bundle that writes text")
        pace = Pace()
        for code in generate(session, options.prompt, options.length, options.temperature, options.seed, pace):
            print(LETTERS[code], end="", flush=True)
    print(f"\n\n{pace}")


if __name__ == "__main__":
    main()
