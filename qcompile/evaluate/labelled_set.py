"""Samples with their labels, wherever the user keeps them."""

from __future__ import annotations

import csv
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.calibrate.calibration_set import CalibrationSet, open_calibration
from qcompile.calibrate.image_folder import SUFFIXES, image_files, load_image
from qcompile.calibrate.preprocess import Preprocess
from qcompile.calibrate.python_function import PythonFunction, load_function
from qcompile.calibrate.reader import spaced
from qcompile.calibrate.sample import InputSpec, Sample, check_sample, unknown_input
from qcompile.errors import CalibrationError, QCompileError, UsageError, did_you_mean, with_line
from qcompile.evaluate.classes import misnumbered, named_classes
from qcompile.files import read_text

Array = npt.NDArray[Any]

LABEL_NAMES = ("labels", "label", "targets", "target", "y")
"""Arrays of an .npz file that are taken for the labels."""

LIST_SUFFIXES = (".txt", ".csv", ".tsv")
_ALL = 2**62
_BESIDE = "paths in a list are relative to the folder that the list is in"
_HEADING = f"if this line is a heading, remove it or begin it with #; {_BESIDE}"


@dataclass(frozen=True)
class Labelled:
    """One sample and what is true of it.

    Args:
        where: its source, for messages.
        inputs: one array per model input, checked.
        label: class index, text as it was written, array; None where there is none.
        folders: number of folders whose order made the labels, where nothing else says which class they are; or None.
    """

    where: str
    inputs: Sample
    label: Any
    folders: int | None = None


