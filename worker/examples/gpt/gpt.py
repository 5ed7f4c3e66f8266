#!/usr/bin/env python3
"""A small GPT over bytes in PyTorch, whose multi-layer perceptrons are memory layers on parameter servers.

    gpt.py --data TEXT [--mlp memory|dense] [--servers tcp://A,tcp://B,tcp://C,tcp://D] [--steps N] [--prompt TEXT]

Any number of these processes, on any machines, work on the same run. Prints the loss on the last tenth of the text in
bits a byte, and a sample.
"""

import argparse
import math

import numpy as np
import torch
import torch.nn.functional as F

import memoryformer as mf

BYTES, LENGTH, BATCH, MICRO_BATCHES = 256, 128, 8, 2


class MemoryMlp(torch.nn.Module):
    """Two memory layers in the place of two matrices and an activation: what they do is not linear."""

    def __init__(self, run: mf.Run, name: str, width: int) -> None:
        super().__init__()
        self.first = mf.MemoryLayer(run, f"{name}.first", width, 2 * width, tau=8, lazy=True)
        self.norm = torch.nn.LayerNorm(2 * width)
        self.second = mf.MemoryLayer(run, f"{name}.second", 2 * width, width, tau=8, lazy=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.norm(self.first(x)))


class Block(torch.nn.Module):
    """Attention and a perceptron, each added to its input."""

    def __init__(self, run: mf.Run, name: str, width: int, heads: int, mlp: str) -> None:
        super().__init__()
        self.norms = torch.nn.ModuleList([torch.nn.LayerNorm(width), torch.nn.LayerNorm(width)])
        self.attention = torch.nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = MemoryMlp(run, name, width) if mlp == "memory" else torch.nn.Sequential(
            torch.nn.Linear(width, 4 * width), torch.nn.GELU(), torch.nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        normed = self.norms[0](x)
        x = x + self.attention(normed, normed, normed, attn_mask=mask, need_weights=False)[0]
        return x + self.mlp(self.norms[1](x))


class Gpt(torch.nn.Module):
    """Logits of the next byte."""

    def __init__(self, run: mf.Run, mlp: str, width: int = 128, layers: int = 2, heads: int = 4) -> None:
        super().__init__()
        self.tokens, self.places = torch.nn.Embedding(BYTES, width), torch.nn.Embedding(LENGTH, width)
        self.blocks = torch.nn.ModuleList([Block(run, f"block{i}", width, heads, mlp) for i in range(layers)])
        self.norm, self.head = torch.nn.LayerNorm(width), torch.nn.Linear(width, BYTES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        length = x.shape[1]
        mask = torch.full((length, length), -math.inf).triu(1)
        x = self.tokens(x) + self.places.weight[:length]
        for block in self.blocks:
            x = block(x, mask)
        return self.head(self.norm(x))


def main() -> None:
    """Trains, evaluates and samples."""
    parser = argparse.ArgumentParser(description="A GPT with memory layers on parameter servers.")
    parser.add_argument("--data", required=True, help="a text file")
    parser.add_argument("--mlp", choices=("memory", "dense"), default="memory")
    parser.add_argument("--servers", help="addresses; without: four servers in this process")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--prompt", default="In the beginning ")
    options = parser.parse_args()
    text = torch.from_numpy(np.fromfile(options.data, np.uint8).astype(np.int64))
    train, held_out = text[: len(text) * 9 // 10], text[len(text) * 9 // 10 :]

    def windows(source: torch.Tensor, starts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        places = starts[:, None] + torch.arange(LENGTH + 1)
        return source[places[:, :-1]], source[places[:, 1:]]

    def batch(step: int, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(step * MICRO_BATCHES + number)
        return windows(train, torch.randint(len(train) - LENGTH, (BATCH,), generator=generator))

    run = mf.Run(options.servers or mf.embedded(4), steps=options.steps, micro_batches=MICRO_BATCHES, clip=1.0,
                 data=batch, optimizer=mf.AdamW(lr=mf.cosine(3e-3, warmup=options.steps // 20), betas=(0.9, 0.95)),
                 evaluate_every=max(1, options.steps // 5), snapshot_minutes=1)
    model = Gpt(run, options.mlp)
    run.share(model, rules=lambda name, parameter: {"weight_decay": 0.0} if parameter.dim() == 1 else None)

    def loss_of(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(model(x).flatten(0, 1), y.flatten())

    @run.evaluate
    def bits_a_byte() -> float:
        starts = torch.arange(0, len(held_out) - LENGTH, LENGTH)[:200]
        return float(np.mean([float(loss_of(*windows(held_out, part))) for part in starts.split(20)])) / math.log(2)

    bits = []
    run.on_step(lambda record: bits.append(record.val_loss) if record.val_loss is not None else None)
    for work in run:
        x, y = batch(work.step, work.number)
        work.backward(loss_of(x, y))
    print(f"{options.mlp}: {bits[-1]:.3f} bits a byte")
    model.eval()
    sample = torch.tensor([list(options.prompt.encode())])
    with torch.no_grad():
        for _ in range(100):
            logits = model(sample[:, -LENGTH:])[:, -1] / 0.8
            sample = torch.cat([sample, torch.multinomial(logits.softmax(dim=1), 1)], dim=1)
    print(bytes(sample[0].tolist()).decode(errors="replace"))


if __name__ == "__main__":
    main()
