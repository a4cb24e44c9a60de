"""Samples with their labels, wherever the user keeps them."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.calibrate.calibration_set import open_calibration
from qcompile.calibrate.image_folder import SUFFIXES, image_files, load_image
from qcompile.calibrate.preprocess import Preprocess
from qcompile.calibrate.python_function import PythonFunction, load_function
from qcompile.calibrate.reader import spaced
from qcompile.calibrate.sample import InputSpec, Sample, check_sample
from qcompile.errors import CalibrationError, QCompileError, UsageError, did_you_mean

Array = npt.NDArray[Any]

LABEL_NAMES = ("labels", "label", "targets", "target", "y")
"""Arrays of an .npz file that are taken for the labels."""

LIST_SUFFIXES = (".txt", ".csv", ".tsv")
_ALL = 2**62


@dataclass(frozen=True)
class Labelled:
    """One sample and what is true of it.

    Args:
        where: its source, for messages.
        inputs: one array per model input, checked.
        label: class index, text, array; None where there is none.
    """

    where: str
    inputs: Sample
    label: Any


class LabelledSet:
    """Yields labelled samples; it can be iterated several times, with the same result.

    Args:
        source: what the user gave.
        inputs: what the model takes.
        preprocess: how photographs become inputs.
        names: class names in the order of the output, or None.
        limit: samples to use at most, evenly spaced; None for all.

    Attributes:
        notes: what was chosen for the user, one sentence each.

    Raises:
        UsageError: the source is missing, empty, or has labels that do not fit.
        CalibrationError: the samples do not fit the model.
    """

    def __init__(
        self,
        source: str,
        inputs: Sequence[InputSpec],
        preprocess: Preprocess | None = None,
        *,
        names: Sequence[str] | None = None,
        limit: int | None = None,
    ) -> None:
        self.source, self.inputs, self.names = source, tuple(inputs), names
        self.preprocess = preprocess or Preprocess()
        self.limit = limit
        self.notes: list[str] = []
        path = Path(source)
        self._items: list[tuple[str, Any, Any]] | None = None
        if path.is_file() and path.suffix.lower() in LIST_SUFFIXES:
            self._items = self._thinned(self._listed(path))
        elif path.is_file() and path.suffix == ".npz":
            self._items = self._thinned(self._stacked(path))
        elif path.is_dir() and (folders := _class_folders(path)):
            self._items = self._thinned(self._by_class(folders))
        elif not PythonFunction.claims(source):
            self._items = self._unlabelled()

    @property
    def size(self) -> int | None:
        """Number of samples, or None where it is not known before the end."""
        return len(self._items) if self._items is not None else self.limit

    def __iter__(self) -> Iterator[Labelled]:
        if self._items is None:
            yield from self._from_function()
            return
        for where, given, label in self._items:
            sample = given() if callable(given) else given
            yield Labelled(where, check_sample(sample, self.inputs, where), label)

    def _thinned(self, items: list[tuple[str, Any, Any]]) -> list[tuple[str, Any, Any]]:
        if not items:
            raise UsageError(f"'{self.source}' holds no sample")
        if self.limit is None or len(items) <= self.limit:
            return items
        self.notes.append(f"{self.limit} of {len(items)} samples, evenly spaced")
        return [items[i] for i in spaced(len(items), self.limit)]

    # -- images in one folder for each class ----------------------------------------------------------------

    def _by_class(self, folders: list[Path]) -> list[tuple[str, Any, Any]]:
        indices = self._folder_labels([folder.name for folder in folders])
        found = []
        for folder, label in zip(folders, indices, strict=True):
            found += [(str(file), self._image(file), label) for file in image_files(folder)]
        return found

    def _folder_labels(self, folders: list[str]) -> list[int]:
        """Return the class index of each folder: its name as a number, or its place among the class names."""
        if all(name.isdecimal() for name in folders):
            return [int(name) for name in folders]
        if self.names is None:
            self.notes.append(f"classes are the {len(folders)} folders in the order of their names, from 0")
            return list(range(len(folders)))
        return [self._index(name, f"folder '{name}'") for name in folders]

    def _index(self, name: str, where: str) -> int:
        names = [n.casefold() for n in self.names or ()]
        if name.casefold() not in names:
            hint = did_you_mean(name, list(self.names or ())) if len(names) < 50 else "see the labels of the bundle"
            raise UsageError(f"{where}: '{name}' is not one of the {len(names)} class names", hint=hint)
        return names.index(name.casefold())

    def _image(self, file: Path) -> Any:
        if len(self.inputs) != 1:
            raise UsageError(f"'{file}' is an image, but the model has {len(self.inputs)} inputs")
        return lambda: load_image(file, self.preprocess, self.inputs[0])

    # -- a list of files ------------------------------------------------------------------------------------

    def _listed(self, path: Path) -> list[tuple[str, Any, Any]]:
        """Read lines of FILE and LABEL, separated by comma, tabulator or white space; paths are beside the list."""
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"cannot read '{path}': {error}") from error
        found = []
        for number, line in enumerate(lines, 1):
            if not line.strip() or line.startswith("#"):
                continue
            where = f"'{path}', line {number}"
            name, label = _fields(line, path.suffix.lower(), where)
            file = path.parent / name
            if not file.is_file():
                raise UsageError(f"{where}: there is no file '{file}'")
            found.append((str(file), self._file(file), self._label(label, where)))
        return found

    def _file(self, file: Path) -> Any:
        if file.suffix.lower() in SUFFIXES:
            return self._image(file)
        return lambda: _load(file)

    def _label(self, text: str, where: str) -> Any:
        """Return a label's index where it is a number or a class name, else the text."""
        if text.lstrip("-").isdecimal():
            return int(text)
        if self.names is not None and text.casefold() in [name.casefold() for name in self.names]:
            return self._index(text, where)
        return text

    # -- arrays ---------------------------------------------------------------------------------------------

    def _stacked(self, path: Path) -> list[tuple[str, Any, Any]]:
        arrays = _load(path)
        known = {spec.name for spec in self.inputs}
        label_names = [name for name in LABEL_NAMES if name in arrays and name not in known]
        labels = arrays.pop(label_names[0]) if label_names else None
        if len(arrays) == len(self.inputs) == 1:
            arrays = {self.inputs[0].name: next(iter(arrays.values()))}
        stacks = {name: _stack(array, self.inputs, name, path) for name, array in arrays.items()}
        counts = {len(stack) for stack in stacks.values()}
        if labels is not None:
            counts.add(len(labels) if labels.ndim else 0)
        if len(counts) != 1:
            listed = ", ".join(f"{len(s)} of '{n}'" for n, s in stacks.items())
            raise UsageError(
                f"'{path}' holds {listed}" + (f" and {labels.shape} labels" if labels is not None else ""),
                hint="the first axis of every array counts the samples",
            )
        rows = range(counts.pop())
        truth = list(labels) if labels is not None else [None] * len(rows)
        return [(f"{path}[{i}]", {n: s[i] for n, s in stacks.items()}, truth[i]) for i in rows]

    def _unlabelled(self) -> list[tuple[str, Any, Any]]:
        """Return samples without labels, for measures that compare with the float model."""
        samples = open_calibration(
            self.source, self.inputs, self.preprocess, limit=self.limit or _ALL, crops_per_image=1
        )
        self.notes.extend(samples.notes)
        return [(f"{self.source}[{i}]", sample, None) for i, sample in enumerate(samples)]

    # -- a Python function ----------------------------------------------------------------------------------

    def _from_function(self) -> Iterator[Labelled]:
        """Yield what `module:function` does: (sample, label) pairs, or samples alone."""
        function: Any = load_function(self.source)
        try:
            for index, item in enumerate(function()):
                if self.limit is not None and index >= self.limit:
                    return
                where = f"{self.source}, sample {index}"
                sample, label = item if isinstance(item, tuple) and len(item) == 2 else (item, None)
                yield Labelled(where, check_sample(sample, self.inputs, where), label)
        except QCompileError:
            raise
        except Exception as error:
            raise UsageError(f"'{self.source}' raised {type(error).__name__}: {error}") from error


