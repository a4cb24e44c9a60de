"""One line per real network, whatever its kind: `python tests/bench/breadth.py [row ...]`.

    nodes    of the ONNX file
    float    largest difference of the float bundle from ONNX Runtime, relative to the largest value of the output
    metric   of the float network and of its INT8 bundle, compiled by the plain command; for networks without labelled
             data the SQNR of the worst output
    MiB      libmodel.so of the INT8 bundle for rpi4
    ms, ORT  one inference on this machine, one thread, processor time, beside ONNX Runtime's static INT8 (QDQ, per
             channel, the same calibration samples; an already quantized file as it is); runs interleaved, medians
    rpi4     the INT8 network for a Raspberry Pi 4, run under qemu and, lowered for this machine, here: "bits" where
             every output is the same, else the largest relative difference (of parts that stay in float)

Networks and data are those of accuracy.py, which says where they come from; besides, PP-OCRv4's detector and
recognizer (PyPI rapidocr-onnxruntime 1.4.4), silero-vad's LSTM file, and EfficientNet-Lite0 as ONNX Runtime quantizes
it, in QDQ and in QOperator form; and those of packaged_models.py.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import accuracy
import accuracy_data
import accuracy_sequence
import accuracy_text
import accuracy_vision
import numpy as np
import onnx
import onnxruntime
import packaged_models
from accuracy_data import MissingData, Network, Recorder, Row, Run, Sample, sqnr_and_agreement

from qcompile import driver, runtime, targets
from qcompile.bundle import build_executable, write_bundle
from qcompile.calibrate.calibration_set import open_calibration
from qcompile.calibrate.preprocess import Preprocess
from qcompile.calibrate.sample import graph_inputs
from qcompile.ir.program import Program
from qcompile.lower import lower_graph
from qcompile.onnx_import import import_onnx

ROUNDS, RUNS = 15, 3
COMPARED = 3
"""Samples on which outputs are compared."""


def sequence_samples() -> Iterator[Sample]:
    """Yield a second of sound at a time, in frames with their context, for the file with an LSTM node."""
    random = np.random.default_rng(0)
    rest = {name: np.zeros((1, 1, 128), np.float32) for name in "hc"}
    for _ in range(16):
        loudness = np.repeat(random.uniform(0, 0.3, 31), 512).astype(np.float32)
        noise = loudness * random.standard_normal(31 * 512).astype(np.float32)
        sound = np.concatenate([np.zeros(64, np.float32), noise])
        frames = np.stack([sound[k * 512 : k * 512 + 576] for k in range(31)])
        yield {"input": frames, **rest}


def _unlabelled(network: Network) -> Row:
    """Return a row whose metric is the SQNR of the worst output, dB, against what is evaluated first: float."""
    recorders: list[Recorder] = []

    def evaluate(runs: Mapping[str, Run]) -> float:
        if recorders:
            return sqnr_and_agreement(recorders[0], runs["network"])[0]
        recorders.append(Recorder(runs["network"]))
        for sample in _samples(network):
            recorders[0](sample)
        return math.inf

    return Row({"network": network}, "SQNR dB", evaluate)


def _quantized_efficientnet(form: str) -> Row:
    """Return the row of EfficientNet-Lite0 as ONNX Runtime's tool quantizes it."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    row = accuracy_vision.efficientnet()
    network = row.networks["network"]
    folder = Path(tempfile.mkdtemp(prefix="quantized-"))
    samples = iter(list(_samples(network, 16)))

    class Reader(CalibrationDataReader):
        def get_next(self) -> Any:
            return next(samples, None)

    quant_pre_process(str(network.path), str(folder / "ready.onnx"), skip_symbolic_shape=True)
    path = folder / f"efficientnet_lite0_{form.lower()}.onnx"
    quantize_static(str(folder / "ready.onnx"), str(path), Reader(), quant_format=QuantFormat[form], per_channel=True,
                    activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8)  # fmt: skip
    return Row({"network": Network(path, network.calibration)}, row.metric, row.evaluate, classes=True)


def silero_sequence() -> Row:
    folder = accuracy_data.package_folder("silero_vad")
    path = folder / "data" / "silero_vad_16k_sequence.onnx"
    return _unlabelled(Network(path, f"{__file__}:sequence_samples", {"input": (31, 576)}))


