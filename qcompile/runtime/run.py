#!/usr/bin/env python3
"""Run a compiled model: Python 3.8 or newer, NumPy, and the directory this file lies in.

    import run
    session = run.load("build/", threads=4)
    outputs = session.run({"x": x})

or, on the command line:

    python3 run.py --input photo.npy --threads 4
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import json
import os
import platform
import runpy
import struct
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import numpy as np

SCHEMA_VERSION = 1
ABI_VERSION = 1
MAX_THREADS = 64
_ALIGNMENT = 64
_DTYPES = ("", "float32", "float64", "float16", "int8", "uint8", "int16", "uint16", "int32", "uint32",
           "int64", "uint64", "bool")  # fmt: skip
_MACHINES = {0x3E: "x86_64", 0xB7: "aarch64"}
_ERR_ISA = 3


class BundleError(RuntimeError):
    """A bundle is not fit to be loaded on this machine.

    Args:
        message: what is wrong.
        hint: what can be done about it.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class InputError(BundleError):
    """The given inputs are not the ones the model takes."""


class Tensor(NamedTuple):
    """An input or an output of the model.

    Args:
        name: the ONNX model's name.
        dtype: NumPy's name of the element type.
        shape: extents.
        scale, zero_point: real = scale * (q - zero_point); None for a real-valued tensor.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    scale: float | None
    zero_point: int | None


class _CTensor(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p), ("dtype", ctypes.c_int), ("rank", ctypes.c_int32),
        ("shape", ctypes.POINTER(ctypes.c_int64)), ("bytes", ctypes.c_size_t), ("quantized", ctypes.c_int32),
        ("scale", ctypes.c_float), ("zero_point", ctypes.c_int32),
    ]  # fmt: skip


class _CStep(ctypes.Structure):
    _fields_ = [("node", ctypes.c_char_p), ("op", ctypes.c_char_p), ("precision", ctypes.c_char_p),
                ("macs", ctypes.c_int64), ("bytes", ctypes.c_int64)]  # fmt: skip


class _CInfo(ctypes.Structure):
    _fields_ = [
        ("abi_version", ctypes.c_uint32), ("n_inputs", ctypes.c_int32), ("n_outputs", ctypes.c_int32),
        ("n_steps", ctypes.c_int32), ("inputs", ctypes.POINTER(_CTensor)),
        ("outputs", ctypes.POINTER(_CTensor)), ("steps", ctypes.POINTER(_CStep)),
        ("name", ctypes.c_char_p), ("target", ctypes.c_char_p),
        ("features", ctypes.POINTER(ctypes.c_char_p)), ("arena_bytes", ctypes.c_size_t),
        ("scratch_bytes", ctypes.c_size_t), ("weights_bytes", ctypes.c_size_t),
        ("n_states", ctypes.c_int32), ("states", ctypes.POINTER(_CTensor)),
    ]  # fmt: skip


class _COptions(ctypes.Structure):
    _fields_ = [("abi_version", ctypes.c_uint32), ("threads", ctypes.c_int32), ("message", ctypes.c_char_p),
                ("message_bytes", ctypes.c_size_t)]  # fmt: skip


def load(path: str | os.PathLike[str], threads: int = 1) -> Session:
    """Check a bundle and make it ready to run.

    Args:
        path: the bundle's directory.
        threads: number of threads, 1 to 64; 0 for one per core that this process may use.

    Raises:
        BundleError: it is not a bundle, a file is missing, truncated or altered, it is for another
            architecture, or this processor lacks an instruction set that it needs.
    """
    return Session(path, threads)


class Session:
    """A loaded model. It can be shared between threads of Python; they take turns.

    Args:
        path, threads: see `load`.

    Attributes:
        manifest: contents of the bundle's manifest.json.
        inputs: what the model takes, in its own order.
        outputs: what it returns.
        states: what it keeps from one run to the next.
        symbols: its open extents, as the manifest describes them; the shapes of tensors have the largest sizes.
    """

    _handle: ctypes.c_void_p | None = None

    def __init__(self, path: str | os.PathLike[str], threads: int = 1) -> None:
        if isinstance(threads, bool) or not isinstance(threads, int) or not 0 <= threads <= MAX_THREADS:
            raise InputError(f"threads is {threads!r}, expected a whole number from 0 to {MAX_THREADS}")
        self.manifest = _read_manifest(os.fspath(path))
        self._library = _open_library(os.fspath(path), self.manifest)
        self._prefix = self.manifest["abi"]["prefix"]
        self._functions: dict[str, Any] = {}
        self._info = self._function("describe", ctypes.POINTER(_CInfo))().contents
        self.inputs = [_tensor(self._info.inputs[i]) for i in range(self._info.n_inputs)]
        self.outputs = [_tensor(self._info.outputs[i]) for i in range(self._info.n_outputs)]
        n_states = self._info.n_states if "states" in self.manifest else 0  # older bundles have no such table
        self.states = [_tensor(self._info.states[i]) for i in range(n_states)]
        self.symbols: list[dict[str, Any]] = self.manifest.get("symbols", [])
        self._first_run = [t["name"] for t in self.manifest.get("inputs", ()) if t.get("first_run")]
        self._lock = threading.Lock()
        self._staging = [_aligned(tensor) for tensor in self.inputs]
        self._handle = self._create(threads)

    def run(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        """Run the model once.

        Args:
            inputs: an array for each input, by name, of exactly its dtype and shape; an open axis may have any of its
                sizes, one for all axes of a symbol. Later runs of a sequence may lack what its first run alone reads.

        Returns:
            A new array for each output, by name, in the model's order; with as many elements as the data decide.

        Raises:
            InputError: a name, dtype or shape is wrong.
            BundleError: the model failed.
        """
        return self._run(inputs, None)

    def reset(self) -> None:
        """Forget: every kept tensor becomes what it was before the first run."""
        if self.states:
            with self._lock:
                self._function("reset", ctypes.c_int, ctypes.c_void_p)(self._open())

    def state(self, name: str) -> np.ndarray[Any, Any]:
        """Return a copy of a kept tensor."""
        with self._lock:
            return np.array(self._state(name))

    def set_state(self, name: str, value: np.ndarray[Any, Any]) -> None:
        """Set a kept tensor for the next run.

        Args:
            name: of the input that reads it.
            value: array of exactly its dtype and shape.

        Raises:
            InputError: there is no such tensor, or the dtype or shape is wrong.
        """
        with self._lock:
            place = self._state(name)
            place[...] = _checked(value, next(t for t in self.states if t.name == name))

    def profile(self, inputs: Mapping[str, np.ndarray[Any, Any]] | None = None, runs: int = 10) -> list[dict[str, Any]]:
        """Measure each step.

        Args:
            inputs: as for `run`; zeros if None.
            runs: how many times to run, count; the median is taken.

        Returns:
            A mapping for each step with node, op, precision, macs, bytes and ns (median time, nanoseconds).
        """
        inputs = self.zeros() if inputs is None else inputs
        times = np.zeros((max(1, runs), max(1, self._info.n_steps)), np.uint64)
        for row in times:
            if "length" in self.manifest:
                self.reset()  # a growing sequence would be full some time
            self._run(inputs, row.ctypes.data)
        median = np.median(times, axis=0)
        return [_step(self._info.steps[i], int(median[i])) for i in range(self._info.n_steps)]

    def describe(self) -> dict[str, Any]:
        """Return what the library says about itself; sizes are in bytes."""
        features: list[str] = []
        while self._info.features[len(features)] is not None:
            features.append(_text(self._info.features[len(features)]))
        return {
            "name": _text(self._info.name),
            "target": _text(self._info.target),
            "requires": features,
            "inputs": [tensor._asdict() for tensor in self.inputs],
            "outputs": [tensor._asdict() for tensor in self.outputs],
            "steps": self._info.n_steps,
            "weights_bytes": self._info.weights_bytes,
            "arena_bytes": self._info.arena_bytes,
            "scratch_bytes": self._info.scratch_bytes,
        }

    def zeros(self) -> dict[str, np.ndarray[Any, Any]]:
        """Return inputs of the right names, dtypes and shapes, all zero."""
        return {tensor.name: np.zeros(tensor.shape, tensor.dtype) for tensor in self.inputs}

    def close(self) -> None:
        """Stop the threads and free the memory; the session cannot run any more."""
        handle, self._handle = self._handle, None
        if handle is not None:
            self._function("destroy", None, ctypes.c_void_p)(handle)

    __del__ = close

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _open(self) -> ctypes.c_void_p:
        if self._handle is None:
            raise InputError("the session is closed")
        return self._handle

    def _state(self, name: str) -> np.ndarray[Any, Any]:
        """Return a view of the library's own memory, which the next run moves."""
        known = [tensor.name for tensor in self.states]
        if name not in known:
            raise InputError(f"the model keeps no {name!r}", f"it keeps {known}" if known else None)
        find = self._function("state", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32)
        tensor, address = self.states[known.index(name)], find(self._open(), known.index(name))
        dtype, size = _layout(tensor.shape, tensor.dtype)
        memory = (ctypes.c_uint8 * size).from_address(address)
        return np.asarray(np.ctypeslib.as_array(memory).view(dtype).reshape(tensor.shape))

    def _function(self, name: str, result: Any, *arguments: Any) -> Any:
        if name not in self._functions:
            try:
                function = self._library[self._prefix + name]
            except AttributeError:
                raise BundleError(f"libmodel.so has no {self._prefix}{name}", "copy the bundle again") from None
            function.restype, function.argtypes = result, arguments
            self._functions[name] = function
        return self._functions[name]

    def _create(self, threads: int) -> ctypes.c_void_p:
        message, handle = ctypes.create_string_buffer(256), ctypes.c_void_p()
        options = _COptions(ABI_VERSION, threads, ctypes.addressof(message), len(message))
        create = self._function("create", ctypes.c_int, ctypes.POINTER(_COptions), _POINTERS)
        status = create(ctypes.byref(options), ctypes.byref(handle))
        if status:
            hint = "compile the model for this machine, with another --target" if status == _ERR_ISA else None
            raise BundleError(_text(message.value) or self._status_text(status), hint)
        return handle

    def _status_text(self, status: int) -> str:
        return _text(self._function("status_string", ctypes.c_char_p, ctypes.c_int)(status))

    def _run(self, inputs: Mapping[str, Any], times: int | None) -> dict[str, np.ndarray[Any, Any]]:
        goes_on = bool(self._first_run) and self._state(self.manifest["length"]["state"])[0] > 0
        _check_names(inputs, self.inputs, self._first_run if goes_on else (), self.states)
        sizes = [int(self._state(s["kept"])[0]) if goes_on and "kept" in s else _size(s, inputs) for s in self.symbols]
        given = [self._sized(i, tensor, sizes) for i, tensor in enumerate(self.inputs)]
        arrays = [_checked(inputs[t.name], t) if t.name in inputs else None for t in given]
        outputs = [_aligned(self._sized(len(given) + i, t, sizes)) for i, t in enumerate(self.outputs)]
        with self._lock:
            used = [None if array is None else _placed(array, self._staging[i]) for i, array in enumerate(arrays)]
            name, values, types = "run", [_addresses(used), _addresses(outputs)], [_POINTERS, _POINTERS]
            if times is not None:
                name, values, types = "profile", [*values, times], [*types, ctypes.c_void_p]
                if sizes != [symbol["most"] for symbol in self.symbols]:
                    raise InputError("steps are timed at the largest sizes only")
            elif sizes:
                name, values, types = "run_sized", [_numbers(sizes), *values], [_NUMBERS, *types]
            status = self._function(name, ctypes.c_int, ctypes.c_void_p, *types)(self._open(), *values)
        if status:
            raise BundleError(f"the model did not run: {self._status_text(status)}")
        found = {tensor.name: outputs[i] for i, tensor in enumerate(self.outputs)}
        for part in self.manifest.get("counted", ()):
            cut = (slice(None),) * part["axis"] + (slice(int(found[part["count"]][0])),)
            found[part["output"]] = found[part["output"]][cut]
        return found

    def _sized(self, index: int, tensor: Tensor, sizes: Sequence[int]) -> Tensor:
        """Return an input, or behind the inputs an output, with its shape at some sizes."""
        if not sizes:
            return tensor
        dims = _numbers([0] * len(tensor.shape))
        status = self._function("shape", ctypes.c_int, _NUMBERS, ctypes.c_int32, _NUMBERS)(_numbers(sizes), index, dims)
        if status:
            raise BundleError(f"the sizes {list(sizes)} do not fit: {self._status_text(status)}")
        return tensor._replace(shape=tuple(dims[: len(tensor.shape)]))


