"""Models that run: a bundle through its loader, a graph in the interpreter."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.calibrate.sample import InputSpec, missing_allowed
from qcompile.quant.affine import dequantize, quantize
from qcompile.quant.qparams import QParams
from qcompile.runtime.self_test import whole

Array = npt.NDArray[Any]


class BundleEngine:
    """A bundle on this machine; takes and returns real values, also where the bundle keeps them quantized.

    Args:
        path: the bundle's directory.
        threads: threads to use.

    Attributes:
        manifest: contents of its manifest.json.
        inputs: what it takes, in real values.

    Raises:
        BundleError: it is damaged, or not for this machine.
    """

    def __init__(self, path: Path, threads: int = 1) -> None:
        from qcompile import runtime

        self._session = runtime.load(path, threads)
        self.manifest: dict[str, Any] = self._session.manifest
        self._to = {t.name: _qparams(t) for t in self._session.inputs}
        self._from = {t.name: _qparams(t) for t in self._session.outputs}
        missing = missing_allowed(self.manifest)
        self.inputs = tuple(
            InputSpec(t.name, "float32" if t.scale is not None else t.dtype, shape, None, axes, t.name in missing)
            for t in self._session.inputs
            for shape, axes in [self._session.open_axes(t)]
        )

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run once."""
        given = {n: quantize(a, q) if (q := self._to[n]) is not None else a for n, a in inputs.items()}
        results = whole(self._session, self._session.run(given))
        return {n: dequantize(a, q) if (q := self._from[n]) is not None else np.array(a) for n, a in results.items()}

    def __enter__(self) -> BundleEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session.close()


def _qparams(tensor: Any) -> QParams | None:
    return QParams((tensor.scale,), (tensor.zero_point,), tensor.dtype) if tensor.scale is not None else None
