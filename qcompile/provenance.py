"""What a bundle was made from and how, as its manifest records it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qcompile.bundle.manifest import Provenance
from qcompile.config import CompileConfig, place_name
from qcompile.errors import CalibrationError, ModelImportError
from qcompile.evaluate.self_test import foresee

if TYPE_CHECKING:
    from qcompile.calibrate.calibration_set import CalibrationSet
    from qcompile.compilation import Compilation

_CHUNK = 1 << 20


def provenance_of(model: Path, config: CompileConfig, made: Compilation) -> Provenance:
    """Gather the parts of the manifest that the program itself does not know.

    Args:
        model: the ONNX file.
        config: effective configuration.
        made: results of the stages.
    """
    recipe: dict[str, Any] = {
        "configuration": config.recorded(),
        "passes": [record.text for record in made.records],
        "self_test": foresee(made.graph, config.seed),
    }
    if made.comparison is not None:
        recipe["accuracy"] = {
            "samples": made.comparison.samples,
            "verified": made.comparison.verified,
            "fitted": made.comparison.fitted,
            "unseen": made.comparison.unseen,
            "empty": made.comparison.empty,
            "outputs": {name: round(db, 2) for name, db in made.comparison.outputs.items()},
        }
    if made.context.used_records:
        recipe["tuning"] = [json.loads(record.line()) for record in made.context.used_records]
    if made.search is not None:
        recipe["search"] = made.search.to_json()
    return Provenance(
        model=_model(model),
        calibration=_calibration(made.samples),
        recipe=recipe,
        notes=tuple(made.context.notes),
        labels=made.labels,
        preprocess=_preprocess(made, config),
    )


def _model(path: Path) -> dict[str, Any]:
    """Return name, digest and size of the model file, and of the side files that hold its weights."""
    from qcompile.onnx_import.load import load_model

    entry = {"file": path.name, **_file(path)}
    tensors = load_model(path).proto.graph.initializer
    names = sorted({e.value for tensor in tensors for e in tensor.external_data if e.key == "location"})
    if names:
        entry["external"] = {name: _file(path.parent / name) for name in names}
    return entry


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
    digest = samples.digest()
    ranges = samples.summary.ranges if samples.summary is not None else {}
    return {
        "source": place_name(str(samples.source)),
        "samples": samples.count,
        "sha256": digest,
        "ranges": {name: [float(low), float(high)] for name, (low, high) in ranges.items()},
    }


def _preprocess(made: Compilation, config: CompileConfig) -> dict[str, Any] | None:
    """Return all image steps, as calibration took them or would have; None where nothing is known about them."""
    from qcompile.calibrate.preprocess import Preprocess
    from qcompile.calibrate.sample import graph_inputs

    if made.samples is not None and made.samples.preprocess is not None:
        return made.samples.preprocess.to_mapping()
    if not config.preprocess:
        return None
    given = Preprocess.from_mapping(config.preprocess)
    for spec, value in zip(graph_inputs(made.graph), made.graph.inputs, strict=True):
        try:
            real = spec if value.qparams is None else replace(spec, dtype="float32")
            return given.resolve(real).to_mapping()
        except CalibrationError:  # this input is no image
            continue
    return given.to_mapping()