_NUMBERS: Any = ctypes.POINTER(ctypes.c_int64)
_POINTERS: Any = ctypes.POINTER(ctypes.c_void_p)


def _numbers(values: Sequence[int]) -> Any:
    return (ctypes.c_int64 * max(1, len(values)))(*values)


def _size(symbol: Mapping[str, Any], inputs: Mapping[str, Any]) -> int:
    """Return the value of a symbol that the shapes of the inputs tell."""
    found: dict[int, str] = {}
    for name, axis in symbol["places"]:
        shape = np.shape(inputs[name])
        if axis < len(shape):
            found.setdefault(shape[axis], f"axis {axis} of {name!r}")
    if len(found) != 1:
        listed = " and ".join(f"{size} on {where}" for size, where in found.items()) or "missing"
        raise InputError(f"{symbol['name']} is {listed}", "all axes of one name have the same extent")
    size = next(iter(found))
    if size not in range(symbol["least"], symbol["most"] + 1, symbol["step"]):
        bounds = f"{symbol['least']} to {symbol['most']}" + f" in steps of {symbol['step']}" * (symbol["step"] > 1)
        raise InputError(f"{symbol['name']} is {size} on {found[size]}, the model takes {bounds}")
    return size


def _read_manifest(folder: str) -> dict[str, Any]:
    path = os.path.join(folder, "manifest.json")
    try:
        with open(path, encoding="utf-8") as file:
            manifest = json.load(file)
    except OSError as error:
        hint = "give the directory that qcompile wrote"
        raise BundleError(f"{folder} is not a bundle: manifest.json: {error.strerror}", hint) from None
    except (ValueError, RecursionError):
        raise BundleError(f"{path} is damaged: not valid JSON", "copy the bundle again") from None
    if not isinstance(manifest, dict) or manifest.get("format") != "qcompile-bundle":
        raise BundleError(f"{folder} is not a bundle: its manifest.json is not qcompile's")
    version, hint, again = manifest.get("schema_version"), "use the run.py in the bundle", "copy the bundle again"
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        found = f"manifest version {version}, known: {SCHEMA_VERSION}"
        raise BundleError(f"{folder} was written by a newer qcompile ({found})", hint)
    try:
        manifest["abi"]["prefix"].encode("ascii"), manifest["files"]["libmodel.so"]["sha256"].lower()
    except (KeyError, TypeError, AttributeError, ValueError):
        raise BundleError(f"{path} is damaged: entries are missing or of a wrong type", again) from None
    return manifest


