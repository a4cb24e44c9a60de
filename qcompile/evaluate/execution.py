"""Runs a bundle on the user's files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np
import numpy.typing as npt

from qcompile.calibrate.sample import InputSpec
from qcompile.errors import CalibrationError, UsageError, did_you_mean
from qcompile.files import replaced
from qcompile.quant.affine import dequantize, quantize
from qcompile.quant.qparams import QParams

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Score:
    """One class of a classifier's output.

    Args:
        index: of the class.
        value: what the model gives it.
        probability: by softmax, or the value itself where the outputs already are probabilities; 0 to 1.
    """

    index: int
    value: float
    probability: float


@dataclass(frozen=True)
class Output:
    """One output of a run.

    Args:
        name: of the output.
        values: real values, shape as compiled.
    """

    name: str
    values: Array

    def best(self, count: int) -> list[Score] | None:
        """Return the largest values of a vector (0: all) with their places, largest first; None for other shapes."""
        vector = np.asarray(self.values, np.float64).reshape(-1)
        if vector.size < 2 or vector.size != max(self.values.shape) or not np.isfinite(vector).all():
            return None
        powers = np.exp(vector - vector.max())
        normalized = vector.min() >= 0 and abs(vector.sum() - 1) < 1e-2
        shares = vector if normalized else powers / powers.sum()
        chosen = np.argsort(-vector, kind="stable")[: count or None]
        return [Score(int(i), float(vector[i]), float(shares[i])) for i in chosen]

    def summary(self) -> str:
        """Return type, shape and extremes in one line."""
        kind = f"{self.values.dtype}{list(self.values.shape)}"
        if self.values.size == 0:
            return kind
        real = self.values.astype(np.float64)
        return f"{kind}, min {real.min():.5g}, mean {real.mean():.5g}, max {real.max():.5g}"


@dataclass(frozen=True)
class Answer:
    """What a bundle says to one input.

    Args:
        outputs: in the model's order.
        labels: class names, or None.
        notes: what was chosen for the user, one sentence each.
    """

    outputs: tuple[Output, ...]
    labels: list[str] | None
    notes: tuple[str, ...] = ()


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

    notes: list[str] = []
    session = runtime.load(bundle, threads)
    with session:
        named = _assign(inputs, [t.name for t in session.inputs], [t.name for t in session.states])
        if save is not None:
            _check_apart(save, named)
        if session.manifest.get("preprocess") is None:
            notes = _guesses(named, session.inputs)
        arrays = {
            t.name: load_input(Path(named[t.name]), t, session.manifest, session.open_axes(t)) for t in session.inputs
        }
        results = session.run({t.name: _to_bundle(arrays[t.name], t) for t in session.inputs})
        outputs = {t.name: _from_bundle(results[t.name], t) for t in session.outputs}
    if save is not None:
        _save(save, outputs)
    listed = tuple(Output(n, a) for n, a in outputs.items())
    return Answer(listed, session.manifest.get("labels"), tuple(notes))


def _check_apart(save: Path, named: Mapping[str, str]) -> None:
    """Refuse to write the outputs where an input is read."""
    for name, file in named.items():
        if save.exists() and Path(file).exists() and save.samefile(file):
            raise UsageError(f"'{save}' is the file of input '{name}' itself", hint="give another file with -o")


def _guesses(named: Mapping[str, str], tensors: Sequence[Any]) -> list[str]:
    """Return notes about images for a bundle that does not say how an image becomes its input."""
    from qcompile.calibrate.image_folder import SUFFIXES
    from qcompile.calibrate.preprocess import Preprocess

    notes = []
    for tensor in tensors:
        path = Path(named[tensor.name])
        if path.suffix.lower() in SUFFIXES:
            steps = Preprocess().resolve(_spec(tensor)).to_text().replace(",", ", ")
            notes.append(f"the bundle does not say how '{path}' becomes its input; guessed: {steps}")
    return notes


def _spec(tensor: Any) -> InputSpec:
    """Return what a user gives for an input: real values for a quantized one."""
    return InputSpec(tensor.name, "float32" if tensor.scale is not None else tensor.dtype, tuple(tensor.shape))


def _qparams(tensor: Any) -> QParams:
    return QParams((tensor.scale,), (tensor.zero_point,), tensor.dtype)


def _to_bundle(array: Array, tensor: Any) -> Array:
    """Quantize real values for an input that is kept in integers."""
    return quantize(array, _qparams(tensor)) if tensor.scale is not None else array


def _from_bundle(array: Array, tensor: Any) -> Array:
    """Return the real values of an output."""
    return dequantize(array, _qparams(tensor)) if tensor.scale is not None else array


def _assign(texts: Sequence[str], names: Sequence[str], kept: Sequence[str]) -> dict[str, str]:
    """Return which file each input gets."""
    result: dict[str, str] = {}
    for text in texts:
        name, equals, file = text.partition("=")
        if equals and name in kept:
            hint = "leave it out; from Python session.set_state() sets it"
            raise UsageError(f"input '{name}' takes no data: the bundle keeps it as a state between runs", hint=hint)
        # The name of a file may hold the sign, too.
        whole = name not in names and len(names) == 1 and (Path(text).exists() or not Path(file).exists())
        if not equals or whole:
            if len(names) != 1:
                raise UsageError(f"which input is '{text}'?", hint=f"give NAME=FILE; inputs: {', '.join(names)}")
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


def load_input(
    path: Path,
    tensor: Any,
    manifest: Mapping[str, Any],
    opened: tuple[tuple[int, ...], tuple[range | None, ...]] | None = None,
) -> Array:
    """Read one input from an image, a .npy file or a .npz file with one array.

    Args:
        path: the file.
        tensor: name, dtype and shape wanted.
        manifest: of the bundle: how an image becomes the input, and where values may be missing.
        opened: shape and allowed extents of an input with open axes, as `runtime.Session.open_axes` says.

    Raises:
        UsageError: the file cannot be read or does not fit.
    """
    from qcompile.calibrate.image_folder import SUFFIXES, load_image
    from qcompile.calibrate.preprocess import Preprocess
    from qcompile.calibrate.sample import fit_array, missing_allowed

    spec = replace(_spec(tensor), missing=tensor.name in missing_allowed(manifest))
    if opened is not None:
        spec = replace(spec, shape=opened[0], axes=opened[1])
    try:
        if path.suffix.lower() in SUFFIXES:
            array = load_image(path, Preprocess.from_mapping(manifest.get("preprocess") or {}), spec)
        else:
            array = _load_array(path, spec)
        return fit_array(array, spec, str(path))
    except CalibrationError as error:
        raise UsageError(str(error), hint=error.hint) from error


def _load_array(path: Path, spec: Any) -> Array:
    kinds = "give an image, a .npy file or a .npz file"
    try:
        loaded = np.load(path, allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            return np.asarray(loaded)
        with loaded:
            names = loaded.files
            chosen = spec.name if spec.name in names else names[0] if len(names) == 1 else None
            if chosen is not None:
                return np.asarray(loaded[chosen])
    except OSError as error:
        raise UsageError(f"cannot read '{path}': {error.strerror or error}", hint=kinds) from error
    except (ValueError, EOFError, BadZipFile) as error:
        raise UsageError(f"'{path}' is not an array file, or is damaged", hint=kinds) from error
    held = f"it has: {', '.join(names)}" if names else "it is empty"
    raise UsageError(f"'{path}' has no array '{spec.name}'", hint=held)


def _save(path: Path, outputs: dict[str, Array]) -> None:
    """Write all outputs to a temporary name, then rename."""
    # numpy.savez takes some names for its own arguments.
    with replaced(path) as temporary, ZipFile(temporary, "w") as archive:
        for name, array in outputs.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
