"""Where the accuracy rows find networks and labelled data: public packages, and one folder of converted models.

Nothing is downloaded. What is not installed raises MissingData, whose text says what to install.
"""

from __future__ import annotations

import importlib.util
import os
import wave
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Array = np.ndarray[Any, np.dtype[Any]]
Sample = dict[str, Array]
Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "models"
FOLDER_VARIABLE = "QCOMPILE_MODELS"


class MissingData(Exception):
    """Something that is not installed."""


@dataclass(frozen=True)
class Network:
    """One ONNX file of a row.

    Args:
        path: the file.
        calibration: as for `--calib`.
        shapes: of open inputs.
    """

    path: Path
    calibration: str
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """A task: networks, and how well a way to run them does it.

    Args:
        networks: by a name that `evaluate` uses.
        metric: what `evaluate` returns; higher is better.
        evaluate: from one runner per network to the metric.
        classes: whether the first output's largest entry is the answer, so that agreement means something.
    """

    networks: Mapping[str, Network]
    metric: str
    evaluate: Callable[[Mapping[str, Run]], float]
    classes: bool = False


def package_folder(name: str) -> Path:
    """Return where an installed package lies; it is not imported."""
    spec = importlib.util.find_spec(name)
    if spec is None:
        raise MissingData(f"the package {name} is not installed")
    if spec.origin is None:
        return Path(next(iter(spec.submodule_search_locations or ())))
    return Path(spec.origin).parent


def converted(name: str) -> Path:
    """Return a model that no package ships as ONNX; see --models."""
    folder = os.environ.get(FOLDER_VARIABLE)
    if not folder:
        raise MissingData(f"{name} has to be converted to ONNX first: give its folder with --models")
    path = Path(folder) / name
    if not path.is_file():
        raise MissingData(f"{path} does not exist")
    return path


def foolbox_photographs() -> list[Path]:
    """Return foolbox's ImageNet photographs; the label is the last number of each name."""
    files = sorted((package_folder("foolbox") / "data").glob("imagenet_*.jpg"))
    if not files:
        raise MissingData("foolbox holds no labelled photographs")
    return files


def sample_photographs() -> list[Image.Image]:
    """Return the colour photographs of scikit-image and scikit-learn."""
    science = package_folder("skimage") / "data"
    names = ["astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "motorcycle_right.png", "rocket.jpg"]
    learning = package_folder("sklearn") / "datasets" / "images"
    files = [*(science / name for name in names), learning / "china.jpg", learning / "flower.jpg"]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise MissingData(f"scikit-image and scikit-learn lack {', '.join(missing)}")
    return [Image.open(file).convert("RGB") for file in files]


def spoken_prompts() -> list[Path]:
    """Return recordings of one speaker, 8 kHz."""
    folders = sorted(Path("/usr/share/asterisk/sounds").glob("en_US*"))
    files = sorted(folders[0].glob("*.wav")) if folders else []
    if len(files) < 100:
        raise MissingData("Debian's asterisk-core-sounds-en-wav is not installed")
    return files


def samples_of(file: Path) -> tuple[Array, int]:
    """Return a recording, -1 to 1, and its rate in Hz."""
    with wave.open(str(file)) as recording:
        data = np.frombuffer(recording.readframes(recording.getnframes()), "<i2")
        return data.astype(np.float32) / 32768, recording.getframerate()


class Recorder:
    """Remembers what a runner was given and what it answered.

    Args:
        run: called for each sample.
    """

    def __init__(self, run: Run) -> None:
        self.calls: list[tuple[Mapping[str, Array], Mapping[str, Array]]] = []
        self._run = run

    def __call__(self, sample: Mapping[str, Array]) -> Mapping[str, Array]:
        answer = self._run(sample)
        # A runner may reuse its buffers, and a loop its state.
        self.calls.append(({n: np.array(a) for n, a in sample.items()}, {n: np.array(a) for n, a in answer.items()}))
        return answer


def sqnr_and_agreement(recorder: Recorder, run: Run) -> tuple[float, float]:
    """Return the SQNR of the worst output, dB, and how often the largest entry of the first is the same."""
    signal: dict[str, float] = {}
    noise: dict[str, float] = {}
    same = 0
    for given, expected in recorder.calls:
        answer = run(given)
        for name, exact in expected.items():
            wide = exact.astype(np.float64)
            error = np.nan_to_num(answer[name].astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0) - wide
            signal[name] = signal.get(name, 0.0) + float(np.square(wide).sum())
            noise[name] = noise.get(name, 0.0) + float(np.square(error).sum())
        first = next(iter(expected))
        same += int(np.argmax(answer[first]) == np.argmax(expected[first]))
    ratio = min(10 * np.log10(signal[name] / max(noise[name], 1e-30)) for name in signal)
    return float(ratio), same / len(recorder.calls)


def shuffled(items: Sequence[Sample], count: int) -> Iterator[Sample]:
    """Yield some items in a seeded order."""
    for index in np.random.default_rng(0).permutation(len(items))[:count].tolist():
        yield items[index]


def float_run(path: Path) -> Run:
    """Return ONNX Runtime's float network as a runner."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda sample: dict(zip(names, session.run(None, dict(sample)), strict=True))
