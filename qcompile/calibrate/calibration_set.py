"""The calibration set as the rest of the compiler sees it: checked samples, a digest, notes for the user."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from functools import cache, cached_property
from pathlib import Path

from qcompile.calibrate.in_memory import InMemory
from qcompile.calibrate.preprocess import Preprocess
from qcompile.calibrate.reader import Reader, Request
from qcompile.calibrate.sample import InputSpec, Sample, check_sample
from qcompile.calibrate.sample_summary import SampleSummary
from qcompile.errors import CalibrationError
from qcompile.ir.graph import Graph
from qcompile.ir.regions import total_macs

_MACS, _MOST = 2e8, 8
"""Multiply-accumulates that a pass over the samples may take where these are many, and how many times as many."""


class SampleIterator(Iterator[Sample]):
    """One pass over a calibration set, which knows how long it is going to be.

    Args:
        samples: checked.
        size: how many there are, or None where it is not known before the end.
    """

    def __init__(self, samples: Iterator[Sample], size: int | None) -> None:
        self._samples = samples
        self.size = size

    def __next__(self) -> Sample:
        return next(self._samples)


class CalibrationSet:
    """Yields the samples of a reader, each checked against the model's inputs.

    It can be iterated several times, with the same result.

    Args:
        reader: where the samples come from.

    Attributes:
        source: what the user gave.
        notes: what was chosen for the user, one sentence each.
        preprocess: the resolved image steps, or None where the samples are no images.
        count: samples of the latest complete pass.
        summary: what the latest complete pass showed of them.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.source = reader.source
        self.notes = tuple(reader.notes)
        self.preprocess: Preprocess | None = reader.preprocess
        self.count: int | None = None
        self.summary: SampleSummary | None = None
        self._digest: str | None = None

    @property
    def size(self) -> int | None:
        """Number of samples; of a reader that does not know it, None until they were read to the end once."""
        known = self._reader.size()
        return self.count if known is None else known

    def __iter__(self) -> SampleIterator:
        return SampleIterator(self._checked(), self.size)

    def _checked(self) -> Iterator[Sample]:
        digest = hashlib.sha256()
        inputs, kept = self._reader.request.inputs, self._reader.request.kept
        summary = SampleSummary()
        for where, given in self._reader:
            sample = check_sample(given, inputs, where, kept)
            for spec in inputs:
                digest.update(f"{spec};".encode())
                digest.update(sample[spec.name].data)
            summary.include(sample)
            yield sample
        if not summary.count:
            raise CalibrationError(f"'{self.source}' gives no calibration sample")
        self.count, self.summary, self._digest = summary.count, summary, digest.hexdigest()

    @cached_property
    def spares(self) -> list[Sample]:
        """Samples that were set aside: iterating does not give them, nor is anything of them in `summary`."""
        inputs, kept = self._reader.request.inputs, self._reader.request.kept
        return [check_sample(given, inputs, where, kept) for where, given in self._reader.spares()]

    def digest(self) -> str:
        """Return the SHA-256 of all samples as the model gets them: names, types, shapes and bytes in order.

        Known after a complete pass; else one is made.
        """
        if self._digest is None:
            for _ in self:
                continue
        if self._digest is None:
            raise CalibrationError(f"'{self.source}' was not read to its end")
        return self._digest


@cache
def readers() -> dict[str, type[Reader]]:
    """Return every reader by name."""
    from qcompile.calibrate.listing import definitions

    return {cls.name: cls for cls in definitions(Reader)}  # type: ignore[type-abstract]


def usual_count(graph: Graph, least: int = 64) -> int:
    """Return how many calibration samples to use where nobody says: more of a network that takes little time.

    Formula:
        min(max(2e8 / MACs, least), 8 · least)

    Samples of such networks are small, too: a frame of sound or one word's state says less than a photograph. Where
    caches grow a sample is a place of a sequence, and their number how long it becomes.

    Args:
        graph: the network.
        least: number for all others.
    """
    if any(state.in_place for state in graph.states):
        return least
    return min(max(int(_MACS / max(total_macs(graph), 1)), least), _MOST * least)


def open_calibration(
    source: str | Path | Iterable[object],
    inputs: Iterable[InputSpec],
    preprocess: Preprocess | None = None,
    *,
    limit: int | None = None,
    crops_per_image: int | None = None,
    spare: int = 0,
    kept: Iterable[str] = (),
    leads: bool = False,
    wrap: Callable[[Reader], CalibrationSet] = CalibrationSet,
    purpose: str = "calibration",
) -> CalibrationSet:
    """Open the user's calibration samples.

    Args:
        source: a folder of images, a .npy or .npz file or a folder of these, `module:function`, or an
            iterable of {input name: array}.
        inputs: what the model takes, as `graph_inputs` says.
        preprocess: how photographs become tensors; what it leaves open is chosen and noted.
        limit: largest number of samples.
        crops_per_image: samples to cut from each photograph.
        spare: samples beyond the limit to set aside, where there are as many.
        kept: inputs of the model that no sample gives, because its own outputs supply them.
        leads: whether what `wrap` makes knows samples that do no more than lead to others in a sequence.
        wrap: makes the set of a reader.
        purpose: of the samples, for messages.

    Raises:
        CalibrationError: the source is missing, empty, ambiguous, or does not fit the model.
    """
    request = Request(tuple(inputs), preprocess or Preprocess(), limit, crops_per_image, spare, tuple(kept), leads)
    if not isinstance(source, (str, Path)):
        return wrap(InMemory(source, request))
    text = str(source)
    claiming = [cls for cls in readers().values() if cls.claims(text)]
    if len(claiming) == 1:
        return wrap(claiming[0](text, request))
    if claiming:
        names = " and ".join(cls.name for cls in claiming)
        hint = "put each kind of files in a folder of its own"
        raise CalibrationError(f"'{text}' fits several readers: {names}", hint=hint)
    raise _nothing_there(Path(source), purpose)


def _nothing_there(path: Path, purpose: str) -> CalibrationError:
    kinds = "give a folder of images, .npy or .npz files, or module:function"
    if purpose == "evaluation":
        kinds = "give a folder of images by class, a list of files and labels, .npz with `labels`, or module:function"
    if not path.exists():
        return CalibrationError(f"{purpose} set '{path}' does not exist", hint=kinds)
    if path.is_file():
        return CalibrationError(f"{purpose} file '{path}' is neither an image nor an array", hint=kinds)
    if not path.is_dir():
        return CalibrationError(f"{purpose} set '{path}' is a pipe or a device, not a file or a folder", hint=kinds)
    found = sorted({p.suffix or "files without suffix" for p in path.iterdir() if p.is_file()})
    if not found:
        return CalibrationError(f"{purpose} folder '{path}' is empty", hint=kinds)
    return CalibrationError(f"{purpose} folder '{path}' holds no image or array, only {', '.join(found)}", hint=kinds)