ROWS: dict[str, Callable[[], Row]] = {
    "minilm": accuracy_sequence.minilm,
    "silero": accuracy_sequence.silero,
    "silero_lstm": silero_sequence,
    "ppocr_cls": accuracy_vision.ppocr,
    "ppocr_det": accuracy_text.detector,
    "ppocr_rec": accuracy_text.recognizer,
    "nanodet": accuracy_vision.nanodet,
    "g2p": accuracy_sequence.g2p,
    "demosaicnet": accuracy_vision.demosaicnet,
    "efficientnet_lite0": accuracy_vision.efficientnet,
    "efficientnet_qdq": lambda: _quantized_efficientnet("QDQ"),
    "efficientnet_qop": lambda: _quantized_efficientnet("QOperator"),
    "fashion_mobilenetv2": lambda: accuracy_vision.fashion("mobilenetv2"),
    "fashion_resnet14": lambda: accuracy_vision.fashion("resnet14"),
    "fashion_hard": lambda: accuracy_vision.fashion("hard"),
    **packaged_models.rows(_unlabelled),
}


def _samples(network: Network, count: int = 16) -> list[Sample]:
    graph = import_onnx(network.path, network.shapes)
    steps = Preprocess.parse("resize=256,crop=224,mean=127,std=128") if Path(network.calibration).is_dir() else None
    found = open_calibration(network.calibration, graph_inputs(graph), steps, limit=count)
    return list(itertools.islice(found, count))


def is_quantized(path: Path) -> bool:
    kinds = {node.op_type for node in onnx.load(path).graph.node}
    return any(kind.startswith("QLinear") or kind == "QuantizeLinear" for kind in kinds)


def relative(actual: Mapping[str, Any], expected: Mapping[str, Any]) -> float:
    """Return the largest difference of any output, relative to that output's largest value."""
    return max(
        float(np.abs(np.asarray(actual[n], np.float64) - e).max() / max(np.abs(e).max(), 1e-30))
        for n, e in expected.items()
    )


def float_difference(network: Network, samples: list[Sample], folder: Path) -> float:
    driver.compile(network.path, precision="fp32", input_shapes=network.shapes, output=folder)
    run = accuracy_data.float_run(network.path)
    with runtime.load(folder, 1) as session:
        return max(relative(session.run(sample), run(sample)) for sample in samples[:COMPARED])


def prepared_peer(network: Network, samples: list[Sample], folder: Path) -> Path:
    """Return ONNX Runtime's INT8 form of a network."""
    if is_quantized(network.path):
        return network.path
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    model = onnx.load(network.path)
    for entry in model.graph.input:
        for dim, extent in zip(entry.type.tensor_type.shape.dim, network.shapes.get(entry.name, ()), strict=False):
            dim.dim_value = extent
    onnx.save(model, folder / "fixed.onnx")
    rest = iter(samples)

    class Reader(CalibrationDataReader):
        def get_next(self) -> Any:
            return next(rest, None)

    quantize_static(str(folder / "fixed.onnx"), str(folder / "peer.onnx"), Reader(), quant_format=QuantFormat.QDQ,
                    per_channel=True, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8)  # fmt: skip
    return folder / "peer.onnx"


def interleaved_ms(runs: list[Run], sample: Sample) -> list[float]:
    """Return the median over rounds of each runner's quickest run."""
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(ROUNDS):
        for run, record in zip(runs, times, strict=True):
            spans = []
            for _ in range(RUNS):
                start = time.process_time_ns()
                run(sample)
                spans.append((time.process_time_ns() - start) / 1e6)
            record.append(min(spans))
    return [statistics.median(record) for record in times]


def latency(network: Network, bundle: Path, samples: list[Sample], folder: Path) -> str:
    with runtime.load(bundle, 1) as session:
        try:
            peer = accuracy_data.float_run(prepared_peer(network, samples, folder))
            peer(samples[0])
        except Exception as error:  # whatever the peer's tools raise is its result
            (own,) = interleaved_ms([session.run], samples[0])
            return f"{own:8.3f}   fails ({type(error).__name__})"
        own, other = interleaved_ms([session.run, peer], samples[0])
    return f"{own:8.3f} {other:8.3f}"


