"""What a bundle was made from and how, as its manifest records it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qcompile.bundle.manifest import Provenance
from qcompile.config import CompileConfig
from qcompile.errors import ModelImportError
from qcompile.ir.graph import Graph

if TYPE_CHECKING:
    from qcompile.calibrate.calibration_set import CalibrationSet
    from qcompile.driver import Compilation

_CHUNK = 1 << 20


def provenance_of(
    model: Path, config: CompileConfig, made: Compilation, labels: list[str] | None
) -> Provenance:
    """Gather the parts of the manifest that the program itself does not know.

    Args:
        model: the ONNX file.
        config: effective configuration.
        made: results of the stages.
        labels: class names, or None.
    """
    recipe: dict[str, Any] = {
        "configuration": config.to_mapping(),
        "passes": [record.text for record in made.records],
        "self_test": _self_test(made.graph, config.seed),
    }
    if made.comparison is not None:
        recipe["accuracy"] = {
            "samples": made.comparison.samples,
            "verified": made.comparison.verified,
            "outputs": {name: round(db, 2) for name, db in made.comparison.outputs.items()},
        }
    return Provenance(
        model={"file": model.name, **_file(model)},
        calibration=_calibration(made.samples),
        recipe=recipe,
        notes=tuple(made.context.notes),
        labels=labels,
        preprocess=_preprocess(made, config),
    )


def _file(path: Path) -> dict[str, Any]:
    digest = hashlib.sha256()
    size = 0
    try:
        with path.open("rb") as file:
            while block := file.read(_CHUNK):
                digest.update(block)
                size += len(block)
    except OSError as error:
        raise ModelImportError(f"cannot read '{path}': {error.strerror}") from error
    return {"sha256": digest.hexdigest(), "bytes": size}


def _calibration(samples: CalibrationSet | None) -> dict[str, Any] | None:
    if samples is None:
        return None
    return {"source": str(samples.source), "samples": samples.size, "sha256": samples.digest()}


def _preprocess(made: Compilation, config: CompileConfig) -> dict[str, Any] | None:
    if made.samples is not None and made.samples.preprocess is not None:
        return made.samples.preprocess.to_mapping()
    return dict(config.preprocess) or None


def _self_test(graph: Graph, seed: int) -> dict[str, Any]:
    """Return a seeded input and the digest of the interpreter's answer.

    With integers from end to end the device must give the same bits; where float operations remain, the last
    digits may differ between processors, and `exact` is false.
    """
    from qcompile.ops.interpreter import Interpreter

    inputs = self_test_inputs({v.name: (v.dtype, v.shape) for v in graph.inputs}, seed)
    outputs = Interpreter(graph).run(inputs)
    exact = all(node.is_integer or node.op.name in _COPIES for node in graph.nodes)
    return {
        "seed": seed,
        "exact": exact,
        "outputs": {
            name: hashlib.sha256(np.ascontiguousarray(a).tobytes()).hexdigest() for name, a in outputs.items()
        },
    }


_COPIES = frozenset(
    {"reshape", "transpose", "identity", "slice", "split", "concat", "gather", "pad", "max_pool"}
)
"""Float operations that only move values: their bits are the same everywhere."""


def self_test_inputs(inputs: dict[str, tuple[str, tuple[int, ...]]], seed: int) -> dict[str, Any]:
    """Return the inputs of the self-test: a 32-bit linear congruential sequence, easy to repeat in any language.

    Formula:
        state' = 1664525 · state + 1013904223 mod 2^32; float: state / 2^31 − 1; integers: state >> 25

    Args:
        inputs: dtype and shape by name.
        seed: first state.

    Source:
        Press et al., "Numerical Recipes", 2nd edition, §7.1.
    """
    result = {}
    state = seed & 0xFFFFFFFF
    for name, (dtype, shape) in inputs.items():
        count = int(np.prod(shape))
        words = np.empty(count, np.uint32)
        for i in range(count):
            state = (1664525 * state + 1013904223) & 0xFFFFFFFF
            words[i] = state
        values = words / 2**31 - 1.0 if np.dtype(dtype).kind == "f" else words >> 25
        result[name] = values.astype(dtype).reshape(shape)
    return result