class LabelledSet:
    """Yields labelled samples; it can be iterated several times, with the same result.

    Args:
        source: what the user gave.
        inputs: what the model takes.
        preprocess: how photographs become inputs.
        names: class names in the order of the output, or None.
        limit: samples to use at most, evenly spaced, or the first ones where something is kept; None for all.
        kept: inputs of the model that no sample gives, because its own outputs supply them.

    Attributes:
        notes: what was chosen for the user, one sentence each.

    Raises:
        UsageError: the source is empty, or has labels that do not fit.
        CalibrationError: the source is missing, or the samples do not fit the model.
    """

    def __init__(
        self,
        source: str,
        inputs: Sequence[InputSpec],
        preprocess: Preprocess | None = None,
        *,
        names: Sequence[str] | None = None,
        limit: int | None = None,
        kept: Iterable[str] = (),
    ) -> None:
        self.source, self.inputs, self.names = source, tuple(inputs), names
        self._kept = tuple(kept)
        self.preprocess = preprocess or Preprocess()
        self.limit = limit
        self.notes: list[str] = []
        path = Path(source)
        self._items: list[tuple[str, Any, Any]] | None = None
        self._bare: CalibrationSet | None = None
        self._folders: int | None = None
        if path.is_file() and path.suffix.lower() in LIST_SUFFIXES:
            self._items = self._thinned(self._listed(path))
        elif path.is_file() and path.suffix == ".npz":
            self._items = self._thinned(self._stacked(path))
        elif path.is_dir() and (folders := _class_folders(path)):
            self._items = self._thinned(self._by_class(folders))
        elif not PythonFunction.claims(source):
            self._bare = self._unlabelled()

    @property
    def size(self) -> int | None:
        """Number of samples, or None where it is not known before the end."""
        if self._bare is not None:
            return self._bare.size
        return len(self._items) if self._items is not None else self.limit

    def __iter__(self) -> Iterator[Labelled]:
        if self._bare is not None:
            for index, sample in enumerate(self._bare):
                yield Labelled(f"{self.source}[{index}]", sample, None)
            return
        if self._items is None:
            yield from self._from_function()
            return
        for where, given, label in self._items:
            sample = given() if callable(given) else given
            yield Labelled(where, check_sample(sample, self.inputs, where, self._kept), label, self._folders)

    def _thinned(self, items: list[tuple[str, Any, Any]]) -> list[tuple[str, Any, Any]]:
        if not items:
            raise UsageError(f"'{self.source}' holds no sample", hint="give at least one")
        if self.limit is None or len(items) <= self.limit:
            return items
        if self._kept:
            self.notes.append(
                f"the first {self.limit} of {len(items)} samples: what is kept goes on from each to the next"
            )
            return items[: self.limit]
        self.notes.append(f"{self.limit} of {len(items)} samples, evenly spaced")
        return [items[i] for i in spaced(len(items), self.limit)]

    # -- images in one folder for each class ----------------------------------------------------------------

    def _by_class(self, folders: list[Path]) -> list[tuple[str, Any, Any]]:
        files = {folder.name: image_files(folder) for folder in folders}
        labels = self._folder_labels(files)
        if empty := [name for name, images in files.items() if not images]:
            listed = ", ".join(f"'{name}'" for name in empty)
            self.notes.append(f"{len(empty)} of the {len(files)} folders hold no image: {listed}")
        return [(str(file), self._image(file), labels[name]) for name, images in files.items() for file in images]

    def _folder_labels(self, files: Mapping[str, Sequence[Path]]) -> dict[str, int]:
        """Return the class index of each folder: its name as a number, or its place among the class names.

        Where class names are numbers, but others than the places of the classes, folders have those names.
        Where there are no names it is the folder's place among all, also among those without an image: what is not
        there must not give the classes after it other numbers.
        """
        holding = [name for name, images in files.items() if images]
        if all(name.isdecimal() for name in holding) and misnumbered(self.names or ()) is None:
            return {name: int(name) for name in holding}
        if self.names is None:
            self.notes.append(f"classes are the {len(files)} folders in the order of their names, from 0")
            self._folders = len(files)
            return {name: place for place, name in enumerate(files)}
        return {name: self._index(name) for name in holding}

    def _index(self, name: str) -> int:
        names = list(self.names or ())
        found = named_classes(name, names)
        if not found:
            hint = did_you_mean(name, names) if len(names) < 50 else "see the labels of the bundle"
            raise UsageError(f"folder '{name}': '{name}' is not one of the {len(names)} class names", hint=hint)
        if len(found) > 1:
            listed = " and ".join(f"{i} ('{names[i]}')" for i in found)
            hint = "name the folder by the number of its class, and the others too"
            raise UsageError(f"folder '{name}' may be any of the classes {listed}", hint=hint)
        return found[0]

    def _image(self, file: Path) -> Any:
        if len(self.inputs) != 1:
            raise UsageError(f"'{file}' is an image, but the model has {len(self.inputs)} inputs")
        return lambda: load_image(file, self.preprocess, self.inputs[0])

    # -- a list of files ------------------------------------------------------------------------------------

    def _listed(self, path: Path) -> list[tuple[str, Any, Any]]:
        """Read lines of FILE and LABEL, separated by comma, tabulator or white space; paths are beside the list."""
        try:
            lines = read_text(path, "utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"cannot read '{path}': {error}") from error
        found: list[tuple[str, Any, Any]] = []
        for number, line in enumerate(lines, 1):
            if not line.strip() or line.startswith("#"):
                continue
            where = f"'{path}', line {number}"
            name, label = _fields(line, path, where)
            file = path.parent / name
            if not file.is_file():
                heading = not found and not file.suffix
                raise UsageError(f"{where}: there is no file '{file}'", hint=_HEADING if heading else _BESIDE)
            found.append((str(file), self._file(file), label))
        return found

    def _file(self, file: Path) -> Any:
        if file.suffix.lower() in SUFFIXES:
            return self._image(file)
        return lambda: _load(file)

    # -- arrays ---------------------------------------------------------------------------------------------

    def _stacked(self, path: Path) -> list[tuple[str, Any, Any]]:
        arrays = _load(path)
        known = {spec.name for spec in self.inputs}
        label_names = [name for name in LABEL_NAMES if name in arrays and name not in known]
        labels = arrays.pop(label_names[0]) if label_names else None
        if len(arrays) == len(self.inputs) == 1:
            arrays = {self.inputs[0].name: next(iter(arrays.values()))}
        stacks = {name: _stack(array, self.inputs, name, path, self._kept) for name, array in arrays.items()}
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

    def _unlabelled(self) -> CalibrationSet:
        """Return samples without labels, for measures that compare with the float model."""
        samples = open_calibration(
            self.source,
            self.inputs,
            self.preprocess,
            limit=self.limit or _ALL,
            crops_per_image=1,
            kept=self._kept,
            purpose="evaluation",
        )
        self.notes.extend(samples.notes)
        return samples

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
                yield Labelled(where, check_sample(sample, self.inputs, where, self._kept), label)
        except QCompileError:
            raise
        except (Exception, SystemExit) as error:
            raise UsageError(f"'{self.source}' raised {with_line(error)}") from error


def _class_folders(path: Path) -> list[Path]:
    """Return the folders in a folder if one holds images and no image lies beside them."""
    if any(p.suffix.lower() in SUFFIXES for p in path.iterdir() if p.is_file()):
        return []
    visible = [p for p in sorted(path.iterdir()) if p.is_dir() and not p.name.startswith(".")]
    return visible if any(image_files(folder) for folder in visible) else []


def _fields(line: str, path: Path, where: str) -> tuple[str, str]:
    """Return file and label of a line; where white space is between them, the file's name may hold some, too."""
    if path.suffix.lower() == ".csv":
        fields = next(csv.reader([line]))
    elif "\t" in line:
        fields = line.split("\t")
    else:
        ends = [gap.span() for gap in re.finditer(r"\s+", line.strip())]
        text = line.strip()
        known = [span for span in ends if (path.parent / text[: span[0]]).is_file()]
        fields = [text[: span[0]], text[span[1] :]] if (span := next(iter(known or ends), None)) else [text]
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


def _stack(array: Array, inputs: Sequence[InputSpec], name: str, path: Path, kept: Sequence[str]) -> Array:
    """Return an array whose first axis counts the samples, the rest being the input's own shape."""
    spec = next((s for s in inputs if s.name == name), None)
    if spec is None:
        raise unknown_input(name, inputs, f"'{path}'", kept)
    if array.shape[1:] == spec.shape:
        return array
    if spec.shape[:1] == (1,) and array.shape[1:] == spec.shape[1:]:
        return array[:, None]
    wanted = ", ".join(["N", *map(str, spec.shape)])
    raise CalibrationError(f"'{path}', array '{name}': shape {list(array.shape)}, expected [{wanted}]")
