"""Tokens a second of a decoder as long as its sequence gets: weights and caches of several widths, beside ONNX Runtime.

    python tests/bench/decoding.py [--layers 12] [--places 128,512,2048] [--arm RUNNER --cpu rpi4] [--folder DIR]

The decoder is Llama-like, of 101 million multiply-accumulates a token beside those of attention; its weights are noise.
Each turn writes one token with each contender at each length, so that all see the same machine; medians of processor
time, one thread. RUNNER runs a Python script on an emulated AArch64 machine that has NumPy and ONNX Runtime,

    RUNNER --count --cpu cortex-a72 SCRIPT.py ARGUMENT ...

and prints at each getppid() of the script a line ``mark N insns TOTAL (delta COUNT)``; the table then has million
executed instructions a token in place of times. Bundles and models in DIR are made once.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "networks"))

import decoder_models
import decoding_token
from onnxruntime.quantization import QuantType, quantize_dynamic

import qcompile
from qcompile import targets

TURNS = 15
WIDTH = {"heads": 12, "kept": 4, "size": 64, "vocabulary": 24000}
BUNDLES: dict[str, dict[str, Any]] = {
    "float32, cache float32": {"precision": "fp32"},
    **{
        f"{bits} bits, cache {cache}": {"weight_bits": bits, "cache": cache}
        for bits in (8, 4)
        for cache in ("float32", "float16", "int8")
    },
    "dynamic int8, cache int8": {"precision": "dynamic", "cache": "int8"},
}
PEERS = ("ONNX Runtime float32", "ONNX Runtime dynamic int8")


def write_models(folder: Path, layers: int) -> None:
    """Write the decoder, and its form for ONNX Runtime's integers."""
    plain, integer = (folder / f"{name}.onnx" for name in PEERS)
    if not plain.exists():
        decoder_models.save(decoder_models.llama(layers=layers, **WIDTH), plain)
    if not integer.exists():
        quantize_dynamic(plain, integer, weight_type=QuantType.QInt8)


def _made(folder: Path, name: str, target: str, most: int) -> Path:
    """Return the bundle or the model that a contender runs; bundles are compiled where they are missing."""
    if name in PEERS:
        return folder / f"{name}.onnx"
    path = folder / f"{target}, {most} places, {name}"
    if not path.exists():
        print(f"compiling {path.name}", file=sys.stderr)
        kept: dict[str, Any] = {"state": ["auto"], "max_length": most, "target": target}
        qcompile.compile(folder / f"{PEERS[0]}.onnx", output=path, **kept, **BUNDLES[name])
    return path


def time_all(steps: dict[str, Callable[[int], object]], places: Sequence[int]) -> dict[tuple[str, int], float]:
    """Return the median seconds of processor time of a token, by contender and length."""
    found: dict[tuple[str, int], list[float]] = {(name, count): [] for name in steps for count in places}
    for turn in range(TURNS + 1):
        for (name, count), times in found.items():
            start = time.process_time()
            steps[name](count)
            if turn:
                times.append(time.process_time() - start)
    return {key: median(times) for key, times in found.items()}


def count_all(paths: dict[str, Path], places: Sequence[int], runner: str, cpu: str) -> dict[tuple[str, int], float]:
    """Return the executed instructions of a token under emulation, by contender and length."""
    found = {}
    for name, path in paths.items():
        words = [runner, "--count", "--cpu", cpu, decoding_token.__file__, str(path.resolve()), *map(str, places)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        deltas = re.findall(r"^mark \d+ .*\(delta (\d+)\)", done.stderr, re.M)
        if done.returncode or len(deltas) != 2 * len(places):
            raise SystemExit(f"error: {name}: {len(deltas)} marks, code {done.returncode}\n{done.stderr[-2000:]}")
        found.update({(name, count): int(delta) for count, delta in zip(places, deltas[1::2], strict=True)})
    return found


def print_table(found: dict[tuple[str, int], float], sizes: dict[str, int], places: Sequence[int], arm: bool) -> None:
    """Print one line a contender."""
    shown = "million instructions a token" if arm else "milliseconds a token (tokens a second)"
    print(f"{shown}, at a length of")
    print(f"{'':36} {'MiB':>6}" + "".join(f"{count:>18}" for count in places))
    for name, size in sizes.items():
        cells = [found[name, count] for count in places]
        texts = [f"{n / 1e6:.1f}" if arm else f"{n * 1e3:.2f} ({1 / n:.0f})" for n in cells]
        print(f"{name:36} {size / 2**20:6.0f}" + "".join(f"{text:>18}" for text in texts))


def main() -> None:
    """Make the contenders, run them in turns, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--places", default="128,512,2048", help="lengths of the sequence, ascending")
    parser.add_argument("--target", default="host")
    parser.add_argument("--arm", metavar="RUNNER", help="count executed instructions for --cpu instead")
    parser.add_argument("--cpu", default="rpi4", help="target to count for")
    parser.add_argument("--only", nargs="+", default=[""], help="contenders whose names have any of these in them")
    parser.add_argument("--folder", type=Path, help="default: a temporary one")
    given = parser.parse_args()
    places = [int(text) for text in given.places.split(",")]
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        write_models(folder, given.layers)
        names = [name for name in (*BUNDLES, *PEERS) if any(part in name for part in given.only)]
        paths = {name: _made(folder, name, given.cpu if given.arm else given.target, max(places)) for name in names}
        if given.arm:
            found = count_all(paths, places, given.arm, targets.load(given.cpu).cpu)
        else:
            found = time_all({name: decoding_token.open_decoder(path, places) for name, path in paths.items()}, places)
        print_table(found, {name: decoding_token.weight_bytes(path) for name, path in paths.items()}, places,
                    bool(given.arm))  # fmt: skip


if __name__ == "__main__":
    main()
