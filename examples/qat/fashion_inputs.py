"""Turn Fashion-MNIST images (Debian's dataset-fashion-mnist) into the inputs of `fashion_hard.onnx`.

python fashion_inputs.py /usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz 4096 inputs.npz
"""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path

import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="train-images-idx3-ubyte.gz")
    parser.add_argument("count", type=int, help="how many of its images to take")
    parser.add_argument("inputs", type=Path, help=".npz to write")
    arguments = parser.parse_args()
    try:
        pixels = np.frombuffer(gzip.decompress(arguments.images.read_bytes()), np.uint8, offset=16)
        pixels = pixels.reshape(-1, 1, 28, 28)
    except (OSError, EOFError, ValueError) as error:
        parser.error(f"cannot read {arguments.images}: {error}; `apt install dataset-fashion-mnist` brings it")
    if not 1 <= arguments.count <= len(pixels):
        parser.error(f"count is {arguments.count}, and there are {len(pixels)} images")
    chosen = pixels[:: len(pixels) // arguments.count][: arguments.count]
    np.savez_compressed(arguments.inputs, input=((chosen / np.float32(255) - 0.286) / 0.353).astype(np.float32))


if __name__ == "__main__":
    main()
