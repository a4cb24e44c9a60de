"""Prints how a bundle did against other runtimes."""

from __future__ import annotations

import json
from pathlib import Path

from qcompile.errors import UsageError
from qcompile.evaluate.race import RUNS_OF_A_TURN, Race, parse_peers, race


def race_and_print(
    bundle: Path, model: Path | None, against: str | None, *, threads: int, runs: int, as_json: bool
) -> None:
    """Race a bundle against the runtimes that `against` names, and print the standings.

    Args:
        bundle: directory.
        model: the ONNX file it was compiled from.
        against: comma-separated runtimes.
        threads: of each contender.
        runs: inferences of each, rounded up to whole turns.
        as_json: print JSON.

    Raises:
        UsageError: `model` or `against` is missing or wrong, or a runtime is not installed.
    """
    if against is None:
        raise UsageError("--model is for a comparison", hint="add --against onnxruntime,openvino")
    peers = parse_peers(against)
    if model is None and not all(peers.values()):
        raise UsageError("--against needs the model that the bundle was compiled from", hint="add --model model.onnx")
    own = {name: path for name, path in peers.items() if path is not None}
    rounds = max(1, -(-runs // RUNS_OF_A_TURN))
    result = race(bundle, model, list(peers), threads=threads, rounds=rounds, models=own)
    if as_json:
        print(json.dumps(result.to_mapping(), indent=1))
    else:
        print(standings_text(result))


def standings_text(result: Race) -> str:
    """Return the standings as a table."""
    clock = "processor time" if result.threads == 1 else "wall clock"
    lines = [
        f"{result.precision}, {result.threads} thread(s), {result.rounds} rounds of {RUNS_OF_A_TURN}, ms of {clock}",
        f"{'runtime':12} {'version':10} {'median':>9} {'fastest':>9} {'load':>9} {'first':>9}  ratio",
    ]
    for s in result.standings:
        times = f"{s.median_ms:9.3f} {s.fastest_ms:9.3f} {s.load_ms:9.1f} {s.first_ms:9.3f}"
        lines.append(f"{s.runtime:12} {s.version:10} {times}  {s.ratio:.2f}")
    best = result.best
    lines.append(f"{best.ratio:.2f} times as fast as the best of the others, {best.runtime}")
    return "\n".join([*lines, *(f"note: {note}" for note in result.notes)])