def _open_library(folder: str, manifest: Mapping[str, Any]) -> ctypes.CDLL:
    """Load libmodel.so, after every check that can be made without executing any of it."""
    path = os.path.abspath(os.path.join(folder, "libmodel.so"))
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise BundleError(f"{folder}: libmodel.so: {error.strerror}", "copy the bundle again") from None
    _check_content(path, content, manifest["files"]["libmodel.so"])
    _check_machine(path, content)
    if manifest["abi"].get("version") != ABI_VERSION:
        found = f"version {manifest['abi'].get('version')} of the C interface, known: {ABI_VERSION}"
        raise BundleError(f"{folder} has {found}", "use the run.py that lies in the bundle")
    # The loader recognizes a library by its path, and would return the old one where a bundle was replaced after
    # it was loaded. No path is spelled twice, so it has to compare the files themselves.
    detour = "".join("/." if bit == "1" else "/" for bit in f"{time.monotonic_ns():b}")
    try:
        return ctypes.CDLL(f"{os.path.dirname(path)}{detour}/libmodel.so")
    except OSError as error:
        raise BundleError(f"this system cannot load libmodel.so: {error}") from None


def _check_content(path: str, content: bytes, entry: Mapping[str, Any]) -> None:
    if len(content) != entry.get("bytes"):
        found = f"{len(content)} bytes, the manifest says {entry.get('bytes')}"
        raise BundleError(f"{path} is truncated or altered: {found}", "copy the bundle again")
    if hashlib.sha256(content).hexdigest() != entry["sha256"]:
        raise BundleError(f"{path} is altered: its SHA-256 is not the manifest's", "copy the bundle again")


