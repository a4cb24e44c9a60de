"""What a bundle was made from and how, as its manifest records it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qcompile.bundle.manifest import Provenance
from qcompile.config import CompileConfig, place_name
from qcompile.errors import ModelImportError
from qcompile.evaluate.self_test import foresee

if TYPE_CHECKING:
    from qcompile.calibrate.calibration_set import CalibrationSet
    from qcompile.driver import Compilation

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
            "outputs": {name: round(db, 2) for name, db in made.comparison.outputs.items()},
        }
    if made.search is not None:
        recipe["search"] = made.search.to_json()
    return Provenance(
        model={"file": model.name, **_file(model)},
        calibration=_calibration(made.samples),
        recipe=recipe,
        notes=tuple(made.context.notes),
        labels=made.labels,
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
    digest = samples.digest()
    ranges = samples.summary.ranges if samples.summary is not None else {}
    return {
        "source": place_name(str(samples.source)),
        "samples": samples.count,
        "sha256": digest,
        "ranges": {name: [float(low), float(high)] for name, (low, high) in ranges.items()},
    }


def _preprocess(made: Compilation, config: CompileConfig) -> dict[str, Any] | None:
    if made.samples is not None and made.samples.preprocess is not None:
        return made.samples.preprocess.to_mapping()
    return dict(config.preprocess) or None
