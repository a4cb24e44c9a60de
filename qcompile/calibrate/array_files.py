"""Arrays in .npy and .npz files, or in a folder of these."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np
import numpy.typing as npt

from qcompile.calibrate.reader import MOST_SAMPLES, Reader, Request, spaced_apart
from qcompile.calibrate.sample import InputSpec, check_dtype, check_names, layout_hint, unknown_input
from qcompile.errors import CalibrationError
from qcompile.files import files_below

Array = npt.NDArray[Any]
Header = tuple[tuple[int, ...], np.dtype[Any]]


@dataclass(frozen=True)
class _Source:
    """One array per input, in files: `keys` maps an input to (file, member of the .npz or None)."""

    where: str
    keys: Mapping[str, tuple[Path, str | None]]
    samples: int


class ArrayFiles(Reader):
    """Arrays saved by NumPy; Python objects in them are refused.

    An array of the input's own shape is one sample (its batch axis of 1 may be missing). An array with more
    along the batch axis, or with one more axis in front, is a stack of samples. An .npz file holds one
    array per input, under the input's name (any name where there is but one of each). A folder holds .npz
    files, .npy files for a model of one input, or one .npy file per input, called after it.

    A .npy file is mapped, not read, so that a stack may be larger than memory.
    """

    name: ClassVar[str] = "arrays"

    def __init__(self, source: str, request: Request) -> None:
        super().__init__(source, request)
        self._inputs = {spec.name: spec for spec in request.inputs}
        self._sources = list(self._found(Path(source)))
        flat = [(index, item) for index, s in enumerate(self._sources) for item in range(s.samples)]
        chosen = request.choose(len(flat), request.limit or MOST_SAMPLES)
        self.leading = chosen.leading
        if chosen.taken < len(flat):
            self.notes.append(f"{chosen.taken} of {len(flat)} samples, {chosen.how}")
        self._plan = [flat[place] for place in chosen.indices]
        self._spares = [flat[place] for place in spaced_apart(len(flat), chosen.indices, request.spare)]

    @classmethod
    def claims(cls, source: str) -> bool:
        """Return whether the source is a .npy or .npz file or a folder that holds one."""
        return bool(array_files(Path(source)))

    def size(self) -> int:
        """Return the number of samples."""
        return len(self._plan) - len(self.leading)

    def __iter__(self) -> Iterator[tuple[str, object]]:
        return self._read(self._plan)

    def spares(self) -> Iterator[tuple[str, object]]:
        """Yield samples beyond the limit."""
        return self._read(self._spares)

    def _read(self, plan: Sequence[tuple[int, int]]) -> Iterator[tuple[str, object]]:
        opened: dict[str, Array] = {}
        current = -1
        for index, item in plan:
            source = self._sources[index]
            if index != current:
                current, opened = index, {name: _load(*key) for name, key in source.keys.items()}
            where = source.where if source.samples == 1 else f"{source.where}[{item}]"
            yield where, {name: _sample(array, self._inputs[name], item) for name, array in opened.items()}

    def _found(self, path: Path) -> Iterator[_Source]:
        files = array_files(path)
        single = len(self._inputs) == 1
        loose = {file.stem: file for file in files if file.suffix == ".npy"}
        for name in loose:
            if name in self.request.kept:  # else one of several files of the only input
                raise unknown_input(name, self.request.inputs, f"'{loose[name]}'", self.request.kept)
        if not single and loose:
            check_names(list(loose), self.request.inputs, f"the .npy files of '{path}'", self.request.kept)
            yield self._source(str(path), {name: (loose[name], None) for name in self._inputs})
        for file in files:
            if file.suffix == ".npy" and single:
                yield self._source(str(file), {next(iter(self._inputs)): (file, None)})
            elif file.suffix == ".npz":
                yield self._source(str(file), self._members(file))

    def _members(self, file: Path) -> dict[str, tuple[Path, str | None]]:
        names = _npz_names(file)
        if len(names) == len(self._inputs) == 1:
            return {next(iter(self._inputs)): (file, names[0])}
        check_names(names, self.request.inputs, f"'{file}'", self.request.kept)
        return {name: (file, name) for name in self._inputs}

    def _source(self, where: str, keys: Mapping[str, tuple[Path, str | None]]) -> _Source:
        counts: dict[str, int] = {}
        for name, (file, member) in keys.items():
            shape, dtype = _header(file, member)
            spec = self._inputs[name]
            place = f"'{file}'" if member is None else f"'{file}', array '{member}'"
            check_dtype(dtype, spec, place)
            counts[name] = _stacked(shape, spec, place)
            if counts[name] > 1 and len(shape) == len(spec.shape) and (rest := shape[0] % spec.shape[0]):
                self.notes.append(
                    f"{place}: the last {rest} of {shape[0]} rows are no batch of {spec.shape[0]}: left out"
                )
        if len(set(counts.values())) > 1:
            listed = ", ".join(f"{n} for '{name}'" for name, n in counts.items())
            raise CalibrationError(f"'{where}' holds different numbers of samples: {listed}")
        return _Source(where, keys, next(iter(counts.values())))


def array_files(path: Path) -> list[Path]:
    """Return the .npy and .npz files of a folder and the folders in it, sorted; or the file itself."""
    if path.is_file():
        return [path] if path.suffix in (".npy", ".npz") else []
    return [p for p in files_below(path) if p.suffix in (".npy", ".npz") and p.is_file()]


def _stacked(shape: tuple[int, ...], spec: InputSpec, where: str) -> int:
    """Return how many samples an array of this shape holds."""
    wanted = spec.shape
    if spec.accepts(shape) or (wanted[:1] == (1,) and spec.accepts((1, *shape))):
        return 1
    if len(shape) == len(wanted) + 1 and spec.accepts(shape[1:]):
        count = shape[0]
    elif wanted and len(shape) == len(wanted) and wanted[0] > 0 and spec.accepts((wanted[0], *shape[1:])):
        count = shape[0] // wanted[0]
    else:
        listed = ", ".join(["N", *map(str, wanted[1:])])
        raise CalibrationError(
            f"{where}: shape {list(shape)} does not fit input {spec}",
            hint=layout_hint((*wanted[:1], *shape[1:]), wanted)
            or f"save {list(wanted)} for one sample or [{listed}] for a stack of them",
        )
    if count == 0:
        raise CalibrationError(f"{where}: shape {list(shape)} holds no sample of input {spec}")
    return count


def _sample(array: Array, spec: InputSpec, item: int) -> Array:
    wanted = spec.shape
    if spec.accepts(array.shape) or spec.accepts((*wanted[:1], *array.shape)):
        return array
    if array.ndim == len(wanted) + 1:
        return np.asarray(array[item])
    return np.asarray(array[item * wanted[0] : (item + 1) * wanted[0]])


def _load(file: Path, member: str | None) -> Array:
    try:
        if member is None:
            return np.asarray(np.load(file, mmap_mode="r", allow_pickle=False))
        with np.load(file, allow_pickle=False) as archive:
            return np.asarray(archive[member])
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise _unreadable(file, error) from error


def _npz_names(file: Path) -> list[str]:
    try:
        with zipfile.ZipFile(file) as archive:
            names = [n.removesuffix(".npy") for n in archive.namelist() if n.endswith(".npy")]
    except (OSError, zipfile.BadZipFile) as error:
        raise _unreadable(file, error) from error
    if not names:
        raise CalibrationError(f"'{file}' holds no array")
    return names


def _header(file: Path, member: str | None) -> Header:
    """Read shape and dtype without the contents."""
    try:
        if member is None:
            with file.open("rb") as stream:
                return _parse_header(stream, file)
        with zipfile.ZipFile(file) as archive, archive.open(f"{member}.npy") as stream:
            return _parse_header(stream, file)
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise _unreadable(file, error) from error


def _parse_header(stream: Any, file: Path) -> Header:
    source: BinaryIO = stream
    version = np.lib.format.read_magic(source)
    parse = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = parse(source)
    if dtype.hasobject:
        raise CalibrationError(f"'{file}' holds Python objects, which are never loaded", hint="save arrays of numbers")
    return tuple(shape), dtype


def _unreadable(file: Path, error: Exception) -> CalibrationError:
    refused = isinstance(error, PermissionError)
    hint = "make it readable: see chmod" if refused else "write it again with numpy.save or numpy.savez"
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    return CalibrationError(f"array file '{file}' cannot be read: {reason}", hint=hint)
