"""Fine-tune a quantized network on its float original, without labels.

    python finetune.py FLOAT.onnx QDQ.onnx INPUTS.npz -o TRAINED.onnx

The float network is the teacher: the loss is the squared difference of the outputs, as a share of their power. Weights,
biases and the scales of weights and activations are trained; rounding happens in every forward pass.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import onnx

try:
    import torch
except ModuleNotFoundError:
    raise SystemExit("finetune.py needs PyTorch: pip install 'qcompile[qat]'") from None
from qdq_parameters import write_parameters
from torch_network import Network


def relative_error(found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Return Σ (y − t)² / Σ t²."""
    return ((found - wanted) ** 2).sum() / (wanted**2).sum()


def answers(network: Network, inputs: torch.Tensor, batch: int = 256) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([network(part) for part in inputs.split(batch)])


def train(network: Network, inputs: torch.Tensor, wanted: torch.Tensor, epochs: int, batch: int, rate: float) -> None:
    scales = [p for name, p in network.named_parameters() if name.endswith("log_scale")]
    others = [p for name, p in network.named_parameters() if not name.endswith("log_scale")]
    optimizer = torch.optim.Adam([{"params": others, "lr": rate}, {"params": scales, "lr": rate / 2}])
    steps = epochs * -(-len(inputs) // batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for epoch in range(epochs):
        started, total = time.perf_counter(), 0.0
        for chosen in torch.randperm(len(inputs)).split(batch):
            loss = relative_error(network(inputs[chosen]), wanted[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach()) * len(chosen)
        decibel, seconds = -10 * np.log10(total / len(inputs)), time.perf_counter() - started
        print(f"epoch {epoch + 1}: SQNR {decibel:.2f} dB in training, {seconds:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("float", type=Path, help="the float model")
    parser.add_argument("qdq", type=Path, help="what `qcompile export-qdq` made of it")
    parser.add_argument("inputs", type=Path, help=".npz with one array of inputs, [samples, …]")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=1e-4)
    arguments = parser.parse_args()
    for path in (arguments.float, arguments.qdq, arguments.inputs):
        if not path.is_file():
            parser.error(f"there is no file {path}")
    torch.manual_seed(0)
    with np.load(arguments.inputs) as archive:
        inputs = torch.from_numpy(archive[archive.files[0]].astype(np.float32))
    held_out = max(1, len(inputs) // 8)
    teacher, student = Network(onnx.load(arguments.float)), Network(onnx.load(arguments.qdq))
    wanted = answers(teacher, inputs)
    judged = slice(len(inputs) - held_out, None)

    def report(when: str) -> None:
        error = float(relative_error(answers(student, inputs[judged]), wanted[judged]))
        print(f"{when}: SQNR {-10 * np.log10(error):.2f} dB on {held_out} inputs held out")

    report("before")
    train(student, inputs[:-held_out], wanted[:-held_out], arguments.epochs, arguments.batch, arguments.rate)
    report("after ")
    onnx.save(write_parameters(student.model, student.parameters_found()), arguments.output)


if __name__ == "__main__":
    main()
