"""Write text with a compiled model: one run per character; the bundle keeps what the model must remember.

    python generate.py build/transformer --prompt "One, two" --length 80
    python generate.py build/gru --prompt "I met" --temperature 0.5 --seed 3

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
    if spec is None or spec.loader is None:
        raise SystemExit(f"error: {bundle} is no bundle")
    run = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(run)
    return run.load(bundle, threads)


def places(session: Any) -> int | None:
    """Return how many characters a model with positions can look back to, None for one without."""
    kept = [tensor.shape for tensor in session.states if tensor.name.startswith("past_key")]
    return kept[0][1] if kept else None


def choose(logits: np.ndarray, temperature: float, generator: np.random.Generator) -> int:
    """Return the likeliest character, or with a temperature above 0 draw one."""
    if temperature <= 0:
        return int(logits.argmax())
    powers = np.exp((logits - logits.max()) / temperature)
    return int(generator.choice(len(powers), p=powers / powers.sum()))


def generate(session: Any, prompt: str, length: int, temperature: float = 0.0, seed: int = 0) -> Iterator[int]:
    """Yield the characters' numbers, those of the prompt first.

    Args:
        session: a loaded bundle.
        prompt: text to go on from.
        length: characters to add.
        temperature: 0 takes the likeliest character each time.
        seed: of the draws.
    """
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
        logits = session.run(given)["logits"][0]
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
    if unknown or not options.prompt:
        raise SystemExit(f"error: the prompt has letters that the model never saw: {unknown}")
    with load(options.bundle, options.threads) as session:
        started, count = time.perf_counter(), 0
        for code in generate(session, options.prompt, options.length, options.temperature, options.seed):
            print(LETTERS[code], end="", flush=True)
            count += 1
        taken = time.perf_counter() - started
    print(f"\n\n{count} tokens, {count / taken:,.0f} tokens per second")


if __name__ == "__main__":
    main()
