"""The measures of `qcompile eval` against values known otherwise."""

from __future__ import annotations

import itertools
import re
import tracemalloc
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompile.errors import UsageError
from qcompile.evaluate.boxes import matched, overlaps
from qcompile.evaluate.evaluation import evaluate_samples
from qcompile.evaluate.intervals import paired_score, resampled, wilson
from qcompile.evaluate.labelled_set import Labelled
from qcompile.evaluate.measure import make_measure, measures
from qcompile.evaluate.transcripts import edits

from .observations import seen, value


def test_every_measure_is_found_and_documented() -> None:
    known = measures()
    assert set(known) >= {"top1", "topk", "agreement", "sqnr", "cosine", "psnr", "f1_boxes", "map", "wer", "cer"}
    assert set(known) >= {"mae", "rmse", "r2", "miou"}
    for name, cls in known.items():
        assert cls.name == name
        assert cls.__doc__


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("topp1", "unknown metric 'topp1'"),
        ("topk{k=0}", "k must be at least 1"),
        ("topk{n=3}", "has no option 'n'"),
        ("topk{k=2} x", "expected the end"),
        ("psnr{peak=-1}", "peak must be above 0"),
        ("user", "unknown metric 'user'"),
    ],
)
def test_a_faulty_metric_is_refused(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        make_measure(text)


def test_wilson_against_known_values() -> None:
    # Newcombe, "Two-sided confidence intervals for the single proportion", 1998, table I.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=1e-4)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert wilson(20, 20)[1] == 1.0


def test_classes() -> None:
    scores = [{"y": np.array([[0.1, 0.7, 0.2]])}, {"y": np.array([[0.5, 0.5, 0.0]])}, {"y": np.array([[3.0, 2, 1]])}]
    labels = [1, 1, 2]
    observations = [seen(o, label) for o, label in zip(scores, labels, strict=True)]
    assert value("top1", *observations) == pytest.approx(1 / 3)
    assert value("topk{k=2}", *observations) == pytest.approx(2 / 3)
    with pytest.raises(UsageError, match=r"topk\{k=3\}: the model has 3 classes, so every label is among the best 3"):
        value("topk{k=3}", *observations)
    same = [seen(o, None, scores[0]) for o in scores]
    assert value("agreement", *same) == pytest.approx(1 / 3)


def test_labels_and_outputs_that_do_not_fit() -> None:
    with pytest.raises(UsageError, match="not one of the 3 classes"):
        value("top1", seen({"y": np.zeros((1, 3))}, 3))
    with pytest.raises(UsageError, match="no class index"):
        value("top1", seen({"y": np.zeros((1, 3))}, "cat"))
    with pytest.raises(UsageError, match="not one score for each class"):
        value("top1", seen({"y": np.zeros((1, 3, 4))}, 0))
    with pytest.raises(UsageError, match="2 outputs"):
        value("top1", seen({"y": np.zeros((1, 3)), "z": np.zeros((1, 3))}, 0))
    with pytest.raises(UsageError, match="no output 'w'"):
        value("top1{output=w}", seen({"y": np.zeros((1, 3)), "z": np.zeros((1, 3))}, 0))
    assert value("top1{output=z}", seen({"y": np.zeros((1, 3)), "z": np.array([[0, 1, 0]])}, 1)) == 1.0


def test_decibels_are_those_of_the_worst_output() -> None:
    r = {"a": np.array([3.0, 4.0]), "b": np.array([10.0])}
    a = {"a": np.array([3.3, 3.6]), "b": np.array([10.0])}
    assert value("sqnr", seen(a, None, r)) == pytest.approx(20.0)
    assert value("sqnr{output=b}", seen(a, None, r)) == 200.0
    assert value("cosine", seen({"a": np.array([0.0, 1.0])}, None, {"a": np.array([1.0, 1.0])})) == pytest.approx(
        0.5**0.5
    )


@pytest.mark.parametrize("metric", ["sqnr", "cosine"])
def test_indices_are_no_signal_with_noise(metric: str) -> None:
    r = {"best": np.array([3, 4]), "y": np.array([10.0, 10.0])}
    a = {"best": np.array([4, 3]), "y": np.array([10.0, 10.0])}
    assert value(metric, seen(a, None, r)) == value(f"{metric}{{output=y}}", seen(a, None, r))
    assert value(f"{metric}{{output=best}}", seen(a, None, r)) < 20.0
    assert value(metric, seen({"best": a["best"]}, None, r)) < 20.0


def test_psnr_prefers_the_truth() -> None:
    image = {"y": np.full((1, 2, 2), 0.6)}
    assert value("psnr", seen(image, np.full((2, 2), 0.5), {"y": np.zeros((1, 2, 2))})) == pytest.approx(20.0)
    assert value("psnr{peak=255}", seen(image, None, {"y": np.full((1, 2, 2), 0.6 + 25.5)})) == pytest.approx(20.0)
    with pytest.raises(UsageError, match="needs labels or the float model"):
        value("psnr", seen(image))


def test_the_help_says_which_way_each_measure_goes() -> None:
    from qcompile.cli_accuracy import evaluate

    text = next(m.help for m in get_type_hints(evaluate, include_extras=True)["metric"].__metadata__)
    higher, lower = text.split("Lower is better: ")
    assert higher.startswith("Higher is better: ")
    for name, cls in measures().items():
        shown = "module:function" if name == "user" else name
        assert re.search(rf"\b{shown}\b", higher if cls.higher_is_better else lower), name


BOXES = np.array([[0, 0, 10, 10, 0.9, 1], [20, 20, 30, 30, 0.8, 1], [0, 0, 10, 10, 0.3, 2]], float)


def test_values_of_samples_with_and_without_labels_are_not_mixed() -> None:
    truth = np.linspace(0.0, 1.0, 16).reshape(4, 4)
    labels = [truth, None, truth, None]
    samples = [Labelled(f"s{i}", {"x": np.ones(1, np.float32)}, label) for i, label in enumerate(labels)]

    def ours(_: object) -> dict[str, np.ndarray]:
        return {"y": truth + 0.01}

    def theirs(_: object) -> dict[str, np.ndarray]:
        return {"y": truth + 0.001}

    with pytest.raises(UsageError, match="s1 has no label, but s0 has one") as caught:
        evaluate_samples(samples, make_measure("psnr"), ours, theirs)
    assert caught.value.hint == "give all samples a label, or none of them"
    with pytest.raises(UsageError, match="s1 has no label, but s2 has one"):
        evaluate_samples(samples[1:], make_measure("psnr"), ours, theirs)
    assert evaluate_samples(samples[::2], make_measure("psnr"), ours, theirs).difference is not None
    assert evaluate_samples(samples[1::2], make_measure("psnr"), ours, theirs).difference is None
    assert evaluate_samples(samples, make_measure("cosine"), ours, theirs).samples == 4, "looks at no label"


def test_boxes_overlap_and_match() -> None:
    assert overlaps(BOXES, BOXES)[0].tolist() == [1.0, 0.0, 1.0]
    assert overlaps(np.array([[0, 0, 2, 2.0]]), np.array([[1, 0, 3, 2.0]]))[0, 0] == pytest.approx(1 / 3)
    truth = np.array([[0, 0, 10, 9, 1], [0, 0, 10, 10, 1.0]])
    assert matched(BOXES, truth, 0.5).tolist() == [True, False, False]
    assert matched(BOXES[[0, 0]], truth, 0.5).tolist() == [True, True]
    assert matched(BOXES[[0, 0]], truth[:1], 0.5).tolist() == [True, False]


def test_f1_against_truth_and_float() -> None:
    truth = np.array([[0, 0, 10, 10, 1], [50, 50, 60, 60, 1.0]])
    assert value("f1_boxes", seen({"d": BOXES[None]}, truth)) == pytest.approx(2 * 1 / (2 * 1 + 1 + 1))
    assert value("f1_boxes", seen({"d": BOXES[None]}, None, {"d": BOXES[None, ::-1]})) == 1.0
    split = {"boxes": BOXES[:, :4], "scores": BOXES[:, 4], "classes": BOXES[:, 5]}
    assert value("f1_boxes", seen(split, None, {"d": BOXES})) == 1.0
    with pytest.raises(UsageError, match="are no boxes"):
        value("f1_boxes", seen({"d": np.zeros((1, 7))}, truth))
    nothing = seen({"d": np.zeros((0, 6))}, np.zeros((0, 5)))
    assert value("f1_boxes", nothing) == 1.0


def test_average_precision_by_hand() -> None:
    truth = np.array([[0, 0, 10, 10, 1], [20, 20, 30, 30, 1.0]])
    assert value("map", seen({"d": BOXES[:2]}, truth)) == pytest.approx(1.0)
    # Ranked right, wrong, right: precision 1 up to recall 1/2 (51 of the 101 places), 2/3 up to recall 1.
    ranked = np.array([[0, 0, 10, 10, 0.9, 1], [70, 70, 80, 80, 0.8, 1], [20, 20, 30, 30, 0.7, 1]])
    assert value("map{iou=0.5}", seen({"d": ranked}, truth)) == pytest.approx((51 + 50 * 2 / 3) / 101)
    # Of ten overlaps from 0.5 to 0.95, a box of overlap 0.8 counts at 0.5 to 0.75 for certain.
    shifted = np.array([[0, 0, 10, 7.9, 0.9, 1]])
    assert value("map", seen({"d": shifted}, truth[:1])) == pytest.approx(0.6)
    assert value("map", seen({"d": np.zeros((0, 6))}, truth)) == 0.0


def test_a_hundred_detections_of_a_class_count() -> None:
    """As in COCO's evaluation code: an image may have a hundred of each class."""
    wrong = np.array([[200 + i, 200, 300 + i, 300, 0.9 - i / 1000, 1] for i in range(100)])
    right = np.array([[0, 0, 10, 10, 0.1, 1], [20, 20, 30, 30, 0.05, 2.0]])
    truth = np.array([[0, 0, 10, 10, 1], [20, 20, 30, 30, 2.0]])
    late, earlier = np.concatenate([wrong, right]), np.concatenate([wrong[1:], right])
    assert value("map", seen({"d": late}, truth)) == pytest.approx((0 + 1) / 2)
    assert value("map", seen({"d": earlier}, truth)) == pytest.approx((1 / 100 + 1) / 2)
    assert value("map{most=0}", seen({"d": late}, truth)) == pytest.approx((1 / 101 + 1) / 2)
    assert value("map{most=1}", seen({"d": earlier}, truth)) == pytest.approx((0 + 1) / 2)
    for text, message in (
        ("map{most=-1}", "at least 0"),
        ("map{iou=50}", "at most 1"),
        ("f1_boxes{iou=50}", "at most"),
    ):
        with pytest.raises(UsageError, match=message):
            make_measure(text)


@settings(max_examples=60, deadline=None)
@given(st.text("abc", max_size=6), st.text("abc", max_size=6))
def test_edits_is_a_distance(first: str, second: str) -> None:
    distance = edits(first, second)
    assert distance == edits(second, first)
    assert (distance == 0) == (first == second)
    assert abs(len(first) - len(second)) <= distance <= max(len(first), len(second))
    if distance == 1:
        shorter, longer = sorted((first, second), key=len)
        dropped = [longer[:i] + longer[i + 1 :] for i in range(len(longer))]
        replaced = len(first) == len(second) and sum(a != b for a, b in zip(first, second, strict=True)) == 1
        assert shorter in dropped or replaced


def test_words_and_characters() -> None:
    assert edits("kitten", "sitting") == 3
    names = ["h", "i", " ", "o"]
    path = [1, 1, 0, 2, 0, 3, 3, 1, 4]  # with blank 0: "hi ho"
    scores = np.eye(5)[path][None]
    assert value("cer", seen({"y": scores}, "hi ho", None, names)) == 0.0
    assert value("cer", seen({"y": scores}, "hi hi", None, names)) == pytest.approx(1 / 5)
    assert value("wer", seen({"y": scores}, "hi hi", None, names)) == pytest.approx(1 / 2)
    assert value("cer", seen({"y": scores}, np.array([1, 2, 3, 1, 4]))) == 0.0
    assert value("cer", seen({"y": np.array([[7, 8]])}, [7, 9])) == pytest.approx(1 / 2)
    with pytest.raises(UsageError, match="not comparable"):
        value("wer", seen({"y": scores}, "hi ho"))
    with pytest.raises(UsageError, match="the label 7 is not comparable"):
        value("wer", seen({"y": scores}, np.int64(7), None, names))


def test_a_function_of_the_users(tmp_path: Path) -> None:
    module = tmp_path / "mine.py"
    module.write_text(
        "def score(outputs, label, reference):\n    return float(outputs['y'].sum() == label)\n"
        "def decode(outputs):\n    return outputs['raw'] * 2\n"
        "def broken(outputs, label, reference):\n    return outputs['missing']\n"
    )
    observations = [seen({"y": np.ones(3)}, 3), seen({"y": np.ones(3)}, 4)]
    assert value(f"{module}:score", *observations) == 0.5
    with pytest.raises(UsageError, match="raised KeyError"):
        value(f"{module}:broken", *observations)
    decoded = f'f1_boxes{{decode="{module}:decode"}}'
    assert value(decoded, seen({"raw": BOXES / 2}, None, {"raw": BOXES / 2})) == 1.0


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    generator = np.random.default_rng(0)
    measure = make_measure("sqnr")
    hits = 0
    for _ in range(60):
        signal, noise = generator.normal(size=(2, 80, 16))
        rows = [measure.row(seen({"y": s + 0.1 * n}, None, {"y": s})) for s, n in zip(signal, noise, strict=True)]
        estimate = measure.estimate(rows)
        hits += estimate.low <= 20.0 <= estimate.high
    assert 50 <= hits <= 60


def test_estimates_are_deterministic_and_differences_are_paired() -> None:
    measure = make_measure("psnr")
    generator = np.random.default_rng(1)
    base = generator.uniform(10, 40, 50)
    ours = [(v - 1.0, 1.0) for v in base]
    theirs = [(v, 1.0) for v in base]
    assert measure.estimate(ours) == measure.estimate(ours)
    difference = measure.difference(ours, theirs)
    assert (difference.value, difference.low, difference.high) == pytest.approx((-1.0, -1.0, -1.0))
    assert measure.better(2.0, 1.0)
    assert not make_measure("wer").better(2.0, 1.0)


def test_map_resamples_whole_images() -> None:
    measure = make_measure("map{iou=0.5}")
    truth = np.array([[0, 0, 10, 10, 1.0]])
    rows = [
        measure.row(seen({"d": BOXES[:1] if right else BOXES[1:2]}, truth))
        for right in itertools.islice(itertools.cycle([1, 0]), 20)
    ]
    estimate = measure.estimate(rows)
    assert estimate.low < estimate.value < estimate.high


NAN, INF = np.nan, np.inf
SCORES = [3.0, 2.0, 1.0]


def of(*rows: list[float]) -> list[dict[str, np.ndarray]]:
    return [{"y": np.array([row])} for row in rows]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("metric", ["top1", "topk{k=1}"])
def test_a_score_that_is_no_number_is_never_right(metric: str) -> None:
    """Whatever class it is at, and by both metrics alike; −inf masks a class."""
    for spoiled in ([NAN, 2.0, 1.0], [3.0, NAN, 1.0], [NAN, NAN, NAN], [INF, 2.0, 1.0]):
        (outputs,) = of(spoiled)
        assert [value(metric, seen(outputs, label)) for label in range(3)] == [0.0, 0.0, 0.0]
    (masked,) = of([-INF, 2.0, 1.0])
    assert [value(metric, seen(masked, label)) for label in range(3)] == [0.0, 1.0, 0.0]
    (ours, theirs) = of([NAN, 2.0, 1.0], [NAN, 2.5, 1.0])
    assert value(metric, seen(ours, 1, theirs)) == 1.0, "the float model has no number there either"


@pytest.mark.filterwarnings("error")
def test_what_is_no_number_does_not_agree() -> None:
    (good, part, nothing, masked) = of(SCORES, [3.0, 2.0, NAN], [NAN] * 3, [-INF, 2.0, 1.0])
    assert value("agreement", seen(part, None, good)) == 0.0
    assert value("agreement", seen(masked, None, masked)) == 1.0
    assert value("agreement", seen(good, None, nothing), seen(good, None, good)) == 1.0, "the first does not count"
    assert np.isnan(value("agreement", seen(nothing, None, nothing)))


@pytest.mark.filterwarnings("error")
def test_noise_where_answers_are_no_numbers() -> None:
    (good, part, masked, ours) = of([1.0, 1.0], [1.0, NAN], [-INF, 1.0], [-INF, 1.0])
    assert value("psnr", seen(part, None, good)) == pytest.approx(10 * np.log10(2))
    assert value("psnr", seen(good, None, masked)) == 100.0
    assert np.isnan(value("psnr", seen(good, np.array([NAN, NAN]))))
    assert value("cosine", seen(part, None, good)) == pytest.approx(0.0)
    assert value("cosine", seen(ours, None, masked)) == 1.0
    assert value("cosine", seen(of([0.0, NAN])[0], None, of([0.0, 0.0])[0])) == 0.0
    assert np.isnan(value("cosine", seen(good, None, of([NAN, NAN])[0])))


@pytest.mark.filterwarnings("error")
def test_steps_and_boxes_that_are_no_numbers() -> None:
    scores = np.log(np.eye(4)[[1, 0, 2]] + 1e-9)[None]
    assert value("cer", seen({"y": scores}, "ab", None, ["a", "b", "c"])) == 0.0
    scores[0, 1, 0] = NAN  # of the blank between
    assert value("cer", seen({"y": scores}, "ab", None, ["a", "b", "c"])) == 0.5
    assert value("cer", seen({"y": scores}, [1, 2])) == 0.5
    spoiled = np.array([[0, 0, INF, 10, 0.9, 1], [0, 0, 10, 10, 0.8, 1.0]])
    assert value("f1_boxes", seen({"d": spoiled}, None, {"d": spoiled[1:]})) == pytest.approx(2 / 3)
    assert value("f1_boxes", seen({"d": spoiled[1:]}, None, {"d": spoiled})) == 1.0


def test_a_float_model_that_does_not_fit_is_refused() -> None:
    for metric in ("agreement", "cosine", "sqnr", "psnr"):
        with pytest.raises(UsageError, match="the float model has no output 'y'"):
            value(metric, seen({"y": np.ones((1, 3))}, None, {"z": np.ones((1, 3))}))
        with pytest.raises(UsageError, match=r"'y' is \[1, 3\], that of the float model \[1, 4\]"):
            value(metric, seen({"y": np.ones((1, 3))}, None, {"y": np.ones((1, 4))}))


def test_one_sample_tells_no_interval() -> None:
    measure = make_measure("psnr")
    assert measure.estimate([(35.0, 1.0)]).low is None
    assert measure.difference([(35.0, 1.0)], [(36.0, 1.0)]).high is None
    truth = np.array([[0, 0, 10, 10, 1.0]])
    detector = make_measure("map{iou=0.5}")
    assert detector.estimate([detector.row(seen({"d": BOXES[:1]}, truth))]).low is None


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("metric", ["psnr", "cosine"])
def test_samples_that_do_not_count_leave_the_interval_as_it_is(metric: str) -> None:
    measure, nothing = make_measure(metric), [(0.0, 0.0)]
    rows, others = [(0.1, 1.0), (0.2, 1.0), (0.5, 1.0)], [(0.3, 1.0), (0.1, 1.0), (0.7, 1.0)]
    assert measure.estimate(nothing * 3 + rows) == measure.estimate(rows)
    found = measure.estimate(rows)
    assert found.low == pytest.approx(0.1)
    assert found.high == pytest.approx(0.5)
    assert measure.difference(rows + nothing, others + nothing) == measure.difference(rows, others)
    one = measure.estimate(nothing + rows[:1])
    assert (one.value, one.low, one.high) == (0.1, None, None)
    assert measure.difference(nothing + rows[:1], nothing + others[:1]).low is None


def test_a_sample_that_counts_for_one_output_counts() -> None:
    rows = [(0.5, 1.0, 0.0, 0.0), (0.4, 1.0, 0.9, 1.0), (0.0, 0.0, 0.8, 1.0)]
    found = make_measure("cosine").estimate(rows)
    assert found.value == pytest.approx(0.45)
    assert found.low == pytest.approx(0.4)
    assert found.high is not None
    assert np.isfinite(found.high)


def test_no_sample_that_tells_two_models_apart_is_no_certainty() -> None:
    rows = [(1.0, 1.0)] * 90 + [(0.0, 1.0)] * 10
    difference = make_measure("top1").difference(rows, rows)
    bound = 1.959963984540054**2 / (100 + 1.959963984540054**2)
    assert (difference.low, difference.high) == pytest.approx((-bound, bound))
    assert make_measure("wer").difference([(0, 5.0), (1, 5.0)], [(0, 5.0), (1, 5.0)]).low is None
    truth = np.array([[0, 0, 10, 10, 1.0]])
    detector = make_measure("map{iou=0.5}")
    row = [detector.row(seen({"d": BOXES[i : i + 1]}, truth)) for i in (0, 1, 0, 1)]
    assert detector.difference(row, row).low is None
    assert (detector.difference(row, row[1:] + row[:1]).low or 0.0) < 0.0


def likeliest(b: int, c: int, n: int, d: float) -> float:
    """Return the likeliest share of c where that of b is larger by d, found by trying all of a fine grid."""
    q = np.linspace(max(0.0, -d), (1 - d) / 2, 200_001)[1:-1]
    with np.errstate(divide="ignore"):
        return float(q[np.argmax(b * np.log(q + d) + c * np.log(q) + (n - b - c) * np.log1p(-2 * q - d))])


@pytest.mark.parametrize(("b", "c", "n"), [(12, 5, 60), (3, 9, 40), (1, 2, 25)])
def test_the_interval_of_paired_shares_is_where_the_score_says(b: int, c: int, n: int) -> None:
    for d in paired_score(b, c, n):
        q = likeliest(b, c, n, d)
        assert abs(b - c - n * d) / np.sqrt(n * (2 * q + d * (1 - d))) == pytest.approx(1.96, abs=2e-3)
    mirrored = paired_score(c, b, n)
    assert paired_score(b, c, n) == pytest.approx((-mirrored[1], -mirrored[0]))


def test_resamples_of_many_samples_take_little_memory() -> None:
    tracemalloc.start()
    try:
        make_measure("psnr").estimate([(30.0, 1.0)] * 20_000)
        assert tracemalloc.get_traced_memory()[1] < 60e6
    finally:
        tracemalloc.stop()
    table = np.random.default_rng(0).uniform(size=(3000, 2))
    whole = np.random.default_rng(7).multinomial(3000, np.full(3000, 1 / 3000), 1000) @ table
    assert np.allclose(resampled(lambda sums: sums[..., 0], table, 7), whole[:, 0])


@pytest.mark.parametrize(
    ("label", "hint"),
    [
        (3, "last is 2: subtract 1"),
        (7, "last is 2$"),
        (np.array([0, 1, 0]), r"labels.argmax\(axis=-1\)"),
        (np.float32(1.0), r"labels.astype\('int64'\)"),
        ("cat", "--labels FILE gives the names"),
        ("--5", "--labels FILE"),
    ],
)
def test_labels_that_are_no_class_say_what_to_do(label: object, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        value("top1", seen(of(SCORES)[0], label))
    assert re.search(hint, caught.value.hint or "")


def test_labels_in_texts_are_numbers_or_names_of_classes() -> None:
    (scores,) = of([1.0, 5.0, 2.0])
    assert value("top1", seen(scores, "01")) == 1.0
    names = ["Cat", "cat", "T-shirt/top"]
    assert value("top1", seen(scores, "cat", None, names)) == 1.0
    assert value("topk{k=2}", seen(scores, "t-shirt_top", None, names)) == 1.0
    with pytest.raises(UsageError, match="'CAT' is no class index") as caught:
        value("top1", seen(scores, "CAT", None, names))
    assert "several classes have this name" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("names", "best", "other", "none"),
    [
        (["1", "2", "3"], "2", "1", "0"),
        (["2018", "2019", "2020"], "2019", "2020", "1"),
        (["-1", "0", "1"], "0", "1", "2"),
    ],
)
def test_class_names_that_are_numbers_are_names(names: list[str], best: str, other: str, none: str) -> None:
    (scores,) = of([1.0, 5.0, 2.0])
    assert value("top1", seen(scores, best, None, names)) == 1.0
    assert value("top1", seen(scores, other, None, names)) == 0.0
    assert value("top1", seen(scores, 1, None, names)) == 1.0, "an integer is a place"
    with pytest.raises(UsageError, match=f"the label '{none}' is no class index") as caught:
        value("top1", seen(scores, none, None, names))
    assert f"class 0 is called '{names[0]}', so that numbers are taken for names" in (caught.value.hint or "")
    assert value("top1", seen(scores, "01", None, ["0", "1", "2"])) == 1.0, "name and place are one"


def test_texts_of_digits_stay_texts() -> None:
    """Labels of a reader of house numbers, of which one begins with zeros."""
    names = [str(digit) for digit in range(10)]
    scores = np.eye(11)[[1, 0, 1, 8]][None]  # blank 0: "007"
    assert value("cer", seen({"y": scores}, "007", None, names)) == 0.0
    assert value("cer", seen({"y": scores}, "1 1 8")) == 0.0, "indices, where no names are known"


def test_a_users_function_gets_classes_of_a_list_as_numbers(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "def same(outputs, label, reference):\n    return outputs['y'].argmax() == label\n"
    )
    metric = make_measure(f"{tmp_path}/mine.py:same")
    assert metric.title == f"{tmp_path}/mine.py:same"
    (scores,) = of(SCORES)
    assert metric.row(seen(scores, "0")) == (1.0, 1.0)
    assert metric.row(seen(scores, "cat", None, ["cat"])) == (1.0, 1.0)
    (tmp_path / "text.py").write_text("def zeros(outputs, label, reference):\n    return label.count('0')\n")
    assert value(f"{tmp_path}/text.py:zeros", seen(scores, "007")) == 2.0
    assert value(f"{tmp_path}/text.py:zeros", seen(scores, "-03")) == 1.0


def test_functions_that_are_not_there_or_fail_say_what_they_are_for(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'nosuch' cannot be imported") as caught:
        make_measure("nosuch:metric")
    assert "module:function" in (caught.value.hint or "")
    (tmp_path / "bad.py").write_text("def metric(outputs):\n    return 1\n")
    with pytest.raises(UsageError, match="raised TypeError") as caught:
        value(f"{tmp_path}/bad.py:metric", seen(of(SCORES)[0], 1))
    assert "called with (outputs, label, reference)" in (caught.value.hint or "")
    with pytest.raises(UsageError, match="the model has 2 outputs") as caught:
        value("top1", seen({"a": np.ones(3), "b": np.ones(3)}, 1))
    assert caught.value.hint == "choose one: metric{output=a}; outputs: a, b"
    with pytest.raises(UsageError, match="'cat' is no list of boxes"):
        value("map", seen({"d": BOXES}, "cat"))
