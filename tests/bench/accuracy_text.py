"""Rows of networks that find and read text: PP-OCRv4's detector and recognizer on rendered pages and lines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
from accuracy_data import Array, Network, Row, Run, Sample, package_folder
from PIL import Image, ImageDraw, ImageFont

from qcompile.evaluate.boxes import matched
from qcompile.evaluate.transcripts import edits

LINES, PAGES = 400, 64
LETTERS = np.array(list("ABDEFGHLMNQRTYabdefghnqrty23456789"))
"""None that looks like another one, in another case or not."""
WIDTH, HEIGHT = 192, 48

INK, LEAST_PIXELS = 0.3, 16
"""Probability from which a pixel counts as text, and how many of them are a box: as its package has it."""


def _model(part: str) -> Path:
    return package_folder("rapidocr_onnxruntime") / "models" / f"ch_PP-OCRv4_{part}_infer.onnx"


def _normalized(image: Image.Image | Array) -> Sample:
    pixels = (np.asarray(image, np.float32) / 255 - 0.5) / 0.5
    return {"x": np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], np.float32)}


# -- reading --------------------------------------------------------------------------------------------------


def _line(random: np.random.Generator) -> tuple[Sample, str]:
    """Return a rendered word of letters and digits that fits the width, on noisy paper, and the word."""
    paper, ink = int(random.integers(150, 256)), int(random.integers(0, 100))
    font = ImageFont.load_default(size=int(random.integers(18, 36)))
    text = "".join(random.choice(LETTERS, int(random.integers(4, 15))))
    while font.getlength(text) > WIDTH - 8:
        text = text[:-1]
    line = Image.new("RGB", (WIDTH, HEIGHT), (paper, paper, paper))
    place = (int(random.integers(2, 6)), int(random.integers(0, 8)))
    ImageDraw.Draw(line).text(place, text, (ink, ink, ink), font=font)
    pixels = np.asarray(line, np.float32) + random.normal(0, 8, (HEIGHT, WIDTH, 3))
    return _normalized(np.clip(pixels, 0, 255)), text


def recognizer_samples() -> Iterator[Sample]:
    random = np.random.default_rng(1)
    return (_line(random)[0] for _ in range(64))


def _characters() -> list[str]:
    """Return what each class stands for: nothing, the file's own list, a space."""
    stored = {entry.key: entry.value for entry in onnx.load(_model("rec")).metadata_props}
    return ["", *stored["character"].splitlines(), " "]


def _read(outputs: Mapping[str, Array], characters: list[str]) -> str:
    """Return the text of the best path: repetitions and blanks left out, and spaces around it."""
    path = next(iter(outputs.values()))[0].argmax(axis=-1)
    firsts = np.concatenate([[True], path[1:] != path[:-1]])
    return "".join(characters[k] for k in path[firsts].tolist()).strip()


def _recognizer(metric: str, score: Callable[[list[str], list[str]], float]) -> Row:
    random = np.random.default_rng(0)
    lines = [_line(random) for _ in range(LINES)]
    characters = _characters()

    def evaluate(runs: Mapping[str, Run]) -> float:
        return score([_read(runs["network"](sample), characters) for sample, _ in lines], [text for _, text in lines])

    network = Network(_model("rec"), f"{__file__}:recognizer_samples", {"x": (1, 3, HEIGHT, WIDTH)})
    return Row({"network": network}, f"{metric}, {LINES} lines", evaluate)


def _exact(read: list[str], truth: list[str]) -> float:
    return float(np.mean([a == b for a, b in zip(read, truth, strict=True)]))


def _right_characters(read: list[str], truth: list[str]) -> float:
    """Return 1 minus the rate of wrong characters."""
    return 1.0 - sum(edits(a, b) for a, b in zip(read, truth, strict=True)) / sum(map(len, truth))


def recognizer() -> Row:
    return _recognizer("1 - CER", _right_characters)


def recognizer_lines() -> Row:
    return _recognizer("exact text", _exact)


# -- finding --------------------------------------------------------------------------------------------------


def page(width: int, height: int, seed: int) -> Sample:
    """Return a rendered page of text."""
    random = np.random.default_rng(seed)
    image = Image.new("RGB", (width, height), (235, 232, 224))
    for line in range(3):
        text = "".join(random.choice(list("abcdefghkmnrtuvwyABCDEFGH 0123456789"), 14))
        place = (int(random.integers(4, width // 3)), 8 + line * height // 3)
        ImageDraw.Draw(image).text(place, text, (20, 20, 30), font=ImageFont.load_default(size=height // 6))
    return _normalized(image)


def detector_samples() -> Iterator[Sample]:
    return (page(320, 192, seed) for seed in range(16))


def _regions(outputs: Mapping[str, Array]) -> Array:
    """Return [n, 6] bounding boxes of connected pixels of text, with score 1 and class 0."""
    ink = next(iter(outputs.values()))[0, 0] > INK
    found = []
    rows, columns = ink.shape
    for start in np.argwhere(ink).tolist():
        if not ink[start[0], start[1]]:
            continue
        ink[start[0], start[1]] = False
        region, pending = [], [start]
        while pending:
            row, column = pending.pop()
            region.append((column, row))
            for y, x in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
                if 0 <= y < rows and 0 <= x < columns and ink[y, x]:
                    ink[y, x] = False
                    pending.append([y, x])
        if len(region) >= LEAST_PIXELS:
            corners = np.array(region)
            found.append([*corners.min(axis=0), *(corners.max(axis=0) + 1), 1.0, 0.0])
    return np.array(found, np.float64).reshape(-1, 6)


def detector() -> Row:
    pages = [page(320, 192, seed) for seed in range(100, 100 + PAGES)]
    expected: list[Array] = []

    def evaluate(runs: Mapping[str, Run]) -> float:
        found = [_regions(runs["network"](sample)) for sample in pages]
        # The float network is evaluated first, and its boxes are the truth.
        if not expected:
            expected.extend(found)
        truths = [boxes[:, [0, 1, 2, 3, 5]] for boxes in expected]
        hits = sum(int(matched(f, t, 0.7).sum()) for f, t in zip(found, truths, strict=True))
        return 2 * hits / max(1, sum(map(len, found)) + sum(map(len, expected)))

    network = Network(_model("det"), f"{__file__}:detector_samples", {"x": (1, 3, 192, 320)})
    return Row({"network": network}, f"box F1, {PAGES} pages", evaluate)
