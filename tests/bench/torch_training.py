"""A MemoryFormer in plain PyTorch, all tables local: what training is without this project.

    torch_training.py --shape JSON --data FILE --layer reference|embedding_bag [--micro-batches N] [--steps N]

--layer reference is tests/reference/memoryformer.py as it is, written for clarity; embedding_bag replaces
its memory layers by one embedding_bag with per-sample weights over all tables of a layer and asks for
nothing else of PyTorch than what it has: dense gradients, AdamW, the norm clipped at 1. Everything is
float32. Prints {"seconds": of each step, "losses": before each step}. GLIBC_TUNABLES=glibc.malloc.hugetlb=1 puts it in huge pages.
"""

import argparse
import json
import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "reference"))

import numpy as np
import torch
import torch.nn.functional as functional

from memoryformer import Config, Indices, MemoryFormer, own_buckets, pair_weights


class BagMemoryFormer(MemoryFormer):
    """The same model; a memory layer's sums are one embedding_bag."""

    def _memory(self, block: str, name: str, x: torch.Tensor, indices: Indices) -> torch.Tensor:
        part = f"{block}.{name.split('.')[1]}"
        tables = self.parameters[f"{part}.tables"]
        K, rows, width = tables.shape
        z = x.reshape(x.shape[0], K, -1)
        buckets = own_buckets(z.detach(), self.config.probes)
        weights = pair_weights(z, buckets, self.config.score, self.config.temperature)
        places = buckets + (torch.arange(K) * rows)[None, :, None]
        sums = functional.embedding_bag(places.flatten(1), tables.view(K * rows, width), mode="sum",
                                        per_sample_weights=weights.flatten(1))
        return sums + self.parameters[f"{part}.bias"]


def initial(config: Config) -> dict[str, np.ndarray]:
    """Parameters of the sizes that a run begins with."""
    draw = np.random.default_rng(1)
    tensors = {}
    for name, shape in config.shapes().items():
        if len(shape) == 1:
            tensors[name] = np.full(shape, float(name.endswith("weight")), np.float32)
        else:
            deviation = np.sqrt(2 / (5 * config.d)) if name.startswith("blocks") else 0.02
            tensors[name] = draw.standard_normal(shape, np.float32) * np.float32(deviation)
    return tensors


def main() -> None:
    """Command line; see the top of the file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape", required=True, help="of a Config, and sequence and sequences a step")
    parser.add_argument("--data", required=True)
    parser.add_argument("--layer", choices=("reference", "embedding_bag"), required=True)
    parser.add_argument("--micro-batches", type=int, default=1)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    shape = json.loads(options.shape)
    length, sequences = shape.pop("sequence"), shape.pop("sequences")
    torch.set_num_threads(options.threads)
    config = Config(**shape)
    kind = BagMemoryFormer if options.layer == "embedding_bag" else MemoryFormer
    model = kind(config, initial(config), torch.float32)
    decayed = config.decayed()
    named = model.parameters.items()
    optimizer = torch.optim.AdamW(
        [{"params": [value for name, value in named if name in decayed], "weight_decay": 0.1},
         {"params": [value for name, value in named if name not in decayed], "weight_decay": 0.0}],
        lr=1e-3, betas=(0.9, 0.95), eps=1e-8)
    data = torch.from_numpy(np.fromfile(options.data, np.uint8).astype(np.int64))
    seconds, losses = [], []
    for step in range(options.steps):
        start = time.perf_counter()
        at = torch.arange(sequences)[:, None] * length + torch.arange(length + 1) + step * sequences * length
        tokens = data[at % len(data)]
        optimizer.zero_grad(set_to_none=True)
        losses.append(0.0)
        for part in tokens.chunk(options.micro_batches):
            loss, _ = model.loss(part[:, :-1], part[:, 1:], Indices(), reduction="sum")
            loss = loss / (sequences * length)
            loss.backward()
            losses[-1] += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(list(model.parameters.values()), 1.0)
        optimizer.step()
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"seconds": seconds, "losses": losses}))


if __name__ == "__main__":
    main()