def _check_machine(path: str, content: bytes) -> None:
    """Compare the library's ELF header with the machine and with the Python that runs this."""
    if content[:5] != b"\x7fELF\x02" or len(content) < 64:
        raise BundleError(f"{path} is not a 64-bit Linux library")
    code = struct.unpack_from("<H", content, 18)[0]
    wanted = _MACHINES.get(code, f"machine {code}")
    found = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine())
    if wanted != found or platform.system() != "Linux":
        place = f"the bundle is for {wanted} Linux, this is {found} {platform.system()}"
        raise BundleError(place, "compile the model for this machine, with another --target")
    if struct.calcsize("P") != 8:
        raise BundleError("this Python is a 32-bit program, the bundle is for 64-bit systems", "install a 64-bit one")


def _tensor(row: Any) -> Tensor:
    shape = tuple(row.shape[i] for i in range(row.rank))
    scale, zero_point = (float(row.scale), int(row.zero_point)) if row.quantized else (None, None)
    return Tensor(_text(row.name), _DTYPES[row.dtype], shape, scale, zero_point)


def _step(row: Any, ns: int) -> dict[str, Any]:
    return {"node": _text(row.node), "op": _text(row.op), "precision": _text(row.precision),
            "macs": row.macs, "bytes": row.bytes, "ns": ns}  # fmt: skip


