"""The self-test of a bundle: a made-up input, and what the compiled model must answer to it.

The compiler's interpreter gives the answer, and the manifest records it under `recipe.self_test`. On the device,

    python3 run.py --self-test

repeats the input and compares. Like `run.py` this file lies in every bundle and needs NumPy alone.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_FACTOR, _OFFSET, _MODULUS = 1664525, 1013904223, 2**32
_KEPT = 16


def inputs(tensors: Sequence[Any], seed: int) -> dict[str, np.ndarray[Any, Any]]:
    """Return the inputs of the self-test: a 32-bit linear congruential sequence, easy to repeat in any language.

    Formula:
        state' = (1664525 * state + 1013904223) mod 2^32; float: state / 2^31 - 1; 8-bit integers: the bits of
        state >> 24; others, which may be indices: state >> 31. The sequence starts with the successor of the seed
        and runs on from one input to the next.

    Args:
        tensors: the model's inputs, each with name, dtype and shape.
        seed: first state, 0 to 2^32 - 1.

    Source:
        Press et al., "Numerical Recipes", 2nd edition, chapter 7.1.
    """
    arrays = {}
    for tensor in tensors:
        dtype = np.dtype(tensor.dtype)
        states = _sequence(seed, int(np.prod(tensor.shape, dtype=np.int64)))
        seed = int(states[-1]) if states.size else seed
        arrays[tensor.name] = _values(states, dtype).reshape(tensor.shape)
    return arrays


def _values(states: np.ndarray[Any, Any], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    if dtype.kind == "f":
        return np.asarray(states / 2.0**31 - 1.0, dtype)
    if dtype.kind in "iu" and dtype.itemsize == 1:
        return np.asarray(states >> np.uint32(24), np.uint8).view(dtype)
    return np.asarray(states >> np.uint32(31), dtype)


def _sequence(state: int, count: int) -> np.ndarray[Any, Any]:
    """Return the next states; each turn of the loop doubles their number by a jump over those there are."""
    factor, offset = _FACTOR, _OFFSET
    states = np.array([(factor * state + offset) % _MODULUS], np.uint32)
    while states.size < count:
        states = np.concatenate([states, states * np.uint32(factor) + np.uint32(offset)])
        factor, offset = factor * factor % _MODULUS, (factor * offset + offset) % _MODULUS
    return states[:count]


def record(array: np.ndarray[Any, Any], tolerance: float) -> dict[str, Any]:
    """Return what the manifest keeps of the foreseen answer.

    Args:
        array: one output.
        tolerance: 0 keeps digests of all bits; else some evenly spaced values are kept and the largest
            magnitude, to which the tolerance is relative. What is not finite is kept as None, and not compared:
            float kernels may answer another number there.
    """
    if tolerance == 0:
        # The checksum is for C programs, which have no SHA-256 at hand.
        return {"sha256": _digest(array), "crc32": zlib.crc32(array.tobytes())}
    values = [float(f"{v:.7g}") if np.isfinite(v) else None for v in _spaced(array, _KEPT)]
    finite = np.abs(array[np.isfinite(array)].astype(np.float64))
    return {"values": values, "peak": float(f"{finite.max(initial=0.0):.7g}")}


def agrees(array: np.ndarray[Any, Any], kept: Mapping[str, Any], tolerance: float) -> bool:
    """Return whether an output is what was foreseen.

    Args:
        array: one output.
        kept: what `record` returned for it.
        tolerance: as for `record`.
    """
    if tolerance == 0:
        return bool(_digest(array) == kept["sha256"])
    wanted = np.array(kept["values"], np.float64)
    found = _spaced(array, wanted.size)
    known = np.isfinite(wanted)
    return bool(np.allclose(found[known], wanted[known], rtol=0, atol=tolerance * kept["peak"]))


def failures(session: Any) -> list[str]:
    """Run the self-test of a loaded bundle.

    Args:
        session: as `run.load` returns it.

    Returns:
        The names of the outputs that are not as foreseen; nothing if all is well.

    Raises:
        KeyError: the manifest has no self-test.
    """
    test = session.manifest["recipe"]["self_test"]
    given = inputs(session.inputs, test["seed"])
    session.reset()
    for _ in range(test.get("runs", 1)):
        outputs = whole(session, session.run(given))
    session.reset()
    return [name for name, kept in test["outputs"].items() if not agrees(outputs[name], kept, test["tolerance"])]


def whole(session: Any, outputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    """Return outputs as the library makes them: zeros follow the elements whose number the data decide.

    Args:
        session: as `run.load` returns it.
        outputs: what it answered.
    """
    found, shapes = dict(outputs), {tensor.name: tensor.shape for tensor in session.outputs}
    for part in session.manifest.get("counted", ()):
        name, axis = part["output"], part["axis"]
        missing = shapes[name][axis] - found[name].shape[axis]
        widths = [(0, missing if a == axis else 0) for a in range(found[name].ndim)]
        found[name] = np.pad(found[name], widths)
    return found


def _digest(array: np.ndarray[Any, Any]) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()


def _spaced(array: np.ndarray[Any, Any], count: int) -> np.ndarray[Any, Any]:
    """Return at most `count` evenly spaced elements, float64."""
    flat = array.reshape(-1)
    count = min(count, flat.size)
    return np.asarray(flat[np.arange(count) * flat.size // max(count, 1)], np.float64)
