"""Runs a bundle on the user's files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.errors import BundleError, UsageError, did_you_mean
from qcompile.quant.affine import dequantize, quantize
from qcompile.quant.qparams import QParams

Array = npt.NDArray[Any]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


@dataclass(frozen=True)
class Answer:
    """What a bundle says to one input.

    Args:
        outputs: real values by output name.
        labels: class names, or None.
    """

    outputs: dict[str, Array]
    labels: list[str] | None


def open_session(bundle: Path, threads: int = 1) -> Any:
    """Load a bundle for this machine.

    Raises:
        BundleError: it is damaged, or not for this machine.
    """
    from qcompile import runtime

    try:
        return runtime.load(str(bundle), threads=threads)
    except runtime.BundleError as error:
        raise BundleError(str(error), hint=getattr(error, "hint", None)) from error


def run_bundle(bundle: Path, inputs: Sequence[str], *, threads: int = 1, save: Path | None = None) -> Answer:
    """Run a bundle once.

    Args:
        bundle: its directory.
        inputs: FILE, or NAME=FILE where the model has several inputs.
        threads: threads to use.
        save: .npz file for the outputs, or None.

    Raises:
        UsageError: a file cannot be read or does not fit the model.
        BundleError: the bundle does not run on this machine.
    """
    from qcompile import runtime

    session = open_session(bundle, threads)
    manifest = session.manifest
    named = _assign(inputs, [t.name for t in session.inputs])
    arrays = {t.name: load_input(Path(named[t.name]), t, manifest.get("preprocess")) for t in session.inputs}
    try:
        results = session.run({t.name: _to_bundle(arrays[t.name], t) for t in session.inputs})
    except runtime.BundleError as error:
        raise UsageError(str(error), hint=getattr(error, "hint", None)) from error
    outputs = {t.name: _from_bundle(results[t.name], t) for t in session.outputs}
    if save is not None:
        _save(save, outputs)
    return Answer(outputs, manifest.get("labels"))


def _qparams(tensor: Any) -> QParams:
    return QParams((tensor.scale,), (tensor.zero_point,), tensor.dtype)


def _to_bundle(array: Array, tensor: Any) -> Array:
    """Quantize real values for an input that is kept in integers."""
    return quantize(array, _qparams(tensor)) if tensor.scale is not None else array


def _from_bundle(array: Array, tensor: Any) -> Array:
    """Return the real values of an output."""
    return dequantize(array, _qparams(tensor)) if tensor.scale is not None else array


def _assign(texts: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """Return which file each input gets."""
    result: dict[str, str] = {}
    for text in texts:
        name, equals, file = text.partition("=")
        if not equals or (name not in names and len(names) == 1):
            if len(names) != 1:
                raise UsageError(
                    f"which input is '{text}'?", hint=f"give NAME=FILE; inputs: {', '.join(names)}"
                )
            name, file = names[0], text
        if name not in names:
            raise UsageError(f"the model has no input '{name}'", hint=did_you_mean(name, list(names)))
        if name in result:
            raise UsageError(f"input '{name}' is given twice")
        result[name] = file
    missing = [name for name in names if name not in result]
    if missing:
        raise UsageError(f"input '{missing[0]}' is not given", hint=f"add --input {missing[0]}=FILE")
    return result


def load_input(path: Path, tensor: Any, preprocess: dict[str, Any] | None) -> Array:
    """Read one input from an image, a .npy file or a .npz file with one array.

    Args:
        path: the file.
        tensor: name, dtype and shape wanted.
        preprocess: how an image becomes the input, from the manifest; None takes the defaults.

    Raises:
        UsageError: the file cannot be read or does not fit.
    """
    from qcompile.calibrate.sample import InputSpec, fit_array
    from qcompile.errors import CalibrationError

    spec = InputSpec(
        tensor.name, "float32" if tensor.scale is not None else tensor.dtype, tuple(tensor.shape)
    )
    try:
        if path.suffix.lower() in IMAGE_SUFFIXES:
            array = _load_image(path, spec, preprocess)
        else:
            array = _load_array(path, spec)
        return fit_array(array, spec, str(path))
    except CalibrationError as error:
        raise UsageError(str(error), hint=error.hint) from error


def _load_image(path: Path, spec: Any, preprocess: dict[str, Any] | None) -> Array:
    from PIL import Image, UnidentifiedImageError

    from qcompile.calibrate.preprocess import Preprocess

    recipe = Preprocess.from_mapping(preprocess or {}).resolve(spec)
    try:
        with Image.open(path) as image:
            return recipe.apply(image, spec)[None]
    except (OSError, UnidentifiedImageError) as error:
        raise UsageError(f"cannot read image '{path}': {error}") from error


def _load_array(path: Path, spec: Any) -> Array:
    try:
        loaded = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(
            f"cannot read '{path}': {error}", hint="give an image, a .npy file or a .npz file with one array"
        ) from error
    if isinstance(loaded, np.lib.npyio.NpzFile):
        with loaded:
            names = loaded.files
            if spec.name in names:
                return np.asarray(loaded[spec.name])
            if len(names) != 1:
                raise UsageError(f"'{path}' has no array '{spec.name}'", hint=f"it has: {', '.join(names)}")
            return np.asarray(loaded[names[0]])
    return np.asarray(loaded)


def _save(path: Path, outputs: dict[str, Array]) -> None:
    """Write all outputs to a temporary name, then rename."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        with temporary.open("wb") as file:
            np.savez(file, **outputs)  # type: ignore[arg-type]
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UsageError(f"cannot write '{path}': {error.strerror}") from error