def for_rpi4(network: Network) -> tuple[Program, Program]:
    """Compile a network for the board, as the plain command does; return it and the same graph's host program."""
    settings = {"target": "rpi4", "calib": network.calibration, "input_shapes": dict(network.shapes)}
    config = driver.resolve_config(network.path, None, settings)
    context, _, graph = driver.prepare(network.path, config, None, None)
    simplified, _ = driver.simplify(graph, config, context, ())
    final, _ = driver.to_precision(simplified, config, context, ())
    return driver.lower(final, context, config.jobs, None), lower_graph(final, targets.load("host"))


def emulated(program: Program, sample: Sample, folder: Path) -> dict[str, Any]:
    """Run a program under qemu."""
    emulator = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    if emulator is None:
        raise MissingData("qemu-aarch64 is not installed (apt install qemu-user)")
    (folder / "model").write_bytes(build_executable(program))
    (folder / "model").chmod(0o755)
    files = []
    for number, tensor in enumerate(program.inputs):
        np.save(folder / f"in{number}.npy", np.asarray(sample[tensor.name], tensor.dtype))
        files.append(str(folder / f"in{number}.npy"))
    command = [emulator, "-cpu", "cortex-a72", str(folder / "model"), *files, "--output", str(folder / "out.bin")]
    subprocess.run(command, check=True, capture_output=True)
    data, results, start = (folder / "out.bin").read_bytes(), {}, 0
    for tensor in program.outputs:
        kind = np.dtype(tensor.dtype)
        count = int(np.prod(tensor.shape)) * kind.itemsize
        results[tensor.name] = np.frombuffer(data[start : start + count], kind).reshape(tensor.shape)
        start += count
    return results


def on_rpi4(arm: Program, host: Program, sample: Sample, folder: Path) -> str:
    write_bundle(host, folder / "same")
    with runtime.load(folder / "same", 1) as session:
        expected = {name: np.array(a) for name, a in session.run(sample).items()}
    actual = emulated(arm, sample, folder)
    if all(np.array_equal(actual[name], array, equal_nan=True) for name, array in expected.items()):
        return "bits"
    return f"{relative(actual, expected):.0e}"


def measure(name: str, row: Row, folder: Path) -> None:
    """Print the lines of a row, one per network of it."""
    exact = row.evaluate({part: accuracy_data.float_run(n.path) for part, n in row.networks.items()})
    made = {p: accuracy.compiled(n, folder / f"{p}-int8", []) for p, n in row.networks.items()}
    actual = row.evaluate({part: runtime.load(item.folder, 1).run for part, item in made.items()})
    for part, network in row.networks.items():
        place = folder / part
        place.mkdir()
        samples = _samples(network)
        quantized = is_quantized(network.path)
        difference = "already" if quantized else f"{float_difference(network, samples, place / 'float'):.0e}"
        arm, host = for_rpi4(network)
        write_bundle(arm, place / "rpi4")
        size = (place / "rpi4" / "libmodel.so").stat().st_size / 2**20
        label = name if len(row.networks) == 1 else f"{name}_{part}"
        print(f"{label:20} {len(onnx.load(network.path).graph.node):5} {difference:>7} {row.metric:24} {exact:8.4f} "
              f"{actual:8.4f} {size:6.2f} {latency(network, made[part].folder, samples, place)} "
              f"{on_rpi4(arm, host, samples[0], place):>6}", flush=True)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", choices=[[], *ROWS], help="all by default")
    parser.add_argument("--models", help="folder with nanodet, demosaicnet, g2p_encoder, g2p_decoder")
    arguments = parser.parse_args()
    if arguments.models:
        os.environ[accuracy_data.FOLDER_VARIABLE] = str(Path(arguments.models).resolve())
    onnxruntime.set_default_logger_severity(3)
    logging.getLogger().setLevel(logging.ERROR)  # ONNX Runtime's tools warn of every tensor that they leave alone
    print(f"{'network':20} {'nodes':>5} {'float':>7} {'metric':24} {'float':>8} {'INT8':>8} {'MiB':>6} {'ms':>8}"
          f" {'ORT':>8} {'rpi4':>6}")  # fmt: skip
    for name in arguments.rows or ROWS:
        with tempfile.TemporaryDirectory() as temporary:
            try:
                measure(name, ROWS[name](), Path(temporary))
            except MissingData as reason:
                print(f"{name:20} skipped: {reason}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
