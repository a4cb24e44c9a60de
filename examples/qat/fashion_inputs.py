"""Turn Fashion-MNIST images (Debian's dataset-fashion-mnist) into the inputs of `fashion_hard.onnx`.

python fashion_inputs.py /usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz 4096 inputs.npz
"""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import numpy as np


def main() -> None:
    source, count, target = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    pixels = np.frombuffer(gzip.decompress(source.read_bytes()), np.uint8, offset=16).reshape(-1, 1, 28, 28)
    chosen = pixels[:: len(pixels) // count][:count]
    np.savez_compressed(target, input=((chosen / np.float32(255) - 0.286) / 0.353).astype(np.float32))


if __name__ == "__main__":
    main()