def _text(value: bytes | None) -> str:
    return (value or b"").decode("utf-8", "replace")


@functools.lru_cache(maxsize=1024)
def _layout(shape: tuple[int, ...], name: str) -> tuple[np.dtype[Any], int]:
    """Return the dtype of a tensor and its size, bytes: asking NumPy takes longer than a small model does."""
    dtype = np.dtype(name)
    return dtype, int(np.prod(shape, dtype=np.int64)) * dtype.itemsize


def _address(array: np.ndarray[Any, Any]) -> int:
    return int(array.__array_interface__["data"][0])  # in a third of the time of array.ctypes.data


def _aligned(tensor: Tensor) -> np.ndarray[Any, Any]:
    """Return an uninitialized array that starts at a multiple of 64: the library uses it in place."""
    dtype, size = _layout(tensor.shape, tensor.dtype)
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    return np.asarray(np.ndarray(tensor.shape, dtype, memory, -_address(memory) % _ALIGNMENT))


def _check_names(inputs: Mapping[str, Any], takes: list[Tensor], optional: Sequence[str], keeps: list[Tensor]) -> None:
    known, states = [tensor.name for tensor in takes], [tensor.name for tensor in keeps]
    if not isinstance(inputs, Mapping):
        raise InputError(f"inputs is a {type(inputs).__name__}, expected a mapping of {known} to arrays")
    for name in (*inputs, *known):
        if name not in known:
            hint = "it is a state, which set_state() sets; " * (name in states)
            raise InputError(f"the model has no input {name!r}", f"{hint}its inputs are {known}")
        if name not in inputs and name not in optional:
            raise InputError(f"input {name!r} is missing", f"the model's inputs are {known}")


def _checked(value: Any, tensor: Tensor) -> np.ndarray[Any, Any]:
    if not isinstance(value, np.ndarray):
        raise InputError(f"input {tensor.name!r} is a {type(value).__name__}, expected a NumPy array")
    if value.shape != tensor.shape:
        raise InputError(f"input {tensor.name!r} has shape {value.shape}, expected {tensor.shape}")
    if value.dtype != _layout(tensor.shape, tensor.dtype)[0]:
        found = f"input {tensor.name!r} is {value.dtype}, expected {tensor.dtype}"
        raise InputError(found, f"convert it: x.astype(numpy.{tensor.dtype})")
    return value


def _placed(array: np.ndarray[Any, Any], staging: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the array itself if the library can use it in place, else a copy in the session's own memory."""
    if array.shape != staging.shape:
        return np.ascontiguousarray(array)
    if array.flags.c_contiguous and _address(array) % _ALIGNMENT == 0:
        return array
    np.copyto(staging, array)
    return staging


def _addresses(arrays: Sequence[np.ndarray[Any, Any] | None]) -> Any:
    return (ctypes.c_void_p * max(1, len(arrays)))(*[None if a is None else _address(a) for a in arrays])


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line; exit code 0, or 2 if the bundle or the input is at fault."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "command.py")
    try:
        if not os.path.exists(path):
            raise BundleError(f"{path} is missing", "copy the bundle again")
        runpy.run_path(path)["execute"](sys.modules[__name__], arguments)
    except BundleError as error:
        print(f"error: {error}" + (f"\nhint: {error.hint}" if error.hint else ""), file=sys.stderr)
        sys.exit(2)
    sys.exit(0)


if __name__ == "__main__":
    main()
