#!/usr/bin/env python3
"""Fashion-MNIST with memory layers on parameter servers in the place of a multi-layer perceptron's matrices, or with
the matrices.

    apt-get install dataset-fashion-mnist
    image_classifier.py [--model memory|dense] [--servers tcp://A,tcp://B] [--steps N] [--seed N] [--data FOLDER]

Any number of these processes, on any machines, work on the same run. Prints the accuracy on the 10,000 test images,
the multiplications of one image in the layers (of a memory layer: sums of rows and weights), and the seconds.
"""

import argparse
import time

import numpy as np
import torch
import torch.nn.functional as F

import memoryformer as mf
from images import CLASSES, FOLDER, PIXELS, read

BATCH = 128


class Classifier(torch.nn.Module):
    """784 pixels, two hidden layers of `width`, 10 classes."""

    def __init__(self, run: mf.Run, kind: str, width: int = 512, tau: int = 8) -> None:
        super().__init__()
        if kind == "dense":
            self.first, self.second = torch.nn.Linear(PIXELS, width), torch.nn.Linear(width, width)
            self.multiplications = PIXELS * width + width * width
        else:
            self.first = mf.MemoryLayer(run, "first", PIXELS, width, tau=tau, lazy=True)
            self.second = mf.MemoryLayer(run, "second", width, width, tau=tau, lazy=True)
            self.multiplications = (PIXELS // tau + width // tau) * width + PIXELS + width
        # A hash sees signs: numbers around zero tell it most.
        self.norms = torch.nn.ModuleList([torch.nn.LayerNorm(PIXELS), torch.nn.LayerNorm(width)])
        self.activation = torch.nn.ReLU() if kind == "dense" else torch.nn.Identity()
        self.head = torch.nn.Linear(width, CLASSES)
        self.multiplications += width * CLASSES

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.activation(self.first(self.norms[0](x)))
        x = self.activation(self.second(self.norms[1](x)))
        return self.head(F.dropout(x, 0.2, self.training))


def main() -> None:
    """Trains and tests."""
    parser = argparse.ArgumentParser(description="Fashion-MNIST on parameter servers.")
    parser.add_argument("--model", choices=("memory", "dense"), default="memory")
    parser.add_argument("--servers", help="addresses; without: two servers in this process")
    parser.add_argument("--steps", type=int, default=4690, help="of 128 images; 469 are an epoch")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--data", default=FOLDER)
    options = parser.parse_args()
    images, labels = read(options.data, "train")
    test_images, test_labels = read(options.data, "t10k")
    batches = len(images) // BATCH

    def batch(step: int, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Every image once an epoch, in an order that follows from the step alone."""
        epoch, place = divmod(step - 1, batches)
        order = np.random.RandomState(options.seed + epoch).permutation(len(images))
        chosen = torch.from_numpy(order[place * BATCH : (place + 1) * BATCH])
        return images[chosen], labels[chosen]

    run = mf.Run(options.servers or mf.embedded(2), steps=options.steps, seed=options.seed, data=batch,
                 optimizer=mf.AdamW(lr=mf.cosine(options.lr, warmup=options.steps // 20)), snapshot_minutes=1)
    model = Classifier(run, options.model)
    run.share(model)
    accuracy = 0.0

    @run.evaluate
    def held_out() -> float:
        nonlocal accuracy
        parts = [model(part) for part in test_images.split(1000)]
        accuracy = float((torch.cat(parts).argmax(dim=1) == test_labels).float().mean())
        return float(F.cross_entropy(torch.cat(parts), test_labels))

    begin = time.monotonic()
    for work in run:
        x, y = batch(work.step, work.number)
        work.backward(F.cross_entropy(model(x), y))
    if accuracy > 0:  # another process may have evaluated
        print(f"{options.model}, seed {options.seed}: accuracy {100 * accuracy:.2f}%, {model.multiplications} "
              f"multiplications an image, {time.monotonic() - begin:.0f} s")


if __name__ == "__main__":
    main()
