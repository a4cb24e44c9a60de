"""Rows of image networks."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path

import numpy as np
from accuracy_data import (
    EXAMPLES,
    ROOT,
    Array,
    MissingData,
    Network,
    Row,
    Run,
    Sample,
    converted,
    foolbox_photographs,
    package_folder,
    sample_photographs,
)
from PIL import Image, ImageDraw, ImageFont

from qcompile.evaluate.boxes import matched, overlaps

FASHION = Path("/usr/share/datasets/fashion-mnist")
CENTRES = [(0.5, 0.5), (0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75)]


def top_1(run: Run, inputs: list[Sample], labels: Array) -> float:
    answers = [int(np.argmax(next(iter(run(sample).values())))) for sample in inputs]
    return float((np.array(answers) == labels).mean())


def efficientnet(places: Sequence[tuple[float, float]] = CENTRES) -> Row:
    """Return the row over crops of the photographs at some places and their mirror images."""
    files = foolbox_photographs()

    def evaluate(runs: Mapping[str, Run]) -> float:
        inputs, labels = [], []
        for file in files:
            image = Image.open(file).convert("RGB")
            scale = 256 / min(image.size)
            image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
            for across, down in places:
                left, top = round((image.width - 224) * across), round((image.height - 224) * down)
                pixels = np.asarray(image.crop((left, top, left + 224, top + 224)), np.float32)
                for view in (pixels, pixels[:, ::-1]):
                    inputs.append({"image": np.ascontiguousarray(((view - 127) / 128).transpose(2, 0, 1)[None])})
                    labels.append(int(file.stem.split("_")[-1]))
        return top_1(runs["network"], inputs, np.array(labels))

    network = Network(EXAMPLES / "efficientnet_lite0.onnx", str(ROOT / "examples" / "images"))
    return Row({"network": network}, f"top-1, {2 * len(files) * len(places)} crops", evaluate, classes=True)


def efficientnet_fine() -> Row:
    """Return the row over 25 places of each photograph instead of five."""
    return efficientnet([(x / 4, y / 4) for x in range(5) for y in range(5)])


def _fashion_images(split: str) -> Array:
    path = FASHION / f"{split}-images-idx3-ubyte.gz"
    if not path.is_file():
        raise MissingData("Debian's dataset-fashion-mnist is not installed")
    pixels = np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=16).reshape(-1, 1, 1, 28, 28)
    return ((pixels / np.float32(255) - np.float32(0.286)) / np.float32(0.353)).astype(np.float32)


def fashion_samples() -> Iterator[Sample]:
    for image in _fashion_images("train")[: 64 * 97 : 97]:
        yield {"input": image}


def fashion(name: str) -> Row:
    tests = _fashion_images("t10k")
    stored = gzip.decompress((FASHION / "t10k-labels-idx1-ubyte.gz").read_bytes())
    labels = np.frombuffer(stored, np.uint8, offset=8).astype(np.int64)

    def evaluate(runs: Mapping[str, Run]) -> float:
        return top_1(runs["network"], [{"input": image} for image in tests], labels)

    network = Network(EXAMPLES / f"fashion_{name}.onnx", f"{__file__}:fashion_samples")
    return Row({"network": network}, "top-1, 10,000 images", evaluate, classes=True)


def _text_lines() -> tuple[list[Sample], Array]:
    """Return rendered lines of digits and letters, half of them upside down."""
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
        inputs.append({"x": ((pixels / 255 - 0.5) / 0.5).transpose(2, 0, 1)[None].astype(np.float32)})
        labels.append(index % 2)
    return inputs, np.array(labels)


def ppocr_samples() -> list[Sample]:
    return _text_lines()[0][:64]


def ppocr() -> Row:
    model = package_folder("rapidocr_onnxruntime") / "models" / "ch_ppocr_mobile_v2.0_cls_infer.onnx"
    inputs, labels = _text_lines()

    def evaluate(runs: Mapping[str, Run]) -> float:
        return top_1(runs["network"], inputs[64:], labels[64:])

    network = Network(model, f"{__file__}:ppocr_samples", {"x": (1, 3, 48, 192)})
    return Row({"network": network}, "top-1, 500 lines", evaluate, classes=True)


# -- detection ------------------------------------------------------------------------------------------------

SIDE, STRIDES, BINS = 416, (8, 16, 32), 11


def _for_detector(image: Image.Image) -> Sample:
    pixels = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR), np.float32)[:, :, ::-1]
    pixels = (pixels - np.array([103.53, 116.28, 123.675])) / np.array([57.375, 57.12, 58.395])
    return {"input_1:0": np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], np.float32)}


def _views(image: Image.Image) -> Iterator[Image.Image]:
    """Yield a photograph, its mirror image, and crops of it."""
    yield image
    yield image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    width, height = image.size
    for across, down in CENTRES:
        left, top = round(0.3 * width * across), round(0.3 * height * down)
        yield image.crop((left, top, left + round(0.7 * width), top + round(0.7 * height)))


def many_views(image: Image.Image) -> Iterator[Image.Image]:
    """Yield a photograph, crops of it in two sizes at nine places each, and their mirror images."""
    width, height = image.size
    crops = [image]
    for size in (0.8, 0.6):
        for across, down in product((0.0, 0.5, 1.0), repeat=2):
            left, top = round((1 - size) * width * across), round((1 - size) * height * down)
            crops.append(image.crop((left, top, left + round(size * width), top + round(size * height))))
    for crop in crops:
        yield crop
        yield crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def nanodet_samples() -> Iterator[Sample]:
    for file in foolbox_photographs():
        for image in list(_views(Image.open(file).convert("RGB")))[:4:2]:
            yield _for_detector(image)


def _boxes(outputs: Mapping[str, Array]) -> Array:
    """Return [n, 6] boxes above a score of 0.4, after suppression within each class."""
    found = []
    for stride in STRIDES:
        places = (SIDE // stride) ** 2
        scores = next(a for a in outputs.values() if a.shape[1:] == (places, 80))[0]
        sides = next(a for a in outputs.values() if a.shape[1:] == (places, 4 * BINS))[0].reshape(-1, 4, BINS)
        weights = np.exp(sides - sides.max(axis=-1, keepdims=True))
        distance = (weights / weights.sum(axis=-1, keepdims=True)) @ np.arange(BINS) * stride
        row, column = np.divmod(np.arange(places), SIDE // stride)
        x, y = (column + 0.5) * stride, (row + 0.5) * stride
        corners = np.stack([x - distance[:, 0], y - distance[:, 1], x + distance[:, 2], y + distance[:, 3]], 1)
        place, kind = np.nonzero(scores > 0.4)
        found.append(np.column_stack([corners[place], scores[place, kind], kind]))
    boxes = np.concatenate(found).astype(np.float64)
    boxes = boxes[np.argsort(-boxes[:, 4], kind="stable")]
    kept: list[int] = []
    for index in range(len(boxes)):
        same = [k for k in kept if boxes[k, 5] == boxes[index, 5]]
        if not same or overlaps(boxes[index : index + 1], boxes[same]).max() <= 0.6:
            kept.append(index)
    return boxes[kept]


def nanodet(views: Callable[[Image.Image], Iterator[Image.Image]] = _views) -> Row:
    """Return the row over views of the photographs."""
    path = converted("nanodet.onnx")
    inputs = [_for_detector(view) for image in sample_photographs() for view in views(image)]
    expected: list[Array] = []

    def evaluate(runs: Mapping[str, Run]) -> float:
        found = [_boxes(runs["network"](sample)) for sample in inputs]
        # The float network is evaluated first, and its boxes are the truth.
        if not expected:
            expected.extend(found)
        hits = sum(int(matched(f, t[:, [0, 1, 2, 3, 5]], 0.5).sum()) for f, t in zip(found, expected, strict=True))
        return 2 * hits / max(1, sum(map(len, found)) + sum(map(len, expected)))

    foolbox_photographs()
    network = Network(path, f"{__file__}:nanodet_samples")
    return Row({"network": network}, f"box F1, {len(inputs)} views", evaluate)


def nanodet_fine() -> Row:
    """Return the row over 38 views of each photograph instead of seven."""
    return nanodet(many_views)


# -- demosaicking ---------------------------------------------------------------------------------------------

CROP, MARGIN = 192, 31


def _mosaic(pixels: Array) -> Array:
    """Return what a sensor with a Bayer pattern (G R / B G) sees of [3, h, w]."""
    seen = np.zeros_like(pixels)
    seen[0, 0::2, 1::2] = pixels[0, 0::2, 1::2]
    seen[1, 0::2, 0::2] = pixels[1, 0::2, 0::2]
    seen[1, 1::2, 1::2] = pixels[1, 1::2, 1::2]
    seen[2, 1::2, 0::2] = pixels[2, 1::2, 0::2]
    return seen


def _squares(image: Image.Image) -> Iterator[Array]:
    """Yield crops as [3, 192, 192], 0 to 1."""
    for across, down in CENTRES:
        left, top = round((image.width - CROP) * across), round((image.height - CROP) * down)
        crop = image.crop((left, top, left + CROP, top + CROP))
        yield (np.asarray(crop, np.float32) / 255).transpose(2, 0, 1)


def demosaicnet_samples() -> Iterator[Sample]:
    for file in foolbox_photographs():
        image = Image.open(file).convert("RGB")
        for pixels in list(_squares(image))[:3]:
            yield {"mosaic": _mosaic(pixels)[None]}


def demosaicnet() -> Row:
    path = converted("demosaicnet.onnx")
    targets = [pixels for image in sample_photographs() for pixels in _squares(image)]

    def evaluate(runs: Mapping[str, Run]) -> float:
        errors = []
        for pixels in targets:
            answer = next(iter(runs["network"]({"mosaic": _mosaic(pixels)[None]}).values()))[0]
            wanted = pixels[:, MARGIN:-MARGIN, MARGIN:-MARGIN]
            errors.append(-10 * np.log10(max(float(np.mean((np.clip(answer, 0, 1) - wanted) ** 2)), 1e-12)))
        return float(np.mean(errors))

    foolbox_photographs()
    return Row({"network": Network(path, f"{__file__}:demosaicnet_samples")}, "PSNR dB, 40 crops", evaluate)
