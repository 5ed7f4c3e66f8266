#!/usr/bin/env python3
"""A trained dense PyTorch model gets a memory layer on parameter servers, which learns what the model does not know,
while the model itself stays as it is.

    apt-get install dataset-fashion-mnist
    fine_tuning.py [--servers tcp://A,tcp://B] [--pretrain N] [--steps N] [--data FOLDER]

The model is a perceptron that was trained by plain PyTorch on half of the classes' images. The layer begins with rows
of zeros, so that the two together begin as the model alone; all processes have to have the same model, which the run
checks. Prints the accuracy on the 10,000 test images of Fashion-MNIST before and after.
"""

import argparse

import torch
import torch.nn.functional as F

import memoryformer as mf
from images import CLASSES, FOLDER, PIXELS, read

BATCH, WIDTH = 128, 256


def pretrained(images: torch.Tensor, labels: torch.Tensor, steps: int) -> torch.nn.Sequential:
    """What somebody had already: knows the first five classes."""
    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Linear(PIXELS, WIDTH), torch.nn.ReLU(), torch.nn.Linear(WIDTH, CLASSES))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    known = torch.nonzero(labels < 5)[:, 0]
    for _ in range(steps):
        chosen = known[torch.randint(len(known), (BATCH,))]
        optimizer.zero_grad()
        F.cross_entropy(model(images[chosen]), labels[chosen]).backward()
        optimizer.step()
    return model.requires_grad_(False)


class WithMemory(torch.nn.Module):
    """The model's answer, and what a memory layer adds to it."""

    def __init__(self, run: mf.Run, model: torch.nn.Sequential) -> None:
        super().__init__()
        self.model = model
        self.norm = torch.nn.LayerNorm(PIXELS)
        self.memory = mf.MemoryLayer(run, "memory", PIXELS, 64, tau=8, probes=2, std=0.0, lazy=True)
        self.head = torch.nn.Linear(64, CLASSES, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x) + self.head(self.memory(self.norm(x)))


def main() -> None:
    """Trains and tests."""
    parser = argparse.ArgumentParser(description="A memory layer for a trained model.")
    parser.add_argument("--servers", help="addresses; without: two servers in this process")
    parser.add_argument("--pretrain", type=int, default=500, help="steps of the dense model")
    parser.add_argument("--steps", type=int, default=469)
    parser.add_argument("--data", default=FOLDER)
    options = parser.parse_args()
    images, labels = read(options.data, "train")
    test_images, test_labels = read(options.data, "t10k")
    dense = pretrained(images, labels, options.pretrain)

    def accuracy(model: torch.nn.Module) -> float:
        answers = torch.cat([model(part).argmax(dim=1) for part in test_images.split(1000)])
        return 100 * float((answers == test_labels).float().mean())

    def batch(step: int, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        chosen = torch.randint(len(images), (BATCH,), generator=torch.Generator().manual_seed(step))
        return images[chosen], labels[chosen]

    run = mf.Run(options.servers or mf.embedded(2), steps=options.steps, data=batch,
                 optimizer=mf.AdamW(lr=mf.cosine(2e-3, warmup=options.steps // 20)), snapshot_minutes=1)
    model = WithMemory(run, dense)
    run.share(model)
    for work in run:
        x, y = batch(work.step, work.number)
        work.backward(F.cross_entropy(model(x), y))
    with torch.no_grad():
        print(f"accuracy {accuracy(dense):.2f}% before, {accuracy(model):.2f}% with the memory layer")


if __name__ == "__main__":
    main()
