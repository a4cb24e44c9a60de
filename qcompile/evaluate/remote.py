"""A bundle on a device: sent once, then run there by its own program as often as one likes."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.bundle import read_manifest
from qcompile.calibrate.sample import InputSpec, missing_allowed
from qcompile.device import Answer, Device, open_device
from qcompile.errors import BundleError, DeviceError
from qcompile.evaluate import processes
from qcompile.quant.affine import dequantize, quantize
from qcompile.quant.qparams import QParams
from qcompile.runtime import chosen_sizes, open_extents

Array = npt.NDArray[Any]

_PROGRAM = "./bundle/bin/qcrun"


@dataclass(frozen=True)
class TensorFacts:
    """An input or output, as the manifest describes it.

    Args:
        name: the ONNX model's.
        dtype: of its elements.
        shape: extents, the largest of open ones.
        qparams: None for real values.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    qparams: QParams | None


class RemoteBundle:
    """A bundle that was sent to a device.

    Args:
        path: the bundle's directory, here.
        device: name of the device, as `open_device` takes it.

    Attributes:
        manifest: contents of its manifest.json.
        inputs: what it takes.
        outputs: what it returns.
        device: where it lies.

    Raises:
        BundleError: it is no bundle, or lacks the program.
        DeviceError: the device cannot be reached.
    """

    def __init__(self, path: Path, device: str) -> None:
        self.manifest = read_manifest(path)
        if not (path / "bin" / "qcrun").is_file():
            raise BundleError(f"{path} has no program bin/qcrun", hint="copy the bundle again")
        self.inputs, self.outputs = (
            tuple(_facts(tensor) for tensor in self.manifest[kind]) for kind in ("inputs", "outputs")
        )
        self.device: Device = open_device(device)
        try:
            self.device.put(path, "bundle")
        except BaseException:
            self.device.close()
            raise

    def program(self, arguments: Sequence[str], inputs: Sequence[Array] = ()) -> Answer:
        """Run the bundle's program once.

        Args:
            arguments: of the program.
            inputs: bytes of the inputs, in the model's order; none to run on zeros.

        Raises:
            BundleError: it fails; with what it says.
        """
        names = [f"input{i}.bin" for i in range(len(inputs))]
        with tempfile.TemporaryDirectory(prefix="qcompile-") as folder:
            for name, array in zip(names, inputs, strict=True):
                array.tofile(Path(folder) / name)
                self.device.put(Path(folder) / name, name)
        answer = self.device.run([_PROGRAM, *arguments, *names])
        if answer.status:
            raise BundleError(f"{self.device.name}: the bundle does not run: {answer.reason()}", hint=_HINT)
        return answer

    def close(self) -> None:
        """Remove everything from the device."""
        self.device.close()

    def __enter__(self) -> RemoteBundle:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


_HINT = "compile the model for the device's processor, with another --target"


class RemoteEngine:
    """A bundle on a device that takes one sample after another; real values in and out, as `BundleEngine`.

    Args:
        path: the bundle's directory, here.
        device: name of the device.
        threads: threads to use there.

    Raises:
        BundleError, DeviceError: as `RemoteBundle`; a `BundleError` also where what the bundle keeps between runs, not
            its inputs, decides an extent.
    """

    def __init__(self, path: Path, device: str, threads: int = 1) -> None:
        self._bundle = RemoteBundle(path, device)
        self.manifest: dict[str, Any] = self._bundle.manifest
        self._symbols: list[dict[str, Any]] = self.manifest.get("symbols", [])
        missing = missing_allowed(self.manifest)
        self.inputs = tuple(
            InputSpec(t.name, "float32" if t.qparams is not None else t.dtype, shape, None, axes, t.name in missing)
            for t in self._bundle.inputs
            for shape, axes in [open_extents(t.name, t.shape, self._symbols)]
        )
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - see __exit__
        command = [_PROGRAM, "--stream", *(["--sizes"] if self._symbols else []), "--threads", str(threads)]
        try:
            self._refuse_kept(path)
            self._process = self._bundle.device.start(command, self._errors)
        except BaseException:
            self._errors.close()
            self._bundle.close()
            raise

    def _refuse_kept(self, path: Path) -> None:
        """Refuse a bundle in which later runs lack inputs: the program reads all inputs of every sample."""
        kept = next((symbol["name"] for symbol in self._symbols if "kept" in symbol), None)
        if kept is not None:
            problem = (
                f"{path}: the extent '{kept}' is kept from the first run on, and samples on a device read all inputs"
            )
            raise BundleError(problem, hint="leave --device out: the same bits are computed here")

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run once.

        Raises:
            DeviceError: the program on the device stopped.
            UsageError: an open extent is not the same everywhere, or not allowed.
        """
        assert self._process.stdin is not None
        sizes = chosen_sizes(self._symbols, inputs)
        try:
            self._process.stdin.write(np.asarray(sizes, np.int64).tobytes())
            for tensor in self._bundle.inputs:
                given = np.asarray(inputs[tensor.name])
                stored = quantize(given, tensor.qparams) if tensor.qparams is not None else given
                self._process.stdin.write(np.ascontiguousarray(stored, tensor.dtype).tobytes())
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._stopped() from None
        return {tensor.name: self._read(tensor) for tensor in self._bundle.outputs}

    def _read(self, tensor: TensorFacts) -> Array:
        shape = tensor.shape
        if self._symbols:  # the program tells what the sizes make of it
            shape = tuple(int(n) for n in np.frombuffer(self._bytes(8 * len(shape)), np.int64))
        data = self._bytes(int(np.prod(shape, dtype=np.int64)) * np.dtype(tensor.dtype).itemsize)
        array = np.frombuffer(data, tensor.dtype).reshape(shape)
        return dequantize(array, tensor.qparams) if tensor.qparams is not None else array.copy()

    def _bytes(self, wanted: int) -> bytes:
        assert self._process.stdout is not None
        data: bytes = self._process.stdout.read(wanted)
        if len(data) != wanted:
            raise self._stopped()
        return data

    def _stopped(self) -> DeviceError:
        status = processes.end(self._process)
        self._errors.seek(0)
        answer = Answer("", self._errors.read().decode("utf-8", "replace"), status)
        return DeviceError(f"{self._bundle.device.name}: the bundle stopped: {answer.reason()}", hint=_HINT)

    def __enter__(self) -> RemoteEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        processes.close(self._process)
        self._errors.close()
        self._bundle.close()


def _facts(tensor: Mapping[str, Any]) -> TensorFacts:
    scale = tensor["scale"]
    qparams = QParams((scale,), (tensor["zero_point"],), tensor["dtype"]) if scale is not None else None
    return TensorFacts(tensor["name"], tensor["dtype"], tuple(tensor["shape"]), qparams)