def _class_folders(path: Path) -> list[Path]:
    """Return the folders in a folder that hold images, if no image lies beside them."""
    if any(p.suffix.lower() in SUFFIXES for p in path.iterdir() if p.is_file()):
        return []
    visible = (p for p in sorted(path.iterdir()) if p.is_dir() and not p.name.startswith("."))
    return [folder for folder in visible if image_files(folder)]


def _fields(line: str, suffix: str, where: str) -> tuple[str, str]:
    if suffix == ".csv":
        fields = next(csv.reader([line]))
    elif "\t" in line:
        fields = line.split("\t")
    else:
        fields = line.split(None, 1)
    if len(fields) != 2:
        raise UsageError(f"{where}: not a file and a label", hint="write `photo.jpg,3` (or a tabulator, or a space)")
    return fields[0].strip(), fields[1].strip()


def _load(path: Path) -> Any:
    """Return the array of a .npy file, or the arrays of an .npz file by name."""
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.lib.npyio.NpzFile):
            with loaded:
                return {name: loaded[name] for name in loaded.files}
        return loaded
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        hint = "give an image, a .npy or an .npz file"
        raise UsageError(f"cannot read '{path}': {error}", hint=hint) from error


def _stack(array: Array, inputs: Sequence[InputSpec], name: str, path: Path) -> Array:
    """Return an array whose first axis counts the samples, the rest being the input's own shape."""
    spec = next((s for s in inputs if s.name == name), None)
    if spec is None:
        hint = did_you_mean(name, [s.name for s in inputs])
        raise CalibrationError(f"'{path}': the model has no input named '{name}'", hint=hint)
    if array.shape[1:] == spec.shape:
        return array
    if spec.shape[:1] == (1,) and array.shape[1:] == spec.shape[1:]:
        return array[:, None]
    wanted = ", ".join(["N", *map(str, spec.shape)])
    raise CalibrationError(f"'{path}', array '{name}': shape {list(array.shape)}, expected [{wanted}]")
