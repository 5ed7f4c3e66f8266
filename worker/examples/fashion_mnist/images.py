"""The images of Fashion-MNIST, from the package dataset-fashion-mnist, for the scripts of this folder."""

import gzip
import os

import numpy as np
import torch

FOLDER = "/usr/share/datasets/fashion-mnist"
PIXELS, CLASSES = 784, 10


def read(folder: str, part: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Images [n, 784] with a mean of 0 and a deviation of about 1, and their classes [n]."""
    with gzip.open(os.path.join(folder, f"{part}-images-idx3-ubyte.gz")) as file:
        images = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, PIXELS)
    with gzip.open(os.path.join(folder, f"{part}-labels-idx1-ubyte.gz")) as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8)
    numbers = torch.from_numpy(images.astype(np.float32)) / 255
    return (numbers - 0.286) / 0.353, torch.from_numpy(labels.astype(np.int64))
